"""Splits: which cells train, which choose, which test.

A split is drawn from the cells' ids, stages and sources alone, never from images, and depends on the data set, the
sources used, the kind of split and the seed only: all schemes, models and variants that name the same split share
its folds. Groups (duplicates, or sources where asked) are never parted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stainfree import cells, files
from stainfree.errors import DataError
from stainfree.predictions import SUBSETS
from stainfree.schemes import STAGES, Scheme

logger = logging.getLogger(__name__)

COLUMNS = ("fold", "cell_id", "stage", "class", "source", "group", "origin", "subset")


def quotas(n: int, shares: Sequence[float]) -> npt.NDArray[np.int64]:
    """Part `n` cells by `shares` (adding up to 1) by largest remainder; the first share wins ties.

    No share above 0 stays empty while another has more than one cell, so that a stage of few cells is still seen in
    every subset.
    """
    exact = n * np.asarray(shares, dtype=float)
    counts = np.floor(exact + 1e-9).astype(np.int64)
    for index in np.argsort(-(exact - counts), kind="stable")[: n - counts.sum()]:
        counts[index] += 1
    for index in np.flatnonzero((np.asarray(shares) > 0) & (counts == 0)):
        largest = int(counts.argmax())
        if counts[largest] > 1:
            counts[largest] -= 1
            counts[index] += 1
    return counts


def deal(
    stages: npt.NDArray[np.object_],
    groups: npt.NDArray[np.object_],
    shares: Sequence[float],
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Deal cells to bins, stratified by stage and whole groups at a time.

    Parameters
    ----------
    stages, groups
        (cell,) stage and group of each cell.
    shares
        Share of the cells that each bin is to have; they add up to 1.
    rng
        The source of chance.

    Returns
    -------
    ndarray of int64
        (cell,) bin of each cell. Where every cell is a group of its own, each stage is parted as `quotas` says;
        larger groups go, largest first, to the bin that lacks most of their cells.
    """
    bins = np.full(len(stages), -1, dtype=np.int64)
    members = pd.Series(range(len(groups))).groupby(groups, sort=True).indices
    single = np.array([len(rows) == 1 for rows in members.values()])
    alone = np.sort(np.array([rows[0] for rows in members.values() if len(rows) == 1], dtype=np.int64))
    present = [stage for stage in STAGES if stage in set(stages)]
    wanted = np.array([quotas(int((stages == stage).sum()), shares) for stage in present], dtype=float)

    large = [rows for rows in members.values() if len(rows) > 1]
    if not single.all():
        shuffled = [large[i] for i in rng.permutation(len(large))]
        for rows in sorted(shuffled, key=len, reverse=True):
            content = np.array([(stages[rows] == stage).sum() for stage in present], dtype=float)
            # The lack of each bin, weighed by how rare the stage is: the bin whose need is met best gets the group.
            rarity = 1.0 / np.maximum(wanted.sum(axis=1), 1.0)
            gain = ((content * rarity)[:, None] * wanted).sum(axis=0)
            target = int(np.argmax(np.where(np.asarray(shares) > 0, gain, -np.inf)))
            bins[rows] = target
            wanted[:, target] = np.maximum(wanted[:, target] - content, 0)
    for index, stage in enumerate(present):
        rows = rng.permutation(alone[stages[alone] == stage])
        if len(large) == 0:
            counts = wanted[index].astype(np.int64)
        else:
            lack = wanted[index]
            counts = quotas(len(rows), lack / lack.sum() if lack.sum() else shares)
        bins[rows] = np.repeat(np.arange(len(shares)), counts)
    return bins


def _holdout(table: pd.DataFrame, spec: Mapping[str, Any], rng: np.random.Generator) -> list[npt.NDArray[np.object_]]:
    validation, test = spec["validation"], spec["test"]
    bins = deal(_column(table, "stage"), _column(table, "group"), [1 - validation - test, validation, test], rng)
    return [np.asarray(SUBSETS, dtype=object)[bins]]


