"""The simple neural network of Billard: a small multi-layer perceptron on the flattened image.

Source: Billard, section III.B. Its layers are not published (assumption: two hidden ones of 128 and 64, with ReLU).
Learning rate and batch are published; optimiser and epochs are not (assumption: Adam, 10). Images of any size: the
first layer grows with the number of pixels.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from stainfree.models import Family, Recipe
from stainfree.models._classifier import Classifier

FAMILY = Family(
    embedding=True,
    parameters={"hidden": [128, 64]},
    values={"hidden": {"least": 1, "step": 1}},
    recipe=Recipe(learning_rate=5e-4, batch_size=16, epochs=10),
)


class Model(Classifier):
    """Flatten, the hidden layers, a linear head."""

    def __init__(self, *, channels: int, image_size: int, n_classes: int, hidden: list[int]) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for width, out_width in pairwise([channels * image_size**2, *hidden]):
            layers += [nn.Linear(width, out_width), nn.ReLU()]
        super().__init__(nn.Sequential(*layers), width=hidden[-1], n_classes=n_classes)
