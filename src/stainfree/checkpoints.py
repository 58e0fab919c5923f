"""Unfinished work: who owns it, and its checkpoints.

A checkpoint is tensors and a few plain values in one safetensors file, written atomically.

**Ownership.** A training script may outlive the snakemake that started it: one that is killed hard leaves it running,
and so does a cluster whose controller goes away. The next run then starts another one on the same part. So whoever
starts on a folder of unfinished work lays down a token of its own there, over any that is there, and every file that is
written under `owned` is refused once the token is another's. The newest owner wins, since it is the one that a living
snakemake waits for; the older one stops at its next write. A lock of the file system would do the opposite, and is not
reliable on the network file systems of clusters; a small file, replaced whole and opened anew for every look, is.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, optim

from stainfree import files
from stainfree.errors import TakenOverError

logger = logging.getLogger(__name__)

_LARGEST_SHARE = 0.02
"""Of the time of a training, what its checkpoints may take."""


@contextmanager
def owned(folder: Path) -> Iterator[Callable[[], None]]:
    """Take over a folder of unfinished work; no file is written in the block once another process has taken it.

    Yields
    ------
    callable
        Raises where the folder is no longer this process's, for what is done besides writing files.

    Raises
    ------
    TakenOverError
        At the first write after another process took the folder over, or removed it.
    """
    path = folder / "owner.json"
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    token = {"host": platform.node(), "process": os.getpid(), "since": since, "token": secrets.token_hex(8)}
    files.write_json(path, token)

    def check() -> None:
        try:
            owner = files.read_json(path)
        except FileNotFoundError:
            raise TakenOverError(
                f"{folder}: finished or removed by another process; this one ({os.getpid()}) stops and writes no more"
            ) from None
        if owner != token:
            raise TakenOverError(
                f"{folder}: taken over by process {owner['process']} of {owner['host']} at {owner['since']}; "
                f"this one ({os.getpid()}) stops and writes no more"
            )

    with files.guarded(check):
        yield check


def save(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able values to one file."""
    with files.atomic(path) as temporary:
        contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        # Not `save_file`: it writes to a temporary file of its own, which a killed process would leave behind.
        temporary.write_bytes(to_bytes(contiguous, metadata={"values": json.dumps(values)}))


@dataclass
class Pace:
    """How often a checkpoint is written: no more often than asked, nor than its cost allows."""

    seconds: float
    """Time between two checkpoints; longer where writing one takes long. 0: one after every step, whatever it costs."""
    n_written: int = 0
    n_bytes: int = 0
    spent: float = 0.0
    """Seconds of writing."""
    _last: float = field(init=False)
    _wait: float = field(init=False)

    def __post_init__(self) -> None:
        self._last = time.perf_counter()
        self._wait = self.seconds

    def is_due(self) -> bool:
        """Tell whether it is time for a checkpoint."""
        return time.perf_counter() - self._last >= self._wait

    def save(self, path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Write a checkpoint, and set the time of the next one by what this one took."""
        began = time.perf_counter()
        save(path, tensors, values)
        self._last = time.perf_counter()
        took = self._last - began
        self.n_written += 1
        self.n_bytes += path.stat().st_size
        self.spent += took
        if self.seconds:
            self._wait = max(self.seconds, took / _LARGEST_SHARE)


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
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            parameter = parameters[int(index)]
            if tensor.shape == parameter.shape:
                # In the parameter's order of memory: a fused step goes through both as they lie.
                tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
    whole["state"] = state
    optimizer.load_state_dict(whole)


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix.``, without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
