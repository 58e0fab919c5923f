"""How far simulated cells are from real ones, measured.

Both sides are brought to the same number of cells of each stage and to the same centre of the image, and one reference
network with one recipe is trained for several questions (`TASKS`):

- *five*, *seven*: is a stage as hard to tell on simulated cells as on real ones? Cross-validated on either side.
- *transfer*: is what tells a stage the same? Trained on simulated cells, tested on real ones. Label noise alone could
  make two sides equally hard; it cannot make this work.
- *apart*: can the network tell simulated from real cells? An AUC of 0.5 would mean that it cannot.

The histogram of integrated PI is compared without any network; the simulator draws that sum from the quantiles of these
real cells, so it agrees by construction. None of this makes simulated cells evidence: their looks were adjusted by hand
while these very numbers were watched, on these very cells.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stainfree import cells, files, metrics, predictions, splits
from stainfree.errors import DataError
from stainfree.predictions import classes_of
from stainfree.schemes import INTERPHASE, STAGES, Scheme

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

CHANNELS = ("BF", "PI", "DF")
SIDES = ("real", "simulated")
FOLDS = 5
LARGEST_DIFFERENCE = 0.10
"""Balanced accuracies on the two sides that are further apart count as different."""
PUBLISHED = dict(zip(STAGES, (14_333, 8_616, 8_601, 606, 68, 15, 27), strict=True))
"""Cells of the published data set (BBBC048), by which stages enter the histogram of PI."""

_FIVE = Scheme("five", {"Interphase": INTERPHASE, **{stage: (stage,) for stage in STAGES[3:]}})
_SEVEN = Scheme("seven", {stage: (stage,) for stage in STAGES})
_SIDE = Scheme("side", dict.fromkeys(SIDES, STAGES))


@dataclass(frozen=True)
class Task:
    """One question to the reference network."""

    scheme: Scheme
    channels: tuple[str, ...]
    trained_on: tuple[str, ...]
    tested_on: tuple[str, ...]


TASKS: Mapping[str, Task] = {
    f"{scheme.name}_{name}": Task(scheme, channels, (trained_on,), (tested_on,))
    for scheme, channels in ((_FIVE, ("BF",)), (_SEVEN, ("BF", "DF")))
    for name, trained_on, tested_on in (
        ("real", "real", "real"),
        ("simulated", "simulated", "simulated"),
        ("transfer", "simulated", "real"),
    )
} | {f"apart_{channel}": Task(_SIDE, (channel,), SIDES, SIDES) for channel in CHANNELS}
"""Name -> question."""


def plan(task: str, training: Mapping[str, Any]) -> dict[str, Any]:
    """Complete what all tasks share (model, loss, threads, device, code) to the plan of a task's training.

    Returns
    -------
    dict
        Plain values (see `stainfree.plans.plan_from`).
    """
    about = TASKS[task]
    return {
        "dataset": "realism",
        "experiment": "realism",
        "variant": task,
        "channels": list(about.channels),
        "scheme": asdict(about.scheme),
        "fit": "crop",
        "subsets": ["test"],
        **training,
    }


# The same cells for all questions


def equal_counts(
    real: npt.ArrayLike, simulated: npt.ArrayLike, *, most: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pick as many simulated as real cells of each stage.

    Parameters
    ----------
    real, simulated
        (cell,) stage of each cell of a side.
    most
        Cells of a stage on either side at most.

    Returns
    -------
    tuple of ndarray
        Positions on either side, rising.

    Raises
    ------
    DataError
        If a side has fewer cells of a stage than there are folds.
    """
    positions: tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.int64]]] = ([], [])
    for stage in STAGES:
        found = [np.flatnonzero(np.asarray(stages) == stage) for stages in (real, simulated)]
        n = min(most, *map(len, found))
        if n < FOLDS:
            side = SIDES[int(len(found[1]) < len(found[0]))]
            raise DataError(
                f"realism: the {side} data set has {n} cells of {stage}, fewer than the {FOLDS} folds; give it more"
            )
        for chosen, rows in zip(positions, found, strict=True):
            chosen.append(rng.permutation(rows)[:n])
    return np.sort(np.concatenate(positions[0])), np.sort(np.concatenate(positions[1]))


