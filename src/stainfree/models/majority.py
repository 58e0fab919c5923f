"""The trivial answer: always the largest class of the training cells.

Source: ours, the rival of every model: it sees no image. Its probabilities are the classes' shares of the training
cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stainfree.models import Family

FAMILY = Family(kind="estimator", losses=("none",))


class Model:
    """The shares of the classes."""

    def __init__(self, channels: Sequence[str], n_classes: int) -> None:
        self.shares = np.full(n_classes, 1 / n_classes)

    def fit(self, images: npt.NDArray[Any], target: npt.NDArray[np.int64], *, seed: int) -> None:
        """Count the classes of training cells: `target` (n,)."""
        self.shares = np.bincount(target, minlength=len(self.shares)) / len(target)

    def predict(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the same probabilities (n, n_classes) for all cells."""
        return np.tile(self.shares, (len(images), 1))

    def save(self) -> dict[str, npt.NDArray[Any]]:
        """Return what `load` takes."""
        return {"shares": self.shares}

    def load(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become the model that was saved."""
        self.shares = arrays["shares"]
