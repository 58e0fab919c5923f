"""Losses: one file each, and the file's name is the loss's name.

A loss's file offers ``class_weights(counts) -> weights``: (class,) numbers of training cells to (class,) float32
weights of the cross-entropy. Where more than weights changes, it offers ``build(counts) -> torch.nn.Module`` with
``forward(logits (n, class), target (n,)) -> scalar`` instead; ``build(counts, *, label_smoothing)`` if it can smooth
labels. Of a model whose recipe balances the classes, counts are those of an epoch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from stainfree.names import files_by_name, find_file

FOLDER = Path(__file__).parent


def loss_names() -> list[str]:
    """Return the names of all losses, sorted: the files of this folder."""
    return list(files_by_name(FOLDER))


def loss_path(name: str) -> Path:
    """Return the file that defines a loss; raise `ConfigError` naming the nearest one that exists."""
    return find_file(FOLDER, name, what="loss")


def module(name: str) -> ModuleType:
    """Import a loss's file."""
    loss_path(name)
    return importlib.import_module(f"stainfree.losses.{name}")