def draw_split(table: pd.DataFrame, task: Task, *, seed: int) -> pd.DataFrame:
    """Draw the split of a task.

    Parameters
    ----------
    table
        Cells of both sides: the columns of `stainfree.cells.read_table`; ``source`` is the side.

    Returns
    -------
    DataFrame
        The columns of `stainfree.splits.COLUMNS`. Where training and test cells are of different sides, one fold: the
        first of the cross-validation, whose test cells validate, and all cells of the other side for the test.
    """
    spec = {"kind": "kfold", "folds": FOLDS, "validation": 0.2}
    scheme = _SEVEN if task.scheme is _SIDE else task.scheme
    parts = [splits.draw(table[table["source"] == side], spec, scheme=scheme, seed=seed) for side in task.trained_on]
    split = pd.concat(parts, ignore_index=True)
    if task.scheme is _SIDE:
        split["class"] = split["source"]
    if task.tested_on != task.trained_on:
        first = split[split["fold"] == 0]
        first = first.assign(subset=np.where(first["subset"] == "test", "validation", "train"))
        tested = table[table["source"].isin(task.tested_on)].assign(fold=0, subset="test")
        tested["class"] = scheme.class_of(tested["stage"].to_numpy(dtype=object))
        split = pd.concat([first, tested[list(splits.COLUMNS)]], ignore_index=True)
    return split


def sample(
    real: str | os.PathLike[str],
    simulated: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    split_paths: Mapping[str, str | os.PathLike[str]],
    sources: Sequence[str],
    most: int,
    seed: int,
) -> None:
    """Write equal numbers of real and simulated cells into one cells file, and the split of every task.

    Parameters
    ----------
    real, simulated
        Cells files with BF, PI and DF.
    out
        Cells file to write: ``source`` is ``real`` or ``simulated``; the images are the centres that both sides have.
    split_paths
        Task -> split to write.
    sources
        Sources of the real cells that take part: others may differ in more than stage.
    most
        Cells of a stage on either side at most.

    Raises
    ------
    DataError
        If a side lacks a channel or cells, or the sides differ in bit depth.
    """
    rng = np.random.default_rng(seed)
    infos = [cells.read_info(path) for path in (real, simulated)]
    if len({info.bit_depth for info in infos}) > 1:
        raise DataError(
            f"{simulated}: {infos[1].bit_depth} bits, but {infos[0].bit_depth} in {real}; simulate its depth"
        )
    tables = [cells.read_table(path) for path in (real, simulated)]
    allowed = np.flatnonzero(tables[0]["source"].isin(sources))
    chosen = equal_counts(tables[0]["stage"].iloc[allowed], tables[1]["stage"], most=most, rng=rng)
    shape = tuple(min(info.image_shape[axis] for info in infos) for axis in (0, 1))
    info = cells.CellsInfo(channels=CHANNELS, bit_depth=infos[0].bit_depth)
    with cells.CellsWriter(out, info, image_shape=(shape[0], shape[1]), dtype=np.uint16) as writer:
        for side, path, table, rows in zip(
            SIDES, (real, simulated), tables, (allowed[chosen[0]], chosen[1]), strict=True
        ):
            images = cells.read_images(path, channels=CHANNELS, rows=rows)
            picked = table.iloc[rows]
            writer.append(
                centre(images, shape).astype(np.uint16),
                stage=picked["stage"].tolist(),
                cell_id=picked["cell_id"].tolist(),
                source=[side] * len(rows),
                group=picked["group"].tolist(),
            )
    pooled = cells.read_table(out)
    for task, path in split_paths.items():
        files.write_parquet(path, draw_split(pooled, TASKS[task], seed=seed))
    counts = pooled[pooled["source"] == "real"]["stage"].value_counts()
    logger.info("of either side %s", ", ".join(f"{counts[stage]} {stage}" for stage in STAGES))


def centre(images: npt.NDArray[Any], shape: Sequence[int]) -> npt.NDArray[Any]:
    """Cut the centre of `shape` (height, width) from images (cell, channel, y, x)."""
    above, left = (images.shape[2] - shape[0]) // 2, (images.shape[3] - shape[1]) // 2
    return images[:, :, above : above + shape[0], left : left + shape[1]]


# Measures


