"""Saliency figures: a cell, and where in it each model looks, under the loss that was best on validation."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stainfree.errors import DataError
from stainfree.figures import Pair, marks, read_pairs, style
from stainfree.schemes import slug

METHODS = {"gradient": "gradient", "smoothgrad": "SmoothGrad"}
OUTCOMES = ("wrong", "right")
GREY_PERCENTILES = (0.5, 99.5)
MAP_PERCENTILE = 99.5
PER_LINE, LONGEST_LABEL = 6, 15
"""Models beside each other, and characters in a line of their labels, at most."""
OUTLINE = "#56B4E9"


@dataclass(frozen=True)
class About:
    """What the maps are of."""

    outlined: str = "cell"
    """What the masks outline: ``cell`` or ``nucleus``."""
    parts: str = ""
    """From which parts of the trainings the cells are, where not from all."""


@dataclass(frozen=True)
class Verdict:
    """What a model said of a cell."""

    predicted: str
    p_true: float
    """Probability that it gave to the cell's true class."""


@dataclass(frozen=True)
class Example:
    """One cell of the figure."""

    cell_id: str
    image: npt.NDArray[np.float32]
    """(y, x) camera counts."""
    mask: npt.NDArray[np.bool_]
    """(y, x) where the cell is."""
    maps: Mapping[tuple[str, str], npt.NDArray[np.float32]]
    """(method, model) -> (y, x) saliency, at least 0; NaN where the model does not look."""
    verdicts: Mapping[str, Verdict]


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _outline(axes: Axes, mask: npt.NDArray[np.bool_], *, colour: str) -> None:
    if mask.any() and not mask.all():
        axes.contour(mask.astype(float), levels=[0.5], colors=[colour], linewidths=0.9)


def _shorten(cell_id: str, *, most: int = 46) -> str:
    """Keep the end of a long id: it tells cells of one source apart."""
    return cell_id if len(cell_id) <= most else "…" + cell_id[-(most - 1) :]


