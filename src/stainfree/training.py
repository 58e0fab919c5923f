"""Training jobs: the parts of one (variant, model, loss), and the files that they are laid together to.

One job trains one (variant, model, loss): its parts, one per (fold, seed), run one after the other on one tensor of
images (`train`). A part leaves its own finished files under `work`, so that a job that is killed goes on with the part
it was in, at that part's last checkpoint; `join` then lays the parts together. On a large cluster each part may be a
job of its own (`make_part`), and the joining another (`join_parts`): the same loop, the same files.

How a part is trained stands in `stainfree.loop`, or, for models that fit themselves, in `stainfree.estimators`.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Large blocks in huge pages: an epoch frees and takes the same few hundred MB again and again, and a fault per
# 4 KiB page costs a third of the time (measured on cnn3). torch reads this when it first takes memory.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import pandas as pd
import torch
from safetensors.numpy import load_file

from stainfree import checkpoints, estimators, files, loop, models, predictions, provenance, transfer
from stainfree.deadline import Deadline
from stainfree.errors import DataError, OutOfTimeError
from stainfree.networks import build_module, describe_layers
from stainfree.parts import FILES
from stainfree.plans import Data, Origin, Plan, choose_device, load, plan_from

__all__ = [
    "Data",
    "Origin",
    "Plan",
    "choose_device",
    "join",
    "join_parts",
    "load",
    "make_part",
    "plan_from",
    "prepare",
    "train",
]


def fill_part(data: Data, plan: Plan, *, fold: int, seed: int, folder: Path, deadline: Deadline | None = None) -> None:
    """Train or fit one part, whatever its family is, and write its files into `folder`."""
    if models.family(plan.model.family).kind == "estimator":
        estimators.fit_part(data, plan, fold=fold, seed=seed, folder=folder)
    else:
        loop.train_part(data, plan, fold=fold, seed=seed, folder=folder, deadline=deadline)


def join(parts: Sequence[Path], out: Path, plan: Plan, origin: Origin) -> None:
    """Lay finished parts together as the files of the contract (predictions, embeddings, history, weights, model).

    Raises
    ------
    DataError
        If the parts are not those of the plan on its split.
    """
    family = models.family(plan.model.family)
    told: list[Mapping[str, Any]] = [files.read_json(part / "part.json") for part in parts]
    there, wanted = [(about["fold"], about["seed"]) for about in told], plan.parts(origin.split)
    if there != wanted:
        raise DataError(
            f"{origin.split_path}: its parts (fold, seed) are {wanted}, and those to join are {there}; "
            "delete it and draw the split again"
        )
    weights = out / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    for part, about in zip(parts, told, strict=True):
        with files.atomic(out / about["weights"]) as temporary:
            shutil.copyfile(part / "weights.safetensors", temporary)
    predictions.write(
        out / "predictions.parquet", pd.concat([pd.read_parquet(p / "predictions.parquet") for p in parts])
    )
    vectors = [pd.read_parquet(part / "embeddings.parquet") for part in parts] if family.embedding else []
    nothing = pd.DataFrame(columns=["cell_id", "fold", "subset", "class", "seed"])
    files.write_parquet(out / "embeddings.parquet", pd.concat(vectors) if vectors else nothing)
    files.write_csv(out / "history.csv", pd.concat([pd.read_csv(p / "history.csv") for p in parts]))
    files.write_json(
        out / "model.json",
        {
            "dataset": plan.dataset,
            "experiment": plan.experiment,
            "variant": plan.variant,
            "model": plan.model.name,
            "family": plan.model.family,
            "params": dict(plan.model.parameters),
            "loss": plan.loss,
            **_built(plan, origin, out / told[0]["weights"]),
            "channels": list(plan.channels),
            "image_size": list(origin.image_shape),
            "crop": plan.model.crop,
            "fit": plan.fit,
            "scheme": {"name": plan.scheme.name, "classes": {k: list(v) for k, v in plan.scheme.members.items()}},
            "recipe": None if plan.model.recipe is None else dataclasses.asdict(plan.model.recipe),
            "init_from": plan.init_from,
            "parts": told,
            "cells_sha256": origin.cells_sha256,
            "split": {"path": origin.split_path, "sha256": origin.split_sha256},
            "provenance": provenance.collect(["torch", "numpy", "h5py", "pandas", "safetensors"]),
        },
    )


def _built(plan: Plan, origin: Origin, weights: Path) -> dict[str, Any]:
    """Describe what was built: its number of parameters, and the layers of a network; of the first part's settings."""
    entry = plan.model_of(plan.parts(origin.split)[0][0])
    if models.family(entry.family).kind == "estimator":
        return {"kind": "estimator", "n_parameters": sum(a.size for a in load_file(weights).values()), "layers": []}
    side, channels = entry.crop or origin.image_shape[0], len(plan.channels)
    module = build_module(entry, channels=channels, image_size=side, n_classes=len(plan.scheme.classes))
    return {
        "kind": "network",
        "n_parameters": sum(p.numel() for p in module.parameters()),
        "layers": describe_layers(module, channels=channels, image_size=side),
    }


