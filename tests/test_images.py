"""Bringing images to a size, and maps back onto them."""

from __future__ import annotations

import numpy as np
import pytest

from stainfree import images
from stainfree.errors import DataError


def counts(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4096, (2, 1, side, side)).astype(np.uint16)


def test_padding_repeats_the_edge() -> None:
    source = counts(40)
    padded = images.fit(source, size=66, way="pad")
    assert padded.shape == (2, 1, 66, 66)
    assert padded.dtype == np.uint16
    np.testing.assert_array_equal(padded[:, :, 13:53, 13:53], source)
    np.testing.assert_array_equal(padded[:, :, 0, 13:53], source[:, :, 0])


def test_cropping_takes_the_centre() -> None:
    source = counts(70)
    np.testing.assert_array_equal(images.fit(source, size=66, way="crop"), source[:, :, 2:68, 2:68])


def test_resizing_keeps_dtype_range_and_a_flat_image() -> None:
    flat = np.full((1, 1, 30, 30), 1234, dtype=np.uint16)
    assert (images.fit(flat, size=66, way="resize") == 1234).all()
    assert images.fit(counts(90), size=66, way="resize").max() < 4096


@pytest.mark.parametrize(("side", "way", "hint"), [(70, "pad", "fit: crop"), (40, "crop", "fit: pad")])
def test_what_cannot_be_fitted_is_refused_with_the_way_that_can(side: int, way: str, hint: str) -> None:
    with pytest.raises(DataError, match=hint):
        images.fit(counts(side), size=66, way=way)


@pytest.mark.parametrize(
    ("side", "way"), [(40, "pad"), (66, "pad"), (80, "crop"), (33, "resize"), (40, "centre"), (81, "centre")]
)
def test_maps_land_on_the_pixels_they_were_made_from(side: int, way: str) -> None:
    """A map that marks one bright pixel of the network's input marks the same pixel of the source."""
    source = np.zeros((1, 1, side, side), dtype=np.float32)
    spot = side // 2 + 3
    source[0, 0, spot, spot] = 1000
    seen = images.fit(source, size=66, way=way)[:, 0, 1:65, 1:65]
    back = images.unfit(seen, shape=(side, side), size=66, crop=64, way=way)
    assert back.shape == (1, side, side)
    assert np.unravel_index(np.nanargmax(back[0]), back[0].shape) == (spot, spot)


def test_pixels_outside_the_crop_are_nan() -> None:
    back = images.unfit(np.ones((1, 64, 64)), shape=(66, 66), size=66, crop=64, way="pad")
    assert np.isnan(back[0, 0]).all()
    assert np.nansum(back) == 64 * 64
