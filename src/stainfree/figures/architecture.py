"""Architecture of the networks, drawn from the layers that an image really passes."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon

from stainfree import files
from stainfree.figures import style

Shape = tuple[int, ...]

PER_LINE = 9
"""Boxes that stand side by side before a network goes on in the next line."""
SLOT = style.WIDTH / PER_LINE
LARGEST_SIDE = 0.62
LINE_HEIGHT = 0.125
"""Inches: the width of a box's place, the side of the largest map, a line of a label."""
LAYER_NORM = "LayerNorm"
SKIP = "Identity"
"""The layer that carries a map around a block, in the networks that have such a way."""
FACES = {"maps": "#56B4E9", "tokens": "#009E73", "vector": "#E69F00"}


@dataclass(frozen=True)
class Layer:
    """One layer that an image passes."""

    kind: str
    shape: Shape
    """Of its output, without the batch axis."""
    n_parameters: int

    @property
    def weighs(self) -> bool:
        """Whether it is more than a normalisation: a convolution, a linear map ..."""
        return self.n_parameters > 0 and "Norm" not in self.kind


@dataclass(frozen=True)
class Box:
    """Layers drawn as one box: the one that makes its shape, and those that leave the shape as it is."""

    layers: tuple[Layer, ...]
    main: Layer

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The label, in order of execution: (text, rank), the main layer's kind, shape and parameters among it."""
        lines = []
        passed = False
        for layer in self.layers:
            if layer is self.main:
                passed = True
                # A normalisation changes no shape: it reads branches that were laid together.
                lines += [("join +", "other")] if "Norm" in layer.kind else []
                lines += [(layer.kind, "kind"), (" × ".join(f"{n:,}" for n in layer.shape), "shape")]
                lines += [(f"{layer.n_parameters:,} param.", "shape")] if layer.n_parameters else []
            else:
                kind = "skip" if layer.kind == SKIP else layer.kind
                text = kind + (f" ({layer.n_parameters:,})" if layer.n_parameters else "")
                lines.append((f"+ {text}" if passed else f"{text} +", "other"))
        return lines


@dataclass(frozen=True)
class Run:
    """Boxes that follow each other, `times` over."""

    boxes: tuple[Box, ...]
    times: int


@dataclass(frozen=True)
class Network:
    """What is drawn of one model."""

    name: str
    n_parameters: int
    channels: tuple[str, ...]
    input_shape: Shape
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Network:
        """Read it from the contents of a ``model.json``."""
        size = [told["crop"]] * 2 if told.get("crop") else list(told["image_size"])
        channels = tuple(told["channels"])
        layers = tuple(
            Layer(item["kind"], tuple(item["output_shape"]), item["n_parameters"]) for item in told["layers"]
        )
        return cls(told["model"], told["n_parameters"], channels, (len(channels), *size), layers)


