"""What most networks have in common: features of a cell, and a linear layer that reads them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Pixels of the images that pass a CPU at once where nothing is learned: 16 cells of 64 x 64. Their maps stay in its
# cache (measured: up to twice as fast as 64 cells), and those of hundreds of cells would fill gigabytes.
_PIXELS = 2**16


class Classifier(nn.Module):
    """A network whose last layer, `head`, reads the vectors that `features` makes of images.

    Parameters
    ----------
    features
        Maps (n, channels, y, x) to (n, width).
    width, n_classes
        Sizes of the vectors and of the output.
    """

    def __init__(self, features: nn.Module, *, width: int, n_classes: int) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(width, n_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Map (n, channels, y, x) to (n, width)."""
        if self.training or x.device.type != "cpu":  # batch norm learns from the batch in one piece
            return self.features(x)
        cells = max(1, _PIXELS // (x.shape[2] * x.shape[3]))
        return torch.cat([self.features(chunk) for chunk in x.split(cells)])

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, y, x) to (n, n_classes) logits."""
        return self.head(self.embed(x))
