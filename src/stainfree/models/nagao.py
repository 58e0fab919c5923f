"""The network of Nagao et al. as Billard rebuilt it: 11,227,540 parameters on a 300 x 300 colour image.

Source: Nagao et al. 2020, Molecular Biology of the Cell 31; Billard, section III.D. Stages of a 3 x 3 convolution with
'same' padding, ReLU and a 2 x 2 max-pool, a dense layer of 128 and dropout 0.5. The model that Billard released has
three stages of 16, 16 and 64 kernels, the default here; a place of its last map sees 22 pixels across. `kernels` has
one number per stage; the image is no longer pooled once its side is 1, so that any number of stages is possible, on
images of any size. The report's best has six (assumption: how many kernels they have is not published).

Learning rate and batch are published; optimiser and epochs are not (assumption: Adam, 10), nor where dropout stands
(assumption: after the dense layer).
"""

from __future__ import annotations

from torch import nn

from stainfree.models import Family, Recipe
from stainfree.models._classifier import Classifier

FAMILY = Family(
    embedding=True,
    parameters={"kernels": [16, 16, 64], "dense": 128, "dropout": 0.5},
    values={
        "kernels": {"least": 1, "step": 1},
        "dense": {"least": 1},
        "dropout": {"least": 0, "below": 1},
    },
    recipe=Recipe(learning_rate=5e-4, batch_size=16, epochs=10),
)


class Model(Classifier):
    """Stages of convolution and pooling, a dense layer, dropout, a linear head."""

    def __init__(
        self, *, channels: int, image_size: int, n_classes: int, kernels: list[int], dense: int, dropout: float
    ) -> None:
        layers: list[nn.Module] = []
        side = image_size
        for width in kernels:
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            if side > 1:  # before ReLU, with which it commutes: less is left to rectify
                layers.append(nn.MaxPool2d(2))
                side //= 2
            layers.append(nn.ReLU())
            channels = width
        layers += [nn.Flatten(), nn.Linear(channels * side**2, dense), nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(nn.Sequential(*layers), width=dense, n_classes=n_classes)
