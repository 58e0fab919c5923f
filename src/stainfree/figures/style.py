"""What all figures share: colours, sizes, and how they are saved."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stainfree import files

WIDTH = 9.0
"""Inches; a browser shows an SVG of this width 864 pixels wide."""

PNG_DPI = 200

NOTE_FOOT, NOTE_LINE = 0.07, 0.145
"""Inches below the note of a figure, and of a line of it."""

OKABE_ITO = ("#56B4E9", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442", "#000000")
"""Colours that stay apart for colour-blind eyes (Okabe and Ito 2008, Color Universal Design)."""

INK, GREY, PALE = "#222222", "#666666", "#E8E8E8"
"""Text, text of second rank, and areas where there is nothing to show."""

PUBLISHED: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": INK, "markersize": 4.5}
"""Look of a published number."""

# A class keeps its colour in every label scheme; the yellow, weak on white, goes to no stage.
CLASS_COLOURS = {
    "Interphase": "#56B4E9",
    "G1": "#0072B2",
    "S": "#56B4E9",
    "G2": "#000000",
    "Prophase": "#E69F00",
    "Metaphase": "#009E73",
    "Anaphase": "#D55E00",
    "Telophase": "#CC79A7",
    "M": "#D55E00",
}

SUBSET_COLOURS = {"train": "#D55E00", "validation": "#0072B2"}

_SETTINGS: dict[Any, Any] = {
    # Matplotlib ships this font: the same figure on every machine.
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.7,
    "axes.prop_cycle": cycler(color=OKABE_ITO),
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "image.interpolation": "none",
    "svg.fonttype": "path",
    # Identifiers inside an SVG come from this salt and not from chance: equal numbers, equal bytes.
    "svg.hashsalt": "stainfree",
}


@contextmanager
def applied() -> Iterator[None]:
    """Draw in the project's style, whatever the user's own matplotlib settings; also a decorator."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """Give each class a colour: its own where it has one, else the next one that no other class has."""
    taken = {CLASS_COLOURS[name] for name in classes if name in CLASS_COLOURS}
    free = [colour for colour in OKABE_ITO if colour not in taken] or list(OKABE_ITO)
    others = [name for name in classes if name not in CLASS_COLOURS]
    return {name: CLASS_COLOURS.get(name) or free[others.index(name) % len(free)] for name in classes}


def figure(height: float, *, width: float = WIDTH) -> Figure:
    """Make an empty figure of a size in inches; its parts make room for each other."""
    fig = Figure(figsize=(width, height), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.05, h_pad=0.06)  # type: ignore[union-attr, call-arg]
    return fig


def note(fig: Figure, text: str) -> None:
    """Write what a reader must know below the figure: numbers of cells, ranges, marks."""
    characters = int(fig.get_figwidth() * 17.5)
    # Without a layout of its own a figure has its note at the foot, however tall it is.
    foot = None if fig.get_layout_engine() else NOTE_FOOT / fig.get_figheight()
    text = textwrap.fill(text, characters)
    fig.supxlabel(text, x=0.01, y=foot, ha="left", va="bottom", fontsize=7.5, color=GREY, linespacing=1.35)


def broken(text: str, most: int) -> str:
    """Break a label after spaces and underscores into lines of at most `most` characters, where that can be."""
    lines = [""]
    for piece in re.findall(r"[^ _]+[ _]*|[ _]+", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > most:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def below(axes: Axes, x: float, text: str) -> None:
    """Write a label of one or more lines below an axis, first lines on one baseline whatever letters they have."""
    for line, words in enumerate(text.split("\n")):
        axes.annotate(
            words,
            (x, 0),
            (0, -11.5 - 11 * line),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="baseline",
            fontsize=8,
            annotation_clip=False,
        )


def message(text: str) -> Figure:
    """Make a figure that says in words why there is nothing to see."""
    fig = Figure(figsize=(WIDTH * 0.66, 1.3))
    fig.text(0.5, 0.5, text, ha="center", va="center", fontsize=10.5, linespacing=1.5)
    return fig


def save(fig: Figure, svg: str | os.PathLike[str], png: str | os.PathLike[str]) -> None:
    """Write a figure as SVG and as PNG of 200 dots per inch, atomically; equal figures give equal bytes."""
    with applied():
        with files.atomic(svg) as temporary:
            fig.savefig(temporary, format="svg", metadata={"Date": None})
        with files.atomic(png) as temporary:
            fig.savefig(temporary, format="png", dpi=PNG_DPI, metadata={"Software": None})


def words_of(**counts: int) -> str:
    """Say numbers of things: ``words_of(cell=1) == "1 cell"``, ``words_of(cell=7916) == "7,916 cells"``."""
    return ", ".join(f"{n:,} {noun}" + ("" if n == 1 else "s") for noun, n in counts.items())
