"""Read one HDF5 file that is in the project's own format already (`stainfree.cells`), written here or elsewhere.

It is checked, streamed and written anew, so that duplicates are found and the cells carry their provenance. A file
from elsewhere needs only ``/images``, ``/stage``, ``/cell_id`` and the attribute ``channels``; the other attributes,
``/source``, ``/group`` and ``/dna_content`` are taken over where they are there.

A few wrong bytes can make the HDF5 library itself crash, or run for ever, and a step that dies without a word helps
nobody. So another process reads the file first, from end to end; only what that survives is read here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stainfree.cells import CHUNK_CELLS, FORMAT_VERSION, decoded
from stainfree.datasets import Batch, Dataset, Drops
from stainfree.datasets.pictures import LARGEST_SIDE
from stainfree.errors import DataError, StainfreeError

_TEXTS = ("licence", "citation")
# A sound file is read faster than this, even from a slow network drive.
_PATIENCE_SECONDS = 30.0
_SLOWEST_BYTES_PER_SECOND = 5e6
# Mere errors are left for this process to tell.
_READ_ALL = """
import sys, h5py
with h5py.File(sys.argv[1], "r") as file:
    dict(file.attrs)
    for values in file.values():
        for start in range(0, len(values), 256):
            values[start:start + 256]
"""


def described(dataset: Dataset, raw: Path) -> Dataset:
    """Return the data set with what its file tells and the description does not: licence, citation, pixel size.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    with _opened(raw) as file:
        told: dict[str, Any] = {
            key: decoded(file.attrs[key]) for key in _TEXTS if key in file.attrs and not getattr(dataset, key)
        }
        if dataset.pixel_size_um is None and "pixel_size_um" in file.attrs:
            told["pixel_size_um"] = float(file.attrs["pixel_size_um"])
    return replace(dataset, **told)


def read(dataset: Dataset, raw: Path, drops: Drops | None = None) -> Iterator[Batch]:
    """Yield the cells in the order of the file.

    The option ``stages`` maps what the file calls a stage to one of ours; it is not needed where they are ours.

    Raises
    ------
    ConfigError
        If a stage of the file is none.
    DataError
        If the file is damaged or not in the format, lacks a channel, or has another bit depth than the description.
    """
    with _opened(raw) as file:
        images = _images(file, raw)
        positions = _positions(file, dataset, raw)
        n_cells = len(images)
        columns = {name: _texts(file, name, n_cells, raw) for name in ("stage", "cell_id", "source", "group", "origin")}
        stages, ids = columns["stage"] or [], columns["cell_id"] or []
        generated = n_cells - (columns["origin"] or ["real"] * n_cells).count("real")
        if generated:
            raise DataError(f"{raw}: {generated} of {n_cells} cells are generated; give the file of the real cells")
        if len(set(ids)) != n_cells:
            raise DataError(f"{raw}: values of /cell_id stand twice; give each cell an id of its own")
        mapped = {stage: dataset.stage_of(stage) for stage in sorted(set(stages))}
        dna = _numbers(file, "dna_content", n_cells, raw)
        for start in range(0, n_cells, CHUNK_CELLS):
            rows = slice(start, min(start + CHUNK_CELLS, n_cells))
            yield Batch(
                images=np.stack([images[rows, position] for position in positions], axis=1),
                stage=[mapped[stage] for stage in stages[rows]],
                cell_id=ids[rows],
                source=(columns["source"] or [dataset.name] * n_cells)[rows],
                dna_content=None if dna is None else dna[rows],
                group=None if columns["group"] is None else columns["group"][rows],
            )


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a file; turn whatever a damaged one makes HDF5 stumble over into one line."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; correct `path`, or run the download again")
    status = path.stat()
    _refuse_crashing(path, status.st_mtime_ns, status.st_size)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except StainfreeError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: not a readable HDF5 file of cells ({reason}); replace it by a sound copy") from error


@lru_cache(maxsize=1)
def _refuse_crashing(path: Path, mtime_ns: int, size: int) -> None:
    """Read all of a file in another process; raise `DataError` where the HDF5 library crashes or hangs on it."""
    patience = _PATIENCE_SECONDS + size / _SLOWEST_BYTES_PER_SECOND
    command = [sys.executable, "-c", _READ_ALL, str(path)]
    try:
        run = subprocess.run(command, capture_output=True, check=False, timeout=patience)
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"{path}: not read to its end in {patience:.0f} s, so it is damaged; replace it by a sound copy"
        ) from error
    # 0: all was read; 1: Python raised an exception.
    if run.returncode not in (0, 1):
        raise DataError(f"{path}: the HDF5 library crashes on it, so it is damaged; replace it by a sound copy")


def _images(file: h5py.File, path: Path) -> h5py.Dataset:
    """Return the images of a file; refuse what cannot be images of cells."""
    absent = [name for name in ("images", "stage", "cell_id") if not isinstance(file.get(name), h5py.Dataset)]
    version = file.attrs.get("format_version", FORMAT_VERSION)
    if absent:
        raise DataError(f"{path}: lacks /{', /'.join(absent)}; write it in the format of stainfree.cells")
    if version != FORMAT_VERSION:
        raise DataError(f"{path}: has format version {version}, not {FORMAT_VERSION}; convert its source anew")
    images = file["images"]
    if images.ndim != 4 or images.dtype.kind not in "uif" or 0 in images.shape or max(images.shape[2:]) > LARGEST_SIDE:
        raise DataError(
            f"{path}: /images is {images.shape} {images.dtype}; it must be numbers of shape (cell, channel, y, x), "
            f"with {LARGEST_SIDE} pixels a side at most"
        )
    return images


def _positions(file: h5py.File, dataset: Dataset, path: Path) -> list[int]:
    """Return where the channels of the description stand in the file."""
    channels = [decoded(name) for name in file.attrs.get("channels", ())]
    if len(channels) != file["images"].shape[1]:
        raise DataError(
            f"{path}: its attribute channels names {len(channels)} for {file['images'].shape[1]} channels of /images; "
            "name each of them"
        )
    missing = [key for key in dataset.channel_keys.values() if key not in channels]
    if missing:
        raise DataError(
            f"{path}: has no channel {', '.join(missing)}; it has {', '.join(channels)}: correct `channels` of data "
            f"set {dataset.name}"
        )
    bit_depth = int(file.attrs.get("bit_depth", dataset.bit_depth))
    if bit_depth != dataset.bit_depth:
        raise DataError(f"{path}: has a bit depth of {bit_depth}; set `bit_depth` of data set {dataset.name} to that")
    return [channels.index(key) for key in dataset.channel_keys.values()]


def _texts(file: h5py.File, name: str, n_cells: int, path: Path) -> list[str] | None:
    """Return a column of texts; None where the file has none."""
    values = _column(file, name, n_cells, path)
    return None if values is None else [str(value) for value in values.asstr()[:]]


def _numbers(file: h5py.File, name: str, n_cells: int, path: Path) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """Return a column of numbers; None where the file has none."""
    values = _column(file, name, n_cells, path)
    return None if values is None else np.asarray(values[:], dtype=np.float32)


def _column(file: h5py.File, name: str, n_cells: int, path: Path) -> h5py.Dataset | None:
    """Return a column that has a value per cell; None where the file has none."""
    if name not in file:
        return None
    values = file[name]
    if not isinstance(values, h5py.Dataset) or values.shape != (n_cells,):
        raise DataError(f"{path}: /{name} does not have one value for each of {n_cells} images; write it anew")
    return values
