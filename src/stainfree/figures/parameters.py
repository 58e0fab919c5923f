"""Scores against the number of parameters: a named point for each model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stainfree import evaluation, files
from stainfree.errors import DataError
from stainfree.evaluation import TRIVIAL
from stainfree.figures import labels, scores, style
from stainfree.metrics import PER_CLASS, in_words

TRIVIAL_TEXT: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7.5, "color": style.GREY}
SCORES: dict[str, Any] = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6, "zorder": 4}


def _draw_panel(axes: Axes, table: pd.DataFrame, *, metric: str, colours: Mapping[str, str]) -> None:
    """Draw the points and intervals of one metric, and the trivial answer as a line."""
    for row in table[table["model"] != TRIVIAL].to_dict("records"):
        colour = colours[row["family"]]
        x = row["n_parameters"]
        axes.plot([x, x], [row["ci_low"], row["ci_high"]], color=colour, linewidth=1.1, zorder=3)
        axes.plot(x, row["value"], "o", color=colour, **SCORES)
        if np.isfinite(row["published"]):
            axes.plot(x, row["published"], "D", zorder=2, **style.PUBLISHED)
    axes.set_xscale("log")
    axes.margins(x=0.14)
    shown = table.loc[table["model"] != TRIVIAL, ["ci_low", "ci_high", "published"]].to_numpy(dtype=float)
    room = max(0.14 * float(np.nanmax(shown) - np.nanmin(shown)), 0.03)
    axes.set_ylim(np.nanmin(shown) - room, np.nanmax(shown) + room)
    # The trivial answer is mostly far below: a number there says as much as a line, and leaves room for the names.
    for level in table.loc[table["model"] == TRIVIAL, "value"]:
        said = f"always the largest class: {level:.0%}"
        if level >= axes.get_ylim()[0]:
            axes.axhline(level, color=style.GREY, linewidth=1.2, zorder=1)
            axes.annotate(said, (0.01, level), (0, 3), xycoords=axes.get_yaxis_transform(), **TRIVIAL_TEXT)
        else:
            axes.annotate(f"↓ {said}", (0.01, 0), (0, 5), xycoords="axes fraction", **TRIVIAL_TEXT)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
    axes.set_xlabel("parameters")
    axes.set_ylabel(f"{in_words(metric)} (%)")
    axes.grid(color=style.PALE, linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)


@style.applied()
def draw(table: pd.DataFrame, *, variant: str) -> Figure:
    """Draw scores against the number of parameters, on a logarithmic axis; a panel per metric.

    Parameters
    ----------
    table
        As `scores.read` gives it, with the columns n_parameters and family. Models without parameters have no place on
        the axis and are named below.
    variant
        The variant they are of.
    """
    learned = table[table["model"] != TRIVIAL]
    without = learned[learned["n_parameters"] <= 0]
    table = table.drop(without.index)
    metrics = list(dict.fromkeys(table["metric"]))
    families = list(dict.fromkeys(learned.loc[learned["n_parameters"] > 0, "family"]))
    dark = [colour for colour in style.OKABE_ITO if colour != "#F0E442"]
    colours = {family: dark[k % len(dark)] for k, family in enumerate(families)}
    fig = style.figure(3.7 * len(metrics) + 0.8)
    grid = fig.subplots(len(metrics), 1, squeeze=False)[:, 0]
    for axes, metric in zip(grid, metrics, strict=True):
        _draw_panel(axes, table[table["metric"] == metric], metric=metric, colours=colours)
    handles: list[Any] = [Line2D([], [], color=style.INK, linewidth=1.1, label="95 % interval")]
    if learned["published"].notna().any():
        handles.append(
            Line2D([], [], marker="D", linestyle="none", label="as published, other cells", **style.PUBLISHED)
        )
    fig.legend(handles=handles, loc="outside upper center", ncols=3)
    style.note(fig, f"Variant {variant}. {scores.cells(table)} {_without(without)}".strip())
    # Names find their places only on a figure whose layout stands.
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    for axes, metric in zip(grid, metrics, strict=True):
        rows = table[(table["metric"] == metric) & (table["model"] != TRIVIAL)]
        walls = rows[["n_parameters", "ci_low", "n_parameters", "ci_high"]].to_numpy(dtype=float)
        printed = rows.loc[rows["published"].notna(), ["n_parameters", "published"] * 2].to_numpy(dtype=float)
        points = rows[["n_parameters", "value"]].to_numpy(dtype=float)
        labels.write(axes, rows["model"].tolist(), points, obstacles=[*walls, *printed])
    return fig


def _without(rows: pd.DataFrame) -> str:
    """Name the models without parameters, with their scores."""
    said = []
    for model, own in rows.groupby("model", sort=False):
        numbers = [f"{in_words(row['metric'])} {row['value']:.0%}" for row in own.to_dict("records")]
        said.append(f"{model} ({', '.join(numbers)})")
    return f"Without parameters: {'; '.join(said)}." if said else ""


def plot(
    metrics_table: str | os.PathLike[str],
    chosen_losses: str | os.PathLike[str],
    trainings: Sequence[str | os.PathLike[str]],
    *,
    variants: Sequence[str],
    models: Sequence[str],
    metrics: Sequence[str] = ("accuracy", "macro_f1"),
    study: str | os.PathLike[str] | None = None,
    svg: str | os.PathLike[str],
    png: str | os.PathLike[str],
) -> None:
    """Draw the scores of one variant's models against their numbers of parameters.

    Parameters
    ----------
    metrics_table, chosen_losses
        ``metrics.csv`` and ``tables/chosen_losses.csv``.
    trainings
        ``model.json`` of the models' trainings.
    variants, models, metrics
        The one variant, its models, and the overall metrics that are shown.
    study
        YAML of what the study says, for the published numbers; None for none.
    svg, png
        Files to write.

    Raises
    ------
    DataError
        If there are several variants, a metric is unknown or none of all classes, or a score is missing.
    """
    if len(variants) != 1:
        raise DataError(f"figure: `parameters` shows one variant, not {', '.join(variants)}; name one as `variant`")
    if odd := [metric for metric in metrics if metric in PER_CLASS]:
        raise DataError(f"figure: `parameters` shows scores of all classes, and {odd[0]} is of one; leave it out")
    table = scores.read(
        metrics_table,
        chosen_losses,
        variants=variants,
        models=models,
        metrics=metrics,
        study=evaluation.read_study(study),
    )
    told = {about["model"]: about for about in map(files.read_json, trainings)}
    table = table.assign(
        n_parameters=[told[model]["n_parameters"] if model in told else 0 for model in table["model"]],
        family=[told[model]["family"] if model in told else "" for model in table["model"]],
    )
    style.save(draw(table, variant=variants[0]), svg, png)
