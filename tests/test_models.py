"""Models: published parameter counts, and what every family must do."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from stainfree import models
from stainfree.augment import Normalisation, centre_batch
from stainfree.errors import ConfigError, DataError
from stainfree.images import fit
from stainfree.models import _classifier
from stainfree.models._layers import RepeatedConv2d, RepeatedLinear
from stainfree.models._residual import Block
from stainfree.models.simple_vit import sine_cosine_positions
from stainfree.networks import build_module, describe_layers

NETWORKS = [name for name in models.family_names() if models.family(name).kind == "network"]
# Families whose images are brought to one size, with the side of what is left after their crop. The others' networks
# take any size; deepflow's crop is its recipe's alone.
FIXED = {"fc": 66, "cnn3": 64, "simple_vit": 64, "small_cnn": 36}
ANY_SIZE = [name for name in NETWORKS if name not in FIXED]
SIZES = [40, 64, 66, 300]


def input_side(name: str) -> int:
    """Side of the images that a family's network sees where nothing else is said."""
    declared = models.family(name)
    return declared.crop or declared.image_size or 66


def build(
    name: str, *, channels: int = 1, n_classes: int = 5, image_size: int | None = None, **parameters: Any
) -> nn.Module:
    entry = models.entry({name: parameters})
    size = image_size or input_side(name)
    torch.manual_seed(0)
    return build_module(entry, channels=channels, image_size=size, n_classes=n_classes)


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def n_convolution(channels: int, width: int, kernel_size: int) -> int:
    """Weights and biases of a convolution."""
    return channels * width * kernel_size**2 + width


def n_dense(*widths: int) -> int:
    """Weights and biases of dense layers in a row."""
    return sum(n_in * n_out + n_out for n_in, n_out in pairwise(widths))


@pytest.mark.parametrize(("name", "published"), [("fc", 1_312_505), ("cnn3", 14_181), ("simple_vit", 160_389)])
def test_published_parameter_counts(name: str, published: int) -> None:
    assert n_parameters(build(name)) == published