def _draw_map(axes: Axes, saliency: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> None:
    axes.set_facecolor(style.PALE)
    seen = saliency[np.isfinite(saliency)]
    top = float(np.percentile(seen, MAP_PERCENTILE)) if seen.size else 0.0
    # Where all gradients vanish the map is black, not stretched noise.
    axes.imshow(saliency, cmap="inferno", vmin=0, vmax=top if top > 0 else 1.0)
    _outline(axes, mask, colour=OUTLINE)
    _bare(axes)


def _draw_example(fig: Figure, grid: Any, example: Example, cell_class: str, pairs: Sequence[Pair]) -> None:
    """Draw one cell, and beside it lines of models: a row for each method, and what the model said below."""
    n_columns = grid.ncols - 2
    axes = fig.add_subplot(grid[: len(METHODS), :2])
    low, high = np.percentile(example.image, GREY_PERCENTILES)
    axes.imshow(example.image, cmap="gray", vmin=low, vmax=max(high, low + 1))
    _outline(axes, example.mask, colour=OUTLINE)
    _bare(axes)
    axes.set_title(f"{cell_class} cell", fontsize=8.5)
    axes.set_xlabel(_shorten(example.cell_id), fontsize=7, color=style.GREY)
    for place, pair in enumerate(pairs):
        line, column = divmod(place, n_columns)
        for row, (method, words) in enumerate(METHODS.items()):
            axes = fig.add_subplot(grid[line * len(METHODS) + row, column + 2])
            _draw_map(axes, example.maps[method, pair.model], example.mask)
            if row == 0:
                axes.set_title(style.broken(pair.label, LONGEST_LABEL), fontsize=8, linespacing=1.1)
            if column == 0:
                axes.set_ylabel(words, fontsize=8)
        verdict = example.verdicts[pair.model]
        good = verdict.predicted == cell_class
        # Right and wrong are told by the mark as well as by the colour.
        axes.set_xlabel(
            f"{'✓' if good else '✗'} {verdict.predicted}\np = {verdict.p_true:.2f}",
            fontsize=7.5,
            color="#00664A" if good else "#A03C00",
        )


def _empty(cell_class: str, outcome: str, *, judge: str, any_of_class: bool) -> Figure:
    """Say in words why there is nothing to see."""
    if any_of_class:
        return style.message(
            f"{judge} got no {cell_class} cell of the test part {outcome}:\nthere is none to show here."
        )
    return style.message(f"The test part has no {cell_class} cell:\nthere is none to show here.")


@style.applied()
def draw(
    examples: Sequence[Example],
    *,
    cell_class: str,
    outcome: str,
    judge: str,
    pairs: Sequence[Pair],
    any_of_class: bool = True,
    about: About | None = None,
) -> Figure:
    """Draw cells of one class that the judge got right, or wrong, with the maps of all models beside each other.

    Parameters
    ----------
    examples
        The cells; where there are none, the figure says so.
    cell_class
        Their true class.
    outcome
        ``right`` or ``wrong``, as judged by the model `judge`.
    judge
        That model's name; it is one of `pairs`.
    pairs
        What each column shows: a model and the loss it was trained under.
    any_of_class
        Whether any test cell of the class was explained.
    about
        What the maps are of; bright-field cells of all parts where None.
    """
    about = about or About()
    judge = next(pair.words for pair in pairs if pair.model == judge)
    if not examples:
        return _empty(cell_class, outcome, judge=judge, any_of_class=any_of_class)
    n_lines = math.ceil(len(pairs) / PER_LINE)
    n_columns = math.ceil(len(pairs) / n_lines)
    panel = min(1.45, 8.0 / (n_columns + 2))
    # Room for what stands above and below the maps of a line: titles, and what the model said.
    height = n_lines * (2 * panel + 0.78) + 0.1
    fig = style.figure(len(examples) * height + 0.85, width=panel * (n_columns + 2) + 0.9)
    outer = fig.add_gridspec(len(examples), 1, hspace=0.06)
    for position, example in enumerate(examples):
        inner = outer[position].subgridspec(n_lines * len(METHODS), n_columns + 2, wspace=0.02, hspace=0.02)
        _draw_example(fig, inner, example, cell_class, pairs)
    style.note(
        fig,
        f"Variant {pairs[0].variant}: {style.words_of(cell=len(examples))} of the test part that {judge} got "
        f"{outcome}. {about.parts}Maps: size of the gradient of the score of {cell_class}, black (none) to yellow (the "
        f"{MAP_PERCENTILE:g}th percentile of that map and above). Blue line: outline of the {about.outlined}. Below: "
        f"what the model predicted, and p, its probability of {cell_class}. {marks(pairs)}".strip(),
    )
    return fig


def read_examples(
    maps: str | os.PathLike[str], cells: pd.DataFrame, *, pairs: Sequence[Pair], path: str | os.PathLike[str]
) -> list[Example]:
    """Read images, masks and maps of the listed cells.

    Parameters
    ----------
    maps
        HDF5 of saliency maps.
    cells
        Rows of ``cells.csv``; `index` is a cell's place in `maps`.
    pairs
        Models wanted, each with the loss it was trained under.
    path
        Where `cells` came from, for messages.

    Raises
    ------
    DataError
        If there is no map, or no prediction, of a model, or they are of another loss.
    """
    examples = []
    models = [pair.model for pair in pairs]
    with h5py.File(maps, "r") as file:
        for pair in pairs:
            names = [f"{method}/{pair.model}" for method in METHODS]
            absent = [f"/{name}" for name in names if name not in file]
            if absent or f"predicted_{pair.model}" not in cells.columns:
                raise DataError(
                    f"{maps}, {path}: nothing of {pair.model} ({', '.join(absent)}); compute the saliency again"
                )
            if any(file[name].attrs.get("loss") != pair.loss for name in names):
                raise DataError(f"{maps}: not of {pair.model} under {pair.loss}; compute the saliency again")
        for cell in cells.to_dict("records"):
            at = int(cell["index"])
            examples.append(
                Example(
                    cell_id=str(cell["cell_id"]),
                    image=file["images"][at],
                    mask=file["masks"][at].astype(bool),
                    maps={(method, model): file[f"{method}/{model}"][at] for method in METHODS for model in models},
                    verdicts={
                        model: Verdict(str(cell[f"predicted_{model}"]), float(cell[f"probability_{model}"]))
                        for model in models
                    },
                )
            )
    return examples


def read_about(maps: str | os.PathLike[str]) -> About:
    """Read what a file of saliency maps says of itself."""
    with h5py.File(maps, "r") as file:
        told = {name: file.attrs.get(name) for name in ("outlined", "n_parts", "n_parts_of_judge")}
    if None in told.values():
        raise DataError(f"{maps}: does not say what is outlined; compute the saliency again")
    n, of = told["n_parts"], told["n_parts_of_judge"]
    few = f"They are of {n} of {of} parts (fold, seed), those that every network predicted. "
    return About(str(told["outlined"]), few if n < of else "")


def plot(
    maps: str | os.PathLike[str],
    cells: str | os.PathLike[str],
    chosen_losses: str | os.PathLike[str],
    *,
    pairs: Sequence[Sequence[str]],
    cell_class: str,
    outcome: str,
    judge: str,
    svg: str | os.PathLike[str],
    png: str | os.PathLike[str],
) -> None:
    """Draw the saliency maps of the cells of one class that the judge got right, or wrong.

    Parameters
    ----------
    maps, cells
        ``saliency/maps.h5`` and ``saliency/cells.csv``.
    chosen_losses
        CSV that says which loss of a model was chosen on validation: that one is shown.
    pairs
        (variant, model, loss) of all trainings of networks.
    cell_class, outcome, judge
        As for `draw`.
    svg, png
        Files to write.
    """
    if outcome not in OUTCOMES:
        raise DataError(f"saliency figure: outcome {outcome} is not one of {', '.join(OUTCOMES)}")
    table = pd.read_csv(cells, keep_default_na=False)
    shown = table[table["figure"] == f"saliency_{slug(cell_class)}_{outcome}"]
    chosen = [pair for pair in read_pairs(chosen_losses, pairs) if pair.chosen]
    fig = draw(
        read_examples(maps, shown, pairs=chosen, path=cells),
        cell_class=cell_class,
        outcome=outcome,
        judge=judge,
        pairs=chosen,
        any_of_class=bool((table["class"] == cell_class).any()),
        about=read_about(maps),
    )
    style.save(fig, svg, png)
