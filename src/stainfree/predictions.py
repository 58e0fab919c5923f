"""The predictions contract: what a model said of each cell, and how sure it was.

One row per (fold, seed, cell). Evaluation reads nothing else of a model, so whatever writes this table, deep or
classical, is evaluated like every other.

=============  =======  ====================================================================
column         dtype    holds
=============  =======  ====================================================================
cell_id        text     the cell
source         text     where it was acquired
group          text     cells of one group are never parted by a split
origin         text     ``real``, or the generator's name
fold, seed     int64    the part of the training that made the prediction
subset         text     ``train``, ``validation`` or ``test`` of that fold
stage          text     the stage given to the cell
class          text     its class under the label scheme
predicted      text     the class with the highest probability
p_<class>      float32  one column per class, in the scheme's order; they add up to 1
=============  =======  ====================================================================
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stainfree import files
from stainfree.errors import DataError

SUBSETS = ("train", "validation", "test")
COLUMNS = ("cell_id", "source", "group", "origin", "fold", "seed", "subset", "stage", "class", "predicted")


def table(
    cells: pd.DataFrame,
    probabilities: npt.NDArray[np.floating[Any]],
    *,
    classes: Sequence[str],
    seed: int,
) -> pd.DataFrame:
    """Join cells and class probabilities into the table of the contract.

    Parameters
    ----------
    cells
        One row per cell, with the columns of a split: cell_id, source, group, origin, fold, subset, stage, class.
    probabilities
        (cell, class), rows adding up to 1.
    classes
        Class names in the order of the columns of `probabilities`.
    seed
        The seed of the part.
    """
    if probabilities.shape != (len(cells), len(classes)):
        raise DataError(f"probabilities of shape {probabilities.shape} for {len(cells)} cells, {len(classes)} classes")
    out = cells.reset_index(drop=True).assign(seed=seed)
    out["predicted"] = np.asarray(classes, dtype=object)[probabilities.argmax(axis=1)]
    for index, name in enumerate(classes):
        out[f"p_{name}"] = probabilities[:, index].astype(np.float32)
    return out[[*COLUMNS, *(f"p_{name}" for name in classes)]]


def classes_of(predictions: pd.DataFrame) -> tuple[str, ...]:
    """Return the class names of a predictions table, in the scheme's order."""
    return tuple(column.removeprefix("p_") for column in predictions.columns if column.startswith("p_"))


def read(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a predictions table; raise `DataError` where it does not keep the contract."""
    try:
        predictions = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}); delete it and train again") from error
    missing = [column for column in COLUMNS if column not in predictions.columns]
    if missing or not classes_of(predictions):
        raise DataError(f"{path}: lacks {', '.join(missing) or 'probabilities'}; it is no table of predictions")
    return predictions


def write(path: str | os.PathLike[str], predictions: pd.DataFrame) -> None:
    """Write a predictions table atomically."""
    files.write_parquet(path, predictions)
