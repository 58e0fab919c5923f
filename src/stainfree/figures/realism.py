"""Figures of simulated beside real cells: the cells, their integrated PI, and what a network makes of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stainfree import cells as cells_file
from stainfree.figures import style
from stainfree.figures.examples import GAP, PERCENTILES, strip
from stainfree.schemes import INTERPHASE, STAGES

SIDE_COLOURS = {"real": "#0072B2", "simulated": "#D55E00", "transfer": "#009E73"}

BIN = 5.0
"""Width of a bar of the histogram in thousand counts."""


@style.applied()
def draw_panel(
    images: Mapping[str, Mapping[str, npt.NDArray[Any]]], *, channels: Sequence[str], n_cells: int = 6
) -> Figure:
    """Draw cells: a row per stage, real above simulated; a column per channel.

    Parameters
    ----------
    images
        ``real`` and ``simulated`` -> stage -> (cell, channel, y, x) camera counts, at most `n_cells` each.
    channels
        Channel names, the order of axis 1.
    n_cells
        Cells per stage and side for which there is room.
    """
    height, width = next(iter(images["real"].values())).shape[2:]
    label_width = 1.45
    strip_width = (style.WIDTH - label_width) / len(channels)
    row_height = strip_width * (2 * height + GAP) / (n_cells * width + (n_cells - 1) * GAP)
    fig = style.figure(len(STAGES) * (row_height + 0.04) + 0.9)
    grid = fig.subplots(len(STAGES), len(channels), squeeze=False)
    for column, channel in enumerate(channels):
        pixels = np.concatenate([stack[:, column].ravel() for stack in images["real"].values()])
        low, high = np.percentile(pixels, PERCENTILES)
        grid[0, column].set_title(channel)
        for row, stage in enumerate(STAGES):
            axes = grid[row, column]
            real, simulated = (strip(of_side[stage][:, column], n_cells=n_cells) for of_side in images.values())
            between = np.full((GAP, real.shape[1]), np.nan, dtype=np.float32)
            axes.imshow(np.concatenate([real, between, simulated]), cmap="gray", vmin=low, vmax=max(high, low + 1))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if column == 0:
                axes.set_yticks([height / 2, height * 1.5 + GAP], list(images))
                axes.tick_params(length=0)
                axes.set_ylabel(stage, rotation=0, ha="right", va="center", labelpad=4, weight="bold")
    style.note(
        fig,
        f"{n_cells} cells of each stage from either side, picked at random, at the same centre of the image. Each "
        f"channel has one grey range, the {PERCENTILES[0]:g}th to {PERCENTILES[1]:g}th percentile of the real pixels "
        "shown. Simulated cells are a teaching and testing aid, never evidence.",
    )
    return fig


@style.applied()
def draw_integrated_pi(table: pd.DataFrame) -> Figure:
    """Draw the histogram of integrated PI of either side, and its range in every stage.

    Parameters
    ----------
    table
        One row a cell: source (``real`` or ``simulated``), stage, integrated_pi in counts, and weight.
    """
    fig = style.figure(4.2)
    grid = fig.add_gridspec(2, 2, width_ratios=[1.5, 1])
    table = table.assign(thousand=table["integrated_pi"] / 1000)
    edges = np.arange(50, table.loc[table["stage"].isin(INTERPHASE), "thousand"].max() + BIN, BIN)
    left: list[Axes] = []
    sides = list(dict.fromkeys(table["source"]))
    for row, side in enumerate(sides):
        axes = fig.add_subplot(grid[row, 0], sharex=left[0] if left else None, sharey=left[0] if left else None)
        left.append(axes)
        of_side = table[table["source"] == side]
        below = np.zeros(len(edges) - 1)
        for stage in INTERPHASE:
            of = of_side[of_side["stage"] == stage]
            heights, _ = np.histogram(of["thousand"], edges, weights=of["weight"])
            axes.bar(edges[:-1], heights, BIN, below, align="edge", color=style.CLASS_COLOURS[stage], label=stage)
            below += heights
        axes.set_title(f"{side}, {style.words_of(cell=int(of_side['stage'].isin(INTERPHASE).sum()))}", loc="left")
        axes.set_ylabel("share of cells")
    left[0].tick_params(labelbottom=False)
    left[1].set_xlabel("integrated PI in thousand counts")
    left[0].legend(loc="upper right")
    axes = fig.add_subplot(grid[:, 1])
    for k, side in enumerate(sides):
        for row, stage in enumerate(STAGES):
            thousand = table.loc[(table["source"] == side) & (table["stage"] == stage), "thousand"]
            low, middle, high = np.percentile(thousand, [5, 50, 95])
            y = row + 0.2 * (2 * k - 1)
            axes.plot([low, high], [y, y], color=SIDE_COLOURS[side], linewidth=1.5)
            axes.plot(middle, y, "o", color=SIDE_COLOURS[side], markersize=4, label=side if row == 0 else None)
    axes.set_yticks(range(len(STAGES)), STAGES)
    axes.invert_yaxis()
    axes.set_xlabel("integrated PI in thousand counts")
    axes.legend(loc="upper right")
    style.note(
        fig,
        "Left: interphase, each stage weighted by its cells in the published data set. Right: median and 5th to 95th "
        "percentile of every stage. G1, S and G2 of the real cells were told by gates on this very number, and the "
        "simulator draws it from the quantiles of those cells: that the two agree is by construction.",
    )
    return fig


@style.applied()
def draw_recalls(scores: pd.DataFrame) -> Figure:
    """Draw balanced accuracy and recalls on either side, and of the network that goes from one to the other.

    Parameters
    ----------
    scores
        The table of `stainfree.realism.measure`.
    """
    schemes = list(dict.fromkeys(scores["scheme"]))
    widths = [scores.loc[scores["scheme"] == name, "class"].nunique() for name in schemes]
    fig = style.figure(3.2)
    grid = np.atleast_1d(fig.subplots(1, len(schemes), sharey=True, width_ratios=widths))
    kinds = {
        "real": ("real", "real", "real cells"),
        "simulated": ("simulated", "simulated", "simulated cells"),
        "transfer": ("simulated", "real", "trained on simulated, tested on real"),
    }
    for axes, name in zip(grid, schemes, strict=True):
        of_scheme = scores[scores["scheme"] == name]
        classes = list(dict.fromkeys(of_scheme["class"]))
        for k, (kind, (trained_on, tested_on, label)) in enumerate(kinds.items()):
            of = of_scheme[(of_scheme["trained_on"] == trained_on) & (of_scheme["tested_on"] == tested_on)]
            of = of.set_index("class").loc[classes]
            x = np.arange(len(classes)) + 0.22 * (k - 1)
            error = [of["value"] - of["ci_low"], of["ci_high"] - of["value"]]
            axes.errorbar(
                x, of["value"], error, fmt="o", color=SIDE_COLOURS[kind], markersize=4, linewidth=1.2, label=label
            )
        names = ["balanced\naccuracy" if text == "all" else text for text in classes]
        axes.set_xticks(range(len(classes)), names, rotation=35, ha="right")
        axes.axvline(0.5, color=style.PALE)
        axes.set_title(f"{name}, {of_scheme['channels'].iloc[0]}", loc="left")
        axes.set_ylim(-0.03, 1.03)
    grid[0].set_ylabel("recall")
    fig.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    style.note(
        fig,
        "One reference network, one recipe, equal numbers of cells on either side; pooled test cells, 95 % intervals.",
    )
    return fig


def plot_panel(
    cells: str | os.PathLike[str],
    *,
    svg: str | os.PathLike[str],
    png: str | os.PathLike[str],
    n_cells: int = 6,
    seed: int = 0,
) -> None:
    """Draw the panel of a cells file whose ``source`` is ``real`` or ``simulated``."""
    info, table = cells_file.read_info(cells), cells_file.read_table(cells)
    rng = np.random.default_rng(seed)
    images: dict[str, dict[str, npt.NDArray[Any]]] = {side: {} for side in dict.fromkeys(table["source"])}
    for side in images:
        for stage in STAGES:
            rows = np.flatnonzero((table["source"] == side) & (table["stage"] == stage))
            images[side][stage] = cells_file.read_images(cells, rows=rng.permutation(rows)[:n_cells])
    style.save(draw_panel(images, channels=info.channels, n_cells=n_cells), svg, png)


def plot_integrated_pi(
    table: str | os.PathLike[str], *, svg: str | os.PathLike[str], png: str | os.PathLike[str]
) -> None:
    """Draw the integrated PI of a CSV (see `draw_integrated_pi`)."""
    style.save(draw_integrated_pi(pd.read_csv(table)), svg, png)


def plot_recalls(scores: str | os.PathLike[str], *, svg: str | os.PathLike[str], png: str | os.PathLike[str]) -> None:
    """Draw the scores of a CSV (see `draw_recalls`)."""
    style.save(draw_recalls(pd.read_csv(scores)), svg, png)
