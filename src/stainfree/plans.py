"""What a training is: its plan, and the cells that it rests on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from stainfree import cells, files, images, models, splits
from stainfree.errors import ConfigError, DataError
from stainfree.schemes import Scheme


@dataclass(frozen=True)
class Plan:
    """All that decides a training, besides the cells and their split."""

    dataset: str
    experiment: str
    variant: str
    model: models.ModelEntry
    loss: str
    channels: tuple[str, ...]
    scheme: Scheme
    fit: str
    """How images are brought to the size the model takes: ``pad``, ``crop``, ``centre`` or ``resize``."""
    seeds: tuple[int, ...] = (0,)
    subsets: tuple[str, ...] = ("validation", "test")
    """Subsets whose cells get predictions."""
    code: str = ""
    """Digest of the code: a checkpoint of other code is never resumed."""
    folds: int | None = None
    """The first folds of the split, the only ones that are trained; None: all."""
    init_from: Mapping[str, str] | None = None
    """Where the first weights come from (see `stainfree.transfer.start`); None: they are drawn."""
    tuned: str | None = None
    """JSON of what was found best for each fold (see `stainfree.tuning`); None: the model's own settings."""
    threads: int = 1
    """Threads of arithmetic: part of the plan, because the order of sums, and so the last digit, depends on it."""
    device: str = "auto"
    checkpoint_seconds: float = 60.0
    """Time between checkpoints (longer where writing one is slow, see `checkpoints.Pace`); it changes no result."""

    def parts(self, split: pd.DataFrame) -> list[tuple[int, int]]:
        """Return the (fold, seed) of all parts on a split, in the order in which they are joined."""
        folds = sorted(split["fold"].unique().tolist())[: self.folds]
        return [(fold, seed) for fold in folds for seed in self.seeds]

    def model_of(self, fold: int) -> models.ModelEntry:
        """Return the model of a fold: with the settings that were found best for it, where some were searched."""
        settings = self.settings_of(fold)
        return models.with_settings(self.model, settings) if settings else self.model

    def settings_of(self, fold: int) -> dict[str, Any]:
        """Return the settings that were found best for a fold (keys of the recipe or the family); none if not tuned.

        Raises
        ------
        DataError
            If the search did not reach the fold.
        """
        if self.tuned is None:
            return {}
        found = {one["fold"]: one["settings"] for one in files.read_json(self.tuned)["folds"]}
        if fold not in found:
            raise DataError(f"{self.tuned}: has nothing for fold {fold}; delete it and search again")
        return dict(found[fold])

    def digest(self, *, cells_sha256: str, split_sha256: str) -> str:
        """Return 16 hexadecimal digits that name this training on these cells."""
        said = dataclasses.asdict(self)
        del said["checkpoint_seconds"]
        del said["folds"]  # each fold has a folder of its own
        # In order: the same classes in another order are other outputs of the network.
        said["scheme"]["members"] = list(self.scheme.members.items())
        # What `auto` means here: a GPU cannot go on where a CPU stopped.
        said["device"] = choose_device(self.device).type
        # What it rests on besides: the same path may hold other weights, or other settings, tomorrow.
        rests_on = [Path(self.init_from["folder"]) / "model.json"] if self.init_from else []
        rests_on += [Path(self.tuned)] if self.tuned else []
        said["rests_on"] = [files.sha256(path) for path in rests_on]
        text = json.dumps([said, cells_sha256, split_sha256], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Origin:
    """What a training rests on, as its results tell it."""

    split: pd.DataFrame
    cells_sha256: str
    split_path: str
    split_sha256: str
    image_shape: tuple[int, int]
    """Height and width in pixels, brought to the model's size."""

    @classmethod
    def read(
        cls, cells_path: str | os.PathLike[str], split_path: str | os.PathLike[str], *, size: int | None
    ) -> Origin:
        """Read it from a cells file and a split of it; `size` is the side that the model takes, None for any."""
        info = cells.read_info(cells_path)
        return cls(
            split=splits.read(split_path),
            cells_sha256=info.content_sha256,
            split_path=str(split_path),
            split_sha256=files.sha256(split_path),
            image_shape=info.image_shape if size is None else (size, size),
        )

    def unfinished(self, work: str | os.PathLike[str], plan: Plan) -> Path:
        """Return the folder below `work` for the unfinished work of a plan on these cells."""
        return Path(work) / plan.digest(cells_sha256=self.cells_sha256, split_sha256=self.split_sha256)


@dataclass(frozen=True)
class Data:
    """The cells of a training, on its device."""

    images: Tensor
    """(cell, channel, y, x) in the stored dtype, brought to the model's size."""
    row: pd.Series
    """cell_id -> position in `images`."""
    origin: Origin

    @property
    def split(self) -> pd.DataFrame:
        """The split, one row per (fold, cell)."""
        return self.origin.split

    def select(self, fold: int, subset: str) -> tuple[pd.DataFrame, Tensor]:
        """Return a fold's cells of one subset, and their positions."""
        split = self.split
        chosen = split[(split["fold"] == fold) & (split["subset"] == subset)]
        return chosen, torch.from_numpy(self.row.loc[chosen["cell_id"]].to_numpy(dtype=np.int64, copy=True))


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; ``auto`` is the GPU where there is one."""
    available = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name == "cuda" and not available:
        raise ConfigError("training.device: cuda is asked for, and torch finds no GPU here; set it to auto or cpu")
    return torch.device(name)


def load(
    cells_path: str | os.PathLike[str],
    split_path: str | os.PathLike[str],
    *,
    channels: Sequence[str],
    size: int | None,
    fit: str,
    device: torch.device,
) -> Data:
    """Read the cells of a split as one tensor."""
    origin = Origin.read(cells_path, split_path, size=size)
    table = cells.read_table(cells_path)
    position = pd.Series(np.arange(len(table)), index=table["cell_id"])
    used = origin.split["cell_id"].drop_duplicates()
    unknown = ~used.isin(position.index)
    if unknown.any():
        raise DataError(f"{split_path}: cell {used[unknown].iloc[0]} is not in {cells_path}; draw the split again")
    rows = np.sort(position.loc[used].to_numpy())
    stored = cells.read_images(cells_path, channels=channels, rows=None if len(rows) == len(table) else rows)
    tensor = torch.from_numpy(np.ascontiguousarray(images.fit(stored, size=size, way=fit)))
    return Data(
        images=tensor.to(device),
        row=pd.Series(np.arange(len(rows)), index=table["cell_id"].to_numpy()[rows]),
        origin=origin,
    )


def plan_from(told: Mapping[str, Any], **changes: Any) -> Plan:
    """Build a `Plan` from plain values (as a workflow passes them): the keys are its fields; `changes` win."""
    plain: dict[str, Any] = {**told, **changes}
    plain |= {"model": models.entry_from(plain["model"]), "scheme": Scheme(**plain["scheme"])}
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    return Plan(**values)
