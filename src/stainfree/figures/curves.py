"""Learning curves: loss and balanced accuracy against training steps."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from stainfree import files
from stainfree.errors import DataError
from stainfree.figures import Pair, marks, read_pairs, style

PER_ROW = 4
"""Models beside each other."""
SUBSETS = ("train", "validation")
QUANTITIES = {
    "loss": "loss\n(the one trained on)",
    "balanced_accuracy": "balanced accuracy\n(mean recall over the classes)",
}
Dashes = Literal["-", "--", ":", "-."]
DASHES: tuple[Dashes, ...] = ("--", ":", "-.")
COLUMNS = ("fold", "seed", "step", *(f"{subset}_{quantity}" for quantity in QUANTITIES for subset in SUBSETS))


@dataclass(frozen=True)
class Run:
    """One training's course."""

    pair: Pair
    history: pd.DataFrame
    """fold, seed, step, and loss and balanced accuracy on train (the minibatch) and validation."""
    parts: Sequence[Mapping[str, Any]]
    """fold, seed, best_step, last_step, stopped_early of each part."""


def _draw_run(axes: Axes, run: Run, quantity: str, *, dashes: Dashes, width: float, alpha: float) -> None:
    for _, part in run.history.groupby(["fold", "seed"]):
        for subset in SUBSETS:
            colour = style.SUBSET_COLOURS[subset]
            values = part[f"{subset}_{quantity}"]
            # A training that was validated once has no line.
            marker = "." if len(part) == 1 else ""
            axes.plot(part["step"], values, dashes, marker=marker, color=colour, linewidth=width, alpha=alpha)


def _mark_best(axes: Axes, run: Run, quantity: str) -> None:
    """Mark the step whose weights were kept on the validation curve, and the step where training stopped."""
    history = run.history.set_index(["fold", "seed", "step"])[f"validation_{quantity}"]
    colour = style.SUBSET_COLOURS["validation"]
    for part in run.parts:
        best, last = ((part["fold"], part["seed"], part[name]) for name in ("best_step", "last_step"))
        axes.plot(best[2], history[best], "o", color=colour, markersize=5.5, markeredgecolor="white", zorder=5)
        if part["stopped_early"]:
            axes.plot(last[2], history[last], "X", color=colour, markersize=6.5, markeredgecolor="white", zorder=5)
        if len(run.parts) == 1:
            axes.axvline(best[2], color=style.GREY, linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)


def _span(values: Sequence[int]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _end(run: Run) -> str:
    """Say in a title where a run was best and where it ended."""
    best = _span([part["best_step"] for part in run.parts])
    last = _span([part["last_step"] for part in run.parts])
    n_early = sum(bool(part["stopped_early"]) for part in run.parts)
    how = "stopped early at" if n_early == len(run.parts) else "ran to"
    some = f", {n_early} of {len(run.parts)} parts early" if 0 < n_early < len(run.parts) else ""
    return f"best step {best},\n{how} {last}{some}"


def _legend(fig: Figure, losses: Mapping[str, Dashes], *, strong: float, early: bool) -> None:
    names = {"train": "train (minibatches)", "validation": "validation"}
    handles = [Line2D([], [], color=style.SUBSET_COLOURS[s], linewidth=strong, label=names[s]) for s in SUBSETS]
    marker = {"color": style.SUBSET_COLOURS["validation"], "linestyle": "none", "markeredgecolor": "white"}
    handles.append(Line2D([], [], marker="o", markersize=6, label="best on validation", **marker))  # type: ignore[arg-type]
    if early:
        handles.append(Line2D([], [], marker="X", markersize=7, label="early stop", **marker))  # type: ignore[arg-type]
    handles += [Line2D([], [], color=style.GREY, linestyle=d, linewidth=0.9, label=n) for n, d in losses.items()]
    fig.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 7), handlelength=2.2)


def _draw_model(
    upper: Axes, lower: Axes, runs: Sequence[Run], *, dashes: Mapping[str, Dashes], strong: float, alpha: float
) -> None:
    """Draw the runs of one model: its losses into the upper axes, its balanced accuracies into the lower."""
    for axes, quantity in zip((upper, lower), QUANTITIES, strict=True):
        for run in sorted(runs, key=lambda run: run.pair.chosen):
            if run.pair.chosen:
                _draw_run(axes, run, quantity, dashes="-", width=strong, alpha=alpha)
                _mark_best(axes, run, quantity)
            else:
                _draw_run(axes, run, quantity, dashes=dashes[run.pair.loss], width=0.9, alpha=0.55)
    titles = [f"{run.pair.label}\n{_end(run)}" for run in runs if run.pair.chosen]
    upper.set_title("\n".join(titles) or runs[0].pair.model, fontsize=8.5)
    upper.set_ylim(bottom=0)
    lower.set_ylim(0, 1)
    upper.sharex(lower)
    lower.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("step (minibatches seen)")


