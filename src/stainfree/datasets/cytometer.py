"""Read the imaging flow cytometer's own files: ``.cif`` or ``.rif``, with stages from a ``.daf`` or a table.

In the config, a data set of this kind may read::

    my_cells:
      kind: cytometer
      path: /where/my/files/lie
      samples:
        day1: {images: day1.cif, daf: day1.daf}
        day2: {images: day2.cif, labels: day2.csv}
      channels: {BF: Ch4, PI: Ch2}
      bit_depth: 12
      image_size: [66, 66]
      stages: {G1 gate: G1, S gate: S}

A channel is called as in the ``.cif`` (Ch4), or by its name in the ``.daf``. ``stages`` maps populations of the
``.daf``, or what the table says, to stages. The table has the columns ``object`` (its number) and ``stage``.

A cell is learnt from, so it needs a stage that is beyond doubt: events in none of the populations are left out, and so
are those in two populations of different stages. The conversion report counts both.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stainfree.cytometer.cif import CifInfo, Event, iterate_events, read_info
from stainfree.cytometer.daf import Daf, read_daf
from stainfree.cytometer.frames import cut_out
from stainfree.datasets import Batch, Dataset, Drops
from stainfree.datasets.pictures import image_size
from stainfree.errors import ConfigError, DataError
from stainfree.schemes import STAGES
from stainfree.sources import samples
from stainfree.stain import integrate

_IN_NONE = "in no population or row that `stages` names"
_IN_SEVERAL = "in populations of different stages"
_COLUMNS = ["object", "stage"]
_WRAP = 1 << 32


def described(dataset: Dataset, raw: Path) -> Dataset:
    """Return the data set with its pixel size, where the description does not tell it and all samples have the same.

    Raises
    ------
    DataError
        If a file cannot be read.
    """
    files = [raw / sample["images"] for sample in samples(dataset.description()).values()]
    sizes = {read_info(file).pixel_size_um for file in files}
    if dataset.pixel_size_um is None and len(sizes) == 1:
        return replace(dataset, pixel_size_um=sizes.pop())
    return dataset


def read(dataset: Dataset, raw: Path, drops: Drops | None = None) -> Iterator[Batch]:
    """Yield the cells of each sample in turn; the id of a cell is ``{source}:{object number}``.

    Options of the data set: ``samples``, ``image_size``, ``stages`` (not needed where populations or labels are called
    like stages) and, for DNA content, ``dna_channel``. Each cell is cut out about the centre of what its masks cover in
    the data set's channels, and filled up by the background that the file tells.

    Raises
    ------
    ConfigError
        If an option is missing, or names what the files do not have.
    DataError
        If a file is damaged, or the two of a sample do not belong together.
    """
    drops = drops or Drops()
    size = image_size(dataset)
    if size is None:
        raise ConfigError(f"data set {dataset.name}: events differ in size; set `image_size: [height, width]` for all")
    dna = dataset.options.get("dna_channel")
    if dna is not None and dna not in dataset.channels:
        raise ConfigError(f"data set {dataset.name}: dna_channel {dna} is none of its channels; correct it")
    given = samples(dataset.description())
    dafs = {source: read_daf(raw / sample["daf"]) for source, sample in given.items() if "daf" in sample}
    tables = {source: _table(raw / sample["labels"]) for source, sample in given.items() if "labels" in sample}
    _check_names(dataset, dafs, tables)
    for source, sample in given.items():
        path = raw / sample["images"]
        info = read_info(path)
        daf = dafs.get(source)
        if daf is not None and daf.n_objects != info.n_events:
            raise DataError(
                f"{daf.path}: describes {daf.n_objects} objects, and {path} holds {info.n_events}; give the two that "
                "belong together"
            )
        positions = _positions(dataset, info, daf, path)
        stages = _table_stages(dataset, tables[source]) if daf is None else _population_stages(dataset, daf)
        for cells in _cells(path, stages, daf, drops):
            images = np.stack([_image(event, positions, size, drops) for event in cells])
            yield Batch(
                images=images,
                stage=[stages[event.object_number] for event in cells],
                cell_id=[f"{source}:{event.object_number}" for event in cells],
                source=[source] * len(cells),
                dna_content=None if dna is None else integrate(images[:, dataset.channels.index(dna)]),
            )


def _cells(path: Path, stages: Mapping[int, str], daf: Daf | None, drops: Drops) -> Iterator[list[Event]]:
    """Yield the events of a file that have a stage, and count the others."""
    n_found = 0
    for events in iterate_events(path):
        if daf is not None:
            _check_places(events, daf, path)
        told = [event for event in events if event.object_number in stages]
        cells = [event for event in told if stages[event.object_number]]
        n_found += len(told)
        _count(drops, _IN_NONE, len(events) - len(told))
        _count(drops, _IN_SEVERAL, len(told) - len(cells))
        if cells:
            yield cells
    if n_found != len(stages):
        raise DataError(
            f"{path}: holds {n_found} of the {len(stages)} objects that have a stage; give files that belong together"
        )


def _positions(dataset: Dataset, info: CifInfo, daf: Daf | None, path: Path) -> list[int]:
    """Return where the channels of the description stand in the images."""
    names = {name: position for position, name in enumerate(info.channels)}
    for image in daf.images if daf else ():
        if image.channel in info.channel_numbers:
            names.setdefault(image.name, info.channel_numbers.index(image.channel))
    missing = [key for key in dataset.channel_keys.values() if key not in names]
    if missing:
        raise DataError(
            f"{path}: has no channel {', '.join(missing)}; it has {', '.join(names)}: correct `channels` of data set "
            f"{dataset.name}"
        )
    return [names[key] for key in dataset.channel_keys.values()]


def _names(dataset: Dataset) -> list[str]:
    """Return what ``stages`` maps to stages; the stages themselves where it is not given."""
    return [str(name) for name in dataset.options.get("stages") or STAGES]


def _check_names(dataset: Dataset, dafs: Mapping[str, Daf], tables: Mapping[str, Mapping[int, str]]) -> None:
    """Refuse names under ``stages`` that no sample has: a slip of the pen would cost a whole class of cells."""
    known = {name for daf in dafs.values() for name in daf.populations}
    known |= {label for table in tables.values() for label in table.values()}
    missing = [name for name in _names(dataset) if name not in known]
    if dafs and missing and dataset.options.get("stages"):
        raise ConfigError(
            f"data set {dataset.name}: `stages` names {missing[0]}, a population of no sample; they have "
            f"{', '.join(sorted(known))}"
        )


def _population_stages(dataset: Dataset, daf: Daf) -> dict[int, str]:
    """Return object number -> stage by populations; an empty text for objects in populations of several stages."""
    found: dict[int, str] = {}
    for name in _names(dataset):
        if name in daf.populations:
            stage = dataset.stage_of(name)
            for number in daf.object_numbers[daf.members(name)].tolist():
                found[number] = stage if found.get(number, stage) == stage else ""
    return found


def _table(path: Path) -> dict[int, str]:
    """Read object number -> label from a table."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable table ({error}); save it as .csv") from error
    if not rows or rows[0] != _COLUMNS:
        raise DataError(f"{path}: must have the columns {','.join(_COLUMNS)} and no other; correct its first line")
    labels: dict[int, str] = {}
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(_COLUMNS) or not row[0].isdecimal() or int(row[0]) in labels:
            raise DataError(f"{path}: line {line} must be the number of an object, new in the table, and a stage")
        labels[int(row[0])] = row[1]
    return labels


