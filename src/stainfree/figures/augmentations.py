"""Training cells as they are, and as a network may see them under each augmentation of an experiment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.figure import Figure

from stainfree import cells as cells_file
from stainfree.augment import Augmentation, Normalisation, augmented_batch
from stainfree.errors import DataError
from stainfree.figures import style

PERCENTILES = (0.5, 99.8)
LABEL_WIDTH, LARGEST_CELL = 0.9, 1.25
"""Inches: room for the names of the classes, and the side of a cell where there are few columns."""
RAW = "raw"


def words(augmentation: Augmentation) -> str:
    """Say what chance may do, in a few short lines."""
    turns = {"quarter": "quarter turns", "any": "any angle"}
    said = [turns[augmentation.rotate]] if augmentation.rotate in turns else []
    said += ["flips"] if augmentation.flip else []
    said += [f"blur to {augmentation.blur:g} px"] if augmentation.blur else []
    said += [f"gain ± {augmentation.gain:.0%}"] if augmentation.gain else []
    said += [f"offset ± {augmentation.offset:g} SD"] if augmentation.offset else []
    return "\n".join(said)


def distinct(variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Augmentation]:
    """Gather variants by what they do to images: names of the variants that share an augmentation -> it.

    Variants that change nothing are left out.
    """
    names: dict[Augmentation, list[str]] = {}
    for variant, options in variants.items():
        names.setdefault(Augmentation(**options), []).append(variant)
    return {", ".join(shared): augmentation for augmentation, shared in names.items() if augmentation != Augmentation()}


def pick(split: pd.DataFrame, classes: Sequence[str], *, seed: int) -> dict[str, str]:
    """Choose a training cell of the first fold for each class that has one: class -> cell_id."""
    training = split[(split["fold"] == split["fold"].min()) & (split["subset"] == "train")]
    chosen = {}
    for position, name in enumerate(classes):
        ids = np.sort(training.loc[training["class"] == name, "cell_id"].to_numpy(dtype=object))
        if len(ids):
            # A generator for each class: what is shown of one does not depend on how many cells another has.
            chosen[name] = str(np.random.default_rng([seed, position]).choice(ids))
    return chosen


def augmented(
    images: npt.NDArray[Any], augmentations: Mapping[str, Augmentation], *, normalisation: Normalisation, seed: int
) -> dict[str, npt.NDArray[np.float32]]:
    """Let the library's own augmentation change each image once.

    Parameters
    ----------
    images
        (n, channel, y, x) camera counts.
    augmentations
        Name -> augmentation.
    normalisation
        Of the training cells: shifts and gains are in its units.
    seed
        Seed of what chance does.

    Returns
    -------
    dict
        Each name -> (n, channel, y, x) camera counts.
    """
    stored = torch.from_numpy(np.ascontiguousarray(images))
    mean = np.array(normalisation.mean, dtype=np.float32)[:, None, None]
    std = np.array(normalisation.std, dtype=np.float32)[:, None, None]
    seen = {}
    for name, augmentation in augmentations.items():
        generator = torch.Generator().manual_seed(seed)
        batch, rows = augmented_batch(
            stored,
            torch.arange(len(stored)),
            crop=None,
            augmentation=augmentation,
            normalisation=normalisation,
            generator=generator,
        )
        changed = np.empty(images.shape, dtype=np.float32)
        changed[rows.numpy()] = batch.numpy() * std + mean  # a batch has an order of its own
        seen[name] = changed
    return seen


@style.applied()
def draw(
    seen: Mapping[str, npt.NDArray[np.float32]], *, classes: Sequence[str], channel: str, told: Mapping[str, str]
) -> Figure:
    """Draw a row per class, and a column for the raw cells and for each augmentation.

    Parameters
    ----------
    seen
        Name of the column -> (class, y, x) camera counts; the raw ones first.
    classes
        Their names, the order of the first axis.
    channel
        The channel that is shown.
    told
        Name of the column -> what chance does in it.
    """
    height, width = next(iter(seen.values())).shape[1:]
    side = min(LARGEST_CELL, (style.WIDTH - LABEL_WIDTH) / len(seen))
    fig = style.figure(
        len(classes) * (side * height / width + 0.06) + 1.5, width=max(4.6, LABEL_WIDTH + len(seen) * side)
    )
    grid = fig.subplots(len(classes), len(seen), squeeze=False)
    for row, name_of_class in enumerate(classes):
        low, high = np.percentile(next(iter(seen.values()))[row], PERCENTILES)
        for column, (name, images) in enumerate(seen.items()):
            axes = grid[row, column]
            axes.imshow(images[row], cmap="gray", vmin=low, vmax=max(high, low + 1))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if row == 0:
                does = "" if told.get(name) == name else told.get(name, "")
                axes.set_title(f"{style.broken(name, 16)}\n{does}".rstrip(), fontsize=8, linespacing=1.25)
            if column == 0:
                axes.set_ylabel(name_of_class, rotation=0, ha="right", va="center", labelpad=8)
    style.note(
        fig,
        f"One training cell of each class, picked at random, in channel {channel}: as it is stored, and as one draw of "
        "chance shows it to a network; in training every cell is drawn anew each time. A row has one grey range, that "
        "of the raw image. SD: standard deviation of the training cells' pixels.",
    )
    return fig


def plot(
    cells: str | os.PathLike[str],
    split: str | os.PathLike[str],
    *,
    variants: Mapping[str, Mapping[str, Any]],
    channels: Sequence[str],
    classes: Sequence[str],
    svg: str | os.PathLike[str],
    png: str | os.PathLike[str],
    seed: int = 0,
) -> None:
    """Draw training cells raw and under each augmentation, in the first channel.

    Parameters
    ----------
    cells, split
        Cells file and split table.
    variants
        Variant -> fields of its `Augmentation`; those that share one share a column.
    channels
        Channels that the models see.
    classes
        Class names in the scheme's order.
    svg, png
        Files to write.
    seed
        Seed of the choice of cells and of what chance does.

    Raises
    ------
    DataError
        If no variant changes anything, or the split has no training cell, or one that is not in the cells file.
    """
    augmentations = distinct(variants)
    if not augmentations:
        raise DataError(f"figure: none of the variants {', '.join(variants)} augments; leave `augmentations` out")
    table = pd.read_parquet(split, columns=["fold", "cell_id", "class", "subset"])
    chosen = pick(table, classes, seed=seed)
    if not chosen:
        raise DataError(f"{split}: has no training cell; draw the split again")
    place = pd.Index(cells_file.read_table(cells)["cell_id"])
    training = table[(table["fold"] == table["fold"].min()) & (table["subset"] == "train")]["cell_id"]
    measured = np.sort(place.get_indexer(training)).astype(np.int64)
    if (measured < 0).any():
        raise DataError(f"{split}: has training cells that are not in {cells}; draw the split again")
    stored = torch.from_numpy(cells_file.read_images(cells, channels=channels[:1], rows=measured))
    normalisation = Normalisation.of(stored, torch.arange(len(stored)))
    rows = place.get_indexer(list(chosen.values())).astype(np.int64)
    images = cells_file.read_images(cells, channels=channels[:1], rows=rows)
    seen = {RAW: images} | augmented(images, augmentations, normalisation=normalisation, seed=seed)
    fig = draw(
        {name: stack[:, 0].astype(np.float32) for name, stack in seen.items()},
        classes=list(chosen),
        channel=channels[0],
        told={name: words(augmentation) for name, augmentation in augmentations.items()},
    )
    style.save(fig, svg, png)
