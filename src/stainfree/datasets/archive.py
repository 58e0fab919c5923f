"""Read a zip archive of pictures, one per channel of a cell, such as BBBC048: a zip within a zip.

Nothing is unpacked into files, so no name in the archive is ever a path on disk: names are only compared with the
layout. An inner archive that is merely stored in the outer one is read where it lies, through a window onto the
outer file. Where it was compressed once more it cannot be read out of order, so it is unfolded once into a temporary
file without a name, which vanishes with the process, however that ends. Pictures are held a batch at a time; what
grows with the number of cells is where their entries lie, some 0.3 kB a cell.

Entries that do not fit the layout (merged pictures, thumbnails, what an operating system adds) are passed over and
counted. A cell of which a channel is missing or cannot be read is left out and named in the conversion report.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from stainfree.datasets import Batch, Dataset, Drops, zips
from stainfree.datasets.pictures import LARGEST_FILE, Cell, Frame, batches, decode, layout_pattern, natural, stack
from stainfree.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

# An archive of pictures hardly shrinks when it is zipped once more; 42.zip does, by a factor of a hundred thousand.
_MOST_UNFOLDING = 100
_COPY_BYTES = 1 << 20


# Whether there is one, and the fields of a `zips.Entry`.
_ENTRY = np.dtype("?, u8, u8, u8, u4, u2, ?")


def read(dataset: Dataset, raw: Path, drops: Drops | None = None) -> Iterator[Batch]:
    """Yield the cells of an archive: folders by name, in them the ids in the order in which people count.

    Options of the data set: ``inner`` (name of the archive within the archive), ``layout`` (where folder, id and
    channel stand in the name of an entry, such as ``{folder}/{id}_{channel}.ome.jpg``; further folders may stand
    before), ``stages`` (folder -> stage), ``image_size`` and ``dna_channel`` as for a folder.

    Raises
    ------
    ConfigError
        If an option is missing or cannot be, or a folder has no stage.
    DataError
        If the archive is missing or damaged, holds a name twice, or not one cell that can be read.
    """
    drops = Drops() if drops is None else drops
    path = raw if dataset.path is not None else raw / _only_file(dataset)
    with _opened(path, dataset.options.get("inner")) as stream:
        yield from batches(_cells(stream, path, dataset, drops), dataset)
    if drops.foreign:
        logger.info("%s: %d entries that are no picture of a cell passed over", dataset.name, drops.foreign)


def _only_file(dataset: Dataset) -> str:
    if len(dataset.files) != 1:
        raise ConfigError(f"data set {dataset.name}: kind archive reads one file; list it alone under `files`")
    return dataset.files[0].path


def _cells(stream: IO[bytes], path: Path, dataset: Dataset, drops: Drops) -> Iterator[Cell]:
    """Yield the cells that are complete and readable; note the others in `drops`."""
    frame = Frame(dataset, drops)
    n_read = 0
    for source, folder, name, entries in _find(stream, path, dataset, drops):
        cell_id = "/".join(part for part in (source, folder, name) if part)
        stage = dataset.stage_of(folder)
        try:
            image = _image(stream, entries, dataset, {"source": source, "folder": folder, "class": folder, "id": name})
        except DataError as error:
            logger.warning("cell %s left out: %s", cell_id, error)
            drops.cells.append({"cell_id": cell_id, "stage": stage, "reason": str(error)})
            continue
        n_read += 1
        yield Cell(image=frame(image, name=f"{path.name}: {cell_id}"), stage=stage, cell_id=cell_id, source=source)
    if not n_read:
        why = drops.cells[0]["reason"] if drops.cells else f"none of its {drops.foreign} entries fits"
        raise DataError(f"{path}: not one cell in it can be read ({why}); correct `layout` or `channels`")


def _find(
    stream: IO[bytes], path: Path, dataset: Dataset, drops: Drops
) -> Iterator[tuple[str, str, str, list[zips.Entry | None]]]:
    """Yield source, folder, id and the entry of each channel (None where there is none), in the order of reading."""
    layout = dataset.option("layout")
    pattern = layout_pattern(dataset, layout, channels=True)
    keys = list(dataset.channel_keys.values())
    entries = np.zeros((1024, len(keys)), dtype=_ENTRY)
    # (source, folder) -> id -> row of `entries`
    rows: dict[tuple[str, str], dict[str, int]] = {}
    n_cells = 0
    for filename, entry in _entries(stream, path, dataset):
        parts = filename.split("/")
        # Folders of a system, and hidden files such as the ._ twins that macOS makes, only look like cells.
        hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
        match = None if hidden else pattern.fullmatch("/".join(parts[-layout.count("/") - 1 :]))
        if match is None:
            drops.skip(filename)
            continue
        fields = match.groupdict()
        in_folder = rows.setdefault((fields.get("source") or dataset.name, fields["folder"]), {})
        row = in_folder.setdefault(fields["id"], n_cells)
        n_cells = max(n_cells, row + 1)
        if row == len(entries):
            entries.resize((2 * row, len(keys)), refcheck=False)
        channel = keys.index(fields["channel"])
        if entries[row, channel][0]:
            raise DataError(
                f"{path}: holds {'/'.join(parts[-2:])} twice; give more of the folders in `layout` of data set "
                f"{dataset.name}"
            )
        entries[row, channel] = (True, *entry)
    for source, folder in sorted(rows, key=lambda parts: [natural(part) for part in parts]):
        in_folder = rows[source, folder]
        for name in sorted(in_folder, key=natural):
            found = entries[in_folder[name]].tolist()
            yield source, folder, name, [zips.Entry(*entry) if present else None for present, *entry in found]


def _image(
    stream: IO[bytes], entries: list[zips.Entry | None], dataset: Dataset, fields: dict[str, str]
) -> npt.NDArray[Any]:
    """Return the image (channel, y, x) of a cell; raise `DataError` where a channel is missing or unreadable."""
    keys = list(dataset.channel_keys.values())
    missing = [key for key, entry in zip(keys, entries, strict=True) if entry is None]
    if missing:
        raise DataError(f"has no picture of channel {', '.join(missing)}")
    layout = dataset.option("layout").rsplit("/", 1)[-1]
    names = [layout.format(**fields, channel=key) for key in keys]
    contents = [_content(stream, entry, name) for entry, name in zip(entries, names, strict=True) if entry is not None]
    return stack([decode(content, name=name) for content, name in zip(contents, names, strict=True)], names)


def _content(stream: IO[bytes], entry: zips.Entry, name: str) -> bytes:
    """Return the bytes of an entry; refuse one that unfolds to more than a picture of a cell."""
    if entry.size > LARGEST_FILE:
        raise DataError(f"{name}: unfolds to {entry.size} bytes, too many for the picture of one cell")
    try:
        return zips.read(stream, entry)
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: cannot be read from the archive ({_reason(error)})") from error


def _entries(stream: IO[bytes], path: Path, dataset: Dataset) -> Iterator[tuple[str, zips.Entry]]:
    """Yield name and place of each entry that is no folder."""
    try:
        for name, entry in zips.entries(stream):
            if not name.endswith("/"):
                yield name, entry
    except (OSError, ValueError) as error:
        archive = ": ".join(map(str, filter(None, [path, dataset.options.get("inner")])))
        raise _unreadable(archive, error) from error


def _unreadable(name: str, error: Exception) -> DataError:
    return DataError(f"{name}: not a readable zip archive ({_reason(error)}); delete it and fetch it again")


@contextmanager
def _opened(path: Path, inner: str | None) -> Iterator[IO[bytes]]:
    """Open an archive, or the one within it, as a file."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; correct `path`, or run the download again")
    with ExitStack() as open_files:
        stream: IO[bytes] = open_files.enter_context(path.open("rb"))
        if inner is not None:
            try:
                archive = open_files.enter_context(zipfile.ZipFile(stream))
            # Whatever a broken directory makes zipfile stumble over.
            except Exception as error:
                raise _unreadable(str(path), error) from error
            stream = open_files.enter_context(_nested(stream, archive, _member(archive, inner, path), path))
        yield stream


