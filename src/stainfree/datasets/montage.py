"""Read montages: pictures that hold many cells in a grid, one file per channel.

Tile i of every channel is the same cell. Grid positions that hold no cell are filled with a padding tile. In the
Jurkat montages it is one row of pixels of a cell drawn out over the whole tile, so that it is neither black nor like
any cell; cells of small classes stand in the first columns of the grid with padding between them. Two rules find it:

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from stainfree.datasets import Batch, Dataset, Drops
from stainfree.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

_FEWEST_REPEATS = 3
# Pixels from the edge of a tile that are taken for background.
_BORDER = 2
_FIELDS = ("source", "folder", "channel", "montage")


def read(dataset: Dataset, raw: Path, drops: Drops | None = None) -> Iterator[Batch]:
    """Yield the cells of each montage, in the order in which the description lists its files.

    Options of the data set: ``tile`` (height and width in pixels), ``layout`` (where source, folder, channel and
    montage stand in a path, such as ``{source}/{folder}/{channel}_{montage}.tif``), ``stages`` (folder -> stage) and,
    for DNA content, ``dna_channel``.

    Raises
    ------
    ConfigError
        If an option is missing, or a path or folder does not fit them.
    DataError
        If a channel is missing, or a file is no montage of whole tiles like those of the other channels.
    """
    height, width = (int(side) for side in dataset.option("tile"))
    stages = dataset.option("stages")
    dna_channel = dataset.options.get("dna_channel")
    if dna_channel is not None and dna_channel not in dataset.channels:
        raise ConfigError(f"data set {dataset.name}: dna_channel {dna_channel} is none of its channels; correct it")
    for (source, folder, montage), paths in _montages(dataset).items():
        name = f"{source}/{folder}/{montage}"
        if folder not in stages:
            raise ConfigError(f"data set {dataset.name}: folder {folder} has no stage; add it to `stages`")
        missing = [key for key in dataset.channel_keys.values() if key not in paths]
        if missing:
            raise DataError(f"montage {name}: has no file of channel {', '.join(missing)}; add it to `files`")
        files = [raw / paths[key] for key in dataset.channel_keys.values()]
        grid = np.stack(_same_shape([_picture(path) for path in files], files))
        tiles = cut(grid, (height, width), name=str(files[0]))
        cells = np.flatnonzero(~is_padding(tiles))
        if drops is not None:
            drops.padding[name] = len(tiles) - len(cells)
        logger.debug("%s: %d cells on %d positions", name, len(cells), len(tiles))
        images = tiles[cells]
        yield Batch(
            images=images,
            stage=[stages[folder]] * len(cells),
            cell_id=[f"{name}:{index}" for index in cells],
            source=[source] * len(cells),
            dna_content=None if dna_channel is None else integrate(images[:, dataset.channels.index(dna_channel)]),
        )


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


def integrate(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Sum the counts of each image (cell, y, x) above its background, the median of the outermost two pixels."""
    pixels = images.astype(np.float64)
    border = np.ones(images.shape[1:], dtype=bool)
    border[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    background = np.median(pixels[:, border], axis=1)
    return np.asarray(pixels.sum(axis=(1, 2)) - background * border.size, dtype=np.float32)


def _montages(dataset: Dataset) -> dict[tuple[str, str, str], dict[str, str]]:
    """Return (source, folder, montage) -> what the source calls the channel -> path."""
    layout = dataset.option("layout")
    absent = [field for field in _FIELDS if f"{{{field}}}" not in layout]
    if absent:
        raise ConfigError(f"data set {dataset.name}: layout {layout!r} lacks {{{absent[0]}}}; add it")
    pattern = re.escape(layout)
    for field in _FIELDS:
        pattern = pattern.replace(re.escape(f"{{{field}}}"), f"(?P<{field}>[^/]+)", 1)
    montages: dict[tuple[str, str, str], dict[str, str]] = {}
    for file in dataset.files:
        match = re.fullmatch(pattern, file.path)
        if match is None:
            raise ConfigError(
                f"data set {dataset.name}: path {file.path} does not fit the layout {layout}; correct one"
            )
        key = (match["source"], match["folder"], match["montage"])
        montages.setdefault(key, {})[match["channel"]] = file.path
    return montages


def _picture(path: Path) -> npt.NDArray[Any]:
    """Read the single picture (y, x) of a TIFF."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; run the download again")
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
        raise DataError(f"{path}: not a readable TIFF ({error}); delete it and run the download again") from error
    if picture.ndim != 2:
        raise DataError(f"{path}: has shape {picture.shape}, not (height, width); a montage is one grey picture")
    return picture


def _same_shape(pictures: list[npt.NDArray[Any]], paths: list[Path]) -> list[npt.NDArray[Any]]:
    """Return the pictures of all channels; refuse those that differ in size or dtype, whose tiles would not match."""
    first = pictures[0]
    for picture, path in zip(pictures, paths, strict=True):
        if picture.shape != first.shape or picture.dtype != first.dtype:
            raise DataError(
                f"{path}: {picture.shape[0]} x {picture.shape[1]} pixels of {picture.dtype}, where {paths[0].name} has "
                f"{first.shape[0]} x {first.shape[1]} of {first.dtype}; channels must have as many tiles: replace one"
            )
    return pictures
