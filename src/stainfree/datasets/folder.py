"""Read a user's own folder of pictures: a folder per stage, and in it PNG, TIFF or JPEG files.

Without ``layout`` a file ``{folder}/{id}`` with any of these endings holds one cell: grey, or a stack with a page (or
sample) per channel. A layout with ``{channel}``, such as ``{folder}/{id}_{channel}.png``, says that each channel has a
file of its own. ``{source}`` may stand for a folder or a part of a name that tells where the cell was acquired.

A person has put these cells there one by one, so nothing is left out silently: a picture that cannot be read ends the
conversion. Only files that do not fit the layout are passed over, and counted in the conversion report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from stainfree.datasets import Batch, Dataset, Drops
from stainfree.datasets.pictures import LARGEST_FILE, Cell, Frame, batches, decode, layout_pattern, natural, stack
from stainfree.errors import DataError
from stainfree.schemes import STAGES
from stainfree.sources import DEFAULT_LAYOUT, pictures


def read(dataset: Dataset, raw: Path, drops: Drops | None = None) -> Iterator[Batch]:
    """Yield the cells of a folder: folders by name, in them the ids in the order in which people count.

    Options of the data set: ``stages`` (folder -> stage; not needed where folders are called like stages), ``layout``,
    ``image_size`` ([height, width]: brings all images to one size) and, for DNA content, ``dna_channel``.

    Raises
    ------
    ConfigError
        If a folder has no stage, or an option cannot be.
    DataError
        If a folder holds no cells, or a picture is missing, damaged, or not like the others.
    """
    drops = Drops() if drops is None else drops
    frame = Frame(dataset, drops)
    cells = _find(dataset, raw, drops)
    stages = {folder: dataset.stage_of(folder) for _, folder, _ in cells}
    _refuse_empty(dataset, raw, set(stages))
    return batches(
        (
            Cell(
                image=frame(_image(paths, dataset), name=str(paths[0])),
                stage=stages[folder],
                cell_id="/".join(part for part in (source, folder, name) if part),
                source=source or dataset.name,
            )
            for (source, folder, name), paths in cells.items()
        ),
        dataset,
    )


def _find(dataset: Dataset, raw: Path, drops: Drops) -> dict[tuple[str, str, str], Sequence[Path]]:
    """Return (source, folder, id) -> the cell's file, or its files in the order of the channels."""
    layout = dataset.options.get("layout", DEFAULT_LAYOUT)
    per_channel = "{channel}" in layout
    pattern = layout_pattern(dataset, layout, channels=per_channel)
    keys = list(dataset.channel_keys.values())
    found: dict[tuple[str, str, str], dict[str, Path]] = {}
    for path in pictures(raw, layout=layout):
        name = path.relative_to(raw)
        match = pattern.fullmatch((name.with_suffix("") if layout == DEFAULT_LAYOUT else name).as_posix())
        if match is None:
            drops.skip(name.as_posix())
            continue
        fields = match.groupdict()
        files = found.setdefault((fields.get("source", ""), fields["folder"], fields["id"]), {})
        other = files.setdefault(fields.get("channel", ""), path)
        if other != path:
            raise DataError(f"{path}: the same cell as {other.name}; give each cell a name of its own")
    cells: dict[tuple[str, str, str], Sequence[Path]] = {}
    for cell in sorted(found, key=lambda key: [natural(part) for part in key]):
        files = found[cell]
        if per_channel and (missing := [key for key in keys if key not in files]):
            path = next(iter(files.values()))
            raise DataError(f"{path}: its cell has no file of channel {', '.join(missing)}; add it, or remove the cell")
        cells[cell] = [files[key] for key in keys] if per_channel else list(files.values())
    return cells


def _refuse_empty(dataset: Dataset, raw: Path, found: set[str]) -> None:
    """Refuse a folder of ``stages``, or one called like a stage, without cells: it would go unseen otherwise."""
    expected = [str(folder) for folder in dataset.options.get("stages") or ()]
    if not expected:
        expected = sorted(path.name for path in raw.iterdir() if path.is_dir() and path.name in STAGES)
    for folder in expected:
        if folder not in found:
            layout = dataset.options.get("layout", DEFAULT_LAYOUT)
            raise DataError(
                f"{raw / folder}: no picture there fits the layout {layout}; put cells there, correct `layout`, or "
                f"remove {folder} and take it out of `stages` of data set {dataset.name}"
            )


def _image(paths: Sequence[Path], dataset: Dataset) -> npt.NDArray[Any]:
    """Return the image (channel, y, x) of a cell from its one file, or one per channel."""
    n_channels = len(dataset.channels) if len(paths) == 1 else 1
    return stack(
        [decode(_content(path), name=str(path), n_channels=n_channels) for path in paths], [str(path) for path in paths]
    )


def _content(path: Path) -> bytes:
    """Return the bytes of a picture; raise `DataError` where it cannot be one."""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise DataError(f"{path}: has {size} bytes, too many for the picture of one cell; remove it")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); put it back, or let it be read") from error
