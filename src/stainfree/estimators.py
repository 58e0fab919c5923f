"""Models that are not trained step by step: they fit themselves to the training cells at once."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from stainfree import files, models, parts
from stainfree.plans import Data, Plan


def fit_part(data: Data, plan: Plan, *, fold: int, seed: int, folder: Path) -> None:
    """Fit one part to its training cells, and write its files into `folder` as `loop.train_part` does."""
    began = time.perf_counter()
    entry, classes = plan.model_of(fold), plan.scheme.classes
    model = models.module(entry.family).Model(channels=plan.channels, n_classes=len(classes), **entry.parameters)
    _, rows = data.select(fold, "train")
    target = parts.targets(data, plan, fold)[rows].numpy()
    images = data.images.cpu().numpy()
    model.fit(images[rows.numpy()], target, seed=np.random.SeedSequence([seed, fold]).generate_state(1).item())
    with files.atomic(folder / "weights.safetensors") as temporary:
        temporary.write_bytes(save({name: np.ascontiguousarray(array) for name, array in model.save().items()}))

    def answer(rows: Tensor, is_test: bool) -> parts.Answers:
        return model.predict(images[rows.numpy()]), None

    parts.write_answers(data, plan, fold=fold, seed=seed, folder=folder, answer=answer)
    parts.write_history(folder, [], fold=fold, seed=seed)
    counts = torch.bincount(torch.from_numpy(target), minlength=len(classes)).tolist()
    parts.write_done(
        folder,
        plan,
        fold=fold,
        seed=seed,
        normalisation=None,
        class_counts=dict(zip(classes, counts, strict=True)),
        class_weights=None,
        best_step=0,
        last_step=0,
        stopped_early=False,
        seconds=time.perf_counter() - began,
        device="cpu",
    )