def _member(archive: zipfile.ZipFile, inner: str, path: Path) -> zipfile.ZipInfo:
    """Return the entry called `inner`, in whatever folder of the outer archive."""
    found = [entry for entry in archive.infolist() if f"/{entry.filename}".endswith(f"/{inner}")]
    found = [entry for entry in found if not entry.filename.startswith("__MACOSX/")]
    if len(found) != 1:
        # A cut-off archive may end where the inner one does, and then passes for that.
        raise DataError(
            f"{path}: holds {len(found)} archives called {inner}, not one; correct `inner`, or, where the file is cut "
            "off, fetch it again"
        )
    return found[0]


def _nested(stream: IO[bytes], archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> IO[bytes]:
    """Return the inner archive as a file in which one can seek."""
    name = f"{path}: {member.filename}"
    if member.file_size > _MOST_UNFOLDING * max(member.compress_size, _COPY_BYTES):
        raise DataError(f"{name}: unfolds to {member.file_size} bytes, too many for its size; it is not what it says")
    if member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1:
        try:
            start = zips.find_start(stream, member.header_offset)
        except ValueError as error:
            raise DataError(f"{name}: {error}; delete the archive and fetch it again") from error
        return cast(IO[bytes], io.BufferedReader(_Window(stream, start, member.file_size)))
    # Beside the archive, where there was room for it; a system's folder for temporary files may be small.
    folder = path.parent if os.access(path.parent, os.W_OK) else None
    unfolded = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by the caller
    try:
        logger.info("%s: compressed twice; unfolding it into a temporary file", name)
        with archive.open(member) as packed:
            shutil.copyfileobj(packed, unfolded, _COPY_BYTES)
        unfolded.seek(0)
        return cast(IO[bytes], unfolded)
    # A full disk as well as whatever a broken member makes zipfile stumble over.
    except Exception as error:
        unfolded.close()
        raise DataError(
            f"{name}: cannot be unfolded ({_reason(error)}); make room for {member.file_size} bytes, or fetch it again"
        ) from error


class _Window(io.RawIOBase):
    """A part of a file as a file of its own: `zipfile` reads stored members from the front, and seeks slowly."""

    def __init__(self, stream: IO[bytes], start: int, size: int) -> None:
        self._stream = stream
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise ValueError(f"negative position {origin + offset}")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self._size - self._position))
        self._stream.seek(self._start + self._position)
        content = self._stream.read(wanted)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
