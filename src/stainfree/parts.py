"""A part (one fold and seed) of a training: the files that it leaves, whatever kind of model made them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from stainfree import files, predictions
from stainfree.plans import Data, Plan

Answers = tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.floating[Any]] | None]
"""Class probabilities (n, class), and embeddings (n, d) where there are any."""

FILES = ("weights.safetensors", "predictions.parquet", "embeddings.parquet", "history.csv", "part.json")
"""What a finished part may leave; the last says that the others are whole."""

HISTORY_COLUMNS = (
    "step", "epoch", "train_loss", "train_balanced_accuracy", "validation_loss", "validation_balanced_accuracy",
    "learning_rate", "seconds",
)  # fmt: skip


def targets(data: Data, plan: Plan, fold: int) -> Tensor:
    """Return (len(data.images),) int64: the class number of each training and validation cell, -1 of all others."""
    index = {label: k for k, label in enumerate(plan.scheme.classes)}
    target = torch.full((len(data.images),), -1)
    for subset in ("train", "validation"):
        chosen, rows = data.select(fold, subset)
        target[rows] = torch.tensor([index[name] for name in chosen["class"]], dtype=torch.int64)
    return target


def write_answers(
    data: Data, plan: Plan, *, fold: int, seed: int, folder: Path, answer: Callable[[Tensor, bool], Answers]
) -> None:
    """Write a part's predictions of the plan's subsets, and the embeddings of its test cells where it has any.

    Parameters
    ----------
    answer
        Maps positions (n,) of cells, and whether embeddings are wanted, to what the model says of them.
    """
    tables = []
    for subset in plan.subsets:
        chosen, rows = data.select(fold, subset)
        if chosen.empty:
            continue
        probabilities, embeddings = answer(rows, subset == "test")
        tables.append(predictions.table(chosen, probabilities, classes=plan.scheme.classes, seed=seed))
        if embeddings is not None:
            vectors = pd.DataFrame(embeddings, columns=[f"e{k}" for k in range(embeddings.shape[1])])
            about = chosen[["cell_id", "fold", "subset", "class"]].reset_index(drop=True).assign(seed=seed)
            files.write_parquet(folder / "embeddings.parquet", pd.concat([about, vectors], axis=1))
    predictions.write(folder / "predictions.parquet", pd.concat(tables, ignore_index=True))


def write_history(folder: Path, history: list[dict[str, float]], *, fold: int, seed: int) -> None:
    """Write what was measured on the way, a row per validation; none for a model that is not trained by steps."""
    table = pd.DataFrame(history, columns=list(HISTORY_COLUMNS)).assign(fold=fold, seed=seed)
    files.write_csv(folder / "history.csv", table[["fold", "seed", *HISTORY_COLUMNS]])


def write_done(folder: Path, plan: Plan, *, fold: int, seed: int, **said: Any) -> None:
    """Write the last file of a part, which says what came of it."""
    settings = plan.settings_of(fold)
    files.write_json(
        folder / "part.json",
        {
            "fold": fold,
            "seed": seed,
            "weights": f"weights/fold{fold}-seed{seed}.safetensors",
            "sha256": files.sha256(folder / "weights.safetensors"),
            **({"tuned": settings} if settings else {}),
            **said,
        },
    )
