"""Find cells that stand in a data set more than once.

Exact copies share the digest of their pixels. Near copies (the same event cut out twice with a refilled edge, another
gain, a count more or less) are found in three steps:

1. *Fine structure.* Each channel has its 3 x 3 box mean subtracted, loses a margin of 2 pixels (where cut-outs are
   refilled), is clipped at its own robust standard deviation (or cells would be alike by their outline alone), and is
   brought to mean 0 and norm 1. What is left, texture and the camera's noise, is a fingerprint.
2. *Buckets.* The fine structure is projected on 256 sparse random directions. Their signs make 16 keys of 16 bits;
   cells that share a key, or nearly (the three least certain bits are tried both ways), are compared. Sign keys
   of random projections collide with a probability that falls with the angle: Charikar, STOC 2002
   (doi:10.1145/509907.509965), section 3; trying uncertain bits: Lv et al., VLDB 2007, "Multi-probe LSH"; sparse
   directions: Li, Hastie and Church, KDD 2006 (doi:10.1145/1150402.1150436).
3. *Correlation* of the projections, which estimates that of the fine structure to about 0.06 between strangers and
   0.005 at a correlation of 0.96. From `THRESHOLD` on, the later cell is a copy.

Measured on the 7,919 tiles of the Jurkat montages (40 x 40, 12 bits), over all pairs:

==========================================================  ============  ======  ======  ======
correlation of                                              all channels  BF      PI      DF
==========================================================  ============  ======  ======  ======
two different cells, whole images, highest                  0.962         0.981   0.998   0.949
two different cells, fine structure, highest                0.394         0.553   0.586   0.331
a cell and itself with -1, 0 or +1 on each pixel, lowest    0.960         0.988   0.958   0.923
a cell and itself at gain 0.7, rounded, lowest              0.984         0.997   0.979   0.971
true near copies (they differ in one refilled edge)         1.000         1.000   1.000   1.000
==========================================================  ============  ======  ======  ======

`THRESHOLD` = 0.85 stands between, with room on both sides whatever the channels.
Neither shifted, turned nor mirrored copies are looked for: cut-outs of one event are centred alike.

Cost on one core, cells of 66 x 66 x 3: 0.14 ms per cell among 10,000, 0.19 ms among 100,000; about 0.7 kB is kept of
each cell (benchmarks/conversion.py prints it).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

THRESHOLD = 0.85
"""Correlation of the fine structure from which on two cells are one; the module shows its margins."""

_TABLES = 16
_BITS = 16
_DIRECTIONS = _TABLES * _BITS
_PROBED_BITS = 3
# Cut-outs of one event differ in refilled rows or columns at their edge; images too small to spare them keep theirs.
_MARGIN = 2
_SMALLEST_TRIMMED = 16
# So many cells at a time stay in a processor's cache.
_BLOCK_CELLS = 16
# Structure below this many counts is not raised to the weight of any other: it may be rounding.
_LEAST_LIMIT_COUNTS = 4.0
# Of a median absolute deviation, to the standard deviation of a normal distribution.
_MAD_TO_SD = 1.4826


@dataclass(frozen=True)
class Duplicate:
    """A cell that stood in the data set before."""

    cell_id: str
    of: str
    """Id of the earlier cell."""
    position: int
    """Of the earlier cell, counted among those that are remembered: all but copies that need not stay."""
    match: Literal["exact", "near"]
    correlation: float
    """Of the fine structure, estimated from its projections; 1 for an exact copy."""


class DuplicateFilter:
    """Tell, batch by batch, which cells are copies of earlier ones.

    Parameters
    ----------
    threshold
        Correlation of the fine structure from which on two cells are one.
    seed
        Of the random directions.
    keep
        Ids of cells that stay in the data set even as copies: reported as copies, and remembered like any cell.

    Examples
    --------
    >>> images = np.random.default_rng(0).integers(0, 4096, size=(3, 1, 20, 20))
    >>> images[2] = images[0]
    >>> [found.of if found else None for found in DuplicateFilter()(images, ["a", "b", "c"])]
    [None, None, 'a']
    """

    def __init__(self, *, threshold: float = THRESHOLD, seed: int = 0, keep: frozenset[str] = frozenset()) -> None:
        self._threshold = threshold
        self._seed = seed
        self._keep = keep
        self._ids: list[str] = []
        self._by_digest: dict[bytes, int] = {}
        self._buckets = _Buckets()
        self._directions: sparse.csr_array | None = None

    def __call__(self, images: npt.NDArray[Any], cell_ids: Sequence[str]) -> list[Duplicate | None]:
        """Compare the cells of a batch with all cells before them, in their order.

        Parameters
        ----------
        images
            (cell, channel, y, x), any dtype; the same shape in every batch.
        cell_ids
            One per cell.

        Returns
        -------
        list
            Per cell, what it is a copy of; None for a cell not seen before. Copies of copies name the first.
        """
        return [
            self._compare(image, cell_id, vector)
            for image, cell_id, vector in zip(images, cell_ids, self._project(images), strict=True)
        ]

    def _compare(self, image: npt.NDArray[Any], cell_id: str, vector: npt.NDArray[np.float32]) -> Duplicate | None:
        digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        found: Duplicate | None = None
        earlier = self._by_digest.get(digest)
        if earlier is not None:
            found = Duplicate(cell_id, self._ids[earlier], earlier, "exact", 1.0)
        elif vector.any():
            earlier, correlation = self._buckets.nearest(vector)
            if earlier is not None and correlation >= self._threshold:
                found = Duplicate(cell_id, self._ids[earlier], earlier, "near", min(correlation, 1.0))
        if found is None or cell_id in self._keep:
            self._by_digest.setdefault(digest, len(self._ids))
            self._ids.append(cell_id)
            self._buckets.add(vector)
        elif earlier is not None:
            # Byte copies of a dropped near copy are then exact copies of the cell that stayed.
            self._by_digest.setdefault(digest, earlier)
        return found

    def _project(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return (cell, direction) projections of norm 1; all zero for images without structure."""
        projections = np.empty((len(images), _DIRECTIONS), dtype=np.float32)
        for start in range(0, len(images), _BLOCK_CELLS):
            structure = fine_structure(images[start : start + _BLOCK_CELLS])
            if self._directions is None:
                self._directions = _sparse_directions(structure.shape[1], seed=self._seed)
            projections[start : start + _BLOCK_CELLS] = (self._directions @ structure.T).T
        norms = np.linalg.norm(projections, axis=1, keepdims=True)
        np.divide(projections, norms, out=projections, where=norms > 0)
        return projections