def prepare(cells_path: str | os.PathLike[str], split_path: str | os.PathLike[str], plan: Plan) -> Data:
    """Set how torch works under a plan, and read the plan's cells."""
    torch.set_num_threads(plan.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else torch fills fresh memory that is written over at once: a third of the time of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return load(
        cells_path,
        split_path,
        channels=plan.channels,
        size=plan.model.image_size,
        fit=plan.fit,
        device=choose_device(plan.device),
    )


def train(
    cells_path: str | os.PathLike[str],
    split_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    plan: Plan,
    work: str | os.PathLike[str],
    deadline: Deadline | None = None,
) -> None:
    """Train every part of a plan and join them in the folder `out`.

    Parameters
    ----------
    cells_path, split_path
        The cells, and which of them train.
    out
        Folder for ``predictions.parquet``, ``embeddings.parquet``, ``history.csv``, ``model.json``, ``weights/``.
    plan
        What is trained, and how.
    work
        Folder for unfinished work, safe to delete: a later call goes on from what stands there.
    deadline
        When this process must have ended; it changes no result.

    Raises
    ------
    TakenOverError
        If another process started on the same training meanwhile: it goes on, this one writes no more.
    OutOfTimeError
        If the deadline is near: a later call goes on. Every call makes at least one step.
    """
    data = prepare(cells_path, split_path, plan)
    unfinished = data.origin.unfinished(work, plan)
    deadline, late = deadline or Deadline(), False
    parts: list[Path] = []
    with checkpoints.owned(unfinished) as check_owner:
        wanted = plan.parts(data.split)
        for fold, seed in wanted if plan.init_from else []:
            transfer.find_weights(plan, data, fold=fold, seed=seed)  # refused before the first part is trained
        for fold, seed in wanted:
            part = unfinished / f"fold{fold}-seed{seed}"
            if not (part / "part.json").is_file():
                if late:
                    raise OutOfTimeError(
                        f"{plan.model.name}/{plan.loss}: the job's time ends: {len(parts)} of {len(wanted)} parts are "
                        "done and saved; the next attempt goes on there"
                    )
                with checkpoints.owned(part):
                    fill_part(data, plan, fold=fold, seed=seed, folder=part, deadline=deadline)
                late = deadline.is_near()
            parts.append(part)
        join(parts, Path(out), plan, data.origin)
        check_owner()
        shutil.rmtree(unfinished)


def make_part(
    cells_path: str | os.PathLike[str],
    split_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    plan: Plan,
    fold: int,
    seed: int,
    work: str | os.PathLike[str],
    deadline: Deadline | None = None,
) -> None:
    """Train one part of a plan and put its finished files into the folder `out`, for `join_parts`.

    Parameters and errors are those of `train`. What is unfinished is shared with it: each goes on where the other was.

    Raises
    ------
    DataError
        If the split has no such fold.
    """
    data = prepare(cells_path, split_path, plan)
    if (fold, seed) not in plan.parts(data.split):
        raise DataError(f"{split_path}: has no fold {fold}; delete it and draw the split again")
    part = data.origin.unfinished(work, plan) / f"fold{fold}-seed{seed}"
    with checkpoints.owned(part):
        if not (part / "part.json").is_file():
            fill_part(data, plan, fold=fold, seed=seed, folder=part, deadline=deadline)
        for name in FILES:
            if (part / name).is_file():
                with files.atomic(Path(out) / name) as temporary:
                    shutil.copyfile(part / name, temporary)


def join_parts(
    cells_path: str | os.PathLike[str],
    split_path: str | os.PathLike[str],
    parts: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    plan: Plan,
    work: str | os.PathLike[str],
) -> None:
    """Lay the folders `parts` that `make_part` made together in the folder `out`, as `train` does.

    Raises
    ------
    DataError
        If the parts are not those of the plan on its split.
    """
    origin = Origin.read(cells_path, split_path, size=plan.model.image_size)
    join([Path(part) for part in parts], Path(out), plan, origin)
    shutil.rmtree(origin.unfinished(work, plan), ignore_errors=True)
