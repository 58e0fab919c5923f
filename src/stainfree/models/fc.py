"""The fully connected network of Espinosa: 1,312,505 parameters on a grey 66 x 66 image.

Source: Espinosa, section 4.1: two hidden layers of 100 and 50, each with batch norm, ReLU and dropout; images
enter un-augmented, flattened, as (3, 66, 66).
"""

from __future__ import annotations

from torch import Tensor, nn

from stainfree.models import Family, Recipe
from stainfree.models._layers import RepeatedLinear, copies_of

FAMILY = Family(
    image_size=66,
    embedding=True,
    parameters={"dropout": 0.25},
    values={"dropout": {"least": 0, "below": 1}},
    recipe=Recipe(learning_rate=1e-3, batches_per_epoch=5, epochs=10, validate="step", patience=20),
)


class Model(nn.Module):
    """Flatten, two hidden layers, a linear head."""

    def __init__(self, *, channels: int, image_size: int, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Flatten(),
            RepeatedLinear(channels * image_size**2, 100, copies=copies_of(channels)),
            nn.BatchNorm1d(100),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(100, 50),
            nn.BatchNorm1d(50),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(50, n_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Map (n, channels, 66, 66) to (n, 50)."""
        return self.hidden(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, 66, 66) to (n, n_classes) logits."""
        return self.head(self.embed(x))
