"""Names beside points: where they stand so that none lies on another, and each can be told whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stainfree.figures import style

Floats = npt.NDArray[np.float64]

GAPS = (5.0, 8.0, 13.0, 20.0, 29.0, 40.0, 53.0, 68.0, 85.0)
"""Points of type between a point and its name that are tried."""
DIRECTIONS = np.radians([0, 180, 22, 158, -22, -158, 45, 135, -45, -135, 67, 113, -67, -113, 90, -90])
"""Where it is tried, the best first: beside the point, then above and below."""
NEAR = 7.0
"""Points of type up to which a name needs no line to its point."""
CLEAR = 4.0
"""Points of type that lines keep off other points."""
ROUNDS = 4
"""How often each name is placed anew, given where the others are."""
# What a place costs: to cover something counts most (each thing, and again by the share of the name that does, or that
# stands outside), then to lie nearer to another point than to its own, then a line that crosses something; and last,
# distance.
COVERS, COVERS_ALL, CONFUSES, CROSSES = 20.0, 50.0, 5.0, 5.0


def _candidates(point: Floats, size: Floats) -> Floats:
    """Return the boxes (k, 4: left, bottom, right, top) tried for a name of `size` about a point, nearest first."""
    towards = np.stack([np.cos(DIRECTIONS), np.sin(DIRECTIONS)], axis=1)
    # A side of the box, or between the sides a corner, lies the gap away from the point.
    reach = np.clip(2 * towards, -1, 1) * size / 2
    middles = np.concatenate([point + towards * gap + reach for gap in GAPS])
    return np.concatenate([middles - size / 2, middles + size / 2], axis=1)


def _overlap(boxes: Floats, other: Floats) -> Floats:
    """Return the area that boxes (k, 4) share with another (4,)."""
    width = np.minimum(boxes[:, 2], other[2]) - np.maximum(boxes[:, 0], other[0])
    height = np.minimum(boxes[:, 3], other[3]) - np.maximum(boxes[:, 1], other[1])
    return np.asarray(np.maximum(width, 0) * np.maximum(height, 0))


def _nearest(boxes: Floats, point: Floats) -> Floats:
    """Return the point (k, 2) of each box (k, 4) that is nearest to `point`."""
    return np.clip(point, boxes[:, :2], boxes[:, 2:])


def _distance(boxes: Floats, point: Floats) -> Floats:
    return np.asarray(np.hypot(*(_nearest(boxes, point) - point).T))


def _side(a: Floats, b: Floats, c: Floats) -> Floats:
    """Say on which side of the line from a to b c lies, by sign; any of them (k, 2)."""
    return np.asarray(
        np.sign((b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0]))
    )


def _lines_cross(start: Floats, ends: Floats, other: tuple[Floats, Floats]) -> npt.NDArray[np.bool_]:
    """Tell which lines from `start` (2,) to `ends` (k, 2) cross the other line."""
    first, second = other
    apart = _side(first, second, start) * _side(first, second, ends)
    return np.asarray((apart < 0) & (_side(start, ends, first) * _side(start, ends, second) < 0))


def _along(start: Floats, ends: Floats) -> Floats:
    """Return places (k, 24, 2) along the lines from `start` (2,) to `ends` (k, 2)."""
    share = np.linspace(0, 1, 24)[:, None]
    return start + share * (ends[:, None, :] - start)


def _inside(places: Floats, boxes: Floats) -> npt.NDArray[np.bool_]:
    """Tell which rows of places (k, m, 2) have one inside the box of their row (k, 4); one row counts for all."""
    within = np.all((places > boxes[:, None, :2]) & (places < boxes[:, None, 2:]), axis=2)
    return np.any(within, axis=1)


def place(points: Floats, sizes: Floats, *, obstacles: Sequence[Sequence[float]], within: Sequence[float]) -> Floats:
    """Find a place for each point's name.

    Parameters
    ----------
    points
        (n, 2) x and y, in points of type.
    sizes
        (n, 2) width and height of the names.
    obstacles
        Boxes (left, bottom, right, top) that no name may cover, such as intervals; those of points need no saying.
    within
        The box that all names must stay in.

    Returns
    -------
    ndarray of float64
        (n, 4) boxes of the names.
    """
    frame = np.asarray(within, dtype=np.float64)
    fixed = [np.asarray(box, dtype=np.float64) for box in obstacles]
    fixed += [np.concatenate([point - CLEAR, point + CLEAR]) for point in points]
    far = np.repeat(np.array(GAPS) / GAPS[-1], len(DIRECTIONS))
    boxes: list[Floats | None] = [None] * len(points)
    for _ in range(ROUNDS):
        for number, (point, size) in enumerate(zip(points, sizes, strict=True)):
            tried = _candidates(point, size)
            area = float(size.prod())
            others = [box for k, box in enumerate(boxes) if k != number and box is not None]
            shared = np.array([_overlap(tried, box) for box in [*fixed, *others]])
            outside = (area - _overlap(tried, frame)) / area
            ends = _nearest(tried, point)
            own = _distance(tried, point)
            foreign = [other for k, other in enumerate(points) if k != number]
            confused = np.array([_distance(tried, other) <= own for other in foreign]).sum(axis=0)
            places = _along(point, ends)
            crossed = np.zeros(len(tried))
            for k, box in enumerate(boxes):
                if k != number and box is not None:
                    line = (points[k], _nearest(box[None], points[k])[0])
                    crossed += _lines_cross(point, ends, line)
                    crossed += _inside(places, box[None])
                    # ... and the other's line must not run through this name.
                    crossed += _inside(_along(line[0], line[1][None]), tried)
            for other in foreign:
                if np.hypot(*(other - point)) > CLEAR:
                    crossed += np.any(np.hypot(*np.moveaxis(places - other, 2, 0)) < CLEAR, axis=1)
            cost = COVERS * ((shared > 0).sum(axis=0) + (outside > 1e-6)) + COVERS_ALL * (
                shared.sum(axis=0) / area + outside
            )
            cost += CONFUSES * confused + CROSSES * crossed + far
            # Rounded: of equal places the first is taken, whatever the last digit says.
            boxes[number] = tried[int(np.argmin(cost.round(6)))]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def write(
    axes: Axes, names: Sequence[str], points: Floats, *, obstacles: Sequence[Sequence[float]], fontsize: float = 7.5
) -> list[Any]:
    """Write names beside points (n, 2) of the axes' data, with lines where they are far.

    The figure's layout must be final. `obstacles` are boxes (left, bottom, right, top) in the axes' data; texts that
    the axes already have are obstacles too.
    """
    figure = cast(Figure, axes.figure)
    per_point = figure.dpi / 72
    canvas = FigureCanvasAgg(figure).get_renderer()

    def on_page(data: Any) -> Floats:
        return np.asarray(axes.transData.transform(np.reshape(data, (-1, 2)))) / per_point

    there = [np.array(text.get_window_extent(canvas).extents) / per_point for text in axes.texts]
    texts = [
        axes.annotate(name, tuple(point), (0, 0), textcoords="offset points", ha="center", va="center",
                      fontsize=fontsize, zorder=6)
        for name, point in zip(names, points, strict=True)
    ]  # fmt: skip
    extents = [text.get_window_extent(canvas) for text in texts]
    sizes = np.array([[box.width, box.height] for box in extents]) / per_point + 2
    at = on_page(points)
    walls = [*there, *(on_page(box).ravel() + np.array([-3, -3, 3, 3]) for box in obstacles)]
    frame = axes.get_window_extent(canvas)
    boxes = place(at, sizes, obstacles=walls, within=(np.array(frame.extents) / per_point).tolist())
    for text, box, point, data in zip(texts, boxes, at, points, strict=True):
        text.set_position(tuple((box[:2] + box[2:]) / 2 - point))
        end = _nearest(box[None], point)[0] - point
        if np.hypot(*end) > NEAR:
            line = {"arrowstyle": "-", "color": style.GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
            axes.annotate("", tuple(data), tuple(end), textcoords="offset points", arrowprops=line, zorder=5)
    return texts
