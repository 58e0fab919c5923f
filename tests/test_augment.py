"""Batches: flips, crops and quarter turns move pixels and change nothing else; the rest does what it says."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stainfree import augment
from stainfree.augment import Augmentation, Normalisation, Views, augmented_batch, centre_batch
from stainfree.errors import ConfigError, DataError

PLAIN = Normalisation((0.0,), (1.0,))
FLIP = Augmentation(flip=True)


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
        images,
        rows,
        crop=side - cut,
        augmentation=FLIP,
        normalisation=PLAIN,
        generator=torch.Generator().manual_seed(seed),
    )
    assert sorted(order.tolist()) == list(range(n))
    for image, row in zip(batch, order, strict=True):
        assert any(torch.equal(image, view.float()) for view in views_of(images[row], side - cut))


@pytest.mark.parametrize("rotate", ["none", "quarter"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32, torch.float32])
def test_both_ways_to_cut_a_batch_agree(monkeypatch: pytest.MonkeyPatch, rotate: str, dtype: torch.dtype) -> None:
    images = torch.cat([numbered(300, 12), -numbered(300, 12)], dim=1).to(dtype)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        return augmented_batch(
            images,
            torch.arange(300),
            crop=11,
            augmentation=Augmentation(flip=True, rotate=rotate),
            normalisation=Normalisation((0.0, 0.0), (1.0, 1.0)),
            generator=torch.Generator().manual_seed(3),
        )

    monkeypatch.setattr(augment, "_CELLS_PER_GROUP", 1)

    by_group = batch()
    monkeypatch.setattr(augment, "_CELLS_PER_GROUP", 10**9)
    by_gather = batch()
    assert torch.equal(by_group[1], by_gather[1])
    assert torch.equal(by_group[0], by_gather[0])


@given(n=st.integers(1, 80), side=st.integers(4, 9), cut=st.integers(0, 3), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_flips_alone_draw_what_they_drew_in_published_results(n: int, side: int, cut: int, seed: int) -> None:
    images, normalisation = numbered(n, side), Normalisation((3.0,), (7.0,))
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    batch, order = augmented_batch(
        images,
        rows,
        crop=side - cut,
        augmentation=FLIP,
        normalisation=normalisation,
        generator=torch.Generator().manual_seed(seed),
    )
    generator = torch.Generator().manual_seed(seed)
    top, left = (torch.randint(cut + 1, (n,), generator=generator) for _ in range(2))
    upside_down, mirrored = torch.randint(2, (2, n), generator=generator)
    by_view = sorted(range(n), key=lambda k: (top[k], left[k], upside_down[k], mirrored[k]))
    assert torch.equal(order, rows[by_view])
    for image, k in zip(batch, by_view, strict=True):
        y, x = int(top[k]), int(left[k])
        view = images[rows[k], :, y : y + side - cut, x : x + side - cut]
        axes = [axis for axis, wanted in ((1, upside_down[k]), (2, mirrored[k])) if wanted]
        assert torch.equal(image, normalisation.apply(view.flip(axes).float()))


def test_memory_given_holds_the_batch_and_changes_nothing() -> None:
    images = numbered(200, 8)
    memory = torch.full((210, 1, 6, 6), -1.0)

    def batch(memory: torch.Tensor | None) -> torch.Tensor:
        generator = torch.Generator().manual_seed(5)
        return augmented_batch(
            images,
            torch.arange(200),
            crop=6,
            augmentation=FLIP,
            normalisation=Normalisation((3.0,), (7.0,)),
            generator=generator,
            memory=memory,
        )[0]

    found = batch(memory)
    assert found.data_ptr() == memory.data_ptr()
    assert torch.equal(found, batch(None))
    assert (memory[200:] == -1).all()


def test_flips_and_corners_are_drawn_evenly() -> None:
    drawn = Views.draw(20_000, (66, 66), crop=64, augmentation=FLIP, generator=torch.Generator().manual_seed(0))
    for flips in (drawn.upside_down, drawn.mirrored):
        assert abs(flips.float().mean().item() - 0.5) < 0.02
    for corner in (drawn.top, drawn.left):
        assert torch.bincount(corner).tolist() == pytest.approx([20_000 / 3] * 3, rel=0.05)


def test_without_crop_and_flip_the_images_come_as_they_are() -> None:
    images = numbered(5, 6)
    batch, order = augmented_batch(
        images,
        torch.tensor([4, 1]),
        crop=None,
        augmentation=Augmentation(),
        normalisation=PLAIN,
        generator=torch.Generator(),
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


def seen(images: torch.Tensor, augmentation: Augmentation, *, crop: int | None = None, seed: int = 0) -> torch.Tensor:
    """The augmented images, in the order in which they came, unnormalised."""
    plain = Normalisation((0.0,) * images.shape[1], (1.0,) * images.shape[1])
    batch, order = augmented_batch(
        images,
        torch.arange(len(images)),
        crop=crop,
        augmentation=augmentation,
        normalisation=plain,
        generator=torch.Generator().manual_seed(seed),
    )
    return batch[order.argsort()]


def smooth(n: int, side: int) -> torch.Tensor:
    """Images (n, 2, side, side) float32 of a few slow waves, each its own: bilinear values are nearly exact in them."""
    generator = torch.Generator().manual_seed(1)
    place = torch.linspace(0, 1, side)
    y_wave, x_wave, phase = torch.rand(3, n, 2, 1, 1, generator=generator) * 3
    return (y_wave * place[:, None] + x_wave * place + phase).sin()


def at_angle(monkeypatch: pytest.MonkeyPatch, degrees: float) -> None:
    """Let every free rotation be by this angle, without flips."""
    drawn = Views.draw

    def draw(n: int, *told: Any, **more: Any) -> Views:
        return dataclasses.replace(drawn(n, *told, **more), angle=torch.full((n,), math.radians(degrees)))

    monkeypatch.setattr(Views, "draw", draw)


def test_all_eight_views_come_equally_often_from_flips_and_quarter_turns() -> None:
    image = numbered(1, 5)[0].float()
    eight = augment.views(image[None])[:, 0]
    for augmentation, expected in (
        (Augmentation(rotate="quarter"), [1 / 4] * 4 + [0] * 4),
        (Augmentation(flip=True, rotate="quarter"), [1 / 8] * 8),
    ):
        batch = seen(image.expand(4000, 1, 5, 5), augmentation)
        matches = (batch[:, None] == eight[None]).all(dim=(2, 3, 4))
        assert (matches.sum(1) == 1).all()  # the pixels of the image, each once, in one of the eight orders
        assert matches.float().mean(0).tolist() == pytest.approx(expected, abs=0.03)


def test_the_eight_views_are_those_of_the_square() -> None:
    batch = numbered(3, 4)
    eight = augment.views(batch)
    assert eight.shape == (8, 3, 1, 4, 4)
    assert torch.equal(eight[0], batch)
    assert len({tuple(view.flatten().tolist()) for view in eight}) == 8
    for view in eight:  # turned or mirrored views are views again
        for other in (view.rot90(1, (2, 3)), view.flip(2), view.flip(3), view.transpose(2, 3)):
            assert any(torch.equal(other, known) for known in eight)


def test_quarter_turns_need_a_square() -> None:
    with pytest.raises(DataError, match="4 x 6 pixels have no quarter turns; set `rotate` to any, or a crop"):
        seen(torch.zeros(2, 1, 4, 6), Augmentation(rotate="quarter"))
    assert seen(torch.zeros(2, 1, 4, 6), Augmentation(rotate="quarter"), crop=4).shape == (2, 1, 4, 4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
@pytest.mark.parametrize("crop", [None, 9])
def test_rotation_by_nothing_is_the_crop(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, crop: int | None) -> None:
    images = torch.randint(0, 255, (70, 2, 12, 12), generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = seen(images, Augmentation(), crop=crop)
    at_angle(monkeypatch, 0)
    torch.testing.assert_close(seen(images, Augmentation(rotate="any"), crop=crop), expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_rotation_by_90_degrees_is_a_quarter_turn(monkeypatch: pytest.MonkeyPatch, quarter: int) -> None:
    images = smooth(70, 12)
    expected = images.rot90(quarter, (2, 3))
    at_angle(monkeypatch, 90 * quarter)
    torch.testing.assert_close(seen(images, Augmentation(rotate="any")), expected, rtol=0, atol=1e-4)


def test_flips_come_after_the_rotation_and_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    images = smooth(70, 12)
    expected = seen(images.rot90(1, (2, 3)), FLIP)
    at_angle(monkeypatch, 90)
    torch.testing.assert_close(seen(images, Augmentation(flip=True, rotate="any")), expected, rtol=0, atol=1e-4)


@given(
    seed=st.integers(0, 99), crop=st.sampled_from([None, 21, 30]), dtype=st.sampled_from([torch.uint8, torch.uint16])
)
@settings(max_examples=20, deadline=None)
def test_a_constant_image_stays_constant_under_rotation(seed: int, crop: int | None, dtype: torch.dtype) -> None:
    batch = seen(
        torch.full((30, 1, 31, 33), 200).to(dtype), Augmentation(flip=True, rotate="any"), crop=crop, seed=seed
    )
    torch.testing.assert_close(batch, torch.full_like(batch, 200.0), rtol=1e-5, atol=0)


def test_rotation_keeps_a_centred_disc_and_turns_what_lies_beside_it() -> None:
    place = torch.arange(41.0) - 20
    distance = (place[:, None] ** 2 + place**2).sqrt()
    disc = 100 * torch.sigmoid(10 - distance)
    batch = seen(disc.expand(50, 1, 41, 41), Augmentation(rotate="any"))
    assert (batch - disc).abs().max() < 3
    spot = 100 * torch.exp(-((place[:, None] - 12) ** 2 + place**2) / 8)
    batch = seen(spot.expand(400, 1, 41, 41), Augmentation(rotate="any"))
    total = batch.sum(dim=(1, 2, 3))
    y, x = (batch[:, 0] * place[:, None]).sum((1, 2)) / total, (batch[:, 0] * place).sum((1, 2)) / total
    torch.testing.assert_close((y**2 + x**2).sqrt(), torch.full((400,), 12.0), rtol=0, atol=0.05)
    eighths = torch.bincount(((torch.atan2(y, x) / math.pi + 1) * 4).long().clamp(max=7), minlength=8)
    assert eighths.min() > 25  # of 50 expected: any angle comes


def test_corners_of_a_rotated_crop_are_its_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    images = smooth(1, 41)  # the crop's corners stay inside it
    place = torch.arange(21.0) - 10
    at_angle(monkeypatch, 45)
    monkeypatch.setattr(torch, "randint", lambda high, size, **_: torch.full(size, (high - 1) // 2))
    batch = seen(images, Augmentation(rotate="any"), crop=21)
    y = 20 + (place[:, None] + place) * math.sqrt(0.5)
    x = 20 + (place - place[:, None]) * math.sqrt(0.5)
    y0, x0 = y.long(), x.long()
    expected = sum(
        images[..., y0 + dy, x0 + dx] * (1 - (y - y0 - dy).abs()) * (1 - (x - x0 - dx).abs())
        for dy in (0, 1)
        for dx in (0, 1)
    )
    torch.testing.assert_close(batch, expected, rtol=0, atol=1e-4)


def test_blur_keeps_the_mean_and_lowers_the_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(150, 2, 24, 24, generator=generator)
    batch = seen(images, Augmentation(blur=2.0))
    assert (batch.mean((2, 3)) - images.mean((2, 3))).abs().max() < 0.02
    assert (batch.var((2, 3)) <= images.var((2, 3)) * 1.0001).all()
    drawn = (batch - images).abs().amax((1, 2, 3))
    assert drawn.min() < 0.05 < 0.5 < drawn.max()  # from nothing to much
    constant = torch.full((9, 1, 5, 8), 7.0)
    torch.testing.assert_close(seen(constant, Augmentation(blur=3.0)), constant)


def test_blur_is_a_gaussian_of_the_drawn_width() -> None:
    spot = torch.zeros(1, 1, 31, 21)
    spot[0, 0, 15, 10] = 1
    augment._blur(spot, torch.tensor([1.5]))
    y, x = torch.arange(31.0)[:, None] - 15, torch.arange(21.0) - 10
    expected = torch.exp(-(y**2 + x**2) / (2 * 1.5**2))
    torch.testing.assert_close(spot[0, 0], expected / expected.sum(), rtol=0, atol=1e-6)
    same = smooth(3, 9)
    augment._blur(blurred := same.clone(), torch.zeros(3))
    torch.testing.assert_close(blurred, same)


def test_gain_changes_contrast_and_offset_shifts_each_channel_by_itself() -> None:
    images = smooth(2000, 6)
    contrast = seen(images, Augmentation(gain=0.3)).std((2, 3)) / images.std((2, 3))
    shift = seen(images, Augmentation(offset=0.5)) - images
    for drawn, middle, most in ((contrast, 1.0, 0.3), (shift.mean((2, 3)), 0.0, 0.5)):
        assert (drawn - middle).abs().max() <= most * 1.001
        torch.testing.assert_close(drawn.mean(0), torch.full((2,), middle), rtol=0, atol=0.05 * most)
        torch.testing.assert_close(drawn.var(0), torch.full((2,), most**2 / 3), rtol=0.1, atol=0)
        assert abs(torch.corrcoef(drawn.T)[0, 1]) < 0.1
    assert shift.std((2, 3)).max() < 1e-5


def test_offset_is_in_deviations_of_the_training_cells_and_gain_about_their_mean() -> None:
    images = torch.full((500, 1, 2, 2), 130.0)
    normalisation = Normalisation((130.0,), (50.0,))
    found = {}
    for what in ("gain", "offset"):
        found[what], _ = augmented_batch(
            images,
            torch.arange(500),
            crop=None,
            augmentation=Augmentation(**{what: 0.5}),
            normalisation=normalisation,
            generator=torch.Generator().manual_seed(0),
        )
    assert (found["gain"] == 0).all()
    assert 0.49 < found["offset"].abs().max() <= 0.5


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(rotate="quarter"),
        Augmentation(rotate="any"),
        Augmentation(blur=1.0),
        Augmentation(gain=0.2),
        Augmentation(offset=0.2),
        Augmentation(flip=True, rotate="any", blur=1.0, gain=0.2, offset=0.2),
    ],
)
def test_a_seed_decides_the_batch(augmentation: Augmentation) -> None:
    images = torch.randint(0, 4096, (90, 2, 14, 14), generator=torch.Generator().manual_seed(0)).to(torch.uint16)
    first, same, other = (seen(images, augmentation, crop=12, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"rotate": "free"}, "`rotate` is 'free', and must be one of none, quarter, any"),
        ({"blur": -1.0}, "`blur` is -1.0, and must be at least 0"),
        ({"gain": 1.0}, "`gain` is 1.0, and must be at least 0 and below 1"),
        ({"offset": float("nan")}, "`offset` is nan"),
    ],
)
def test_augmentations_that_cannot_be_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Augmentation(**wrong)
