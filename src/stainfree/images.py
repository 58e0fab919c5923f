"""Bringing images to the size that a model takes, and back again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stainfree.errors import DataError
from stainfree.requirements import why_not


def fit(images: npt.NDArray[Any], *, size: int | None, way: str) -> npt.NDArray[Any]:
    """Bring images to `size` x `size` pixels.

    Parameters
    ----------
    images
        (n, channel, y, x), any dtype.
    size
        Side in pixels; None leaves the images as they are.
    way
        ``pad`` repeats the edge pixels around the image, ``crop`` cuts the centre, ``centre`` does whichever is needed,
        ``resize`` interpolates (bilinear, averaging where it shrinks).

    Returns
    -------
    ndarray
        (n, channel, size, size) in the dtype of `images`.

    Raises
    ------
    DataError
        If `way` cannot bring images of this shape to that size.
    """
    height, width = images.shape[2:]
    if size is None or (height, width) == (size, size):
        return images
    reason = why_not((height, width), size, way)
    if reason:
        raise DataError(reason)
    if way == "resize":
        return _resize(images, size)
    above, left = max(0, height - size) // 2, max(0, width - size) // 2
    images = images[:, :, above : above + size, left : left + size]
    margins = [((size - side) // 2, size - side - (size - side) // 2) for side in images.shape[2:]]
    return np.pad(images, ((0, 0), (0, 0), *margins), mode="edge") if any(map(any, margins)) else images


def _resize(images: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    import torch  # only where images are resized: padding and cropping need no torch
    import torch.nn.functional as F

    resized = F.interpolate(
        torch.from_numpy(images.astype(np.float32)), size=(size, size), mode="bilinear", antialias=True
    ).numpy()
    if np.issubdtype(images.dtype, np.integer):
        limits = np.iinfo(images.dtype)
        resized = resized.round().clip(limits.min, limits.max)
    return resized.astype(images.dtype)


def unfit(maps: npt.NDArray[Any], *, shape: tuple[int, int], size: int | None, crop: int | None, way: str) -> Any:
    """Lay maps over the frame of the network's input back onto the source image.

    Parameters
    ----------
    maps
        (n, y, x) floats over what the network saw: the image brought to `size` by `way`, its centre cut to `crop`.
    shape
        Height and width of the source image.

    Returns
    -------
    ndarray of float32
        (n, height, width); NaN where the network did not look.
    """
    side = size if size is not None else None
    full = (side, side) if side is not None else shape
    frame = np.full((len(maps), *full), np.nan, dtype=np.float32)
    above, left = (full[0] - maps.shape[1]) // 2, (full[1] - maps.shape[2]) // 2
    frame[:, above : above + maps.shape[1], left : left + maps.shape[2]] = maps
    if full == shape:
        return frame
    if way == "resize":
        rows = np.minimum((np.arange(shape[0]) + 0.5) * full[0] // shape[0], full[0] - 1).astype(int)
        columns = np.minimum((np.arange(shape[1]) + 0.5) * full[1] // shape[1], full[1] - 1).astype(int)
        return frame[:, rows][:, :, columns]
    # What was padded is cut off, and what was cut off was not seen.
    above, left = (max(0, side - own) // 2 for side, own in zip(full, shape, strict=True))
    frame = frame[:, above : above + shape[0], left : left + shape[1]]
    out = np.full((len(maps), *shape), np.nan, dtype=np.float32)
    above, left = (max(0, own - side) // 2 for side, own in zip(full, shape, strict=True))
    out[:, above : above + frame.shape[1], left : left + frame.shape[2]] = frame
    return out