def _kfold(table: pd.DataFrame, spec: Mapping[str, Any], rng: np.random.Generator) -> list[npt.NDArray[np.object_]]:
    folds = spec["folds"]
    stages, groups = _column(table, "stage"), _column(table, "group")
    independent = table[table["class"] != ""].groupby("class")["group"].nunique().to_dict()
    for name, n in independent.items():
        if n < folds:
            raise DataError(
                f"split: class {name} has {n} independent cells, fewer than the {folds} folds; "
                "lower `folds`, or choose a scheme without the class"
            )
    bins = np.full(len(table), -1, dtype=np.int64)
    if groups.size == len(set(groups)):
        # One shuffled deck, sorted by stage and dealt round: every stage and every fold is even to one cell.
        rank = {stage: k for k, stage in enumerate(STAGES)}
        deck = rng.permutation(len(table))
        deck = deck[np.argsort([rank[s] for s in stages[deck]], kind="stable")]
        bins[deck] = np.arange(len(table)) % folds
    else:
        bins = deal(stages, groups, [1 / folds] * folds, rng)
    subsets = []
    for fold in range(folds):
        subset = np.full(len(table), "train", dtype=object)
        subset[bins == fold] = "test"
        rest = np.flatnonzero(bins != fold)
        inner = deal(stages[rest], groups[rest], [1 - spec["validation"], spec["validation"]], rng)
        subset[rest[inner == 1]] = "validation"
        subsets.append(subset)
    return subsets


def _counts(table: pd.DataFrame, spec: Mapping[str, Any], rng: np.random.Generator) -> list[npt.NDArray[np.object_]]:
    """Exact numbers of cells per class and subset; cells that are asked for nowhere are left out."""
    subset = np.full(len(table), "", dtype=object)
    # One cell of each group: the others could end up elsewhere.
    first = ~table["group"].duplicated().to_numpy()
    for name, wanted in spec["counts"].items():
        rows = rng.permutation(np.flatnonzero(first & (_column(table, "class") == name)))
        asked = sum(wanted.get(s, 0) for s in SUBSETS)
        if asked > len(rows):
            raise DataError(f"split: {asked} cells of {name} are asked for, and there are {len(rows)}; lower `counts`")
        subset[rows[:asked]] = np.repeat(SUBSETS, [wanted.get(s, 0) for s in SUBSETS])
    return [subset]


def _file(table: pd.DataFrame, spec: Mapping[str, Any], rng: np.random.Generator) -> list[npt.NDArray[np.object_]]:
    """A table of cell_id and subset, such as a published list; cells that it does not name are left out."""
    path = Path(spec["path"])
    if not path.is_file():
        raise DataError(f"split: {path}: no such file; correct `path` of the split")
    listed = pd.read_csv(path, dtype=str)
    if not {"cell_id", "subset"} <= set(listed.columns):
        raise DataError(f"{path}: needs the columns cell_id and subset; it has {', '.join(listed.columns)}")
    wrong = sorted(set(listed["subset"]) - set(SUBSETS))
    if wrong or listed["cell_id"].duplicated().any():
        what = f"subset {wrong[0]} is not one of {', '.join(SUBSETS)}" if wrong else "a cell_id stands twice"
        raise DataError(f"{path}: {what}; correct the table")
    unknown = set(listed["cell_id"]) - set(table["cell_id"])
    if unknown:
        raise DataError(f"{path}: {len(unknown)} cells are not in the data set, such as {min(unknown)}")
    subset = table["cell_id"].map(listed.set_index("cell_id")["subset"]).fillna("")
    return [subset.to_numpy(dtype=object)]


KINDS = {"holdout": _holdout, "kfold": _kfold, "counts": _counts, "file": _file}


def _column(table: pd.DataFrame, name: str) -> npt.NDArray[np.object_]:
    return table[name].to_numpy(dtype=object)


