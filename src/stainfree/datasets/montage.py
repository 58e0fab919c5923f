"""Read montages: pictures that hold many cells in a grid, one file per channel.

Tile i of every channel is the same cell. A user's own montages are the files below ``path`` that fit ``layout``.

Grid positions that hold no cell are filled with a padding tile. In the Jurkat montages it is one row of pixels of a
cell drawn out over the whole tile, so that it is neither black nor like any cell; cells of small classes stand in the
first columns of the grid with padding between them. Two rules find it:

1. A tile in which every channel is constant along y, or every channel along x, is padding: a blank or drawn-out tile
   holds no picture, while noise makes every row of a camera's image differ. It needs no repeats, so a single padding
   tile is found, and a cell that was put into the montage twice or more is not taken for one.
2. Where a montage has no such tile, its grid may be filled with a picture. Then the bit-identical tile that stands
   there most often is padding, if it stands there at least three times: two may be a cell that was copied, and copies
   are left to `stainfree.datasets.duplicates`, which keeps the first.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from stainfree.datasets import Batch, Dataset, Drops
from stainfree.errors import ConfigError, DataError
from stainfree.sources import source_files
from stainfree.stain import integrate

logger = logging.getLogger(__name__)

_FEWEST_REPEATS = 3
_FIELDS = ("source", "folder", "channel", "montage")


def read(dataset: Dataset, raw: Path, drops: Drops | None = None) -> Iterator[Batch]:
    """Yield the cells of each montage: in the order in which the description lists its files, or that of their names.

    Options of the data set: ``tile`` (height and width in pixels), ``layout`` (where source, folder, channel and
    montage stand in a path, such as ``{source}/{folder}/{channel}_{montage}.tif``; source and montage may be absent,
    and so may the channel where there is one only), ``stages`` (folder -> stage; not needed where folders are called
    like stages) and, for DNA content, ``dna_channel``. The id of a cell is ``{source}/{folder}/{montage}:{position}``,
    positions counted from 0, row by row.

    Raises
    ------
    ConfigError
        If an option is missing, or a path or folder does not fit them.
    DataError
        If a channel is missing, or a file is no montage of whole tiles like those of the other channels.
    """
    height, width = _tile(dataset)
    drops = Drops() if drops is None else drops
    own = dataset.path is not None
    dna_channel = dataset.options.get("dna_channel")
    if dna_channel is not None and dna_channel not in dataset.channels:
        raise ConfigError(f"data set {dataset.name}: dna_channel {dna_channel} is none of its channels; correct it")
    montages = _montages(dataset, raw, drops)
    stages = {folder: dataset.stage_of(folder) for _, folder, _ in montages}
    # A folder left empty by mistake would go unseen otherwise.
    if own and (absent := [str(folder) for folder in dataset.options.get("stages") or () if str(folder) not in stages]):
        raise DataError(f"data set {dataset.name}: {absent[0]} of `stages` has no montage; add one, or take it out")
    for (source, folder, montage), paths in montages.items():
        name = "/".join(part for part in (source, folder, montage) if part)
        missing = [key for key in dataset.channel_keys.values() if key not in paths]
        if missing:
            raise DataError(f"montage {name}: has no file of channel {', '.join(missing)}; add it")
        files = [raw / paths[key] for key in dataset.channel_keys.values()]
        images, cells, n_tiles = _cells(files, (height, width), own=own)
        drops.padding[name] = n_tiles - len(cells)
        logger.debug("%s: %d cells on %d positions", name, len(cells), n_tiles)
        yield Batch(
            images=images,
            stage=[stages[folder]] * len(cells),
            cell_id=[f"{name}:{index}" for index in cells],
            source=[source or dataset.name] * len(cells),
            dna_content=None if dna_channel is None else integrate(images[:, dataset.channels.index(dna_channel)]),
        )


def _cells(
    files: Sequence[Path], tile: tuple[int, int], *, own: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64], int]:
    """Return the cells (cell, channel, y, x) of a montage, their positions on it, and its number of positions.

    A function of its own, so that the whole montage is gone before the next one is read.
    """
    grid = np.stack(_same_shape([_picture(path, own=own) for path in files], files))
    tiles = cut(grid, tile, name=str(files[0]))
    del grid
    cells = np.flatnonzero(~is_padding(tiles))
    return tiles[cells], cells, len(tiles)


def cut(grid: npt.NDArray[Any], tile: tuple[int, int], *, name: str = "montage") -> npt.NDArray[Any]:
    """Cut a montage into its tiles, row by row.

    Parameters
    ----------
    grid
        (channel, y, x).
    tile
        Height and width of a tile in pixels.
    name
        How messages call the montage.

    Returns
    -------
    ndarray
        (tile, channel, y, x).

    Raises
    ------
    DataError
        If the montage is no whole number of tiles high and wide.
    """
    channels, height, width = grid.shape
    if height % tile[0] or width % tile[1]:
        raise DataError(
            f"{name}: {height} x {width} pixels are no whole number of {tile[0]} x {tile[1]} tiles; "
            "set `tile` to the size of one cell's image"
        )
    rows, columns = height // tile[0], width // tile[1]
    split = grid.reshape(channels, rows, tile[0], columns, tile[1])
    return split.transpose(1, 3, 0, 2, 4).reshape(rows * columns, channels, *tile)


def is_padding(tiles: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell which tiles (tile, channel, y, x) of one montage hold no cell; the module explains the rules."""
    drawn_out = (tiles == tiles[:, :, :1, :]).all(axis=(1, 2, 3)) | (tiles == tiles[:, :, :, :1]).all(axis=(1, 2, 3))
    if drawn_out.any():
        return np.asarray(drawn_out, dtype=bool)
    contents = [tile.tobytes() for tile in tiles]
    content, repeats = Counter(contents).most_common(1)[0]
    return np.array([repeats >= _FEWEST_REPEATS and other == content for other in contents], dtype=bool)


