"""The contender: its size by hand, and what its members and views promise."""

from __future__ import annotations

import pytest
import torch

from stainfree import models
from stainfree.augment import views
from stainfree.networks import build_module


def build(
    *, channels: int = 1, n_classes: int = 5, image_size: int = 40, width: int = 4, members: int = 2
) -> torch.nn.Module:
    torch.manual_seed(0)
    entry = models.entry({"contender": {"width": width, "members": members}})
    return build_module(entry, channels=channels, image_size=image_size, n_classes=n_classes)


@pytest.mark.parametrize(("channels", "n_classes"), [(1, 5), (2, 7)])
@pytest.mark.parametrize("members", [1, 3])
def test_it_has_the_parameters_that_a_hand_counts(channels: int, n_classes: int, members: int) -> None:
    maps = [16, 32, 32, 64, 64, 128]
    kernels = 9 * (channels * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128)
    norms = 2 * sum(maps)
    expected = members * (kernels + norms) + members * 128 * n_classes + n_classes
    found = build(channels=channels, n_classes=n_classes, width=16, members=members)
    assert sum(p.numel() for p in found.parameters()) == expected


@pytest.mark.parametrize("side", [16, 17, 40, 64, 66, 300])
@pytest.mark.parametrize("training", [True, False])
def test_images_of_any_size_pass(side: int, training: bool) -> None:
    network = build(channels=2, n_classes=7, image_size=side).train(training)
    x = torch.randn(3, 2, side, side)
    assert network(x).shape == (3, 7)
    assert network.embed(x).shape == (3, 2 * 8 * 4)  # type: ignore[operator]


def test_in_training_a_cell_passes_one_member_and_in_evaluation_all() -> None:
    network = build(members=3)
    x = torch.randn(7, 1, 40, 40)
    in_training = network.train().embed(x).view(7, 3, 32)  # type: ignore[operator]
    passed = (in_training != 0).any(dim=2)
    assert passed.nonzero()[:, 1].tolist() == [k % 3 for k in range(7)]
    in_evaluation = network.eval().embed(x).view(7, 3, 32)  # type: ignore[operator]
    assert (in_evaluation != 0).any(dim=2).all()


def test_the_answer_is_the_mean_of_the_members_answers() -> None:
    network = build(members=3).eval()
    x = torch.randn(5, 1, 40, 40)
    each = network.embed(x).view(5, 3, 32)  # type: ignore[operator]
    alone = torch.eye(3)[:, None, :, None] * 3 * each  # as if all passed one member in training
    answers = torch.stack([network.head(one.flatten(1)) for one in alone])  # type: ignore[operator]
    torch.testing.assert_close(network(x), answers.mean(0), rtol=1e-4, atol=1e-5)


def test_fewer_cells_than_members_pass_too() -> None:
    network = build(members=3).train()
    assert network(torch.randn(2, 1, 40, 40)).shape == (2, 5)


def test_every_member_learns() -> None:
    network = build(members=3).train()
    network(torch.randn(6, 1, 40, 40)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_the_mean_over_the_views_does_not_depend_on_how_a_cell_lay() -> None:
    network = build().eval()
    x = torch.randn(4, 1, 40, 40)

    def answer(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return network(views(x).flatten(0, 1)).unflatten(0, (8, -1)).mean(0)

    expected = answer(x)
    for turned in (x.rot90(1, (2, 3)), x.flip(2), x.transpose(2, 3)):
        torch.testing.assert_close(answer(turned), expected, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        assert not torch.allclose(network(x), network(x.flip(2)), atol=1e-4)  # without views it does
