"""DeepFlow, the network of Eulenberg et al.: blocks of two convolutions side by side.

Source: Eulenberg et al. 2017, Nature Communications 8, 463, and the code published with it (theislab/deepflow,
``run.py``): layers, initial weights, and the recipe, SGD of 0.01 with momentum 0.9, weight decay 5e-4 and batches of
128 on random, mirrored crops of 64 x 64. Published are 100 epochs, the rate a tenth from epoch 85 on; 10 are the
default, so that a CPU ends (assumption). Theirs were also rotated at random, no validation cells chose an epoch, and
the norms' weights, which are learned here, stood at 1 (the default of MXNet).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from stainfree.models import Family, Recipe
from stainfree.models._classifier import Classifier

FAMILY = Family(
    image_size=66,
    crop=64,
    embedding=True,
    recipe=Recipe(
        optimizer="sgd",
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        batch_size=128,
        epochs=10,
        flip=True,
    ),
)


class Dual(nn.Module):
    """A 1 x 1 and a 3 x 3 convolution of the same maps side by side: (n, channels, y, x) to (n, sum of both, y, x)."""

    def __init__(self, channels: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, narrow, 1)
        self.wide = nn.Conv2d(channels, wide, 3, padding=1)
        self.norm = nn.BatchNorm2d(narrow + wide)  # each channel by itself: the norms of both at once
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, y, x) to (n, narrow + wide, y, x)."""
        return self.relu(self.norm(torch.cat([self.narrow(x), self.wide(x)], dim=1)))


class Down(nn.Module):
    """A 3 x 3 convolution beside a 3 x 3 max-pool, both in steps of 2: to (n, width + channels, y / 2, x / 2)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = conv_norm_relu(channels, width, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, y, x) to (n, width + channels, y / 2, x / 2)."""
        return torch.cat([self.conv(x), self.pool(x)], dim=1)


def conv_norm_relu(channels: int, width: int, *, stride: int = 1) -> nn.Sequential:
    """Return a 3 x 3 convolution with 'same' padding, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=stride, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


class Model(Classifier):
    """A convolution, ten dual blocks with three that halve the maps between, the mean over the image, a linear head."""

    def __init__(self, *, channels: int, image_size: int, n_classes: int) -> None:
        features = nn.Sequential(
            conv_norm_relu(channels, 96),  # (n, 96, 64, 64)
            Dual(96, 32, 32),
            Dual(64, 32, 48),
            Down(80, 80),  # (n, 160, 32, 32)
            Dual(160, 112, 48),
            Dual(160, 96, 64),
            Dual(160, 80, 80),
            Dual(160, 48, 96),
            Down(144, 96),  # (n, 240, 16, 16)
            Dual(240, 176, 160),
            Dual(336, 176, 160),
            Down(336, 96),  # (n, 432, 8, 8)
            Dual(432, 176, 160),
            Dual(336, 176, 160),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        super().__init__(features, width=336, n_classes=n_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=(2.34 / layer.weight[0].numel()) ** 0.5)
                nn.init.zeros_(cast(Tensor, layer.bias))