def integrate(images: npt.NDArray[Any]) -> Floats:
    """Sum images (cell, y, x) above their background, which is the median of the image's border: (cell,) counts."""
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    background = np.median(border, axis=1)
    total: Floats = images.sum(axis=(1, 2), dtype=np.float64) - background * images[0].size
    return total


def weigh(stages: npt.NDArray[np.object_]) -> Floats:
    """Return (cell,) weights that add up to 1 and give every stage its share of the published data set."""
    present = [stage for stage in STAGES if (stages == stage).any()]
    total = sum(PUBLISHED[stage] for stage in present)
    weights = np.zeros(len(stages))
    for stage in present:
        weights[stages == stage] = PUBLISHED[stage] / total / (stages == stage).sum()
    return weights


def pi_measures(integrated: Floats, stages: npt.NDArray[np.object_]) -> dict[str, float]:
    """Describe the histogram of integrated PI of one side.

    Parameters
    ----------
    integrated, stages
        (cell,) integrated PI in counts, and stage.

    Returns
    -------
    dict
        ``g2_over_g1``: ratio of the medians. ``g1_cv``, ``g2_cv``: robust coefficients of variation (1.4826 times the
        median absolute deviation, over the median). ``s_between_peaks``: share of S cells between the two medians.
        ``plateau``: density of cells, stages weighted as `PUBLISHED`, in the middle third between the two medians, over
        that within 10 % of the G1 median.
    """
    of = {stage: integrated[stages == stage] for stage in INTERPHASE}
    weights = weigh(stages)
    g1, g2 = float(np.median(of["G1"])), float(np.median(of["G2"]))

    def spread(values: Floats) -> float:
        middle = np.median(values)
        return float(1.4826 * np.median(np.abs(values - middle)) / middle)

    def density(low: float, high: float) -> float:
        return float(weights[(integrated > low) & (integrated < high)].sum() / (high - low))

    third = (g2 - g1) / 3
    return {
        "g2_over_g1": g2 / g1,
        "g1_cv": spread(of["G1"]),
        "g2_cv": spread(of["G2"]),
        "s_between_peaks": float(np.mean((of["S"] > g1) & (of["S"] < g2))),
        "plateau": density(g1 + third, g2 - third) / density(0.9 * g1, 1.1 * g1),
    }


def confusion(table: pd.DataFrame) -> Floats:
    """Count (true class, predicted class) of a table of predictions."""
    code = {name: k for k, name in enumerate(classes_of(table))}
    true, predicted = (np.array([code[name] for name in table[column]]) for column in ("class", "predicted"))
    return metrics.confusion_matrix(true, predicted, n_classes=len(code))


