"""The three-layer CNN of Espinosa: 14,181 parameters on a grey image.

Source: Espinosa, section 4.2 and figure 2: three convolutions (7 x 7 to 8 maps, 5 x 5 to 16, 3 x 3 to 64), each with
batch norm, ReLU and max-pooling by 4, on a random 64 x 64 crop, flipped at random. They end in the 64-dimensional
vector of section 5.4. Kernel sizes and widths are those that give the published count (assumption).
"""

from __future__ import annotations

from torch import Tensor, nn

from stainfree.models import Family, Recipe
from stainfree.models._layers import ConvBlock, copies_of

FAMILY = Family(
    image_size=66,
    crop=64,
    smallest_side=64,
    embedding=True,
    parameters={"dropout": 0.25},
    values={"dropout": {"least": 0, "below": 1}},
    recipe=Recipe(learning_rate=1e-2, batches_per_epoch=5, epochs=10, validate="step", patience=20, flip=True),
)


class Model(nn.Module):
    """Three convolution blocks that shrink 64 x 64 to 1 x 1, dropout, a linear head."""

    def __init__(self, *, channels: int, image_size: int, n_classes: int, dropout: float) -> None:
        super().__init__()
        side = image_size // 4**3
        self.blocks = nn.Sequential(
            ConvBlock(channels, 8, 7, pool=4, copies=copies_of(channels)),  # (n, 8, 16, 16)
            ConvBlock(8, 16, 5, pool=4),  # (n, 16, 4, 4)
            ConvBlock(16, 64, 3, pool=4),  # (n, 64, 1, 1)
            nn.Flatten(),
        )
        # Where dropout stands is not published: before the head, the one dense layer (assumption).
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(64 * side**2, n_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Map (n, channels, 64, 64) to (n, 64)."""
        return self.blocks(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, 64, 64) to (n, n_classes) logits."""
        return self.head(self.dropout(self.embed(x)))
