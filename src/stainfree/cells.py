"""The cells contract: one HDF5 file holds the cells of one data set.

===============  =====================  =========================================================
name             shape, dtype           holds
===============  =====================  =========================================================
``/images``      (cell, channel, y, x)  camera counts in the source's own dtype, one channel a chunk
``/stage``       (cell,) text           the stage given to the cell, one of `stainfree.schemes.STAGES`
``/cell_id``     (cell,) text           stable across runs; joins back to the source
``/source``      (cell,) text           where the cell was acquired (experiment, plate, file)
``/group``       (cell,) text           optional: cells of one group are never parted; the cell's own id without
``/dna_content`` (cell,) float32        optional: integrated nuclear stain, or the simulated truth
``/origin``      (cell,) text           optional: ``real``, or the name of the generator
``/parents``     (cell,) text           with ``/origin``: ids of the real cells it came from, by commas
===============  =====================  =========================================================

Attributes of the file: ``format_version``, ``channels``, ``bit_depth``, ``pixel_size_um`` (absent where
unknown), ``licence``, ``citation``, ``source_checksums`` (JSON: file -> sha256) and ``content_sha256``.

Every byte that means something is under a checksum, so that a damaged file is told in one line: HDF5's own structures
in the format of its version 1.10, and all values by Fletcher-32. Only texts of variable length would lie outside, in a
heap without a checksum, by which a few wrong bytes can make the HDF5 library crash; so texts have a fixed length here.
Two holes remain: a list ``source_checksums`` of over 64 kB, and a whole chunk that turned to zeros.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from stainfree import files
from stainfree.errors import DataError, StainfreeError

FORMAT_VERSION = 1
# Cells per chunk: 256 x 66 x 66 uint16 is 2.2 MB, large enough for fast sequential reading.
CHUNK_CELLS = 256
# The oldest format of HDF5 in which all structures carry a checksum, and no newer one: any HDF5 since 2016 reads it.
_HDF5_FORMAT = ("v110", "v110")


@dataclass(frozen=True)
class CellsInfo:
    """What a cells file says about all of its cells."""

    channels: tuple[str, ...]
    """Channel names in the order of axis 1 of the images."""
    bit_depth: int
    """Significant bits of a pixel: 12 for a camera of 4,096 levels, whatever the dtype."""
    pixel_size_um: float | None = None
    """Side of a pixel in µm; None where the source does not tell."""
    licence: str = ""
    citation: str = ""
    source_checksums: Mapping[str, str] = field(default_factory=dict)
    """sha256 of each file that the cells came from."""
    n_cells: int = 0
    image_shape: tuple[int, int] = (0, 0)
    """Height and width in pixels."""
    content_sha256: str = ""
    """Digest of images and columns: two files with the same digest hold the same cells."""

    def channel_indices(self, names: Sequence[str], *, path: str | os.PathLike[str] = "the data set") -> list[int]:
        """Return the positions of the named channels; raise `DataError` naming those that are missing."""
        missing = [name for name in names if name not in self.channels]
        if missing:
            raise DataError(
                f"{path}: has no channel {', '.join(missing)}; it has {', '.join(self.channels)}. "
                "Change `channels` of the experiment, or choose another data set."
            )
        return [self.channels.index(name) for name in names]


class _Sink(io.FileIO):
    """A file to write HDF5 to, that keeps the system's first error to itself.

    HDF5 cannot close a file that finds no room for its last bytes: the process crashes later on (seen with h5py 3.16).
    So it is told that all went well, and whoever writes asks with `check`.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def check(self) -> None:
        """Raise the first error that a writing ran into."""
        if self.error is not None:
            raise self.error


