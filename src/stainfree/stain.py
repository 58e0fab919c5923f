"""How much of a nuclear stain a cell holds: its integrated counts, which rise with its DNA."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# Pixels from the edge of an image that are taken for background.
_BORDER = 2


def integrate(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Sum the counts of each image (cell, y, x) above its background, the median of the outermost two pixels."""
    border = np.ones(images.shape[1:], dtype=bool)
    border[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    background = np.median(images[:, border].astype(np.float64), axis=1)
    # Summed as float64 without a copy of all images in it.
    total = images.sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(total - background * border.size, dtype=np.float32)
