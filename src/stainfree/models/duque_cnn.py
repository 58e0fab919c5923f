"""The network of Duque: two convolutions, three dense layers.

Source: Duque-Vazquez et al., sections 3.2 and 3.3: 64 kernels of 10 x 10, max-pool, 32 kernels of 5 x 5, max-pool,
dense 32, dropout, dense 16, one output per class; Adam, 1e-4, batches of 32, stopped at epoch 22 because of the loss
on validation. Pool size, padding and dropout rate are not published (assumption: 2 x 2 and none, the defaults of
Keras, and 0.5), nor the rule that stopped it (assumption: six epochs without a lower loss on validation, after which
the weights of the lowest are kept). With a tenth of the cells an epoch has a tenth of the steps, so up to 60 epochs
are allowed. A place of the last map sees 21 pixels across, so images have 21 x 21 or more.
"""

from __future__ import annotations

from torch import nn

from stainfree.models import Family, Recipe
from stainfree.models._classifier import Classifier

FAMILY = Family(
    smallest_side=21,
    embedding=True,
    parameters={"dropout": 0.5},
    values={"dropout": {"least": 0, "below": 1}},
    recipe=Recipe(learning_rate=1e-4, batch_size=32, epochs=60, monitor="loss", patience=6),
)


class Model(Classifier):
    """Two stages of convolution and pooling, two dense layers with dropout between, a linear head."""

    def __init__(self, *, channels: int, image_size: int, n_classes: int, dropout: float) -> None:
        side = ((image_size - 9) // 2 - 4) // 2
        # Pooling before ReLU, with which it commutes: less is left to rectify.
        features = nn.Sequential(
            nn.Conv2d(channels, 64, 10),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(64, 32, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * side**2, 32),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(32, 16),
            nn.ReLU(),
        )
        super().__init__(features, width=16, n_classes=n_classes)