class CellsWriter:
    """Write a cells file batch by batch; it appears under its name only when all went well.

    Parameters
    ----------
    path
        The file to make.
    info
        What holds for all cells; `n_cells`, `image_shape` and `content_sha256` are filled in here.
    image_shape
        Height and width in pixels.
    dtype
        Dtype of the pixels.

    Examples
    --------
    >>> with CellsWriter(path, info, image_shape=(66, 66), dtype=np.uint16) as cells:  # doctest: +SKIP
    ...     for batch in batches:
    ...         cells.append(batch.images, stage=batch.stage, cell_id=batch.ids, source=batch.source)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        info: CellsInfo,
        *,
        image_shape: tuple[int, int],
        dtype: npt.DTypeLike,
    ) -> None:
        self.path = Path(path)
        self.info = info
        self.image_shape = image_shape
        self.dtype = np.dtype(dtype)
        self.n_cells = 0
        self._columns: dict[str, list[npt.NDArray[Any]]] = {}
        self._digest = hashlib.sha256()

    def __enter__(self) -> Self:
        shape = (len(self.info.channels), *self.image_shape)
        with ExitStack() as stack:
            temporary = stack.enter_context(files.atomic(self.path))
            self._sink = stack.enter_context(_Sink(temporary, "w+"))
            self._file = stack.enter_context(h5py.File(self._sink, "w", libver=_HDF5_FORMAT))
            self._images = self._file.create_dataset(
                "images",
                shape=(0, *shape),
                maxshape=(None, *shape),
                # One channel a chunk: a stain-free model reads its channels and no other.
                chunks=(CHUNK_CELLS, 1, *self.image_shape),
                dtype=self.dtype,
                fletcher32=True,
            )
            self._open = stack.pop_all()
        return self

    def append(
        self,
        images: npt.NDArray[Any],
        *,
        stage: Sequence[str],
        cell_id: Sequence[str],
        source: Sequence[str],
        group: Sequence[str] | None = None,
        dna_content: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None,
        origin: Sequence[str] | None = None,
        parents: Sequence[str] | None = None,
    ) -> None:
        """Append cells.

        Parameters
        ----------
        images
            (cell, channel, y, x), of the dtype and shape given to the writer.
        stage, cell_id, source, group, dna_content, origin, parents
            One value per cell; the optional ones in every batch or in none.

        Raises
        ------
        DataError
            If shapes, dtypes or columns do not fit what the writer was made for.
        OSError
            If the disk is full; at the end of the block it becomes `stainfree.files.UnwritableError`.
        """
        columns: dict[str, Any] = {"stage": stage, "cell_id": cell_id, "source": source}
        optional = {"group": group, "dna_content": dna_content, "origin": origin, "parents": parents}
        columns.update({name: values for name, values in optional.items() if values is not None})
        expected = (len(self.info.channels), *self.image_shape)
        if images.shape[1:] != expected or images.dtype != self.dtype:
            raise DataError(
                f"{self.path}: images of shape {images.shape[1:]} and dtype {images.dtype} do not fit a file of "
                f"{expected} {self.dtype}; bring all images of a data set to one size and depth first"
            )
        if self._columns and set(columns) != set(self._columns):
            raise DataError(f"{self.path}: every batch must have the columns {sorted(self._columns)}")
        for name, values in columns.items():
            if len(values) != len(images):
                raise DataError(f"{self.path}: {len(values)} values of {name} for {len(images)} images")
            column = np.asarray(values, dtype=np.float32) if name == "dna_content" else _encoded(values)
            self._columns.setdefault(name, []).append(column)
        self._digest.update(np.ascontiguousarray(images).data)
        self._images.resize(self.n_cells + len(images), axis=0)
        self._images[self.n_cells :] = images
        self.n_cells += len(images)
        self._sink.check()

    def _finish(self) -> None:
        if not self.n_cells:
            raise DataError(f"{self.path}: no cells to write")
        columns = {name: np.concatenate(parts) for name, parts in sorted(self._columns.items())}
        if len(np.unique(columns["cell_id"])) != self.n_cells:
            raise DataError(f"{self.path}: cell ids are not unique")
        for name, column in columns.items():
            is_text = column.dtype.kind == "S"
            self._digest.update(b"\0".join(column.tolist()) if is_text else column.data)
            data = _as_text(column) if is_text else column
            self._file.create_dataset(name, data=data, chunks=True, fletcher32=True)
        self._digest.update(",".join(self.info.channels).encode())
        attributes = self._file.attrs
        attributes["format_version"] = FORMAT_VERSION
        attributes["bit_depth"] = self.info.bit_depth
        if self.info.pixel_size_um is not None:
            attributes["pixel_size_um"] = self.info.pixel_size_um
        attributes["channels"] = _as_text(_encoded(self.info.channels))
        texts = {
            "licence": self.info.licence,
            "citation": self.info.citation,
            "source_checksums": json.dumps(dict(self.info.source_checksums)),
            "content_sha256": self._digest.hexdigest(),
        }
        for name, text in texts.items():
            attributes[name] = _as_text(_encoded([text]))[0]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._open.__exit__(kind, error, traceback)
            return
        with self._open:
            self._finish()
            self._file.close()
            self._sink.check()


def _encoded(texts: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """Return texts (n,) as UTF-8 bytes of one length."""
    return np.array([text.encode() for text in texts], dtype=np.bytes_)


def _as_text(encoded: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bytes_]:
    """Mark bytes as UTF-8, for HDF5."""
    return encoded.astype(h5py.string_dtype("utf-8", encoded.dtype.itemsize))


def decoded(text: str | bytes) -> str:
    """Return a text attribute as h5py reads it: bytes where its length is fixed."""
    return text.decode() if isinstance(text, bytes) else str(text)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open a cells file for reading; raise `DataError` in one line where it is damaged, on opening or in the block."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; run the conversion first")
    try:
        with h5py.File(path, "r") as file:
            version = file.attrs.get("format_version")
            absent = [name for name in ("images", "stage", "cell_id", "source") if name not in file]
            if version != FORMAT_VERSION or absent:
                what = (
                    f"lacks /{', /'.join(absent)}" if absent else f"has format version {version}, not {FORMAT_VERSION}"
                )
                raise DataError(f"{path}: {what}; delete it and run the conversion again")
            yield file
    except (StainfreeError, PermissionError):
        raise
    # What wrong bytes make HDF5 stumble over.
    except (OSError, RuntimeError, LookupError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: not a readable HDF5 file of cells ({reason}); delete it and run the conversion again"
        ) from error


def read_info(path: str | os.PathLike[str]) -> CellsInfo:
    """Read what a cells file says about all of its cells, without reading images."""
    with _opened(path) as file:
        attributes = file.attrs
        n_cells, _, height, width = file["images"].shape
        return CellsInfo(
            channels=tuple(decoded(name) for name in attributes["channels"]),
            bit_depth=int(attributes["bit_depth"]),
            pixel_size_um=float(attributes["pixel_size_um"]) if "pixel_size_um" in attributes else None,
            licence=decoded(attributes["licence"]),
            citation=decoded(attributes["citation"]),
            source_checksums=json.loads(decoded(attributes["source_checksums"])),
            n_cells=n_cells,
            image_shape=(height, width),
            content_sha256=decoded(attributes["content_sha256"]),
        )


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the columns of all cells, in the order of the images.

    Returns
    -------
    DataFrame
        ``cell_id``, ``stage``, ``source``, ``origin`` (``real`` where the file has none), ``group`` (the cell's own
        id where the file has none), and ``dna_content`` and ``parents`` where the file has them.
    """
    with _opened(path) as file:
        text = {name: file[name].asstr()[:] for name in ("cell_id", "stage", "source")}
        n_cells = len(text["cell_id"])
        text["origin"] = file["origin"].asstr()[:] if "origin" in file else np.full(n_cells, "real", dtype=object)
        text["group"] = file["group"].asstr()[:] if "group" in file else text["cell_id"]
        if "parents" in file:
            text["parents"] = file["parents"].asstr()[:]
        table = pd.DataFrame(text)
        if "dna_content" in file:
            table["dna_content"] = file["dna_content"][:]
    return table