def _tile(dataset: Dataset) -> tuple[int, int]:
    """Return height and width of a tile."""
    given = dataset.option("tile")
    if not isinstance(given, list | tuple) or len(given) != 2 or not all(type(n) is int and n > 0 for n in given):
        raise ConfigError(f"data set {dataset.name}: tile is {given!r}; give [height, width] of a cell in pixels")
    return given[0], given[1]


def _montages(dataset: Dataset, raw: Path, drops: Drops) -> dict[tuple[str, str, str], dict[str, str]]:
    """Return (source, folder, montage) -> what the source calls the channel -> path."""
    layout = dataset.option("layout")
    keys = list(dataset.channel_keys.values())
    needed = ["folder", *(["channel"] if len(keys) > 1 else [])]
    if absent := [field for field in needed if f"{{{field}}}" not in layout]:
        raise ConfigError(f"data set {dataset.name}: layout {layout!r} lacks {{{absent[0]}}}; add it")
    pattern = re.escape(layout)
    for field in _FIELDS:
        # A key may hold what parts the fields of a name, as BF_1 does.
        inner = "|".join([*map(re.escape, keys), "[^/]+"]) if field == "channel" else "[^/]+"
        pattern = pattern.replace(re.escape(f"{{{field}}}"), f"(?P<{field}>{inner})", 1)
    listed = [file.path for file in dataset.files]
    montages: dict[tuple[str, str, str], dict[str, str]] = {}
    for path in listed or [Path(file).relative_to(raw).as_posix() for file in source_files(dataset.description())]:
        match = re.fullmatch(pattern, path)
        if match is None and listed:
            raise ConfigError(f"data set {dataset.name}: path {path} does not fit the layout {layout}; correct one")
        if match is None:
            drops.skip(path)
            continue
        fields = match.groupdict("")
        key = (fields.get("source", ""), fields["folder"], fields.get("montage", ""))
        montages.setdefault(key, {})[fields.get("channel", keys[0])] = path
    return montages


def _picture(path: Path, *, own: bool) -> npt.NDArray[Any]:
    """Read the single picture (y, x) of a TIFF, of a user's own or downloaded."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; {'put it back' if own else 'run the download again'}")
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            # tifffile fills strips beyond the end of a cut-off file with zeros, without a word.
            ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
            if max(ends) > path.stat().st_size:
                raise ValueError("it is cut off")
            picture = np.asarray(tiff.asarray())
    # Whatever a broken file makes tifffile and its decoders stumble over.
    except Exception as error:
        mend = "replace it by a sound TIFF" if own else "delete it and run the download again"
        raise DataError(f"{path}: not a readable TIFF ({error}); {mend}") from error
    if picture.ndim != 2:
        raise DataError(f"{path}: has shape {picture.shape}, not (height, width); a montage is one grey picture")
    return picture


def _same_shape(pictures: list[npt.NDArray[Any]], paths: Sequence[Path]) -> list[npt.NDArray[Any]]:
    """Return the pictures of all channels; refuse those that differ in size or dtype, whose tiles would not match."""
    first = pictures[0]
    for picture, path in zip(pictures, paths, strict=True):
        if picture.shape != first.shape or picture.dtype != first.dtype:
            raise DataError(
                f"{path}: {picture.shape[0]} x {picture.shape[1]} pixels of {picture.dtype}, where {paths[0].name} has "
                f"{first.shape[0]} x {first.shape[1]} of {first.dtype}; channels must have as many tiles: replace one"
            )
    return pictures
