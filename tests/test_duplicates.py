"""Copies of a cell are found wherever they stand; different cells are never taken for one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stainfree.datasets.duplicates import DuplicateFilter, fine_structure


def _cells(n: int, *, seed: int, size: int = 24, channels: int = 3) -> np.ndarray:
    """Bright sharp discs, many of one outline to the pixel, under camera noise: as alike as different cells can be."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    radius = rng.uniform(size / 5, size / 3, size=(n, channels, 1, 1))
    images = 300 + 1500 * (np.hypot(y, x) < radius) + rng.normal(0, 20, size=(n, channels, size, size))
    return np.asarray(images.round(), dtype=np.uint16)


def _run(images: np.ndarray, *, batch: int = 16, **options: object) -> list[str | None]:
    find = DuplicateFilter(**options)  # type: ignore[arg-type]
    ids = [f"cell{i}" for i in range(len(images))]
    found = [
        duplicate
        for start in range(0, len(images), batch)
        for duplicate in find(images[start : start + batch], ids[start : start + batch])
    ]
    assert [d.cell_id for d in found if d] == [i for i, d in zip(ids, found, strict=True) if d]
    return [d.of if d else None for d in found]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    original=st.integers(0, 39),
    position=st.integers(0, 40),
    change=st.sampled_from(["none", "noise", "gain", "offset", "edge"]),
    channels=st.integers(1, 3),
)
def test_planted_copy_is_found(seed: int, original: int, position: int, change: str, channels: int) -> None:
    images = _cells(40, seed=seed, channels=channels)
    rng = np.random.default_rng(seed)
    copy = images[original].astype(int)
    if change == "noise":
        copy += rng.integers(-1, 2, size=copy.shape)
    elif change == "gain":
        copy = (copy * 0.7).round().astype(int)
    elif change == "offset":
        copy += 55
    elif change == "edge":
        copy[:, :, 0] = rng.integers(280, 320, size=copy.shape[:2])
    images = np.insert(images, position, copy.astype(np.uint16), axis=0)
    first, second = sorted([position, original + (position <= original)])
    assert _run(images) == [f"cell{first}" if i == second else None for i in range(41)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(8, 40), channels=st.integers(1, 3))
def test_noise_images_are_all_kept(seed: int, size: int, channels: int) -> None:
    images = np.random.default_rng(seed).integers(0, 4096, size=(60, channels, size, size), dtype=np.uint16)
    assert _run(images) == [None] * 60


def test_different_cells_of_one_shape_are_kept() -> None:
    assert _run(_cells(800, seed=5)) == [None] * 800


def test_answer_does_not_depend_on_batches() -> None:
    images = _cells(50, seed=1)
    images[[20, 33]] = images[7]
    expected = [None] * 50
    expected[20] = expected[33] = "cell7"  # type: ignore[call-overload]
    assert _run(images, batch=1) == _run(images, batch=50) == expected


def test_copy_of_a_dropped_copy_names_the_first() -> None:
    images = _cells(4, seed=2)
    images[1] = images[0]
    images[1, 0, 5, 5] += 1
    images[3] = images[1]
    found = DuplicateFilter()(images, list("abcd"))
    assert [(d.of, d.match) if d else None for d in found] == [None, ("a", "near"), None, ("a", "exact")]


def test_kept_copy_is_reported_and_remembered() -> None:
    images = _cells(3, seed=3)
    images[1] = images[0]
    images[2] = images[0]
    found = DuplicateFilter(keep=frozenset({"b"}))(images, list("abc"))
    assert [d.of if d else None for d in found] == [None, "a", "a"]


@pytest.mark.parametrize("value", [0, 7])
def test_flat_images_are_compared_exactly(value: int) -> None:
    images = np.full((3, 1, 20, 20), value, dtype=np.uint8)
    images[1] += 1
    assert _run(images) == [None, None, "cell0"]


def test_correlation_agrees_with_direct_computation() -> None:
    images = _cells(2, seed=4, size=40)
    noisy = images[0] + np.random.default_rng(0).integers(-8, 9, size=images[0].shape)
    images[1] = noisy.astype(np.uint16)
    found = DuplicateFilter(threshold=0.0)(images, ["a", "b"])[1]
    direct = np.mean(
        [np.corrcoef(_clipped(images[0, c]).ravel(), _clipped(images[1, c]).ravel())[0, 1] for c in range(3)]
    )
    assert found is not None
    assert found.correlation == pytest.approx(direct, abs=0.03)
    rows = fine_structure(images)
    assert rows[0] @ rows[1] / 3 == pytest.approx(direct, abs=1e-5)


def _clipped(image: np.ndarray) -> np.ndarray:
    """The interior of an image less the mean of its 3 x 3 neighbourhoods, clipped, written out."""
    height, width = image.shape
    pixels = image.astype(float)
    out = np.empty((height - 4, width - 4))
    for y in range(2, height - 2):
        for x in range(2, width - 2):
            out[y - 2, x - 2] = pixels[y, x] - pixels[y - 1 : y + 2, x - 1 : x + 2].mean()
    limit = 1.4826 * np.median(np.abs(out))
    return np.clip(out, -limit, limit)
