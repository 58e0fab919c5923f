"""Batches: flips and crops move pixels and change nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stainfree import augment
from stainfree.augment import Normalisation, augmented_batch, centre_batch

PLAIN = Normalisation((0.0,), (1.0,))


def numbered(n: int, side: int) -> torch.Tensor:
    """Images in which every pixel has a value of its own."""
    return torch.arange(n * side * side, dtype=torch.int32).reshape(n, 1, side, side)


def views_of(image: torch.Tensor, crop: int) -> list[torch.Tensor]:
    room = image.shape[-1] - crop + 1
    crops = [image[..., y : y + crop, x : x + crop] for y in range(room) for x in range(room)]
    return [view.flip(axes) for view in crops for axes in ([], [1], [2], [1, 2])]


@given(n=st.integers(1, 80), side=st.integers(4, 9), cut=st.integers(0, 3), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_every_batch_image_is_a_crop_and_flip_of_its_own_cell(n: int, side: int, cut: int, seed: int) -> None:
    images = numbered(n, side)
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    batch, order = augmented_batch(
        images, rows, crop=side - cut, flip=True, normalisation=PLAIN, generator=torch.Generator().manual_seed(seed)
    )
    assert sorted(order.tolist()) == list(range(n))
    for image, row in zip(batch, order, strict=True):
        assert any(torch.equal(image, view.float()) for view in views_of(images[row], side - cut))


def test_both_ways_to_cut_a_batch_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    images = numbered(300, 12)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        return augmented_batch(images, torch.arange(300), crop=10, flip=True, normalisation=PLAIN, generator=generator)

    by_group = batch()
    monkeypatch.setattr(augment, "_CELLS_PER_GROUP", 10**9)
    by_gather = batch()
    assert torch.equal(by_group[1], by_gather[1])
    assert torch.equal(by_group[0], by_gather[0])


def test_memory_given_holds_the_batch_and_changes_nothing() -> None:
    images = numbered(200, 8)
    memory = torch.full((210, 1, 6, 6), -1.0)

    def batch(memory: torch.Tensor | None) -> torch.Tensor:
        generator = torch.Generator().manual_seed(5)
        return augmented_batch(
            images,
            torch.arange(200),
            crop=6,
            flip=True,
            normalisation=Normalisation((3.0,), (7.0,)),
            generator=generator,
            memory=memory,
        )[0]

    found = batch(memory)
    assert found.data_ptr() == memory.data_ptr()
    assert torch.equal(found, batch(None))
    assert (memory[200:] == -1).all()


def test_flips_and_corners_are_drawn_evenly() -> None:
    top, left, upside_down, mirrored = augment.random_views(
        20_000, (66, 66), crop=64, flip=True, generator=torch.Generator().manual_seed(0)
    )
    for flips in (upside_down, mirrored):
        assert abs(flips.float().mean().item() - 0.5) < 0.02
    for corner in (top, left):
        assert torch.bincount(corner).tolist() == pytest.approx([20_000 / 3] * 3, rel=0.05)


def test_without_crop_and_flip_the_images_come_as_they_are() -> None:
    images = numbered(5, 6)
    batch, order = augmented_batch(
        images, torch.tensor([4, 1]), crop=None, flip=False, normalisation=PLAIN, generator=torch.Generator()
    )
    assert torch.equal(batch, images[order].float())


def test_centre_batch_cuts_the_middle() -> None:
    images = numbered(150, 6)
    rows = torch.arange(149, 0, -1)  # more than are cut at once
    batch = centre_batch(images, rows, crop=2, normalisation=Normalisation((2.0,), (4.0,)))
    torch.testing.assert_close(batch, (images[rows, :, 2:4, 2:4].float() - 2) / 4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_normalisation_of_training_cells_gives_mean_0_and_deviation_1(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 255, (50, 2, 8, 8))).to(dtype)
    rows = torch.arange(10, 50)
    normalisation = Normalisation.of(images, rows, batch=7)
    expected = images[rows].double()
    np.testing.assert_allclose(normalisation.mean, expected.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(normalisation.std, expected.std((0, 2, 3), unbiased=False), rtol=1e-9)
    normal = centre_batch(images, rows, crop=None, normalisation=normalisation)
    assert normal.mean((0, 2, 3)).abs().max() < 1e-5
    assert (normal.std((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-4


def test_a_channel_of_one_value_is_not_divided_by_zero() -> None:
    normalisation = Normalisation.of(torch.full((3, 1, 4, 4), 7, dtype=torch.uint16), torch.arange(3))
    assert normalisation.std == (1.0,)
