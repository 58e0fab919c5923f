"""How many cells of each stage there are: bars on a logarithmic axis, with the numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from stainfree.errors import DataError
from stainfree.figures import style
from stainfree.schemes import STAGES

SUBSETS = {"train": "training", "validation": "validation", "test": "test"}


def count(split: pd.DataFrame) -> tuple[dict[str, int], dict[str, str]]:
    """Count distinct cells per stage, and say how many each subset of a fold has.

    Parameters
    ----------
    split
        fold, cell_id, stage, subset.

    Returns
    -------
    counts
        Stage -> cells, in the order of the cell cycle; stages without cells are left out.
    subsets
        Subset -> its number of cells, in words; of several folds the least and the most.
    """
    cells = split.drop_duplicates("cell_id")["stage"].value_counts()
    counts = {stage: int(cells[stage]) for stage in STAGES if stage in cells.index}
    words = {}
    for subset, name in SUBSETS.items():
        sizes = split[split["subset"] == subset].groupby("fold").size()
        if len(sizes):
            low, high = int(sizes.min()), int(sizes.max())
            words[name] = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return counts, words


@style.applied()
def draw(counts: Mapping[str, int], *, subsets: Mapping[str, str], n_folds: int) -> Figure:
    """Draw a bar per stage.

    Parameters
    ----------
    counts
        Stage -> cells, at least 1.
    subsets
        Subset -> its number of cells, in words.
    n_folds
        Folds of the split.
    """
    total = sum(counts.values())
    fig = style.figure(3.4, width=max(4.6, 1.0 + 0.95 * len(counts)))
    axes = fig.subplots()
    colours = style.class_colours(list(counts))
    axes.bar(range(len(counts)), list(counts.values()), 0.72, color=[colours[name] for name in counts], zorder=2)
    axes.set_yscale("log")
    # From below one cell on, so that a stage of one cell has a bar; up to where the numbers have room.
    axes.set_ylim(0.6, 4 * max(counts.values()))
    for place, n in enumerate(counts.values()):
        share = n / total
        percent = f"{share:.1%}" if share >= 0.001 else f"{share:.2%}"
        axes.annotate(f"{n:,}\n{percent}", (place, n), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xticks([])
    for place, name in enumerate(counts):
        style.below(axes, place, name)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
    axes.set_ylabel("cells")
    axes.grid(axis="y", color=style.PALE, linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    parts = ", ".join(f"{n} for {name}" for name, n in subsets.items())
    where = "in each fold" if n_folds > 1 else "of them"
    style.note(
        fig,
        f"{total:,} cells: the number of each stage, and its share of all; {where} {parts}. The axis is logarithmic.",
    )
    return fig


def plot(
    split: str | os.PathLike[str],
    *,
    svg: str | os.PathLike[str],
    png: str | os.PathLike[str],
) -> None:
    """Draw how many cells of each stage a split holds.

    Parameters
    ----------
    split
        The split.
    svg, png
        Files to write.

    Raises
    ------
    DataError
        If the split has no cell.
    """
    table = pd.read_parquet(split, columns=["fold", "cell_id", "stage", "subset"])
    counts, subsets = count(table)
    if not counts:
        raise DataError(f"{split}: has no cell; draw the split again")
    style.save(draw(counts, subsets=subsets, n_folds=table["fold"].nunique()), svg, png)
