"""The two codings of pixels in ``.cif`` and ``.rif`` files, undone for many pictures at a time.

Greyscale (compression 30817): each pixel is told by its difference to the pixel on its left, less that same difference
one row above. Such a number is cut into groups of three bits, lowest first, each in half a byte; the fourth bit says
that more groups follow, and the last group's highest bit is the sign. The lower half of a byte comes first.

Bitmask (compression 30818): pairs of bytes, a value and the length of its run less one.

Both as in the reader that the vendor permitted to Bio-Formats (``FlowSightReader``), and checked against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Shape = tuple[int, int]
"""Height and width of a picture in pixels."""

PIXELS_PER_BYTE = {30817: 2, 30818: 128}
"""Compression -> the most pixels that a byte can stand for."""

# Half a byte with this bit has another one of the same number behind it.
_MORE = 8
# 16 bits of a pixel, up to 18 of a difference of differences: six groups of three bits; so many are surely damage.
_MOST_GROUPS = 9
# Pictures that are decoded at once: long vectors, and still all in the processor's cache.
_AT_ONCE = 16


class DamagedError(ValueError):
    """A picture is not what its coding makes.

    Parameters
    ----------
    row
        Which of the pictures.
    reason
        What is wrong with it.
    """

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row


def decode_greyscale(coded: Sequence[bytes], shapes: Sequence[Shape]) -> list[npt.NDArray[np.uint16]]:
    """Undo compression 30817.

    Parameters
    ----------
    coded
        The bytes of each picture.
    shapes
        Height and width of each.

    Returns
    -------
    list of ndarray
        (y, x) of each picture.

    Raises
    ------
    DamagedError
        If the bytes of a picture end before its last pixel.
    """
    pictures: list[npt.NDArray[np.uint16]] = []
    for start in range(0, len(coded), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        try:
            pictures += _decode_some(coded[some], shapes[some])
        except DamagedError as error:
            raise DamagedError(start + error.row, str(error)) from error
    return pictures


def _decode_some(coded: Sequence[bytes], shapes: Sequence[Shape]) -> list[npt.NDArray[np.uint16]]:
    """Undo compression 30817 of some pictures, all at once."""
    halves, ends = _halves(coded)
    numbers, counts = _numbers(halves, ends)
    deltas: list[npt.NDArray[np.int16]] = []
    by_height: dict[int, list[int]] = {}
    bounds = pairwise([0, *counts.tolist()])
    for row, ((height, width), (first, last)) in enumerate(zip(shapes, bounds, strict=True)):
        if last - first < height * width:
            raise DamagedError(row, f"its {len(coded[row])} bytes hold fewer than {height} x {width} pixels")
        deltas.append(numbers[first : first + height * width].reshape(height, width))
        by_height.setdefault(height, []).append(row)
    pictures = [np.empty(0, np.uint16)] * len(shapes)
    for rows in by_height.values():
        for row, picture in zip(rows, _sums([deltas[row] for row in rows]), strict=True):
            pictures[row] = picture
    return pictures


def _halves(coded: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.intp]]:
    """Return the half bytes of all pictures in one row, lower half first, and where each picture's end."""
    pairs = np.frombuffer(b"".join(coded), np.uint8).astype("<u2")
    halves = ((pairs | pairs << 4) & 0x0F0F).view(np.uint8)
    ends = 2 * np.cumsum([len(picture) for picture in coded])
    # No number goes on from one picture into the next, whatever fills up the last byte.
    halves[ends[ends > 0] - 1] &= _MORE - 1
    return halves, ends


def _numbers(
    halves: npt.NDArray[np.uint8], ends: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.intp]]:
    """Return the last 16 bits of all numbers, and how many there are up to the end of each picture.

    Nearly all numbers are of one group or two. So each group is taken for a last one, joined to the one before it where
    that says so, and the few longer numbers are put right.
    """
    more = halves >= _MORE
    bits = halves & (_MORE - 1)
    low = (bits * more.view(np.uint8)).view(np.int8)
    # Three bits with a sign: flipping the sign bit makes them 0 to 7, in the order of -4 to 3.
    signed = (bits ^ 4).view(np.int8) - np.int8(4)
    joined = signed.copy()
    joined[1:] *= (more[:-1].view(np.uint8) * np.uint8(7) + np.uint8(1)).view(np.int8)
    joined[1:] += low[:-1]
    numbers = joined.astype(np.int16)
    # Groups that are neither the first of a number nor its last.
    inner = np.flatnonzero(more[1:] & more[:-1]) + 1
    if inner.size:
        starts = np.flatnonzero(np.diff(inner, prepend=-1) != 1)
        first = inner[starts] - 1
        n_more = np.diff(starts, append=inner.size) + 1
        if n_more.max() >= _MOST_GROUPS:
            at = first[n_more.argmax()]
            raise DamagedError(int(np.searchsorted(ends, at, "right")), "a number in it is too long")
        long = signed[first + n_more].astype(np.int64) << 3 * n_more
        for group in range(n_more.max()):
            has = n_more > group
            long[has] += low[first[has] + group].astype(np.int64) << 3 * group
        numbers[first + n_more] = long
    last = np.flatnonzero(~more)
    return numbers.take(last), np.searchsorted(last, ends)


def _sums(deltas: Sequence[npt.NDArray[np.int16]]) -> list[npt.NDArray[np.uint16]]:
    """Sum pictures (y, x) of one height over rows, then over columns.

    Side by side, since long rows are summed several times as fast, and so are 32 bits. Pixels are the last 16 of them.
    """
    left = np.cumsum([1, *(delta.shape[1] for delta in deltas)])
    # A column of zeros, from which the first picture's sums start.
    sums = np.concatenate([np.zeros((len(deltas[0]), 1), np.int32), *deltas], axis=1, dtype=np.int32)
    for above, row in pairwise(sums):
        row += above
    np.cumsum(sums, axis=1, dtype=np.int32, out=sums)
    return [(sums[:, start:end] - sums[:, start - 1 : start]).astype(np.uint16) for start, end in pairwise(left)]


def decode_bitmask(coded: Sequence[bytes], shapes: Sequence[Shape]) -> list[npt.NDArray[np.uint8]]:
    """Undo compression 30818.

    Parameters
    ----------
    coded
        The bytes of each picture.
    shapes
        Height and width of each.

    Returns
    -------
    list of ndarray
        (y, x) of each picture.

    Raises
    ------
    DamagedError
        If the runs of a picture do not make up its pixels.
    """
    n_pixels = [height * width for height, width in shapes]
    pairs = [np.frombuffer(picture, np.uint8) for picture in coded]
    for row, (picture, n) in enumerate(zip(pairs, n_pixels, strict=True)):
        if len(picture) % 2 or int(picture[1::2].sum(dtype=np.int64)) + len(picture) // 2 != n:
            height, width = shapes[row]
            raise DamagedError(row, f"the runs of its mask do not make up {height} x {width} pixels")
    joined = np.concatenate(pairs)
    pixels = np.repeat(joined[::2], joined[1::2].astype(np.intp) + 1)
    parts = np.split(pixels, np.cumsum(n_pixels)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
