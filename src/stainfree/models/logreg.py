"""The multi-class logistic regression of Billard: one weight per pixel and class, and a bias per class.

Source: Billard, section III.A. It is trained like the other networks of the report, by minibatches on the normalised
image, so that losses, augmentation and saliency mean the same for it. Learning rate and batch are published; optimiser
and epochs are not (assumption: Adam, 10). Images of any size: there are as many weights as pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from stainfree.models import Family, Recipe

FAMILY = Family(recipe=Recipe(learning_rate=5e-4, batch_size=16, epochs=10))


class Model(nn.Module):
    """Flatten, a linear layer."""

    def __init__(self, *, channels: int, image_size: int, n_classes: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.head = nn.Linear(channels * image_size**2, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, y, x) to (n, n_classes) logits."""
        return self.head(self.flatten(x))
