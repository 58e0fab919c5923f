"""Figure of example cells: every stage beside the others, in every channel."""

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
from stainfree.errors import DataError
from stainfree.figures import style
from stainfree.schemes import STAGES

PERCENTILES = (0.5, 99.5)
LABEL_WIDTH, LARGEST_CELL = 1.3, 0.9
"""Inches: room for the names of the stages, and the side of a cell where there are few channels."""
GAP = 2
"""Pixels of white between the cells of a strip."""


def pick(split: pd.DataFrame, *, n_cells: int, seed: int) -> dict[str, list[str]]:
    """Choose ids of training cells of the first fold, at most `n_cells` of each of the seven stages."""
    training = split[(split["fold"] == split["fold"].min()) & (split["subset"] == "train")]
    chosen = {}
    for position, stage in enumerate(STAGES):
        # A generator for each stage: what is shown of one does not depend on how many cells another has.
        rng = np.random.default_rng([seed, position])
        ids = np.sort(training.loc[training["stage"] == stage, "cell_id"].to_numpy(dtype=object))
        chosen[stage] = [str(name) for name in rng.permutation(ids)[:n_cells]]
    return chosen


def strip(images: npt.NDArray[Any], *, n_cells: int) -> npt.NDArray[np.float32]:
    """Lay images (cell, y, x) side by side; NaN between them, and where there are fewer than `n_cells`."""
    height, width = images.shape[1:]
    out = np.full((height, n_cells * width + (n_cells - 1) * GAP), np.nan, dtype=np.float32)
    for position, image in enumerate(images):
        left = position * (width + GAP)
        out[:, left : left + width] = image
    return out


def _scale_bar(axes: Axes, *, pixel_size_um: float, height: int) -> None:
    length_um = 10
    x, y = 2.0, height - 3.5
    axes.plot([x, x + length_um / pixel_size_um], [y, y], color="white", linewidth=2.5, solid_capstyle="butt")
    axes.text(x, y - 2, f"{length_um} µm", color="white", fontsize=6.5, va="bottom")


@style.applied()
def draw(
    images: Mapping[str, npt.NDArray[Any]],
    *,
    channels: Sequence[str],
    n_training: Mapping[str, int],
    n_cells: int = 4,
    pixel_size_um: float | None = None,
) -> Figure:
    """Draw example cells: a row per stage, a column per channel.

    Parameters
    ----------
    images
        Stage -> (cell, channel, y, x) camera counts; stages in the order of the rows, possibly of no cell.
    channels
        Channel names, the order of axis 1.
    n_training
        Stage -> training cells there are.
    n_cells
        Cells per stage for which there is room.
    pixel_size_um
        Side of a pixel in µm; None where it is unknown, and then there is no scale bar.
    """
    n_rows, n_columns = len(images), len(channels)
    height, width = next(iter(images.values())).shape[2:]
    strip_width = min((style.WIDTH - LABEL_WIDTH) / n_columns, n_cells * LARGEST_CELL)
    strip_height = strip_width * height / (n_cells * width + (n_cells - 1) * GAP)
    fig = style.figure(n_rows * (strip_height + 0.1) + 0.9, width=LABEL_WIDTH + n_columns * strip_width)
    grid = fig.subplots(n_rows, n_columns, squeeze=False)
    ranges = []
    for column, channel in enumerate(channels):
        pixels = np.concatenate([stack[:, column].ravel() for stack in images.values()])
        low, high = np.percentile(pixels, PERCENTILES)
        ranges.append(f"{channel} {low:,.0f} to {high:,.0f}")
        grid[0, column].set_title(channel)
        for row, (stage, stack) in enumerate(images.items()):
            axes = grid[row, column]
            axes.imshow(strip(stack[:, column], n_cells=n_cells), cmap="gray", vmin=low, vmax=max(high, low + 1))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if len(stack) == 0:
                axes.text(0.02, 0.5, "no training cell", transform=axes.transAxes, va="center", color=style.GREY)
            if column == 0:
                label = f"{stage}\n{style.words_of(cell=n_training.get(stage, 0))}"
                axes.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
    if pixel_size_um is not None:
        _scale_bar(grid[0, 0], pixel_size_um=pixel_size_um, height=height)
    size = "The pixel size is unknown." if pixel_size_um is None else f"A pixel is {pixel_size_um:g} µm wide."
    style.note(
        fig,
        f"Beside each stage its number of training cells, at most {n_cells} of them shown, picked at random; a column "
        "of cells is the same in all channels. Each channel has one grey range for all stages, the "
        f"{PERCENTILES[0]:g}th to {PERCENTILES[1]:g}th percentile of the pixels shown (camera counts: "
        f"{', '.join(ranges)}). {size}",
    )
    return fig


def plot(
    cells: str | os.PathLike[str],
    split: str | os.PathLike[str],
    *,
    svg: str | os.PathLike[str],
    png: str | os.PathLike[str],
    channels: Sequence[str] | None = None,
    n_cells: int = 4,
    seed: int = 0,
) -> None:
    """Draw example training cells of a split.

    Parameters
    ----------
    cells, split
        Cells file and split table.
    svg, png
        Files to write.
    channels
        Channels to show; all where None.
    n_cells
        Cells per stage.
    seed
        Seed of the choice.

    Raises
    ------
    DataError
        If the split has no training cell, or one that is not in the cells file.
    """
    info = cells_file.read_info(cells)
    table = pd.read_parquet(split, columns=["fold", "cell_id", "stage", "subset"])
    chosen = pick(table, n_cells=n_cells, seed=seed)
    ids = [name for names in chosen.values() for name in names]
    if not ids:
        raise DataError(f"{split}: has no training cell; draw the split again")
    position = pd.Index(cells_file.read_table(cells)["cell_id"]).get_indexer(ids)
    if (position < 0).any():
        raise DataError(f"{split}: cell {ids[int(np.argmin(position))]} is not in {cells}; draw the split again")
    stacks = cells_file.read_images(cells, channels=channels, rows=position.astype(np.int64))
    ends = np.cumsum([len(names) for names in chosen.values()])
    training = table[(table["fold"] == table["fold"].min()) & (table["subset"] == "train")]
    fig = draw(
        dict(zip(chosen, np.split(stacks, ends[:-1]), strict=True)),
        channels=list(channels) if channels is not None else list(info.channels),
        n_training={str(stage): int(n) for stage, n in training["stage"].value_counts().items()},
        n_cells=n_cells,
        pixel_size_um=info.pixel_size_um,
    )
    style.save(fig, svg, png)
