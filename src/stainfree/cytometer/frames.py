"""Bring events of differing size to one size, each with its cell in the middle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Outermost pixels of a frame that are taken for background where the file does not tell it.
_BORDER = 2


@dataclass(frozen=True)
class Cut:
    """What was cut out of an event's frame."""

    image: npt.NDArray[Any]
    """(channel, y, x) of the size asked for."""
    padded: bool
    """Whether background was added at a side."""
    cropped: bool
    """Whether pixels of the frame were left out."""
    cell_cut: bool
    """Whether some of them belong to the mask: the cell is larger than the size asked for, or has debris beside it."""


def cut_out(
    image: npt.NDArray[Any],
    mask: npt.NDArray[np.uint8] | None,
    background: npt.NDArray[np.float64] | None,
    *,
    size: tuple[int, int],
) -> Cut:
    """Cut an image of a size out of an event's frame, about the centre of its mask.

    It is the centre of gravity: a speck of debris that the mask holds too hardly moves it.

    Parameters
    ----------
    image
        (channel, y, x).
    mask
        (channel, y, x), nonzero where the cell is; what is nonzero in any channel counts. Where it is None or all zero,
        the image is cut out about the middle of the frame.
    background
        (channel,) counts with which missing pixels are filled; None for the median of the frame's outermost two pixels.
    size
        Height and width in pixels.
    """
    n_channels, *frame = image.shape
    cell: npt.NDArray[np.bool_] = np.asarray(np.zeros(frame, dtype=bool) if mask is None else mask.any(axis=0))
    n_pixels = int(np.count_nonzero(cell))
    cropped = padded = False
    into: list[slice] = []
    out_of: list[slice] = []
    for axis, (side, wanted) in enumerate(zip(frame, size, strict=True)):
        centre = (side - 1) / 2
        if n_pixels:
            centre = float(cell.sum(axis=1 - axis) @ np.arange(side)) / n_pixels
        start = math.floor(centre + 1 - wanted / 2)
        first, last = max(start, 0), min(start + wanted, side)
        out_of.append(slice(first, last))
        into.append(slice(first - start, last - start))
        padded |= last - first < wanted
        cropped |= last - first < side
    cell_cut = bool(np.count_nonzero(cell[out_of[0], out_of[1]]) < n_pixels)
    cut = image[:, out_of[0], out_of[1]]
    if padded:
        fill = _border_medians(image) if background is None else background
        whole = np.empty((n_channels, *size), image.dtype)
        whole[:] = np.rint(fill).astype(image.dtype)[:, None, None]
        whole[:, into[0], into[1]] = cut
        cut = whole
    return Cut(cut, padded, cropped, cell_cut)


def _border_medians(image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the median (channel,) of the outermost pixels of an image (channel, y, x)."""
    border = np.ones(image.shape[1:], dtype=bool)
    border[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    return np.asarray(np.median(image[:, border], axis=1))