@style.applied()
def draw(runs: Sequence[Run], *, n_cells: Mapping[str, str], n_present: int) -> Figure:
    """Draw loss and balanced accuracy against steps, one above the other; at most four models beside each other.

    Parameters
    ----------
    runs
        All trainings; a model's chosen loss is drawn strong, its others thin and dashed.
    n_cells
        Subset -> words for its number of cells.
    n_present
        Classes present in validation: always saying one class scores 1 / `n_present`.
    """
    if not runs:
        return style.message("No model here is trained step by step:\nthere are no curves to show.")
    names = list(dict.fromkeys(run.pair.model for run in runs))
    others = list(dict.fromkeys(run.pair.loss for run in runs))
    # One dash pattern per loss in the whole figure, whichever of them a model's column draws strong.
    dashes = {loss: DASHES[position % len(DASHES)] for position, loss in enumerate(others)}
    several = any(len(run.parts) > 1 for run in runs)
    n_rows = math.ceil(len(names) / PER_ROW)
    n_columns = math.ceil(len(names) / n_rows)
    height = 4.6 if n_rows == 1 else 3.9
    fig = style.figure(height * n_rows + 1.0, width=max(5.5, min(style.WIDTH, 1.0 + 2.7 * n_columns)))
    grid = fig.subplots(2 * n_rows, n_columns, squeeze=False)
    for place in range(n_rows * n_columns):
        row, column = divmod(place, n_columns)
        upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
        if place >= len(names):
            upper.set_axis_off()
            lower.set_axis_off()
            continue
        of_model = [run for run in runs if run.pair.model == names[place]]
        _draw_model(
            upper, lower, of_model, dashes=dashes, strong=1.0 if several else 2.0, alpha=0.6 if several else 1.0
        )
        lower.axhline(1 / n_present, color=style.GREY, linewidth=0.8, linestyle=":", zorder=0)
        if column == 0:
            for axes, label in zip((upper, lower), QUANTITIES.values(), strict=True):
                axes.set_ylabel(label if n_rows == 1 else label.partition("\n")[0])
    early = any(part["stopped_early"] for run in runs if run.pair.chosen for part in run.parts)
    dashed = any(not run.pair.chosen for run in runs)
    _legend(fig, {loss: dashes[loss] for loss in others} if dashed else {}, strong=2.0, early=early)
    kinds = (
        "Solid: the loss chosen on validation; dashed: the model's other losses, whose values are on scales of their "
        "own. "
    )
    lines = "One line per fold and seed. "
    style.note(
        fig,
        f"Train: {n_cells['train']}; validation: {n_cells['validation']}. {kinds * dashed}{lines * several}"
        f"Dotted line: always one class, {1 / n_present:.0%}. {marks([run.pair for run in runs])}".strip(),
    )
    return fig


def count_cells(split: pd.DataFrame) -> tuple[dict[str, str], int]:
    """Say how many cells train and validation have in a fold, and count the classes in validation."""
    words = {}
    for subset in SUBSETS:
        sizes = split[split["subset"] == subset].groupby("fold").size().tolist() or [0]
        low, high = min(sizes), max(sizes)
        words[subset] = style.words_of(cell=high) if low == high else f"{low:,} to {high:,} cells"
        words[subset] += " in each fold" if len(sizes) > 1 else ""
    present = split[split["subset"] == "validation"].groupby("fold")["class"].nunique()
    return words, max(1, int(present.min()) if len(present) else 1)


def plot(
    histories: Sequence[str | os.PathLike[str]],
    models: Sequence[str | os.PathLike[str]],
    chosen_losses: str | os.PathLike[str],
    split: str | os.PathLike[str],
    *,
    pairs: Sequence[Sequence[str]],
    svg: str | os.PathLike[str],
    png: str | os.PathLike[str],
) -> None:
    """Draw the learning curves of an experiment's trainings; models that are not trained step by step are left out.

    Parameters
    ----------
    histories, models
        ``history.csv`` and ``model.json`` of each training.
    chosen_losses
        CSV that says which loss of a model was chosen on validation.
    split
        The variant's split.
    pairs
        (variant, model, loss) of each training.
    svg, png
        Files to write.

    Raises
    ------
    DataError
        If a history lacks a column.
    """
    runs = []
    for history, model, pair in zip(histories, models, read_pairs(chosen_losses, pairs), strict=True):
        table = pd.read_csv(history)
        absent = [name for name in COLUMNS if name not in table.columns]
        if absent:
            raise DataError(f"{history}: lacks the column {', '.join(absent)}; train {pair.model} again")
        if len(table):
            runs.append(Run(pair, table.replace([np.inf, -np.inf], np.nan), files.read_json(model)["parts"]))
    n_cells, n_present = count_cells(pd.read_parquet(split, columns=["fold", "subset", "class"]))
    style.save(draw(runs, n_cells=n_cells, n_present=n_present), svg, png)
