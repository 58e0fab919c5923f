"""Bars: scores on test cells with their 95 % intervals, grouped by model, by variant or by class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from stainfree import evaluation
from stainfree.errors import DataError
from stainfree.evaluation import ALL, TRIVIAL
from stainfree.figures import scores, style
from stainfree.metrics import PER_CLASS, in_words

BY = ("model", "variant", "class")
MOST_NUMBERS = 26
"""Bars in a panel that still have room for their number."""
LOWEST_BAR = 0.12
"""A bar of this height has room for its number inside."""
TOTAL_WIDTH = 0.82
"""Share of a group's place that its bars take."""


def _measure(metric: str, class_name: str, *, several: bool) -> str:
    """Name a score: by its metric, or by the class it is of; by both where `several` metrics are per class."""
    if class_name == ALL:
        return in_words(metric)
    return f"{class_name}, {in_words(metric)}" if several else class_name


def arranged(table: pd.DataFrame, *, by: str) -> pd.DataFrame:
    """Say for each score in which panel it stands, in which group, and in which series of bars.

    Groups are what `by` names. Of the other two of model, variant and measure, the one that has several values makes
    the bars of a group; where both have, measures (of groups by class, variants) have a panel each.

    Parameters
    ----------
    table
        As `scores.read` gives it, the trivial answer among it.
    by
        ``model``, ``variant`` or ``class``.

    Returns
    -------
    DataFrame
        `table` with the columns panel, group and series, texts.
    """
    per_class = table.loc[table["class"] != ALL, "metric"].nunique()
    measure = [
        _measure(metric, name, several=per_class > 1)
        for metric, name in zip(table["metric"], table["class"], strict=True)
    ]
    table = table.assign(measure=measure)
    by = "measure" if by == "class" else by
    others = [name for name in ("model", "variant", "measure") if name != by]
    learned = table[table["model"] != TRIVIAL]
    many = [name for name in others if learned[name].nunique() > 1] or others[:1]
    panel, series = (many[1], many[0]) if len(many) > 1 else (None, many[0])
    return table.assign(
        panel="" if panel is None else table[panel], group=table[by], series=table[series], series_of=series
    )