class TestParameterCounts:
    @pytest.mark.parametrize(("channels", "released"), [(3, 11_227_540), (1, 11_227_252)])
    def test_nagao_has_those_of_the_released_model(self, channels: int, released: int) -> None:
        assert n_parameters(build("nagao", channels=channels, n_classes=4, image_size=300)) == released

    @pytest.mark.parametrize("name", NETWORKS)
    def test_a_class_costs_a_weight_for_each_feature_and_a_bias(self, name: str) -> None:
        counts = {n: n_parameters(build(name, n_classes=n)) for n in (4, 5, 7)}
        *_, last = (layer for layer in build(name).modules() if isinstance(layer, nn.Linear))
        assert counts == {n: counts[5] + (n - 5) * (last.in_features + 1) for n in counts}

    def test_logreg(self) -> None:
        assert n_parameters(build("logreg", channels=2, n_classes=4, image_size=40)) == n_dense(2 * 40 * 40, 4)

    # 40 -> 20 -> 10 -> 5 -> 2 -> 1 pixels, and no further: the report's 2 to 50 stages.
    @pytest.mark.parametrize(("stages", "side"), [(2, 10), (3, 5), (5, 1), (6, 1), (50, 1)])
    def test_nagao_of_any_number_of_stages(self, stages: int, side: int) -> None:
        found = build("nagao", n_classes=4, image_size=40, kernels=[8] * stages).eval()
        expected = n_convolution(1, 8, 3) + (stages - 1) * n_convolution(8, 8, 3) + n_dense(side**2 * 8, 128, 4)
        assert n_parameters(found) == expected
        with torch.inference_mode():
            assert found(torch.rand(2, 1, 40, 40)).shape == (2, 4)

    def test_nagao_of_other_depth_and_width(self) -> None:
        # 40 -> 20 -> 10 -> 5 -> 2 pixels.
        expected = sum(n_convolution(*widths, 3) for widths in pairwise([1, 8, 16, 32, 64]))
        expected += n_dense(2 * 2 * 64, 100, 4)
        found = build("nagao", n_classes=4, image_size=40, kernels=[8, 16, 32, 64], dense=100)
        assert n_parameters(found) == expected

    # He et al. 2016, table 6: millions, on colour pictures of ten classes.
    @pytest.mark.parametrize(
        ("depth", "published"), [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85"), (110, "1.7")]
    )
    @pytest.mark.parametrize("block", ["residual", "plain"])
    def test_resnet_has_the_published_ones(self, depth: int, published: str, block: str) -> None:
        found = n_parameters(build("resnet", channels=3, n_classes=10, depth=depth, block=block))
        digits = len(published.split(".")[1])
        assert f"{found / 1e6:.{digits}f}" == published

    @pytest.mark.parametrize("block", ["residual", "plain"])
    @pytest.mark.parametrize(("depth", "width"), [(8, 16), (14, 16), (20, 16), (8, 4)])
    def test_resnet_by_hand(self, depth: int, width: int, block: str) -> None:
        # Of each convolution 9 weights per pair of maps, and 2 per map of the norm; n blocks of two per stage.
        n, w = (depth - 2) // 6, width
        expected = 9 * 1 * w + 2 * w
        expected += 2 * n * (9 * w * w + 2 * w)
        expected += 9 * w * 2 * w + (2 * n - 1) * 9 * (2 * w) ** 2 + 2 * n * 2 * (2 * w)
        expected += 9 * 2 * w * 4 * w + (2 * n - 1) * 9 * (4 * w) ** 2 + 2 * n * 2 * (4 * w)
        expected += n_dense(4 * w, 5)
        assert n_parameters(build("resnet", depth=depth, width=width, block=block)) == expected

    def test_nn(self) -> None:
        assert n_parameters(build("nn", channels=2, n_classes=4, image_size=40)) == n_dense(2 * 40 * 40, 128, 64, 4)
        assert n_parameters(build("nn", image_size=40, hidden=[7])) == n_dense(1600, 7, 5)

    def test_duque_cnn(self) -> None:
        # 66 -> 57 -> 28 -> 24 -> 12 pixels.
        expected = n_convolution(2, 64, 10) + n_convolution(64, 32, 5) + n_dense(12 * 12 * 32, 32, 16, 7)
        assert n_parameters(build("duque_cnn", channels=2, n_classes=7)) == expected

    def test_resnet_rana_has_the_published_ones_of_resnet_18(self) -> None:
        assert n_parameters(build("resnet_rana", channels=3, n_classes=1000)) == 11_689_512

    def test_resnet41(self) -> None:
        def bottleneck(channels: int, width: int) -> int:
            return channels * width + 9 * width**2 + 4 * width**2 + 2 * (width + width + 4 * width)

        expected = 2 * 64 * 7**2 + 2 * 64
        for channels, width, blocks in ((64, 64, 3), (256, 128, 4), (512, 256, 6)):
            expected += bottleneck(channels, width) + (blocks - 1) * bottleneck(4 * width, width)
            expected += channels * 4 * width + 2 * 4 * width  # the way around the first block
        assert n_parameters(build("resnet41", channels=2, n_classes=7)) == expected + n_dense(1024, 7)

    def test_deepflow(self) -> None:
        def dual(channels: int, narrow: int, wide: int) -> int:
            return n_convolution(channels, narrow, 1) + n_convolution(channels, wide, 3) + 2 * (narrow + wide)

        expected = n_convolution(3, 96, 3) + 2 * 96
        expected += dual(96, 32, 32) + dual(64, 32, 48)
        expected += n_convolution(80, 80, 3) + 2 * 80
        expected += dual(160, 112, 48) + dual(160, 96, 64) + dual(160, 80, 80) + dual(160, 48, 96)
        expected += n_convolution(144, 96, 3) + 2 * 96
        expected += dual(240, 176, 160) + dual(336, 176, 160)
        expected += n_convolution(336, 96, 3) + 2 * 96
        expected += dual(432, 176, 160) + dual(336, 176, 160)
        expected += n_dense(336, 7)
        assert n_parameters(build("deepflow", channels=3, n_classes=7)) == expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ANY_SIZE)
def test_images_of_any_size_give_finite_logits(name: str, size: int) -> None:
    cells = 1 if size == 300 else 2
    module = build(name, channels=2, n_classes=7, image_size=size).eval()
    with torch.inference_mode():
        logits = module(torch.randn(cells, 2, size, size))
    assert logits.shape == (cells, 7)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FIXED)
