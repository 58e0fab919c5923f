"""Checkpoints: tensors and a few plain values in one safetensors file, written atomically."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, optim

from stainfree import files

logger = logging.getLogger(__name__)


def save(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able values to one file."""
    with files.atomic(path) as temporary:
        contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, metadata={"values": json.dumps(values)})


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read what `save` wrote; None where there is nothing to go on from.

    A file that cannot be read is set aside as ``<name>.corrupt`` with a warning: work starts anew rather than from
    something broken.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()["values"])
            return {name: file.get_tensor(name) for name in file.keys()}, values  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        aside = path.with_name(path.name + ".corrupt")
        path.replace(aside)
        logger.warning("%s is not readable (%s); set aside as %s, starting this part anew", path, error, aside.name)
        return None


def optimizer_tensors(optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{key}": value
        for index, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned; learning rates and the like are those of `optimizer`."""
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    whole["state"] = state
    optimizer.load_state_dict(whole)


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix.``, without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