def _series_colours(names: Sequence[str], *, of: str) -> dict[str, tuple[str, str]]:
    """Give each series of bars a colour and a hatching; classes have their own colour."""
    if of == "measure":
        colours = style.class_colours(names)
        return {name: (colours[name], "") for name in names}
    n = len(style.OKABE_ITO)
    return {name: (style.OKABE_ITO[k % n], "///" * (k // n)) for k, name in enumerate(names)}


def _percent(value: float) -> str:
    return f"{100 * value:.0f}"


def _is_dark(colour: str) -> bool:
    red, green, blue = to_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45


def _draw_panel(
    axes: Axes, table: pd.DataFrame, *, groups: Sequence[str], looks: Mapping[str, tuple[str, str]], numbers: bool
) -> None:
    """Draw the bars of one panel: value, interval, number, the trivial answer and the published number."""
    width = TOTAL_WIDTH / len(looks)
    trivial = {
        (variant, measure): value
        for variant, measure, value in table.loc[table["model"] == TRIVIAL, ["variant", "measure", "value"]].itertuples(
            index=False, name=None
        )
    }
    for row in table[table["model"] != TRIVIAL].to_dict("records"):
        place = list(looks).index(row["series"])
        x = groups.index(row["group"]) + (place - (len(looks) - 1) / 2) * width
        colour, hatch = looks[row["series"]]
        axes.bar(x, row["value"], width * 0.92, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4, zorder=2)
        axes.plot([x, x], [row["ci_low"], row["ci_high"]], color=style.INK, linewidth=1.0, zorder=4)
        level = trivial.get((row["variant"], row["measure"]))
        if level is not None:
            ends = [x - width / 2, x + width / 2]
            axes.plot(ends, [level, level], color=style.GREY, linewidth=1.2, zorder=5, clip_on=False)
        if np.isfinite(row["published"]):
            axes.plot(x, row["published"], "D", zorder=6, **style.PUBLISHED)
        if numbers and np.isfinite(row["value"]):
            # At the foot, off the interval and the published number; above a bar that is too low for it.
            foot = row["published"] + 0.02 if row["published"] < LOWEST_BAR / 2 else 0.0
            inside = row["value"] >= foot + LOWEST_BAR
            axes.annotate(
                _percent(row["value"]),
                (x, foot if inside else row["ci_high"]),
                (0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color="white" if inside and _is_dark(colour) else style.INK,
                zorder=7,
            )


def _group_labels(table: pd.DataFrame, groups: Sequence[str], *, of_class: bool, most: int) -> list[str]:
    """Name the groups; those of one class with their number of cells where all bars have the same."""
    labels = []
    for group in groups:
        rows = table[(table["group"] == group) & (table["model"] != TRIVIAL)]
        cells = rows["n_cells"].unique()
        n = f"\nn = {cells[0]:,}" if of_class and len(cells) == 1 else ""
        labels.append(style.broken(group, most) + n)
    return labels


@style.applied()
def draw(table: pd.DataFrame, *, by: str) -> Figure:
    """Draw scores as groups of bars.

    Parameters
    ----------
    table
        As `scores.read` gives it.
    by
        What the groups stand for: ``model``, ``variant`` or ``class`` (there, each overall metric is a group too).
    """
    table = arranged(table, by=by)
    learned = table[table["model"] != TRIVIAL]
    groups = list(dict.fromkeys(learned["group"]))
    panels = list(dict.fromkeys(learned["panel"]))
    series = list(dict.fromkeys(learned["series"]))
    looks = _series_colours(series, of=table["series_of"].iloc[0])
    n_bars = len(groups) * len(series)
    width = float(np.clip(1.6 + 0.36 * n_bars + 0.25 * len(groups), 4.6, style.WIDTH))
    fig = style.figure(2.9 * len(panels) + 1.1, width=width)
    grid = fig.subplots(len(panels), 1, squeeze=False)[:, 0]
    room = int((width - 0.9) / len(groups) * 72 / 5.2)  # characters below a group
    for axes, panel in zip(grid, panels, strict=True):
        rows = table[table["panel"] == panel]
        _draw_panel(axes, rows, groups=groups, looks=looks, numbers=n_bars <= MOST_NUMBERS)
        low = float(np.nanmin([0.0, *rows["ci_low"], *rows["value"]]))
        axes.set_ylim(low, 1.06)
        axes.set_yticks(np.arange(np.ceil(low / 0.2) * 0.2, 1.01, 0.2))
        axes.yaxis.set_major_formatter(lambda value, _: _percent(value))
        axes.set_xlim(-0.5, len(groups) - 0.5)
        axes.set_xticks([])
        for place, label in enumerate(_group_labels(rows, groups, of_class=by == "class", most=room)):
            style.below(axes, place, label)
        axes.grid(axis="y", color=style.PALE, linewidth=0.7, zorder=0)
        axes.set_axisbelow(True)
        measures = list(dict.fromkeys(rows.loc[rows["model"] != TRIVIAL, "measure"]))
        axes.set_ylabel(f"{measures[0] if len(measures) == 1 else 'score'} (%)")
        axes.set_title(panel)
    handles: list[Any] = []
    if len(series) > 1:
        handles += [Patch(facecolor=looks[n][0], hatch=looks[n][1], edgecolor="white", label=n) for n in series]
    handles.append(Line2D([], [], color=style.INK, linewidth=1.0, marker="", label="95 % interval"))
    handles.append(Line2D([], [], color=style.GREY, linewidth=1.2, label="always the largest class"))
    if learned["published"].notna().any():
        handles.append(
            Line2D([], [], marker="D", linestyle="none", label="as published, other cells", **style.PUBLISHED)
        )
    columns = max(1, int(width / 1.9))
    fig.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), columns), handlelength=1.6)
    single = f"{series[0]}. " if len(series) == 1 and table["series_of"].iloc[0] == "model" else ""
    variants = list(dict.fromkeys(learned["variant"]))
    variant = f"Variant {variants[0]}. " if len(variants) == 1 else ""
    style.note(fig, f"{single}{variant}{scores.cells(table)}")
    return fig


def plot(
    metrics_table: str | os.PathLike[str],
    chosen_losses: str | os.PathLike[str],
    *,
    variants: Sequence[str],
    models: Sequence[str],
    metrics: Sequence[str] = ("balanced_accuracy",),
    by: str | None = None,
    study: str | os.PathLike[str] | None = None,
    svg: str | os.PathLike[str],
    png: str | os.PathLike[str],
) -> None:
    """Draw scores of an experiment's models as bars.

    Parameters
    ----------
    metrics_table, chosen_losses
        ``metrics.csv`` and ``tables/chosen_losses.csv``.
    variants, models, metrics
        Which are shown, in this order; a metric per class is shown for every class.
    by
        As for `draw`; where None, the class if there are scores per class, else the variant if there is one model, else
        the model.
    study
        YAML of what the study says, for the published numbers; None for none.
    svg, png
        Files to write.

    Raises
    ------
    DataError
        If `by` or a metric is unknown, or a score is missing.
    """
    if by is None:
        by = "class" if set(metrics) & set(PER_CLASS) else "variant" if len(models) == 1 else "model"
    if by not in BY:
        raise DataError(f"figure: `by` is {by!r}, and must be one of {', '.join(BY)}")
    told = evaluation.read_study(study)
    table = scores.read(metrics_table, chosen_losses, variants=variants, models=models, metrics=metrics, study=told)
    style.save(draw(table, by=by), svg, png)
