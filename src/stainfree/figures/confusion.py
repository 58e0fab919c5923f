"""Confusion matrices: what the cells of each class were taken for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stainfree import predictions
from stainfree.errors import DataError
from stainfree.figures import marks, read_pairs, style

PER_ROW = 3
NAMES = {"train": "training"}


@dataclass(frozen=True)
class Matrix:
    """What one training said of the cells of one subset."""

    title: str
    counts: npt.NDArray[np.int64]
    """(true class, predicted class) predictions, both in the scheme's order."""
    n_cells: int
    """Distinct cells behind it."""

    @property
    def recalls(self) -> npt.NDArray[np.float64]:
        """(class,) share of each class's cells that were right; NaN where the subset has none."""
        n = self.counts.sum(axis=1)
        recalls = np.full(len(n), np.nan)
        np.divide(self.counts.diagonal(), n, out=recalls, where=n > 0)
        return recalls

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes present."""
        return float(np.nanmean(self.recalls))


def count(table: pd.DataFrame, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Count the rows of predictions per true class and predicted class, both in the order of `classes`."""
    known = pd.CategoricalDtype(list(classes))
    return pd.crosstab(table["class"].astype(known), table["predicted"].astype(known), dropna=False).to_numpy(np.int64)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share in (0, 1) or 0.1 <= share < 0.995 else f"{share:.1%}"


def _panel(axes: Axes, matrix: Matrix, *, count_said: bool) -> Any:
    """Draw one matrix; return its image, for the colour bar. `count_said`: whether its title says how many cells."""
    n = matrix.counts.sum(axis=1, keepdims=True)
    shares = np.divide(matrix.counts, n, out=np.full(matrix.counts.shape, np.nan), where=n > 0)
    axes.set_facecolor(style.PALE)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    small = 7.0 if len(shares) <= 5 else 5.5
    for (row, column), share in np.ndenumerate(shares):
        if np.isnan(share):
            continue
        text = f"{_percent(share)}\n{matrix.counts[row, column]:,}"
        colour = "white" if share > 0.55 else style.INK if share else style.GREY
        axes.text(column, row, text, ha="center", va="center", fontsize=small, color=colour, linespacing=1.25)
    for row in np.flatnonzero(n[:, 0] == 0).tolist():
        axes.text((len(shares) - 1) / 2, row, "no cell", ha="center", va="center", color=style.GREY, fontsize=small)
    n_cells = f"\nn = {matrix.n_cells:,}" if count_said else ""
    axes.set_title(f"{matrix.title}\nbalanced accuracy {matrix.balanced_accuracy:.1%}{n_cells}", fontsize=8.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(len(shares)) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(shares)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    return image


def _row_labels(matrix: Matrix, classes: Sequence[str]) -> list[str]:
    return [f"{name}\nn = {n:,}" for name, n in zip(classes, matrix.counts.sum(axis=1), strict=True)]


@style.applied()
def draw(matrices: Sequence[Matrix], *, classes: Sequence[str], subset: str, remark: str = "") -> Figure:
    """Draw confusion matrices, three beside each other.

    Parameters
    ----------
    matrices
        One per training.
    classes
        Class names in the scheme's order.
    subset
        ``train``, ``validation`` or ``test``.
    remark
        What else to say below the figure.
    """
    n_columns = min(PER_ROW, len(matrices))
    n_rows = -(-len(matrices) // n_columns)
    fig = style.figure(2.66 * n_rows + 1.15, width=max(4.6, 1.5 + 2.5 * n_columns))
    grid = fig.subplots(n_rows, n_columns, squeeze=False)
    # All matrices usually hold the same cells: then their numbers need to be said only once in a row.
    alike = all(np.array_equal(m.counts.sum(axis=1), matrices[0].counts.sum(axis=1)) for m in matrices)
    one_number = len({m.n_cells for m in matrices}) == 1
    image: Any = None
    for position, axes in enumerate(grid.flat):
        if position >= len(matrices):
            axes.set_axis_off()
            continue
        matrix = matrices[position]
        image = _panel(axes, matrix, count_said=not one_number)
        first, last = position % n_columns == 0, position + n_columns >= len(matrices)
        axes.set_yticks(range(len(classes)), _row_labels(matrix, classes) if first or not alike else [])
        axes.set_xticks(range(len(classes)), classes if last else [], rotation=40, ha="right", rotation_mode="anchor")
        if first:
            axes.set_ylabel("true class")
        if last:
            axes.set_xlabel("predicted class")
    bar = fig.colorbar(image, ax=grid, shrink=0.6 if n_rows == 1 else 0.3, aspect=25, pad=0.015)
    bar.set_label("share of the true class's cells", fontsize=8)
    bar.outline.set_visible(False)
    absent = [name for name, n in zip(classes, matrices[0].counts.sum(axis=1), strict=True) if n == 0]
    said = [
        f"{NAMES.get(subset, subset).capitalize()} cells{f', n = {matrices[0].n_cells:,}' if one_number else ''}. "
        "In each field the share of its row and the number of cells."
    ]
    if absent:
        present = len(classes) - len(absent)
        said.append(f"No cell of {', '.join(absent)} here: balanced accuracy is over the {present} classes present.")
    style.note(fig, " ".join([*said, remark]).strip())
    return fig


def _repeats(table: pd.DataFrame) -> str:
    """Say over what the counts add up, where a cell counts more than once."""
    folds, seeds = table["fold"].nunique(), table["seed"].nunique()
    if len(table) == table["cell_id"].nunique():
        return ""
    return f"Counts add up over {style.words_of(fold=folds)} and {style.words_of(seed=seeds)}."


def plot(
    predicted: Sequence[str | os.PathLike[str]],
    chosen_losses: str | os.PathLike[str],
    *,
    pairs: Sequence[Sequence[str]],
    subset: str,
    svg: str | os.PathLike[str],
    png: str | os.PathLike[str],
    all_losses: bool = False,
) -> None:
    """Draw the confusion matrices of trainings of an experiment on one subset; titles tell variants apart.

    Parameters
    ----------
    predicted
        Tables of predictions.
    chosen_losses
        CSV that says which loss of a model was chosen on validation.
    pairs
        (variant, model, loss) of each table of predictions.
    subset
        ``train``, ``validation`` or ``test``.
    svg, png
        Files to write.
    all_losses
        Whether to draw all losses of a model, or the chosen one alone.

    Raises
    ------
    DataError
        If a table has no cell of the subset, or the tables have different classes.
    """
    shown = [
        (path, pair)
        for path, pair in zip(predicted, read_pairs(chosen_losses, pairs), strict=True)
        if all_losses or pair.chosen
    ]
    variants = {pair.variant for _, pair in shown}
    matrices, tables, classes = [], [], None
    for path, pair in shown:
        table = predictions.read(path)
        if classes is not None and classes != predictions.classes_of(table):
            raise DataError(f"{path}: has other classes than the tables before it; train the experiment again")
        classes = predictions.classes_of(table)
        rows = table[table["subset"] == subset]
        if rows.empty:
            raise DataError(f"{path}: has no prediction of {subset} cells; add {subset} to what training predicts")
        title = f"{pair.variant}: {pair.label}" if len(variants) > 1 else pair.label
        matrices.append(Matrix(title, count(rows, classes), rows["cell_id"].nunique()))
        tables.append(rows)
    if classes is None:
        raise DataError(f"{chosen_losses}: no loss is chosen; run the evaluation again")
    remark = f"{_repeats(tables[0])} {marks([pair for _, pair in shown])}".strip()
    style.save(draw(matrices, classes=classes, subset=subset, remark=remark), svg, png)
