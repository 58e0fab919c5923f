"""Networks as modules: built from an entry of the config, and told layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stainfree import models
from stainfree.models._layers import one_by_one


def build_module(entry: models.ModelEntry, *, channels: int, image_size: int, n_classes: int) -> nn.Module:
    """Make a family's module with an entry's parameters."""
    family = models.module(entry.family)
    module = family.Model(channels=channels, image_size=image_size, n_classes=n_classes, **entry.parameters)
    # Measured: convolutions on few channels run a third faster on a CPU with channels last.
    return module.to(memory_format=torch.channels_last)


def shift_of(counts: npt.NDArray[np.integer[Any]], times: float) -> Tensor | None:
    """Return what is added to log-probabilities, (class,) float32, for (class,) numbers of training cells.

    It is `times` the logarithm of each class's share, taken off (see `Recipe.shift`); None for 0.
    """
    if not times:
        return None
    return torch.from_numpy(np.asarray(-times * np.log(counts / counts.sum()), dtype=np.float32))


def describe_layers(module: nn.Module, *, channels: int, image_size: int) -> list[dict[str, Any]]:
    """List the layers of a module in the order in which an image passes them.

    Returns
    -------
    list of dict
        name, kind (the class in ``torch.nn``), output_shape (without the batch axis), n_parameters.
    """
    layers: list[dict[str, Any]] = []

    def note(name: str, layer: nn.Module, output: Tensor) -> None:
        kind = next(base.__name__ for base in type(layer).__mro__ if base.__module__.startswith("torch.nn."))
        layers.append(
            {
                "name": name,
                "kind": kind,
                "output_shape": list(output.shape[1:]),
                "n_parameters": sum(p.numel() for p in layer.parameters()),
            }
        )

    handles = [
        layer.register_forward_hook(lambda layer, _, output, name=name: note(name, layer, output))
        for name, layer in module.named_modules()
        if not list(layer.children())
    ]
    module.eval()
    with torch.inference_mode(), one_by_one():
        module(torch.zeros(1, channels, image_size, image_size))
    for handle in handles:
        handle.remove()
    return layers
