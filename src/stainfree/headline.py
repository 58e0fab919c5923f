"""The scores that stand for an experiment: its best pair, and the trivial answer beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stainfree import evaluation
from stainfree.errors import StainfreeError
from stainfree.evaluation import TRIVIAL
from stainfree.pages import is_missing

STAIN_FREE = {"BF", "DF"}
"""Channels that need no stain."""


def read_metrics(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the rows of a ``metrics.csv`` that stand for all folds and seeds.

    Raises
    ------
    StainfreeError
        If the file is missing or lacks a column.
    """
    if not Path(path).is_file():
        raise StainfreeError(f"{path}: no such file; run the evaluation first")
    return evaluation.headline(evaluation.read_metrics(path))


def pick(metrics: pd.DataFrame, **where: str) -> dict[str, Any] | None:
    """Return the first row of metrics that has these values, or None."""
    for column, value in where.items():
        metrics = metrics[metrics[column] == value]
    return None if metrics.empty else {str(key): value for key, value in metrics.iloc[0].items()}


def balanced_accuracy(metrics: pd.DataFrame, *, subset: str, **where: str) -> dict[str, Any] | None:
    """Return the row of balanced accuracy over all classes of a subset, or None."""
    return pick(metrics, metric="balanced_accuracy", subset=subset, **where, **{"class": "all"})


def is_stained(channels: Sequence[str]) -> bool:
    """Tell whether a stain is among the channels; its scores must not be compared with stain-free ones."""
    return bool(set(channels) - STAIN_FREE)


@dataclass(frozen=True)
class Pair:
    """A model and a loss, with its scores."""

    model: str
    loss: str
    validation: Mapping[str, Any]
    test: Mapping[str, Any]
    published: float | None = None
    """Balanced accuracy on test cells that the study reports for the model, 0 to 1."""


def best_pair(metrics: pd.DataFrame, *, variant: str, published: Mapping[str, float] | None = None) -> Pair | None:
    """Return the pair with the best balanced accuracy on *validation*; the first in the table where several tie.

    A model that ran on some folds alone has fewer test cells than others, and takes no part.
    """
    best = None
    learned = metrics[(metrics["variant"] == variant) & (metrics["model"] != TRIVIAL)]
    n_cells = learned.loc[learned["subset"] == "test", "n_cells"].max()
    for model, loss in learned[["model", "loss"]].drop_duplicates().itertuples(index=False):
        scores = [
            balanced_accuracy(learned, subset=subset, model=model, loss=loss) for subset in ("validation", "test")
        ]
        if any(row is None or is_missing(row["value"]) for row in scores):
            continue
        validation, test = (row for row in scores if row is not None)
        if test["n_cells"] < n_cells:
            continue
        if best is None or validation["value"] > best.validation["value"]:
            best = Pair(model, loss, validation, test, (published or {}).get(model))
    return best


def trivial_row(metrics: pd.DataFrame, *, variant: str) -> dict[str, Any] | None:
    """Return the test score of always giving the commonest class."""
    return balanced_accuracy(metrics, subset="test", variant=variant, model=TRIVIAL)
