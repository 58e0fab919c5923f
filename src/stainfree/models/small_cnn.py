"""A small CNN for small images: the reference by which the project measures its own simulator, after no study.

Three convolutions, the image halved by each, and the mean of what they find: a few seconds a fold on one core.
"""

from __future__ import annotations

from torch import Tensor, nn

from stainfree.models import Family, Recipe

FAMILY = Family(
    image_size=40,
    crop=36,
    embedding=True,
    parameters={"width": 16},
    recipe=Recipe(learning_rate=3e-3, batch_size=32, epochs=30, flip=True),
)


class Model(nn.Module):
    """Convolutions of `width`, twice and four times as many maps, the mean of each map, a linear head."""

    def __init__(self, *, channels: int, image_size: int, n_classes: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        maps = channels
        for kernel, out in ((5, width), (3, 2 * width), (3, 4 * width)):
            convolution = nn.Conv2d(maps, out, kernel, stride=2, padding=kernel // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(out), nn.ReLU()]
            maps = out
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(maps, n_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Map (n, channels, y, x) to (n, 4 width)."""
        return self.features(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, y, x) to (n, n_classes) logits."""
        return self.head(self.embed(x))
