"""Losses: one file each, and the file's name is the loss's name.

A loss's file offers ``class_weights(counts) -> weights``: (class,) numbers of training cells to (class,) float32
weights of the cross-entropy. Where more than weights changes, it offers ``build(counts) -> torch.nn.Module`` with
``forward(logits (n, class), target (n,)) -> scalar`` instead.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from types import ModuleType

from stainfree.errors import ConfigError

FOLDER = Path(__file__).parent


def loss_names() -> list[str]:
    """Return the names of all losses, sorted: the files of this folder."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def loss_path(name: str) -> Path:
    """Return the file that defines a loss; raise `ConfigError` naming the nearest one that exists."""
    path = FOLDER / f"{name}.py"
    if name.startswith("_") or not path.is_file():
        near = difflib.get_close_matches(name, loss_names(), n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise ConfigError(f"unknown loss `{name}`{hint} (there are: {', '.join(loss_names())})")
    return path


def module(name: str) -> ModuleType:
    """Import a loss's file."""
    loss_path(name)
    return importlib.import_module(f"stainfree.losses.{name}")