def _table_stages(dataset: Dataset, labels: Mapping[int, str]) -> dict[int, str]:
    """Return object number -> stage by the labels of a table."""
    return {number: dataset.stage_of(label) for number, label in labels.items()}


def _check_places(events: Sequence[Event], daf: Daf, path: Path) -> None:
    """Refuse images that do not stand where the ``.daf`` says: it would label the cells of another file."""
    numbers = np.array([event.object_number for event in events])
    rows = np.minimum(np.searchsorted(daf.object_numbers, numbers), daf.n_objects - 1)
    # Some writers cut places to 32 bits.
    places = np.array([event.offset for event in events]) % _WRAP
    same = (daf.object_numbers[rows] == numbers) & (daf.image_offsets[rows] % _WRAP == places)
    if not same.all():
        raise DataError(
            f"{daf.path}: describes other images than those of {path}, from object {numbers[same.argmin()]} on; give "
            "the two that belong together"
        )


def _image(event: Event, positions: Sequence[int], size: tuple[int, int], drops: Drops) -> npt.NDArray[Any]:
    """Return the chosen channels of an event in the data set's size."""
    cut = cut_out(
        event.image[positions],
        None if event.mask is None else event.mask[positions],
        None if event.background is None else event.background[positions],
        size=size,
    )
    drops.refitted += cut.padded or cut.cropped
    drops.cut += cut.cell_cut
    return cut.image


def _count(drops: Drops, reason: str, n: int) -> None:
    """Count events that are left out."""
    if n:
        drops.without_stage[reason] = drops.without_stage.get(reason, 0) + n
