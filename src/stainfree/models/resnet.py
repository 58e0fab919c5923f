"""The residual networks of Billard: depth 6n + 2 (8, 14, 20 ...), with residual blocks or plain ones.

Source: Billard, section III.C and table III; He et al. 2016 (arXiv 1512.03385), section 4.2: a 3 x 3 convolution, three
stages of n blocks of two 3 x 3 convolutions, the maps halved between stages, the mean over the image. The way around
a block has no parameters (their option A), so residual and plain networks have the same ones: 75,000 at depth 8, and
the published 0.27 million at depth 20. The published "ResNet 8" is the plain one. A place of the last map sees 28n - 3
pixels across: 25 at depth 8, 81 at depth 20. Images of any size.

Learning rate and batch are published; base width, optimiser and epochs are not (assumption: 16, Adam, 10 on a CPU).
"""

from __future__ import annotations

from torch import nn

from stainfree.models import Family, Recipe
from stainfree.models._residual import Basic, ResNet, conv_norm, no_skip, subsample

FAMILY = Family(
    embedding=True,
    parameters={"depth": 8, "block": "residual", "width": 16},
    values={
        "depth": {"least": 8, "step": 6},
        "block": {"choices": ("residual", "plain")},
        "width": {"least": 1},
    },
    recipe=Recipe(learning_rate=5e-4, batch_size=16, epochs=10),
)


class Model(ResNet):
    """A convolution, three stages of (depth - 2) / 6 blocks, the mean over the image, a linear head."""

    def __init__(self, *, channels: int, image_size: int, n_classes: int, depth: int, block: str, width: int) -> None:
        super().__init__(
            nn.Sequential(conv_norm(channels, width, 3), nn.ReLU(inplace=True)),
            width=width,
            blocks=[(depth - 2) // 6] * 3,
            body=Basic,
            skip={"residual": subsample, "plain": no_skip}[block],
            n_classes=n_classes,
        )