def fine_structure(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return what tells one cell from another, whatever its gain and offset.

    Parameters
    ----------
    images
        (cell, channel, y, x), any dtype.

    Returns
    -------
    ndarray
        (cell, pixels of all channels): per channel the image less its 3 x 3 box mean, without the margin, clipped at
        its robust standard deviation, of mean 0 and norm 1 (all zero where the channel is flat). The product of two
        rows, divided by the number of channels, is their mean correlation.
    """
    framed = images.astype(np.float32)
    if min(images.shape[2:]) >= _SMALLEST_TRIMMED:
        framed = framed[..., _MARGIN - 1 : 1 - _MARGIN, _MARGIN - 1 : 1 - _MARGIN]
    else:
        framed = np.pad(framed, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    rows = framed[..., :-2, :] + framed[..., 1:-1, :] + framed[..., 2:, :]
    pixels = framed[..., 1:-1, 1:-1] - (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9
    pixels = pixels.reshape(*images.shape[:2], -1)
    limits = _MAD_TO_SD * _median(np.abs(pixels))
    np.maximum(limits, _LEAST_LIMIT_COUNTS, out=limits)
    np.clip(pixels, -limits, limits, out=pixels)
    pixels -= pixels.mean(axis=2, keepdims=True)
    norms = np.sqrt(np.square(pixels).sum(axis=2, keepdims=True))
    # A flat channel keeps rounding errors of about 1e-4 counts, which normalising would blow up into noise.
    norms[norms < 1e-3 * math.sqrt(pixels.shape[2])] = np.inf
    pixels /= norms
    return pixels.reshape(len(images), -1)


def _median(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the median along the last axis, which is kept.

    `numpy.median` partitions, which takes four times as long, and six times as long again for the many equal values
    of 8-bit images.
    """
    ordered, size = np.sort(values, axis=-1), values.shape[-1]
    middle = ordered[..., (size - 1) // 2, None] + ordered[..., size // 2, None]
    return np.asarray(middle / 2, dtype=np.float32)


def _sparse_directions(n_pixels: int, *, seed: int) -> sparse.csr_array:
    """Return (direction, pixel) random signs at one pixel in sqrt(n), at least 16 pixels each."""
    rng = np.random.default_rng(seed)
    per_direction = min(n_pixels, max(16, round(math.sqrt(n_pixels))))
    columns = np.concatenate([rng.choice(n_pixels, size=per_direction, replace=False) for _ in range(_DIRECTIONS)])
    signs = rng.choice(np.array([-1, 1], dtype=np.float32), size=columns.size)
    starts = np.arange(0, columns.size + 1, per_direction)
    return sparse.csr_array((signs, columns, starts), shape=(_DIRECTIONS, n_pixels))


class _Buckets:
    """Vectors in hash tables by the signs of their entries, held in a few flat arrays.

    Each table is a list of 2 ** 16 chains: `heads` holds the vector last added to a bucket, `links` the one before it.
    Vectors are rounded to 127 steps of their largest entry, which moves a correlation by 0.0003, seldom by 0.001.
    """

    def __init__(self) -> None:
        self._n = 0
        self._heads = np.full((_TABLES, 1 << _BITS), -1, dtype=np.int32)
        self._links = np.empty((1024, _TABLES), dtype=np.int32)
        self._vectors = np.empty((1024, _DIRECTIONS), dtype=np.int8)
        self._steps = np.empty(1024, dtype=np.float32)
        self._tables = np.arange(_TABLES)
        self._weights = 1 << np.arange(_BITS)
        # (2 ** probed bits, probed bits): every way of turning the uncertain bits.
        self._turns = (np.arange(1 << _PROBED_BITS)[:, None] >> np.arange(_PROBED_BITS)) & 1

    def add(self, vector: npt.NDArray[np.float32]) -> None:
        """Add a vector (direction,)."""
        if self._n == len(self._vectors):
            self._links, self._vectors = _doubled(self._links), _doubled(self._vectors)
            self._steps = _doubled(self._steps)
        self._steps[self._n] = step = np.abs(vector).max() / np.iinfo(np.int8).max
        self._vectors[self._n] = np.rint(vector / step) if step else 0
        if step:
            keys = self._keys(vector)
            self._links[self._n] = self._heads[self._tables, keys]
            self._heads[self._tables, keys] = self._n
        self._n += 1

    def nearest(self, vector: npt.NDArray[np.float32]) -> tuple[int | None, float]:
        """Return the position and correlation of the most similar vector among those in the same buckets."""
        blocks = vector.reshape(_TABLES, _BITS)
        uncertain = np.argpartition(np.abs(blocks), _PROBED_BITS, axis=1)[:, :_PROBED_BITS]
        masks = self._weights[uncertain] @ self._turns.T
        heads = self._heads[self._tables[:, None], self._keys(vector)[:, None] ^ masks]
        table, probe = np.nonzero(heads >= 0)
        here = heads[table, probe]
        met = []
        while here.size:
            met.append(here)
            here = self._links[here, table]
            table, here = table[here >= 0], here[here >= 0]
        if not met:
            return None, 0.0
        candidates = np.unique(np.concatenate(met))
        correlations = self._vectors[candidates].astype(np.float32) @ vector * self._steps[candidates]
        best = int(correlations.argmax())
        return int(candidates[best]), float(correlations[best])

    def _keys(self, vector: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        return np.asarray((vector.reshape(_TABLES, _BITS) > 0) @ self._weights, dtype=np.int64)


def _doubled(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array with room for as many rows again, which takes no memory before it is written to."""
    larger = np.empty((2 * len(values), *values.shape[1:]), dtype=values.dtype)
    larger[: len(values)] = values
    return larger
