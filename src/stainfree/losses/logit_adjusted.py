"""Cross-entropy of logits to which the log of each class's share of the training cells is added.

A network that learns under it answers as if all classes were equally common, which is what balanced accuracy asks for:
what tells a class is left to the network, how common it is to the shares. Those are of the cells as they are shown, so
it goes along with any balancing.

Source: Menon et al. 2021, "Long-tail learning via logit adjustment" (arXiv 2007.07314), equation 10. Its tau is 1 in
theory; a little more makes up for rare classes that are partly learned by heart (docs/contender.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAU = 1.2
"""Times that the log share is added."""


class LogitAdjusted(nn.Module):
    """The loss for classes whose log shares (class,) are `log_shares`."""

    log_shares: Tensor

    def __init__(self, log_shares: Tensor, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("log_shares", log_shares)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Map (n, class) logits and (n,) class numbers to the mean loss."""
        return F.cross_entropy(logits + self.log_shares, target, label_smoothing=self.label_smoothing)


def build(counts: npt.NDArray[np.integer[Any]], *, label_smoothing: float = 0.0) -> nn.Module:
    """Make the loss for (class,) numbers of training cells, as often as an epoch shows them."""
    shares = torch.from_numpy(np.asarray(counts / counts.sum(), dtype=np.float32))
    return LogitAdjusted(TAU * shares.log(), label_smoothing=label_smoothing)
