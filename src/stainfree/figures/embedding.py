"""Embedding maps: a model's last layer in three dimensions, as a picture and as a page to turn it on."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stainfree import files
from stainfree.errors import DataError
from stainfree.figures import Pair, marks, read_pairs, style

AXES = ("u0", "u1", "u2")
VIEWS = ((22, -60), (22, 30))
"""Elevation and azimuth in degrees: two looks at a right angle."""
COLUMNS = ("cell_id", "class", "model", "loss", "fold", "seed", *AXES, "drawn")

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font-family: system-ui, sans-serif; color: #222; margin: 1.2rem auto; max-width: 60rem; padding: 0 1rem; }}
h1 {{ font-size: 1.2rem; }}
p {{ color: #555; line-height: 1.4; }}
</style>
</head>
<body>
<h1>{title}</h1>
{plot}
<p>{text}</p>
<noscript><p>This page turns the map by JavaScript; the still picture beside it shows two views.</p></noscript>
</body>
</html>
"""


def _classes(cells: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    """Return the classes that have cells, the commonest first, so that rare ones are drawn on top."""
    counts = cells["class"].value_counts()
    return sorted((name for name in classes if name in counts.index), key=lambda name: -int(counts[name]))


def _label(cells: pd.DataFrame, name: str) -> str:
    of_class = cells[cells["class"] == name]
    n, drawn = len(of_class), int(of_class["drawn"].sum())
    return f"{name}: {style.words_of(cell=n)}" + (f", {drawn:,} drawn" if drawn < n else "")


def _part(cells: pd.DataFrame) -> str:
    first = cells.iloc[0]
    return f"{style.words_of(cell=len(cells))} of the test part, fold {first['fold']}, seed {first['seed']}"


def _area(n: int) -> float:
    """Return the area of a dot: a class of a few cells must not vanish among thousands."""
    return float(np.clip(90 / np.sqrt(n), 7, 34))


@style.applied()
def draw(cells: pd.DataFrame, *, classes: Sequence[str], pair: Pair) -> Figure:
    """Draw a three-dimensional map from two sides.

    Parameters
    ----------
    cells
        cell_id, class, fold, seed, u0, u1, u2 (UMAP coordinates), drawn (False: left out of the picture for its sake).
    classes
        Class names in the scheme's order.
    pair
        Whose embedding it is: a model and the loss it was trained under.
    """
    fig = Figure(figsize=(style.WIDTH, 4.9))
    colours = style.class_colours(classes)
    ordered = _classes(cells, classes)
    handles: dict[str, Any] = {}
    for position, (elevation, azimuth) in enumerate(VIEWS):
        axes: Any = fig.add_axes((0.01 + 0.5 * position, 0.18, 0.46, 0.78), projection="3d")
        # Depth would otherwise decide which class hides which.
        axes.computed_zorder = False
        for order, name in enumerate(ordered):
            shown = cells[(cells["class"] == name) & cells["drawn"]]
            handles[name] = axes.scatter(
                *(shown[axis] for axis in AXES),
                s=_area(len(shown)),
                color=colours[name],
                edgecolor="white",
                linewidth=0.3,
                depthshade=False,
                zorder=3 + order,
                label=_label(cells, name),
            )
        axes.view_init(elev=elevation, azim=azimuth)
        axes.set_box_aspect(None, zoom=1.08)
        axes.set(xlabel="UMAP 1", ylabel="UMAP 2", zlabel="UMAP 3")
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.set_ticklabels([])
            axis.set_pane_color("#F7F7F7")
            axis.line.set_color(style.GREY)
            axis.labelpad = -8
            axis._axinfo["grid"].update(color="#DDDDDD", linewidth=0.5)
    fig.suptitle(f"Embedding of {pair.label}, from two sides", fontsize=9.5, y=0.985)
    in_order = [handles[name] for name in classes if name in handles]
    fig.legend(handles=in_order, loc="lower center", ncols=3, bbox_to_anchor=(0.5, 0.09), markerscale=1.4)
    absent = [name for name in classes if name not in handles]
    missing = f" No cell of {', '.join(absent)}." if absent else ""
    style.note(
        fig,
        f"Variant {pair.variant}. {_part(cells)}.{missing} All cells were laid out; cells not drawn were left out "
        f"afterwards, at random. {marks([pair])}",
    )
    return fig


def page(cells: pd.DataFrame, *, classes: Sequence[str], pair: Pair) -> str:
    """Return a self-contained HTML page with the map to turn, zoom and point at; it needs no network.

    Parameters
    ----------
    cells, classes, pair
        As for `draw`.
    """
    import plotly.graph_objects as go  # slow to import, and only the page needs it

    colours = style.class_colours(classes)
    fig = go.Figure()
    present = set(cells["class"])
    for name in (name for name in classes if name in present):
        shown = cells[(cells["class"] == name) & cells["drawn"]]
        fig.add_trace(
            go.Scatter3d(
                **{letter: shown[axis].round(4).tolist() for letter, axis in zip("xyz", AXES, strict=True)},
                mode="markers",
                name=_label(cells, name),
                text=shown["cell_id"].tolist(),
                hovertemplate=f"%{{text}}<br>{html.escape(name)}<extra></extra>",
                marker={
                    "size": round(float(np.sqrt(_area(len(shown)))) * 1.1, 2),
                    "color": colours[name],
                    "line": {"color": "white", "width": 0.5},
                },
            )
        )
    scene = {
        f"{letter}axis": {"title": {"text": f"UMAP {k}"}, "showticklabels": False} for k, letter in enumerate("xyz", 1)
    }
    fig.update_layout(
        template="plotly_white",
        height=620,
        margin={"l": 0, "r": 0, "t": 10, "b": 0},
        scene=scene,
        legend={"itemsizing": "constant", "orientation": "h", "yanchor": "top", "y": 0},
    )
    body = fig.to_html(
        full_html=False,
        include_plotlyjs=True,
        div_id="embedding",
        # Plotly's own button to share a chart would send the cells to its maker's server.
        config={"displaylogo": False, "responsive": True, "showSendToCloud": False, "plotlyServerURL": ""},
    )
    text = (
        f"{_part(cells)}. Drag to turn, scroll to zoom, point at a cell for its id, click a class to hide it. "
        f"{marks([pair])}"
    )
    return PAGE.format(title=html.escape(f"Embedding of {pair.label} (UMAP)"), plot=body, text=html.escape(text))


def read(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read an embedding map; raise `DataError` where it is not one of three dimensions."""
    cells = pd.read_parquet(path)
    absent = [name for name in COLUMNS if name not in cells.columns]
    if absent or cells.empty:
        what = f"lacks the column {', '.join(absent)}" if absent else "has no cell"
        raise DataError(f"{path}: {what}; lay out the embedding again")
    return cells


def plot(
    coordinates: str | os.PathLike[str],
    chosen_losses: str | os.PathLike[str],
    *,
    pairs: Sequence[Sequence[str]],
    classes: Sequence[str],
    svg: str | os.PathLike[str],
    png: str | os.PathLike[str],
    html_page: str | os.PathLike[str] | None = None,
) -> None:
    """Draw an embedding map as a picture and, where asked, as an interactive page.

    Parameters
    ----------
    coordinates
        ``embedding/{model}.parquet``.
    chosen_losses
        CSV that says which loss of a model was chosen on validation.
    pairs
        (variant, model, loss) of all trainings that may have been laid out.
    classes
        Class names in the scheme's order.
    svg, png, html_page
        Files to write.

    Raises
    ------
    DataError
        If the table lacks a column, has no cell, or is of none of the pairs.
    """
    cells = read(coordinates)
    model, loss = cells[["model", "loss"]].iloc[0]
    pair = next((one for one in read_pairs(chosen_losses, pairs) if (one.model, one.loss) == (model, loss)), None)
    if pair is None:
        raise DataError(f"{coordinates}: {model} under {loss} is no training of the experiment; lay it out again")
    style.save(draw(cells, classes=classes, pair=pair), svg, png)
    if html_page is not None:
        files.write_text(html_page, page(cells, classes=classes, pair=pair))
