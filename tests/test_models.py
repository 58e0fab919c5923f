"""Models: published parameter counts, and what every family must do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stainfree import models
from stainfree.errors import ConfigError
from stainfree.models._layers import RepeatedConv2d, RepeatedLinear
from stainfree.models.simple_vit import sine_cosine_positions
from stainfree.training import build_module, describe_layers


def build(name: str, *, channels: int = 1, n_classes: int = 5) -> nn.Module:
    declared = models.family(name)
    torch.manual_seed(0)
    return build_module(
        models.entry(name), channels=channels, image_size=declared.input_size or 66, n_classes=n_classes
    )


@pytest.mark.parametrize(("name", "published"), [("fc", 1_312_505), ("cnn3", 14_181), ("simple_vit", 160_389)])
def test_published_parameter_counts(name: str, published: int) -> None:
    assert sum(p.numel() for p in build(name).parameters()) == published


@pytest.mark.parametrize("name", models.family_names())
class TestEveryFamily:
    def test_gives_finite_logits_and_a_gradient_for_every_parameter(self, name: str) -> None:
        module = build(name, channels=2, n_classes=7)
        size = models.family(name).input_size or 66
        logits = module(torch.randn(8, 2, size, size))
        assert logits.shape == (8, 7)
        nn.functional.cross_entropy(logits, torch.arange(8) % 7).backward()
        for parameter in module.parameters():
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()

    def test_declaration_read_from_source_is_the_one_that_is_imported(self, name: str) -> None:
        assert models.family(name) == models.module(name).FAMILY


@pytest.mark.parametrize("name", [name for name in models.family_names() if models.family(name).embedding])
def test_head_reads_the_embedding(name: str) -> None:
    module = build(name).eval()
    size = models.family(name).input_size or 66
    x = torch.randn(3, 1, size, size)
    torch.testing.assert_close(module.head(module.embed(x)), module(x))  # type: ignore[operator]


def test_cnn3_embeds_in_64_dimensions() -> None:
    assert build("cnn3").embed(torch.randn(2, 1, 64, 64)).shape == (2, 64)  # type: ignore[operator]


def test_repeated_convolution_is_the_convolution_of_the_repeated_image() -> None:
    torch.manual_seed(0)
    folded = RepeatedConv2d(1, 4, 5, copies=3, padding=2)
    plain = nn.Conv2d(3, 4, 5, padding=2)
    plain.load_state_dict(folded.state_dict())
    x = torch.randn(2, 1, 9, 9)
    torch.testing.assert_close(folded(x), plain(x.repeat(1, 3, 1, 1)), rtol=1e-4, atol=1e-5)
    folded(x).square().sum().backward()
    plain(x.repeat(1, 3, 1, 1)).square().sum().backward()
    torch.testing.assert_close(folded.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-3)


def test_repeated_linear_is_the_linear_layer_of_the_repeated_image() -> None:
    torch.manual_seed(0)
    folded = RepeatedLinear(16, 3, copies=3)
    plain = nn.Linear(48, 3)
    plain.load_state_dict(folded.state_dict())
    x = torch.randn(5, 16)
    torch.testing.assert_close(folded(x), plain(x.repeat(1, 3)), rtol=1e-4, atol=1e-5)


def test_positions_are_distinct_and_bounded() -> None:
    positions = sine_cosine_positions(4, 4, 32)
    assert positions.shape == (16, 32)
    assert positions.abs().max() <= 1
    assert len({tuple(row.tolist()) for row in positions}) == 16
    # The sine of the x angle at frequency 1 is the sine of the column.
    torch.testing.assert_close(positions[:4, 0], torch.arange(4.0).sin())


def test_layers_are_listed_in_order_with_all_parameters() -> None:
    module = build("cnn3")
    layers = describe_layers(module, channels=1, image_size=64)
    assert [layer["kind"] for layer in layers][:4] == ["Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU"]
    assert layers[0]["output_shape"] == [8, 64, 64]
    assert layers[-1] == {"name": "head", "kind": "Linear", "output_shape": [5], "n_parameters": 325}
    assert sum(layer["n_parameters"] for layer in layers) == 14_181


class TestEntry:
    def test_a_name_is_a_family_with_its_defaults(self) -> None:
        entry = models.entry("cnn3")
        assert (entry.name, entry.family, entry.parameters) == ("cnn3", "cnn3", {"dropout": 0.25})
        assert entry.recipe.learning_rate == 1e-2

    def test_settings_override_the_defaults(self) -> None:
        entry = models.entry({"hot": {"family": "cnn3", "dropout": 0.5, "recipe": {"batch_size": 64}}})
        assert (entry.name, entry.family, entry.parameters["dropout"]) == ("hot", "cnn3", 0.5)
        assert (entry.recipe.batch_size, entry.recipe.batches_per_epoch) == (64, None)

    def test_numbers_that_yaml_reads_as_text_are_numbers(self) -> None:
        entry = models.entry({"x": {"family": "fc", "dropout": 0, "recipe": {"learning_rate": "1e-2", "epochs": "3"}}})
        assert (entry.recipe.learning_rate, entry.recipe.epochs, entry.parameters["dropout"]) == (0.01, 3, 0.0)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ("cnn4", "unknown model family `cnn4`; did you mean `cnn3`"),
            ({"x": {"family": "fc", "droput": 1}}, "unknown key `droput`; did you mean `dropout`"),
            ({"x": {"family": "fc", "recipe": {"epoch": 1}}}, "unknown key `epoch`; did you mean `epochs`"),
            ({"x": {"family": "fc", "recipe": {"epochs": 0}}}, "`epochs` must be above 0"),
            ({"x": {"family": "fc", "recipe": {"epochs": 2.5}}}, "`epochs` is 2.5, and must be of type int"),
            ({"x": {"family": "fc", "recipe": "fast"}}, "`recipe` is 'fast', and must be of type dict"),
            ({"x": {"family": "fc", "dropout": "lots"}}, "`dropout` is 'lots', and must be of type float"),
            ({"x": {"family": 3}}, "`family` is 3, and must be of type str"),
        ],
    )
    def test_mistakes_are_named_with_the_nearest_valid_word(self, config: object, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            models.entry(config)  # type: ignore[arg-type]
