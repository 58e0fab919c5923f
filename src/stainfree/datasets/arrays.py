"""Read pairs of NumPy arrays, images and labels, as Nagao et al. 2020 published theirs (Zenodo record 3745864).

Images are (n, height, width) or (n, height, width, channels), labels (n,) whole numbers or texts. Each pair is a
source of its own, such as the training and the test part of a publication. Arrays are memory-mapped, and nothing in
them is ever executed: pickled objects are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stainfree.cells import CHUNK_CELLS
from stainfree.datasets import Batch, Dataset, Drops
from stainfree.datasets.pictures import LARGEST_SIDE
from stainfree.errors import ConfigError, DataError
from stainfree.sources import array_pairs
from stainfree.stain import integrate


def read(dataset: Dataset, raw: Path, drops: Drops | None = None) -> Iterator[Batch]:
    """Yield the cells of each pair in turn; the id of a cell is ``{source}:{position}``, counted from 0.

    Options of the data set: ``pairs`` (source -> names of its ``images`` and ``labels``), ``stages`` (label -> stage;
    not needed where labels are stages) and, for DNA content, ``dna_channel``.

    Raises
    ------
    ConfigError
        If an option is missing, or a label has no stage.
    DataError
        If a file is missing or no such array, or the two of a pair do not belong together.
    """
    dna_channel = dataset.options.get("dna_channel")
    if dna_channel is not None and dna_channel not in dataset.channels:
        raise ConfigError(f"data set {dataset.name}: dna_channel {dna_channel} is none of its channels; correct it")
    frame: tuple[Any, ...] | None = None
    for source, pair in array_pairs(dataset.description()).items():
        path = raw / pair["images"]
        images = _images(path, len(dataset.channels))
        # Size and depth, without the number of cells.
        frame = frame or (images.shape[1:3], images.dtype)
        if (images.shape[1:3], images.dtype) != frame:
            raise DataError(
                f"{path}: images of {images.shape[1:3]} pixels and {images.dtype}, where the first pair of `pairs` has "
                f"{frame[0]} and {frame[1]}; bring all arrays of data set {dataset.name} to one size and depth"
            )
        stages = _stages(dataset, raw / pair["labels"], n_cells=len(images))
        for start in range(0, len(images), CHUNK_CELLS):
            chunk = _channels_first(images[start : start + CHUNK_CELLS], len(dataset.channels), path=path, start=start)
            yield Batch(
                images=chunk,
                stage=stages[start : start + len(chunk)],
                cell_id=[f"{source}:{start + row}" for row in range(len(chunk))],
                source=[source] * len(chunk),
                dna_content=None if dna_channel is None else integrate(chunk[:, dataset.channels.index(dna_channel)]),
            )


def _load(path: Path) -> npt.NDArray[Any]:
    """Map a ``.npy`` file into memory."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; correct `path` or `pairs`, or run the download again")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    # Whatever a broken header makes NumPy stumble over.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: not a readable .npy array ({reason}); save it anew with numpy.save") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: an archive of arrays; save each array on its own with numpy.save")
    return array


def _images(path: Path, n_channels: int) -> npt.NDArray[Any]:
    """Return images (cell, y, x, sample), mapped into memory; refuse what cannot be images of cells."""
    images = _load(path)
    if images.ndim not in (3, 4) or not len(images) or images.dtype.kind not in "uif":
        raise DataError(
            f"{path}: an array of {images.shape} {images.dtype}; images must be numbers of shape (n, height, width) or "
            "(n, height, width, channels)"
        )
    if images.ndim == 3:
        images = images[..., None]
    height, width, samples = images.shape[1:]
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
        raise DataError(
            f"{path}: images of {height} x {width} pixels, where {LARGEST_SIDE} a side is the most for one cell"
        )
    if samples != n_channels and (samples, n_channels) != (3, 1):
        raise DataError(
            f"{path}: {samples} channels along the last axis, not {n_channels}; correct `channels`, or move the axis "
            "of channels to the end"
        )
    return images


def _channels_first(chunk: npt.NDArray[Any], n_channels: int, *, path: Path, start: int) -> npt.NDArray[Any]:
    """Copy a chunk (cell, y, x, sample) into (cell, channel, y, x); three equal colours are one grey channel."""
    if chunk.shape[-1] != n_channels:
        colour = (chunk != chunk[..., :1]).any(axis=(1, 2, 3))
        if colour.any():
            raise DataError(
                f"{path}: image {start + int(colour.argmax())} is a colour picture where grey is expected; save it as "
                "grey, or give its three channels in `channels`"
            )
        chunk = chunk[..., :1]
    return np.ascontiguousarray(np.moveaxis(chunk, -1, 1), dtype=chunk.dtype.newbyteorder("="))


def _stages(dataset: Dataset, path: Path, *, n_cells: int) -> list[str]:
    """Return the stage of each cell from an array of labels."""
    labels = _load(path)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iuUS":
        raise DataError(
            f"{path}: an array of {labels.shape} {labels.dtype}; labels must be whole numbers or texts of shape (n,)"
        )
    if len(labels) != n_cells:
        raise DataError(
            f"{path}: {len(labels)} labels for {n_cells} images; correct `pairs` of data set {dataset.name}"
        )
    try:
        labels = np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels
        found = np.unique(labels)
    except UnicodeError as error:
        raise DataError(f"{path}: labels that are no text ({error}); save them as texts or whole numbers") from error
    stages = {label: dataset.stage_of(str(label)) for label in found.tolist()}
    return [stages[label] for label in labels.tolist()]
