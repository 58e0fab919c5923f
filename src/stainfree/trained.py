"""A trained part, rebuilt from its files: for explaining it and for applying it to other cells."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stainfree import files, images, models
from stainfree.augment import Normalisation, centre_batch, views
from stainfree.errors import DataError
from stainfree.networks import build_module, shift_of


@dataclass(frozen=True)
class Trained:
    """A model with the weights of one part, and all it needs to read an image."""

    module: nn.Module
    """In evaluation mode; maps (n, channel, y, x) float32 to (n, class) logits."""
    name: str
    loss: str
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    image_size: int
    """Side that images are brought to."""
    crop: int | None
    fit: str
    normalisation: Normalisation
    fold: int
    seed: int
    n_views: int = 1
    """Views of a cell whose probabilities `predict` averages."""
    shift: Tensor | None = None
    """(class,) float32, what `predict` adds to their logarithms."""

    def prepare(self, counts: npt.NDArray[Any]) -> Tensor:
        """Map images (n, channel, y, x) of camera counts to what the module takes, as in evaluation."""
        fitted = torch.from_numpy(np.ascontiguousarray(images.fit(counts, size=self.image_size, way=self.fit)))
        return centre_batch(fitted, torch.arange(len(fitted)), crop=self.crop, normalisation=self.normalisation)

    def to_source(self, maps: npt.NDArray[Any], *, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Lay maps (n, y, x) over the module's input back onto images of `shape`; NaN where it did not look."""
        laid: npt.NDArray[np.float32] = images.unfit(
            maps, shape=shape, size=self.image_size, crop=self.crop, way=self.fit
        )
        return laid

    def predict(self, counts: npt.NDArray[Any], *, batch: int = 512) -> npt.NDArray[np.float32]:
        """Return class probabilities (n, class) of images (n, channel, y, x) of camera counts."""
        found = []
        with torch.inference_mode():
            for first in range(0, len(counts), batch):
                x = self.prepare(counts[first : first + batch])
                seen = x if self.n_views == 1 else views(x).flatten(0, 1)
                found.append(self.module(seen).softmax(dim=1).view(self.n_views, len(x), -1).mean(dim=0))
        told = torch.cat(found)
        return (told if self.shift is None else (told.log() + self.shift).softmax(dim=1)).numpy()


def load(folder: str | os.PathLike[str], *, fold: int, seed: int, device: str = "cpu") -> Trained:
    """Rebuild one part of a training.

    Parameters
    ----------
    folder
        ``results/{dataset}/{experiment}/{variant}/{model}/{loss}``.
    fold, seed
        Which part.
    device
        Where the module is put.

    Raises
    ------
    DataError
        If there is no such part, or its weights are not those that ``model.json`` describes.
    """
    folder = Path(folder)
    told = files.read_json(folder / "model.json")
    found = [part for part in told["parts"] if (part["fold"], part["seed"]) == (fold, seed)]
    if not found:
        raise DataError(f"{folder}/model.json: has no part of fold {fold} and seed {seed}")
    if told["kind"] != "network":
        raise DataError(f"{folder}: {told['model']} is no network; leave it out of what is explained")
    (part,) = found
    weights = folder / part["weights"]
    if not weights.is_file() or files.sha256(weights) != part["sha256"]:
        raise DataError(f"{weights}: is missing or not what model.json describes; train {told['model']} again")
    recipe = models.recipe_from(told["recipe"])
    entry = models.ModelEntry(told["model"], told["family"], told["params"], recipe, crop=told["crop"])
    entry = models.with_settings(entry, part.get("tuned", {}))
    size = told["image_size"][0]
    module = build_module(
        entry,
        channels=len(told["channels"]),
        image_size=told["crop"] or size,
        n_classes=len(told["scheme"]["classes"]),
    )
    module.load_state_dict(load_file(weights))
    return Trained(
        module=module.to(device).eval(),
        name=told["model"],
        loss=told["loss"],
        classes=tuple(told["scheme"]["classes"]),
        channels=tuple(told["channels"]),
        image_size=size,
        crop=told["crop"],
        fit=told["fit"],
        normalisation=Normalisation(tuple(part["normalisation"]["mean"]), tuple(part["normalisation"]["std"])),
        fold=fold,
        seed=seed,
        n_views=(entry.recipe or recipe).views,
        shift=shift_of(np.array(list(part["class_counts"].values())), (entry.recipe or recipe).shift),
    )