def test_families_of_one_size_take_smaller_images_padded_and_refuse_larger_ones(name: str, size: int) -> None:
    entry = models.entry(name)
    assert entry.image_size is not None
    images = np.zeros((2, 2, size, size), dtype=np.uint16)
    if size > entry.image_size:
        with pytest.raises(DataError, match=f"images of {size} x {size} are larger than {entry.image_size}"):
            fit(images, size=entry.image_size, way="pad")
        images = fit(images, size=entry.image_size, way="crop")
    fitted = torch.from_numpy(fit(images, size=entry.image_size, way="pad"))
    seen = centre_batch(fitted, torch.arange(2), crop=entry.crop, normalisation=Normalisation((0, 0), (1, 1)))
    assert seen.shape == (2, 2, FIXED[name], FIXED[name])
    with torch.inference_mode():
        assert build(name, channels=2, n_classes=7).eval()(seen).shape == (2, 7)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_cell_is_read_by_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_classifier, "_PIXELS", 2 * 66 * 66)  # several pieces, the last one smaller
    module = build(name).eval()
    size = input_side(name)
    x = torch.randn(5, 1, size, size) * torch.arange(1, 6)[:, None, None, None]
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.inference_mode():
        logits = module(x)
        assert torch.equal(module(x), logits)
        torch.testing.assert_close(module(x[order]), logits[order], rtol=1e-3, atol=1e-4)
    assert (logits[0] - logits[1]).abs().max() > 1e-3


# The maps before they are pooled or flattened to a vector, and how many pixels a place in them sees.
@pytest.mark.parametrize(
    ("name", "parameters", "layers", "pixels"),
    [
        ("resnet", {"depth": 8}, 2, 25),
        ("resnet", {"depth": 14, "block": "plain"}, 2, 53),
        ("resnet", {"depth": 20}, 2, 81),
        ("nagao", {}, 9, 22),
        ("duque_cnn", {}, 6, 21),
    ],
)
def test_receptive_field(name: str, parameters: dict[str, Any], layers: int, pixels: int) -> None:
    module = build(name, image_size=pixels + 20, **parameters).eval()
    with torch.no_grad():  # nothing is rectified away, and no paths cancel
        for parameter in module.parameters():
            parameter.abs_()
    maps = nn.Sequential(*list(module.get_submodule("features").children())[:layers])
    x = torch.rand(16, 1, pixels + 20, pixels + 20, requires_grad=True)
    made = maps(x)
    middle = made.shape[2] // 2
    (gradient,) = torch.autograd.grad(made[:, :, middle, middle].sum(), x)
    seen = gradient.abs().sum((0, 1)) > 0
    for axis in (0, 1):
        places = seen.any(axis).nonzero().flatten()
        assert int(places.max() - places.min()) + 1 == pixels


class TestResNet:
    def test_plain_is_residual_without_the_way_around(self) -> None:
        plain, residual = build("resnet", depth=14, block="plain"), build("resnet", depth=14)
        assert list(plain.state_dict()) == list(residual.state_dict())
        residual.load_state_dict(plain.state_dict())
        blocks = [[block for block in net.eval().modules() if isinstance(block, Block)] for net in (plain, residual)]
        assert [len(found) for found in blocks] == [6, 6]
        for without, with_skip in zip(*blocks, strict=True):
            first = without.body[0][0]
            x = torch.randn(3, first.in_channels, 9, 9)
            around = x[:, :, :: first.stride[0], :: first.stride[0]]
            nothing = torch.zeros(3, first.out_channels - first.in_channels, *around.shape[2:])
            torch.testing.assert_close(without(x), without.body(x).relu())
            torch.testing.assert_close(with_skip(x), (without.body(x) + torch.cat([around, nothing], 1)).relu())

    @pytest.mark.parametrize("training", [True, False])
    def test_resnet_rana_is_the_resnet_18_of_torchvision(self, training: bool) -> None:
        self.compare(build("resnet_rana", channels=3), torchvision.models.resnet18(num_classes=5), training=training)

    def test_resnet41_is_the_resnet_50_of_torchvision_without_its_last_stage(self) -> None:
        theirs = torchvision.models.resnet50(num_classes=5)
        theirs.layer4 = nn.Sequential()
        theirs.fc = nn.Linear(1024, 5)
        ours = build("resnet41", channels=3)
        self.compare(ours, theirs, training=False)
        weighs = [m for m in ours.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        projections = 3  # beside the layers, one per stage
        assert len(weighs) - projections == 41

    def compare(self, ours: nn.Module, theirs: nn.Module, *, training: bool) -> None:
        """Compare the outputs for the same weights, which both have in the order in which an image passes them."""
        values = zip(theirs.state_dict(), ours.state_dict().values(), strict=True)
        theirs.load_state_dict(dict(values))
        x = torch.randn(4, 3, 66, 66)
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x), rtol=1e-3, atol=1e-4)


