"""The residual network of 41 layers, after Jin et al., which Duque names as a rival.

Source: Jin, Zou, Huang 2021, Information 12, 249. What stands in it is not known here (assumption): ResNet-50 (He et
al. 2016) without its last stage, which leaves 1 + 3 * (3 + 4 + 6) + 1 = 41 layers, with the way around a block
projected where the shape changes. Its recipe is not known either (assumption: Adam, 1e-3, batches of 64; 10 epochs, so
that a CPU ends). Images of any size.
"""

from __future__ import annotations

from stainfree.models import Family, Recipe
from stainfree.models._residual import Bottleneck, ResNet, photo_stem, project

FAMILY = Family(embedding=True, recipe=Recipe(learning_rate=1e-3, batch_size=64, epochs=10))


class Model(ResNet):
    """The stem for photographs, 3 + 4 + 6 bottleneck blocks, the mean over the image, a linear head."""

    def __init__(self, *, channels: int, image_size: int, n_classes: int) -> None:
        super().__init__(
            photo_stem(channels), width=64, blocks=[3, 4, 6], body=Bottleneck, skip=project, n_classes=n_classes
        )