def read_images(
    path: str | os.PathLike[str],
    *,
    channels: Sequence[str] | None = None,
    rows: npt.NDArray[np.integer[Any]] | None = None,
) -> npt.NDArray[Any]:
    """Read images in the source's own dtype.

    Parameters
    ----------
    path
        A cells file.
    channels
        Names of the channels to read, in this order; all where None.
    rows
        Positions of the cells to read, in this order; all where None.

    Returns
    -------
    ndarray
        (cell, channel, y, x).

    Raises
    ------
    DataError
        If the file has no such channel.
    """
    info = read_info(path)
    names = list(channels) if channels is not None else list(info.channels)
    indices = info.channel_indices(names, path=path)
    n_cells = info.n_cells if rows is None else len(rows)
    with _opened(path) as file:
        images = file["images"]
        out = np.empty((n_cells, len(indices), *info.image_shape), dtype=images.dtype)
        if rows is None:
            for k, index in enumerate(indices):
                images.read_direct(out, np.s_[:, index], np.s_[:, k])  # without a copy in between
            return out
        # HDF5 wants increasing positions; whole chunks are read and the asked rows picked in memory.
        order = np.argsort(rows, kind="stable")
        ordered = np.asarray(rows)[order]
        for start in range(0, info.n_cells, CHUNK_CELLS):
            first, last = np.searchsorted(ordered, [start, start + CHUNK_CELLS])
            if first < last:
                block = images[start : start + CHUNK_CELLS]
                out[order[first:last]] = block[ordered[first:last] - start][:, indices]
        return out


def iterate_images(
    path: str | os.PathLike[str], *, channels: Sequence[str] | None = None, batch: int = CHUNK_CELLS
) -> Iterator[npt.NDArray[Any]]:
    """Yield images (cell, channel, y, x) in order, `batch` cells at a time: memory does not grow with the file."""
    info = read_info(path)
    indices = info.channel_indices(list(channels) if channels is not None else list(info.channels), path=path)
    with _opened(path) as file:
        for start in range(0, info.n_cells, batch):
            yield np.stack([file["images"][start : start + batch, index] for index in indices], axis=1)
