"""From a data set's own files to the cells contract.

A data set is described by a mapping (`workflow/datasets.yaml`, or the user's config) with a ``kind``. The module of
that name in this package reads it: each offers ``read(dataset, raw, drops=None)``, which yields `Batch`es, and may
offer ``described(dataset, raw)`` where its files tell more than the description. Adding a kind of source is adding one
module. A description with a ``path`` is of a user's own cells, which are read where they lie.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from stainfree import __version__, files
from stainfree.cells import CHUNK_CELLS, CellsInfo, CellsWriter, read_info
from stainfree.datasets.duplicates import Duplicate, DuplicateFilter
from stainfree.errors import ConfigError, DataError
from stainfree.schemes import STAGES
from stainfree.sources import kinds, source_files

logger = logging.getLogger(__name__)

_COMMON_KEYS = {"kind", "channels", "bit_depth", "pixel_size_um", "licence", "citation", "path", "base_url", "files"}
_VERSIONS_TOLD = ("numpy", "scipy", "h5py", "tifffile", "pillow")
# So many files of a user's own are listed with a checksum each; of more, each folder has one.
_FEW_FILES = 50
_SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class SourceFile:
    """One file of a data set, as its publisher offers it."""

    path: str
    """Where it lies inside the data set, parts separated by ``/``."""
    size: int | None = None
    """Bytes; None where unknown."""
    sha256: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A data set as its description says it is."""

    name: str
    kind: str
    """Name of the module of this package that reads it."""
    channels: tuple[str, ...]
    """Channel names in the order of the cells file."""
    bit_depth: int
    """Significant bits of a pixel."""
    channel_keys: Mapping[str, str] = field(default_factory=dict)
    """Channel name -> what the source calls it, such as BF -> Ch3."""
    pixel_size_um: float | None = None
    """Side of a pixel in µm; None where the source does not tell."""
    licence: str = ""
    citation: str = ""
    path: str | None = None
    """File or folder of a user's own cells; None where `files` are fetched, or nothing is read."""
    base_url: str | None = None
    files: tuple[SourceFile, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the kind alone understands, such as ``tile`` or ``n_cells``."""
    digest: str = ""
    """Digest of the description: another one may give other cells."""

    @classmethod
    def from_config(cls, name: str, mapping: Mapping[str, Any]) -> Dataset:
        """Build from the mapping under `name` in a file of data sets.

        Raises
        ------
        ConfigError
            If ``kind``, ``channels`` or ``bit_depth`` is missing, no module reads that kind, or a file is not told by
        path, size and sha256.
        """
        missing = [key for key in ("kind", "channels", "bit_depth") if key not in mapping]
        if missing:
            raise ConfigError(f"data set {name}: lacks {', '.join(missing)}; add it to the description")
        kind = mapping["kind"]
        if kind not in kinds():
            raise ConfigError(f"data set {name}: unknown kind {kind!r}; choose one of {', '.join(kinds())}")
        channels = mapping["channels"]
        keys = dict(channels) if isinstance(channels, Mapping) else {channel: channel for channel in channels}
        citation = mapping.get("citation", "")
        pixel_size = mapping.get("pixel_size_um")
        return cls(
            name=name,
            kind=kind,
            channels=tuple(keys),
            bit_depth=int(mapping["bit_depth"]),
            channel_keys=keys,
            pixel_size_um=None if pixel_size is None else float(pixel_size),
            licence=mapping.get("licence", ""),
            citation=citation if isinstance(citation, str) else "; ".join(citation),
            path=None if mapping.get("path") is None else str(mapping["path"]),
            base_url=mapping.get("base_url"),
            files=tuple(_source_file(name, entry) for entry in mapping.get("files", ())),
            options={key: value for key, value in mapping.items() if key not in _COMMON_KEYS},
            digest=files.digest(mapping),
        )

    def description(self) -> dict[str, Any]:
        """Return what `stainfree.sources` asks of a description."""
        listed = [{"path": file.path} for file in self.files]
        return {**self.options, "kind": self.kind, "path": self.path} | ({"files": listed} if listed else {})

    def option(self, key: str) -> Any:
        """Return an option that the kind cannot do without; raise `ConfigError` where it is missing."""
        if key not in self.options:
            raise ConfigError(f"data set {self.name}: kind {self.kind} needs the key {key}; add it to the description")
        return self.options[key]

    def stage_of(self, label: str) -> str:
        """Return the stage that ``stages`` gives a folder or label of the source; without ``stages``, its own name.

        Raises
        ------
        ConfigError
            If there is none, or it is not one of `stainfree.schemes.STAGES`.
        """
        given = self.options.get("stages")
        stages = {str(key): stage for key, stage in given.items()} if given else {stage: stage for stage in STAGES}
        if label not in stages:
            raise ConfigError(f"data set {self.name}: {label} has no stage; add it to `stages`")
        if stages[label] not in STAGES:
            raise ConfigError(
                f"data set {self.name}: `stages` maps {label} to {stages[label]}; choose one of {', '.join(STAGES)}"
            )
        return str(stages[label])


def _source_file(name: str, entry: Mapping[str, Any]) -> SourceFile:
    unknown = set(entry) - {"path", "size", "sha256"}
    if unknown or "path" not in entry:
        what = f"unknown key {', '.join(sorted(unknown))}" if unknown else "an entry without path"
        raise ConfigError(f"data set {name}: {what} in `files`; give each file path, size and sha256")
    return SourceFile(**entry)


@dataclass(frozen=True)
class Batch:
    """Some cells, as read from the source."""

    images: npt.NDArray[Any]
    """(cell, channel, y, x), camera counts in the source's own dtype, channels in the data set's order."""
    stage: Sequence[str]
    cell_id: Sequence[str]
    """Stable across runs; joins back to the source."""
    source: Sequence[str]
    dna_content: npt.NDArray[np.floating[Any]] | None = None
    """(cell,) integrated nuclear stain, in every batch of a data set or in none."""
    group: Sequence[str] | None = None
    """Cells of one group are never parted; None where each stands for itself."""

    def __len__(self) -> int:
        return len(self.cell_id)

    def take(self, rows: npt.NDArray[np.bool_]) -> Batch:
        """Return the cells where `rows` (cell,) is True."""
        indices = [int(row) for row in np.flatnonzero(rows)]
        return Batch(
            images=self.images[indices],
            stage=[self.stage[i] for i in indices],
            cell_id=[self.cell_id[i] for i in indices],
            source=[self.source[i] for i in indices],
            dna_content=None if self.dna_content is None else self.dna_content[indices],
            group=None if self.group is None else [self.group[i] for i in indices],
        )

    def group_of(self, row: int) -> str:
        """Return the group of a cell: its own id where the source has no groups."""
        return self.cell_id[row] if self.group is None else self.group[row]


@dataclass
class Drops:
    """What a reader left out or had to change; it ends up in the conversion report."""

    padding: dict[str, int] = field(default_factory=dict)
    """Montage -> tiles that only fill its grid."""
    cells: list[dict[str, str]] = field(default_factory=list)
    """Cells that could not be read: cell_id, stage, reason."""
    foreign: int = 0
    """Files or entries that are no picture of a cell."""
    foreign_examples: list[str] = field(default_factory=list)
    """Names of the first few of them."""
    refitted: int = 0
    """Cells padded or cropped to the ``image_size`` of the description."""
    cut: int = 0
    """Cells of which a part, by their mask, lies beyond it and is missing."""
    without_stage: dict[str, int] = field(default_factory=dict)
    """Why -> cells that have no stage for this reason, and were left out."""

    def skip(self, name: str) -> None:
        """Count a file or entry that is no picture of a cell."""
        self.foreign += 1
        if len(self.foreign_examples) < 5:
            self.foreign_examples.append(name)


class Reader(Protocol):
    """What the module of a kind offers."""

    def read(self, dataset: Dataset, raw: Path, drops: Drops | None = None) -> Iterator[Batch]:
        """Yield the cells of a data set, in an order that never changes."""


def reader(kind: str) -> Reader:
    """Import the module that reads a kind of source; others are never imported."""
    return cast(Reader, importlib.import_module(f"{__name__}.{kind}"))


def convert(
    dataset: Dataset,
    *,
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    report: str | os.PathLike[str],
) -> None:
    """Turn a data set's files into a cells file and a conversion report.

    Cells are streamed: memory holds one batch and a small vector per cell. A later copy of a cell is dropped, unless
    the description lists its id under ``keep_duplicates``; both cases stand in the report.

    Parameters
    ----------
    dataset
        What to read.
    raw
        Folder of the downloaded files; not looked at where the data set has a ``path``.
    out
        The cells file to make (`stainfree.cells`).
    report
        The JSON to make: counts, padding, duplicates, checksums, versions.

    Raises
    ------
    DataError
        If a file is missing or not as described, a pixel does not fit the bit depth, or a stage is unknown.
    ConfigError
        If the description lacks what its kind needs.
    """
    raw = Path(raw) if dataset.path is None else Path(dataset.path).expanduser()
    checksums = _checksums(dataset, raw)
    source = reader(dataset.kind)
    if hasattr(source, "described"):
        dataset = source.described(dataset, raw)
    info = CellsInfo(
        channels=dataset.channels,
        bit_depth=dataset.bit_depth,
        pixel_size_um=dataset.pixel_size_um,
        licence=dataset.licence,
        citation=dataset.citation,
        source_checksums=checksums,
    )
    drops = Drops()
    batches = (part for batch in source.read(dataset, raw, drops) for part in _parts(batch))
    first = next(batches, None)
    if first is None:
        raise DataError(
            f"data set {dataset.name}: no cells found in {raw}; check `kind` and `files` or `path` in its description"
        )
    sieve = _Sieve(keep=frozenset(dataset.options.get("keep_duplicates", ())))
    counts: Counter[tuple[str, str]] = Counter()
    shape = (int(first.images.shape[2]), int(first.images.shape[3]))
    spoken = time.monotonic()
    with CellsWriter(out, info, image_shape=shape, dtype=first.images.dtype) as cells:
        for batch in chain([first], batches):
            _check(batch, dataset)
            kept = sieve.pass_on(batch)
            if len(kept):
                cells.append(
                    kept.images,
                    stage=kept.stage,
                    cell_id=kept.cell_id,
                    source=kept.source,
                    group=kept.group,
                    dna_content=kept.dna_content,
                )
            counts.update(zip(kept.source, kept.stage, strict=True))
            if time.monotonic() - spoken > _SECONDS_BETWEEN_LINES:
                spoken = time.monotonic()
                logger.info("%s: %d cells written", dataset.name, cells.n_cells)
    sieve.warn_of_unmet()
    written = read_info(out)
    files.write_json(report, _report(dataset, written, first.images.dtype, counts, drops, sieve))
    logger.info(
        "%s: %d cells; %d padding tiles, %d duplicates and %d cells that cannot be read left out",
        dataset.name,
        written.n_cells,
        sum(drops.padding.values()),
        len(sieve.dropped),
        len(drops.cells),
    )


class _Sieve:
    """Lets each cell pass once, and remembers what it held back."""

    def __init__(self, *, keep: frozenset[str]) -> None:
        self.dropped: list[dict[str, Any]] = []
        self.kept: list[dict[str, Any]] = []
        self._keep = keep
        self._find = DuplicateFilter(keep=keep)
        # Of the cells that passed, by their position.
        self._stages: list[str] = []
        self._groups: list[str] = []

    def pass_on(self, batch: Batch) -> Batch:
        """Return the cells of a batch that are no copies of earlier ones, or are to be kept all the same.

        Each has a group: a copy that is kept that of its original, so that no split parts them.
        """
        fresh = np.ones(len(batch), dtype=bool)
        first = len(self._groups)
        for row, duplicate in enumerate(self._find(batch.images, batch.cell_id)):
            cell_id, stage = batch.cell_id[row], batch.stage[row]
            if duplicate is not None:
                line = self._line(duplicate, stage)
                fresh[row] = cell_id in self._keep
                (self.kept if fresh[row] else self.dropped).append(line)
                logger.info(
                    "%s (%s) is a copy of %s (%s): %s", cell_id, stage, line["of"], line["of_stage"], line["match"]
                )
            if fresh[row]:
                self._stages.append(stage)
                self._groups.append(batch.group_of(row) if duplicate is None else self._groups[duplicate.position])
        return replace(batch.take(fresh), group=self._groups[first:])

    def _line(self, duplicate: Duplicate, stage: str) -> dict[str, Any]:
        return {
            "cell_id": duplicate.cell_id,
            "stage": stage,
            "of": duplicate.of,
            "of_stage": self._stages[duplicate.position],
            "match": duplicate.match,
            "correlation": round(duplicate.correlation, 4),
        }

    def warn_of_unmet(self) -> None:
        """Say which ids under ``keep_duplicates`` belong to no copy: a slip of the pen would go unseen otherwise."""
        for cell_id in sorted(self._keep - {line["cell_id"] for line in self.kept}):
            logger.warning("keep_duplicates names %s, which is no copy of an earlier cell; remove it", cell_id)


def _parts(batch: Batch) -> Iterator[Batch]:
    """Cut a batch into chunks of the cells file, so that readers may yield what is natural to their source."""
    for start in range(0, len(batch), CHUNK_CELLS):
        rows = np.zeros(len(batch), dtype=bool)
        rows[start : start + CHUNK_CELLS] = True
        yield batch.take(rows)


def _check(batch: Batch, dataset: Dataset) -> None:
    """Refuse pixels that the bit depth cannot hold, and stages that are none."""
    top = 2**dataset.bit_depth - 1
    per_cell = batch.images.reshape(len(batch), -1)
    # Written so that a NaN fails too.
    outside = ~((per_cell.min(axis=1) >= 0) & (per_cell.max(axis=1) <= top))
    if outside.any():
        row = int(outside.argmax())
        raise DataError(
            f"cell {batch.cell_id[row]}: pixels from {per_cell[row].min()} to {per_cell[row].max()} do not fit "
            f"0 to {top}; set `bit_depth` of data set {dataset.name} to that of the source"
        )
    unknown = sorted(set(batch.stage) - set(STAGES))
    if unknown:
        raise DataError(
            f"data set {dataset.name}: stage {', '.join(unknown)} is not one of {', '.join(STAGES)}; map it in `stages`"
        )


def _checksums(dataset: Dataset, raw: Path) -> dict[str, str]:
    """Return the sha256 of each of the data set's files; raise `DataError` where one is missing."""
    if dataset.path is not None:
        return _own_checksums(dataset, raw)
    checksums = {}
    for file in dataset.files:
        path = raw / file.path
        if not path.is_file():
            raise DataError(f"{path}: no such file; run the download of {dataset.name} again")
        checksums[file.path] = files.sha256(path)
    return checksums


def _own_checksums(dataset: Dataset, path: Path) -> dict[str, str]:
    """Return the sha256 of a user's own files by name; of very many, one per folder.

    That of a folder is taken over the lines that the program sha256sum prints for its pictures, names sorted.
    """
    base = path if path.is_dir() else path.parent
    digests: dict[str, str] = {}
    for source in map(Path, source_files(dataset.description())):
        digests[Path(os.path.relpath(source, base)).as_posix()] = files.sha256(source)
    if len(digests) <= _FEW_FILES:
        return digests
    folders: dict[str, Any] = {}
    for name, digest in digests.items():
        folder, _, rest = name.partition("/")
        folders.setdefault(f"{folder}/", hashlib.sha256()).update(f"{digest}  {rest}\n".encode())
    return {folder: lines.hexdigest() for folder, lines in folders.items()}


def _report(
    dataset: Dataset,
    info: CellsInfo,
    dtype: np.dtype[Any],
    counts: Mapping[tuple[str, str], int],
    drops: Drops,
    sieve: _Sieve,
) -> dict[str, Any]:
    """Return what the conversion report says."""
    sources = sorted({source for source, _ in counts})
    per_stage = {stage: sum(counts.get((source, stage), 0) for source in sources) for stage in STAGES}
    return {
        "dataset": dataset.name,
        "description": dataset.digest,
        "kind": dataset.kind,
        "n_cells": info.n_cells,
        "image_shape": list(info.image_shape),
        "dtype": str(dtype),
        "bit_depth": info.bit_depth,
        "pixel_size_um": info.pixel_size_um,
        "channels": list(info.channels),
        "stages": {stage: n for stage, n in per_stage.items() if n},
        "counts": {
            source: {stage: counts[source, stage] for stage in STAGES if (source, stage) in counts}
            for source in sources
        },
        "padding_tiles": dict(drops.padding),
        "cells_left_out": drops.cells,
        "foreign_files": {"n": drops.foreign, "examples": drops.foreign_examples},
        "cells_refitted": drops.refitted,
        "cells_cut": drops.cut,
        "cells_without_stage": drops.without_stage,
        "duplicates_dropped": sieve.dropped,
        "duplicates_kept": sieve.kept,
        "licence": info.licence,
        "citation": info.citation,
        "source_checksums": dict(info.source_checksums),
        "content_sha256": info.content_sha256,
        "versions": {"stainfree": __version__} | {name: importlib.metadata.version(name) for name in _VERSIONS_TOLD},
    }
