"""Cross-entropy in which a cell counts one over its class's size: all classes count the same.

Source: Espinosa, section 4.4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def class_weights(counts: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
    """Map (class,) numbers of training cells to (class,) weights: 1 / n."""
    return (1.0 / counts).astype(np.float32)
