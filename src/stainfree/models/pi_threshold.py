"""Cut-offs of integrated PI: the trivial rival of everything that sees the stain.

Source: ours. G1, S and G2 cells are told apart by their DNA, and PI stains DNA, so one number per cell, the counts of
PI above background, says much of what a network could find in the stain. Each class has one interval of that number,
which may be empty; the intervals lie in the order of the classes' medians. No other such intervals answer better on the
training cells: the cut-offs are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stainfree.models import Family
from stainfree.stain import integrate

FAMILY = Family(
    kind="estimator",
    needs=("PI",),
    losses=("none",),
    parameters={"criterion": "balanced_accuracy"},
    values={"criterion": {"choices": ("balanced_accuracy", "accuracy")}},
)

Floats = npt.NDArray[np.float64]


def best_cuts(values: Floats, ranks: npt.NDArray[np.int64], worth: Floats) -> Floats:
    """Return the cut-offs under which the cells in the interval of their own class are worth most.

    By dynamic programming: the best way to give the j lowest values to the first k classes rests on the best way to
    give some of them to the first k - 1. Time and memory grow with the number of cells times that of classes.

    Parameters
    ----------
    values
        (n,) one number per cell.
    ranks
        (n,) position of the cell's class among the intervals.
    worth
        (n_classes,) of one cell, by that position.

    Returns
    -------
    ndarray
        (n_classes - 1,) rising; a cell lies in the interval whose position is the number of cut-offs at or below its
        value. Between two values halfway; -inf and inf where classes at an end have none.
    """
    levels, level = np.unique(values, return_inverse=True)
    counts = np.zeros((len(worth), len(levels) + 1))
    np.add.at(counts, (ranks, level + 1), 1)
    below = counts.cumsum(axis=1) * worth[:, None]  # (class, j): its cells among the j lowest levels
    numbers = np.arange(len(levels) + 1)
    best, begins = below[0], []
    for own in below[1:]:
        gain = best - own
        record = gain > np.append(-np.inf, np.maximum.accumulate(gain)[:-1])
        begin = np.maximum.accumulate(np.where(record, numbers, 0))  # (j,) where this class best begins
        best = own + gain[begin]
        begins.append(begin)
    edges = np.concatenate([[-np.inf], (levels[:-1] + levels[1:]) / 2, [np.inf]])
    cuts, end = [], len(levels)
    for begin in reversed(begins):
        end = begin[end]
        cuts.append(edges[end])
    return np.array(cuts[::-1], dtype=np.float64)


class Model:
    """The cut-offs, the classes in the order of their intervals, and the probabilities inside each."""

    def __init__(self, channels: Sequence[str], n_classes: int, *, criterion: str) -> None:
        self.channel = list(channels).index("PI")
        self.n_classes = n_classes
        self.criterion = criterion
        self.cuts: npt.NDArray[Any] = np.empty(0)
        """(n_classes - 1,) in counts of integrated PI."""
        self.order: npt.NDArray[Any] = np.empty(0)
        """(n_classes,) the class of each interval."""
        self.probabilities: npt.NDArray[Any] = np.empty(0)
        """(interval, class)."""

    def fit(self, images: npt.NDArray[Any], target: npt.NDArray[np.int64], *, seed: int) -> None:
        """Place the cut-offs on training cells.

        The probability of a class inside an interval comes from the shares of the classes' cells that lie there, to
        each of which one cell is added that is spread over all intervals. All classes are as likely beforehand, or, for
        the accuracy, as frequent as they are. None is given more than the class whose interval it is.

        Parameters
        ----------
        images
            (n, channels, y, x) camera counts.
        target
            (n,) class numbers; every class has cells.
        seed
            Nothing is drawn.
        """
        counts = np.bincount(target, minlength=self.n_classes)
        prior = counts / len(target) if self.criterion == "accuracy" else np.full(self.n_classes, 1 / self.n_classes)
        stain = self._stain(images)
        self.order = np.argsort([np.median(stain[target == k]) for k in range(self.n_classes)], kind="stable")
        self.cuts = best_cuts(stain, np.argsort(self.order)[target], (prior / counts)[self.order])
        inside = np.zeros((self.n_classes, self.n_classes))
        np.add.at(inside, (self._interval(stain), target), 1)
        joint = prior * (inside + 1 / self.n_classes) / (counts + 1)
        own = np.arange(self.n_classes), self.order
        joint[own] = np.maximum(joint[own], joint.max(axis=1) * (1 + 1e-6))
        self.probabilities = joint / joint.sum(axis=1, keepdims=True)

    def _stain(self, images: npt.NDArray[Any]) -> Floats:
        return integrate(images[:, self.channel]).astype(np.float64)

    def _interval(self, stain: Floats) -> npt.NDArray[np.int64]:
        return np.searchsorted(self.cuts, stain, side="right")

    def predict(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return probabilities (n, n_classes) of images (n, channels, y, x) of camera counts."""
        found: Floats = self.probabilities[self._interval(self._stain(images))]
        return found

    def save(self) -> dict[str, npt.NDArray[Any]]:
        """Return what `load` takes."""
        return {"cuts": self.cuts, "order": self.order, "probabilities": self.probabilities}

    def load(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become the model that was saved."""
        self.cuts, self.order, self.probabilities = (arrays[key] for key in ("cuts", "order", "probabilities"))