def repeats(layers: Sequence[Layer]) -> list[tuple[Sequence[Layer], int]]:
    """Part a list of layers into stretches that follow each other several times over.

    Greedy from the front: of all stretches that start at a layer which can open a box, and are repeated, the one that
    covers most layers is taken (the shortest of equals). Two layers are alike when kind, output shape and number of
    parameters are.

    Returns
    -------
    list of (layers, int)
        A stretch and how often it stands there; laid out again they give `layers`.
    """
    parted: list[tuple[Sequence[Layer], int]] = []
    start, plain = 0, 0
    while start < len(layers):
        period, times = 1, 1
        opens = layers[start].weighs or layers[start].kind == LAYER_NORM
        for length in range(1, (len(layers) - start) // 2 + 1) if opens else ():
            stretch = layers[start : start + length]
            n = 1
            while layers[start + n * length : start + (n + 1) * length] == stretch:
                n += 1
            if n > 1 and n * length > times * period and any(layer.weighs for layer in stretch):
                period, times = length, n
        if times > 1:
            if plain < start:
                parted.append((layers[plain:start], 1))
            parted.append((layers[start : start + period], times))
            start += period * times
            plain = start
        else:
            start += 1
    if plain < len(layers):
        parted.append((layers[plain:], 1))
    return parted


def boxes(layers: Sequence[Layer], *, before: Shape) -> tuple[Box, ...]:
    """Gather layers into boxes; `before` is the shape of what enters the first of them."""
    gathered: list[list[Layer]] = []
    mains: list[Layer | None] = []
    for layer in layers:
        makes = layer.weighs or layer.shape != before
        # A layer norm stands before what it normalises, a batch norm after what it normalises.
        opens = makes or layer.kind == LAYER_NORM
        if not gathered or (opens and mains[-1] is not None):
            gathered.append([])
            mains.append(None)
        gathered[-1].append(layer)
        if makes:
            mains[-1] = layer
        before = layer.shape
    return tuple(Box(tuple(group), main or group[0]) for group, main in zip(gathered, mains, strict=True))


def arrange(network: Network) -> list[Run]:
    """Lay a network out as runs of boxes, the input first."""
    entry = Layer("input: " + ", ".join(network.channels), network.input_shape, 0)
    runs = [Run((Box((entry,), entry),), 1)]
    before = network.input_shape
    for stretch, times in repeats(network.layers):
        runs.append(Run(boxes(stretch, before=before), times))
        before = stretch[-1].shape
    return runs


def _size(shape: Shape, largest: int) -> tuple[str, float, float, float]:
    """Return what a shape is, and the width, height and depth of its box in inches."""
    if len(shape) == 3:
        channels, height, width = shape
        # Square roots keep a map of 1 x 1 visible beside one of 64 x 64.
        scale = LARGEST_SIDE / math.sqrt(largest)
        return "maps", scale * math.sqrt(width), scale * math.sqrt(height), 0.03 * (1 + math.log2(channels))
    if len(shape) == 2:
        tokens, width = shape
        return "tokens", 0.05 * (1 + math.log2(width)), 0.09 * (1 + math.log2(tokens)), 0.0
    return "vector", 0.11, 0.07 * (1 + math.log2(math.prod(shape))), 0.0


def _draw_box(axes: Axes, box: Box, *, x: float, y: float, largest: int) -> None:
    """Draw a box with its foot at (x, y), and its label below."""
    kind, width, height, depth = _size(box.main.shape, largest)
    colour = "#B0B0B0" if box.main.kind.startswith("input") else FACES[kind]
    left, right, dx, dy = x - (width + depth * 0.7) / 2, x + (width - depth * 0.7) / 2, depth * 0.7, depth * 0.5
    front = [(left, y), (right, y), (right, y + height), (left, y + height)]
    top = [(left, y + height), (right, y + height), (right + dx, y + height + dy), (left + dx, y + height + dy)]
    side = [(right, y), (right + dx, y + dy), (right + dx, y + height + dy), (right, y + height)]
    for face, alpha in ((front, 0.85), (top, 0.45), (side, 0.65)) if depth else ((front, 0.85),):
        axes.add_patch(Polygon(face, facecolor="white", edgecolor="none", zorder=2))
        axes.add_patch(Polygon(face, facecolor=colour, alpha=alpha, edgecolor="none", zorder=3))
        axes.add_patch(Polygon(face, fill=False, edgecolor=style.INK, linewidth=0.6, joinstyle="round", zorder=4))
    for position, (text, rank) in enumerate(box.lines):
        weight = "bold" if rank == "kind" else "normal"
        colour = style.GREY if rank == "other" else style.INK
        at = y - 0.1 - position * LINE_HEIGHT
        # Points per character, bold or not, so that a long name does not run into its neighbour's.
        size = min(6.6, SLOT * 68 / (len(text) * (0.67 if rank == "kind" else 0.62)))
        axes.text(x, at, text, ha="center", va="top", fontsize=size, weight=weight, color=colour, zorder=5)


def _draw_frame(axes: Axes, *, first: int, last: int, top: float, y: float, below: float, text: str) -> None:
    """Frame the boxes of one line that stand several times in the network."""
    x = first * SLOT + 0.02
    frame = FancyBboxPatch(
        (x, y - below),
        (last - first + 1) * SLOT - 0.04,
        top - y + below,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor="#F5F5F5",
        edgecolor=style.GREY,
        linewidth=0.7,
        zorder=0,
    )
    axes.add_patch(frame)
    axes.text(x + 0.07, top - 0.05, text, ha="left", va="top", fontsize=8, weight="bold", color=style.INK, zorder=6)


def _title(network: Network) -> str:
    drawn = sum(layer.n_parameters for layer in network.layers)
    outside = network.n_parameters - drawn
    title = f"{network.name}: {style.words_of(parameter=network.n_parameters, layer=len(network.layers))}"
    return title + (f" ({outside:+,} parameters shared or outside these layers)" if outside else "")


def _draw_network(axes: Axes, network: Network, *, top: float) -> float:
    """Draw one network from `top` downwards; return where it ends. Lengths in inches."""
    axes.text(0.05, top, _title(network), ha="left", va="top", fontsize=9.5, weight="bold")
    placed = [(box, run, number) for number, run in enumerate(arrange(network)) for box in run.boxes]
    largest = max(max(box.main.shape[1:]) for box, _, _ in placed if len(box.main.shape) == 3)
    top -= 0.27
    # Lines of about equal length, rather than a full one and a last box alone.
    per_line = math.ceil(len(placed) / math.ceil(len(placed) / PER_LINE))
    for start in range(0, len(placed), per_line):
        line = placed[start : start + per_line]
        sizes = [_size(box.main.shape, largest) for box, _, _ in line]
        framed = 0.2 if any(run.times > 1 for _, run, _ in line) else 0.0
        y = top - framed - max(height + 0.5 * depth for _, _, height, depth in sizes)
        below = 0.16 + LINE_HEIGHT * max(len(box.lines) for box, _, _ in line)
        for slot, (box, _, _) in enumerate(line):
            _draw_box(axes, box, x=(slot + 0.5) * SLOT, y=y, largest=largest)
            if start + slot + 1 < len(placed):
                end, at = (slot + 1) * SLOT, y + 0.05
                tip = min(end + 0.07, style.WIDTH - 0.02)
                arrow = {"arrowstyle": "-|>", "color": style.GREY, "linewidth": 0.8, "mutation_scale": 7}
                axes.annotate("", (tip, at), (tip - 0.14, at), arrowprops=arrow, zorder=6, annotation_clip=False)
        for number in dict.fromkeys(number for _, _, number in line):
            slots = [slot for slot, item in enumerate(line) if item[2] == number]
            times = line[slots[0]][1].times
            if times > 1:
                goes_on = start + slots[0] > 0 and placed[start + slots[0] - 1][2] == number
                text = f"… × {times}" if goes_on else f"× {times}"
                _draw_frame(axes, first=slots[0], last=slots[-1], top=top, y=y, below=below, text=text)
        top = y - below - 0.12
    return top - 0.1


@style.applied()
def draw(networks: Sequence[Network]) -> Figure:
    """Draw networks below each other: a box for each layer that weighs or changes the shape, repeats drawn once."""
    if not networks:
        return style.message("No model here is a network:\nthere are no layers to draw.")
    # Heights are known only after the labels are laid out: a first pass measures, on a sheet of no account.
    scratch = Figure().add_axes((0, 0, 1, 1))
    depth = 0.0
    for network in networks:
        depth = _draw_network(scratch, network, top=depth)
    above, below = 0.1, style.NOTE_FOOT + 3 * style.NOTE_LINE
    fig = Figure(figsize=(style.WIDTH, above - depth + below))
    axes = fig.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, style.WIDTH)
    axes.set_ylim(depth - below, above)
    axes.set_axis_off()
    top = 0.0
    for network in networks:
        top = _draw_network(axes, network, top=top)
    style.note(
        fig,
        "Layers in order of execution, parallel branches one after the other. Blue: maps (channels × height × width), "
        "green: tokens × width, orange: vectors. Sides of maps are drawn by their square root, channels, tokens and "
        "lengths by their logarithm. In brackets: parameters of a layer that keeps the shape. Skip: what entered a "
        "block is added to what leaves it.",
    )
    return fig


def plot(models: Sequence[str | os.PathLike[str]], *, svg: str | os.PathLike[str], png: str | os.PathLike[str]) -> None:
    """Draw the networks of an experiment; of several trainings of one model the first is drawn, and equal ones once.

    Parameters
    ----------
    models
        ``model.json`` of each training.
    svg, png
        Files to write. Where no model has layers, they say so.
    """
    told = [files.read_json(path) for path in models]
    first = {item["model"]: item for item in reversed(told) if item.get("layers")}
    names: dict[Network, list[str]] = {}
    for name in dict.fromkeys(item["model"] for item in told):
        if name in first:
            names.setdefault(dataclasses.replace(Network.of(first[name]), name=""), []).append(name)
    drawn = [dataclasses.replace(network, name=", ".join(models)) for network, models in names.items()]
    style.save(draw(drawn), svg, png)