def test_nagao_goes_on_without_pooling_once_a_single_pixel_is_left() -> None:
    layers = describe_layers(build("nagao", kernels=[4] * 9), channels=1, image_size=66)
    maps = [layer["output_shape"] for layer in layers if layer["kind"] in ("Conv2d", "MaxPool2d")]
    sides = [66, 33, 33, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1, 1, 1]
    assert maps == [[4, side, side] for side in sides]


# Smaller ones, which its layers use up, are refused before training (tests/test_requirements.py).
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("name", ["cnn3", "simple_vit", "duque_cnn"])
def test_the_smallest_image_is_the_smallest(name: str) -> None:
    side = models.family(name).smallest_side
    with torch.inference_mode():
        assert build(name, image_size=side).eval()(torch.randn(2, 1, side, side)).shape == (2, 5)
        with pytest.raises((RuntimeError, ZeroDivisionError)):
            build(name, image_size=side - 1).eval()(torch.randn(2, 1, side - 1, side - 1))


class TestDeepFlow:
    def test_maps_are_halved_three_times(self) -> None:
        layers = describe_layers(build("deepflow", n_classes=7), channels=1, image_size=64)
        joint = [layer["output_shape"] for layer in layers if layer["kind"] in ("BatchNorm2d", "MaxPool2d")]
        assert joint == [
            *([width, 64, 64] for width in (96, 64, 80)),
            *([width, 32, 32] for width in (80, 80, 160, 160, 160, 144)),
            *([width, 16, 16] for width in (96, 144, 336, 336)),
            *([width, 8, 8] for width in (96, 336, 336, 336)),
        ]

    def test_a_dual_block_is_two_convolutions_each_with_norm_and_relu(self) -> None:
        block = build("deepflow").get_submodule("features.1")
        branches = []
        for conv, chosen in ((block.narrow, slice(0, 32)), (block.wide, slice(32, 64))):
            norm = nn.BatchNorm2d(32)
            with torch.no_grad():
                norm.weight.copy_(block.norm.weight[chosen])  # type: ignore[union-attr, index, arg-type]
            branches.append(nn.Sequential(conv, norm, nn.ReLU()))
        x = torch.randn(6, 96, 8, 8)
        expected = torch.cat([branch(x) for branch in branches], dim=1)
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
class TestEveryNetwork:
    def test_gives_finite_logits_and_a_gradient_for_every_parameter(self, name: str) -> None:
        module = build(name, channels=2, n_classes=7)
        size = input_side(name)
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
    size = input_side(name)
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
            ({"x": {"family": "resnet", "depth": 9}}, "`depth` is 9; it must be .*; the nearest are 8 and 14"),
            ({"x": {"family": "resnet", "depth": 2}}, "`depth` is 2; it must be one of 8, 14, 20 and so on$"),
            ({"x": {"family": "resnet", "block": "dense"}}, "`block` is 'dense'; it must be residual or plain"),
            ({"x": {"family": "nagao", "kernels": []}}, r"`kernels` is \[\]; it needs at least one item"),
            ({"x": {"family": "nagao", "kernels": [16, 2.5]}}, "each of its items must be one of 1, 2, 3 and so on"),
            ({"x": {"family": "nagao", "dense": 0}}, "`dense` is 0; it must be at least 1$"),
            ({"x": {"family": "nn", "hidden": ["many"]}}, r"`hidden` is \['many'\]; each of its items must be one of"),
            ({"x": {"family": "duque_cnn", "dropout": 1}}, "`dropout` is 1.0; it must be at least 0 and below 1"),
        ],
    )
    def test_mistakes_are_named_with_the_nearest_valid_word(self, config: object, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            models.entry(config)  # type: ignore[arg-type]