def draw(table: pd.DataFrame, spec: Mapping[str, Any], *, scheme: Scheme, seed: int) -> pd.DataFrame:
    """Draw a split.

    Parameters
    ----------
    table
        One row per cell: cell_id, stage, source, origin, and group: cells of one group are never parted.
    spec
        ``kind`` and its own keys: ``holdout`` (validation, test: fractions), ``kfold`` (folds, and validation: the
        fraction cut from each fold's training cells), ``counts`` (counts: class -> subset -> number), ``file``
        (path). ``group_by: source`` keeps the cells of one source together.
    scheme
        The label scheme; cells of stages in no class are left out after the drawing, so that schemes share folds.
    seed
        The seed of the drawing.

    Returns
    -------
    DataFrame
        fold, cell_id, stage, class, source, group, origin, subset: one row per (fold, cell).

    Raises
    ------
    DataError
        If a class is missing from a fold's training cells, or a stage has fewer cells than there are folds.
    """
    # In order of the ids, so that the order of the file does not matter.
    table = table.sort_values("cell_id", kind="stable").reset_index(drop=True)
    table["class"] = scheme.class_of(_column(table, "stage"))
    if spec.get("group_by") == "source":
        table["group"] = table["source"]
    rng = np.random.default_rng([seed, sorted(KINDS).index(spec["kind"])])
    subsets = KINDS[spec["kind"]](table, spec, rng)
    parts = [table.assign(fold=fold, subset=subset) for fold, subset in enumerate(subsets)]
    split = pd.concat(parts, ignore_index=True)
    split = split[(split["class"] != "") & (split["subset"] != "")].reset_index(drop=True)
    check(split, scheme=scheme)
    return split[list(COLUMNS)]


def check(split: pd.DataFrame, *, scheme: Scheme) -> None:
    """Refuse a split that cannot be trained on; warn of classes that validation or test lack.

    Raises
    ------
    DataError
        If a class of the scheme is missing from a fold's training cells, a subset is empty, or a group is parted.
    """
    counts = split.groupby(["fold", "class", "subset"]).size().unstack("subset", fill_value=0)
    for fold, in_fold in counts.groupby(level="fold"):
        for subset in SUBSETS:
            present = set(in_fold.index[in_fold[subset] > 0].get_level_values("class")) if subset in in_fold else set()
            missing = [name for name in scheme.classes if name not in present]
            if not present:
                raise DataError(
                    f"split: fold {fold} has no {subset} cell at all; training needs all three of "
                    f"{', '.join(SUBSETS)}: change the shares, the counts, or `group_by`"
                )
            if missing and subset == "train":
                raise DataError(
                    f"split: fold {fold} has no training cell of {', '.join(missing)}; choose a scheme without it, "
                    "sources that have it, or a larger training part"
                )
            if missing:
                logger.warning(
                    "fold %s has no %s cell of %s: balanced accuracy there is over the classes present",
                    fold, subset, ", ".join(missing),
                )  # fmt: skip
    if (split.groupby(["fold", "group"])["subset"].nunique() > 1).any():
        raise DataError("split: cells of one group stand in two subsets; give groups whole to one subset")


def make(
    cells_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    spec: Mapping[str, Any],
    scheme: Scheme,
    sources: Sequence[str] | None,
    seed: int,
) -> None:
    """Draw the split of a cells file and write it as Parquet (see `draw`); `sources` None means all."""
    table = cells.read_table(cells_path)
    if sources is not None:
        unknown = sorted(set(sources) - set(table["source"]))
        if unknown:
            known = ", ".join(sorted(set(table["source"])))
            raise DataError(f"{cells_path}: has no source {', '.join(unknown)}; it has {known}. Correct `sources`.")
        table = table[table["source"].isin(sources)]
    split = draw(table, spec, scheme=scheme, seed=seed)
    logger.info("%s cells, %s folds", split["cell_id"].nunique(), split["fold"].nunique())
    files.write_parquet(out, split)


def read(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a split; raise `DataError` where it does not keep the contract."""
    split = pd.read_parquet(path)
    missing = [column for column in COLUMNS if column not in split.columns]
    if missing:
        raise DataError(f"{path}: lacks the columns {', '.join(missing)}; it is no split")
    return split
