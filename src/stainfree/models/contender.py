"""Our own contender: a small convolutional network for small images, after no study.

Six convolutions of 3 x 3 with batch norm, the maps halved three times, the mean over the image. A place of the last
map sees 50 pixels across. How it and its recipe were chosen, and what was tried besides, stands in docs/contender.md.
Images of any size from 16 pixels on.

With several `members`, that many such networks stand side by side, and the last layer reads them all. In training a
cell passes only one of them, as dropout lets it pass only some neurons: an epoch costs the same whatever their number,
and members that began elsewhere and were shown other views err on other cells.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stainfree.models import Family, Recipe
from stainfree.models._classifier import Classifier
from stainfree.models._residual import conv_norm

FAMILY = Family(
    embedding=True,
    smallest_side=16,
    losses=("logit_adjusted",),
    parameters={"width": 16, "members": 2, "dropout": 0.2},
    values={
        "width": {"least": 1, "step": 1},
        "members": {"least": 1, "step": 1},
        "dropout": {"least": 0, "below": 1},
    },
    recipe=Recipe(
        optimizer="adamw",
        learning_rate=3e-3,
        weight_decay=0.1,
        batch_size=128,
        epochs=24,
        schedule="one_cycle",
        monitor="last",
        balance="sqrt",
        flip=True,
        rotate="quarter",
        views=8,
    ),
)


class Members(nn.Module):
    """Networks side by side: (n, channels, y, x) to (n, members * width)."""

    def __init__(self, members: list[nn.Module], *, width: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Let each cell pass all members, or in training one of them, whose vector stands for all."""
        if not self.training:
            return torch.cat([member(x) for member in self.members], dim=1)
        n = len(self.members)
        out = x.new_zeros(len(x), n, self.width)
        for k, member in enumerate(self.members[: len(x)]):
            out[k::n, k] = n * member(x[k::n])
        return out.flatten(1)


def stage(channels: int, width: int, *, halve: bool) -> list[nn.Module]:
    """Return the layers of a convolution, pooled before the norm where `halve`: less is left to norm and rectify."""
    convolution, norm = conv_norm(channels, width, 3)
    return [convolution, *([nn.MaxPool2d(2)] if halve else []), norm, nn.ReLU(inplace=True)]


def member(channels: int, width: int) -> nn.Sequential:
    """Return one network: (n, channels, y, x) to (n, 8 width)."""
    layers: list[nn.Module] = []
    for times, halve in ((1, True), (2, False), (2, True), (4, False), (4, True), (8, False)):
        layers += stage(channels, times * width, halve=halve)
        channels = times * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Model(Classifier):
    """The members, dropout, and a linear head."""

    def __init__(
        self, *, channels: int, image_size: int, n_classes: int, width: int, members: int, dropout: float
    ) -> None:
        each = 8 * width
        side_by_side = Members([member(channels, width) for _ in range(members)], width=each)
        features = nn.Sequential(side_by_side, nn.Dropout(dropout))
        super().__init__(features, width=members * each, n_classes=n_classes)
