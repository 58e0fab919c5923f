"""The residual network after Rana et al., which Duque names as a rival.

Source: Rana et al. 2022, ISBI 2022 and Scientific Reports 12. Which ResNet they trained is not known here
(assumption): ResNet-18 (He et al. 2016), with the way around a block projected where the shape changes. Its recipe is
not known either (assumption: Adam, 1e-3, batches of 64; 10 epochs, so that a CPU ends). Images of any size.
"""

from __future__ import annotations

from stainfree.models import Family, Recipe
from stainfree.models._residual import Basic, ResNet, photo_stem, project

FAMILY = Family(embedding=True, recipe=Recipe(learning_rate=1e-3, batch_size=64, epochs=10))


class Model(ResNet):
    """The stem for photographs, four stages of two basic blocks, the mean over the image, a linear head."""

    def __init__(self, *, channels: int, image_size: int, n_classes: int) -> None:
        super().__init__(
            photo_stem(channels), width=64, blocks=[2, 2, 2, 2], body=Basic, skip=project, n_classes=n_classes
        )