def score(table: pd.DataFrame, task: Task, *, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return rows of scores: balanced accuracy, then the recall of each class, with 95 % intervals."""
    counts = confusion(table)
    about = {
        "scheme": task.scheme.name,
        "channels": "+".join(task.channels),
        "trained_on": task.trained_on[0],
        "tested_on": task.tested_on[0],
    }
    value = float(metrics.balanced_accuracy(counts))
    low, high = metrics.interval(metrics.balanced_accuracy_draws(counts, rng=rng), value)
    rows = [about | _row("balanced_accuracy", "all", value, low, high, counts.sum())]
    for k, name in enumerate(task.scheme.classes):
        low, high = metrics.wilson(counts[k, k], counts[k].sum())
        rows.append(about | _row("recall", name, counts[k, k] / counts[k].sum(), low, high, counts[k].sum()))
    return rows


def _row(metric: str, name: str, value: float, low: float, high: float, n: float) -> dict[str, Any]:
    return {"metric": metric, "class": name, "value": value, "ci_low": low, "ci_high": high, "n_cells": round(n)}


def tell_apart(table: pd.DataFrame, *, rng: np.random.Generator, n_bootstrap: int = 1000) -> list[dict[str, Any]]:
    """Return, for all cells and for each stage, the AUC of telling simulated from real cells with a 95 % interval."""
    rows = []
    for stage in ("all", *STAGES):
        of_stage = table if stage == "all" else table[table["stage"] == stage]
        true = (of_stage["class"] == SIDES[1]).to_numpy().astype(np.int64)
        probabilities = of_stage[[f"p_{side}" for side in SIDES]].to_numpy(dtype=np.float64)
        found = metrics.score(true, probabilities.argmax(axis=1), probabilities, rng=rng, n_bootstrap=n_bootstrap)
        (auc,) = (one for one in found if one.metric == "roc_auc" and one.class_code == 1)
        n = {f"n_{side}": int((of_stage["class"] == side).sum()) for side in SIDES}
        rows.append({"stage": stage, "auc": auc.value, "ci_low": auc.low, "ci_high": auc.high, **n})
    return rows


def check(tables: Mapping[str, pd.DataFrame], scores: pd.DataFrame, *, rng: np.random.Generator) -> pd.DataFrame:
    """Hold the scores against what is asked of the simulator.

    Parameters
    ----------
    tables
        Task -> its predictions of test cells.
    scores
        The rows of `score` of all tasks of a label scheme.

    Returns
    -------
    DataFrame
        check, value, ci_low, ci_high, limit, holds. The interval of a difference comes from that of either side; a
        value with NaN for an interval is a plain count.
    """
    rows = []
    for name in ("five", "seven"):
        counts = {side: confusion(tables[f"{name}_{side}"]) for side in SIDES}
        values = {side: float(metrics.balanced_accuracy(counts[side])) for side in SIDES}
        draws = {side: metrics.balanced_accuracy_draws(counts[side], rng=rng) for side in SIDES}
        difference = values["simulated"] - values["real"]
        low, high = metrics.interval(draws["simulated"] - draws["real"], difference)
        rows.append((f"{name}: balanced accuracy, simulated less real", difference, low, high, LARGEST_DIFFERENCE))
        of = scores[(scores["scheme"] == name) & (scores["metric"] == "recall")]
        perfect = {
            side: set(of[(of["trained_on"] == side) & (of["tested_on"] == side) & (of["value"] == 1)]["class"])
            for side in SIDES
        }
        only = len(perfect["simulated"] - perfect["real"])
        rows.append((f"{name}: classes without a mistake on simulated cells alone", only, np.nan, np.nan, 0))
    table = pd.DataFrame(rows, columns=["check", "value", "ci_low", "ci_high", "limit"])
    return table.assign(holds=table["value"].abs() <= table["limit"])


def measure(
    cells_path: str | os.PathLike[str],
    predictions_paths: Mapping[str, str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    seed: int,
) -> None:
    """Measure, tell and write everything.

    Parameters
    ----------
    cells_path
        The cells file of `sample`.
    predictions_paths
        Task -> its predictions.
    out
        Folder for ``scores.csv``, ``told_apart.csv``, ``checks.csv``, ``integrated_pi.csv`` (one row a cell) and
        ``pi_measures.csv``.
    """
    rng = np.random.default_rng(seed)
    tables = {task: predictions.read(path) for task, path in predictions_paths.items()}
    rows = [
        row
        for task, table in tables.items()
        if TASKS[task].scheme is not _SIDE
        for row in score(table, TASKS[task], rng=rng)
    ]
    scores = pd.DataFrame(rows)
    apart = pd.concat(
        [
            pd.DataFrame(tell_apart(table, rng=rng)).assign(channels="+".join(TASKS[task].channels))
            for task, table in tables.items()
            if TASKS[task].scheme is _SIDE
        ]
    )
    checks = check(tables, scores, rng=rng)
    about = cells.read_table(cells_path)
    pi = about[["cell_id", "source", "stage"]].assign(
        integrated_pi=integrate(cells.read_images(cells_path, channels=["PI"])[:, 0]),
        weight=about.groupby("source")["stage"].transform(lambda stages: weigh(stages.to_numpy(dtype=object))),
    )
    histogram = pd.DataFrame(
        [
            {"side": side, **pi_measures(of["integrated_pi"].to_numpy(), of["stage"].to_numpy(dtype=object))}
            for side, of in pi.groupby("source")
        ]
    )
    folder = Path(out)
    for name, table in (
        ("scores", scores),
        ("told_apart", apart[["channels", *apart.columns[:-1]]]),
        ("checks", checks),
        ("integrated_pi", pi),
        ("pi_measures", histogram),
    ):
        files.write_csv(folder / f"{name}.csv", table)
        if name != "integrated_pi":
            logger.info("%s\n%s", name, table.to_string(index=False, float_format="{:.3f}".format))
