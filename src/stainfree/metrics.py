"""Scores of a classifier and their 95 % intervals, from arrays.

Throughout, `true` and `predicted` are (cell,) integer class codes, `probabilities` is (cell, class), and a confusion
matrix is (..., true class, predicted class), so that one matrix and thousands of resampled ones are scored by the same
lines.

Where a score is not defined
    A class without cells has NaN for all of its own scores and takes no part in balanced accuracy, macro F1, weighted
    F1 and weighted precision. A class that has cells and is never predicted has precision 0, and where all cells are of
    one class, or all are predicted as one class, the Matthews correlation is 0: both as in scikit-learn. A class that
    all cells belong to has no ROC-AUC.

Intervals
    Wilson for a recall and for accuracy; the Beta posteriors of the recalls for balanced accuracy; a percentile
    bootstrap for the rest, which redraws the cells within each true class, so that a class keeps its number of cells.
    Each interval is widened, where need be, to hold its own value: a bootstrap of the calibration error, for one,
    mostly lies above it. Where all cells of a class fare alike, a bootstrap has no width: read the number of cells.

Weights
    A cell that was predicted several times (as a training cell of several folds) enters each time with a weight of one
    over that number: it counts as one cell, in the values and in the widths of the intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LEVEL = 0.95
BETA_DRAWS = 20_000
ECE_BINS = 15
# Resampled counts are held for this many (replicate, cell) at once: 2 MB, so that they stay in the cache.
BLOCK_SIZE = 250_000


@dataclass(frozen=True)
class Score:
    """One number and its 95 % interval."""

    metric: str
    """Name of the metric, such as ``recall``."""
    class_code: int | None
    """The class it is about; None where it is about all classes."""
    value: float
    low: float
    high: float
    n_cells: int
    """Cells behind it: those of its class, or all."""


# Scores of confusion matrices


def confusion_matrix(true: Codes, predicted: Codes, *, n_classes: int, weights: Floats | None = None) -> Floats:
    """Count cells: (true class, predicted class) float64."""
    return _cross_count(true, predicted, shape=(n_classes, n_classes), weights=weights)


def _cross_count(rows: Codes, columns: Codes, *, shape: tuple[int, int], weights: Floats | None) -> Floats:
    """Count how often each row and column meet, (row, column)."""
    counts = np.bincount(rows * shape[1] + columns, weights=weights, minlength=shape[0] * shape[1])
    return counts.astype(np.float64).reshape(shape)


def _divide(numerator: Floats, denominator: Floats, *, otherwise: float) -> Floats:
    """Divide, with `otherwise` where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    quotient: Floats = np.full(numerator.shape, otherwise)
    return np.divide(numerator, denominator, out=quotient, where=denominator != 0)


def _correct(confusion: Floats) -> Floats:
    diagonal: Floats = np.diagonal(confusion, axis1=-2, axis2=-1)
    return diagonal


def recall(confusion: Floats) -> Floats:
    """Share of each class's cells that are predicted as it, (..., class); NaN for a class without cells."""
    return _divide(_correct(confusion), confusion.sum(axis=-1), otherwise=np.nan)


def precision(confusion: Floats) -> Floats:
    """Share of the cells predicted as each class that are of it, (..., class).

    0 for a class that is never predicted, NaN for a class without cells.
    """
    score = _divide(_correct(confusion), confusion.sum(axis=-2), otherwise=0.0)
    return np.where(confusion.sum(axis=-1) > 0, score, np.nan)


def f1(confusion: Floats) -> Floats:
    """Harmonic mean of precision and recall, (..., class); NaN for a class without cells."""
    truly, called = confusion.sum(axis=-1), confusion.sum(axis=-2)
    score = _divide(2 * _correct(confusion), truly + called, otherwise=np.nan)
    return np.where(truly > 0, score, np.nan)


def _mean(per_class: Floats, shares: Floats) -> Floats:
    """Average (..., class) scores by non-negative shares (..., class), leaving out the classes whose share is 0."""
    weighted: Floats = np.where(shares > 0, per_class, 0.0) * shares
    return _divide(weighted.sum(axis=-1), shares.sum(axis=-1), otherwise=np.nan)


def _presence(confusion: Floats) -> Floats:
    """1 for a class with cells, 0 for one without, (..., class)."""
    return np.where(confusion.sum(axis=-1) > 0, 1.0, 0.0)


def balanced_accuracy(confusion: Floats) -> Floats:
    """Mean recall over the classes that have cells, (...)."""
    return _mean(recall(confusion), _presence(confusion))


def macro_f1(confusion: Floats) -> Floats:
    """Mean F1 over the classes that have cells, (...)."""
    return _mean(f1(confusion), _presence(confusion))


def weighted_f1(confusion: Floats) -> Floats:
    """Mean F1 weighted by the number of cells of each class, (...)."""
    return _mean(f1(confusion), confusion.sum(axis=-1))


def weighted_precision(confusion: Floats) -> Floats:
    """Mean precision weighted by the number of cells of each class, (...); so weighted, recall is `accuracy`."""
    return _mean(precision(confusion), confusion.sum(axis=-1))


def accuracy(confusion: Floats) -> Floats:
    """Share of all cells that are predicted as their class, (...)."""
    return _divide(_correct(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)), otherwise=np.nan)


def matthews(confusion: Floats) -> Floats:
    """Matthews correlation for any number of classes (Gorodkin 2004, Comput. Biol. Chem. 28:367, eq. 8), (...)."""
    truly, called, n = confusion.sum(axis=-1), confusion.sum(axis=-2), confusion.sum(axis=(-2, -1))
    covariance = _correct(confusion).sum(axis=-1) * n - (truly * called).sum(axis=-1)
    spread = (n**2 - (called**2).sum(axis=-1)) * (n**2 - (truly**2).sum(axis=-1))
    return _divide(covariance, np.sqrt(spread), otherwise=0.0)


# Scores of probabilities


@dataclass(frozen=True)
class _Ranking:
    """Cells of one class against all others, in falling order of the class's probability.

    Both curve scores depend on the other cells only through how many stand above each cell of the class. So the others
    are counted in bins between its cells: for a rare class thousands of cells become a few bins, and a replicate of the
    bootstrap is a handful of draws instead of a sort.
    """

    members: npt.NDArray[np.intp]
    """(member,) the cells of the class, most probable first."""
    last_of_tie: npt.NDArray[np.intp]
    """(member,) position of the last member of the same probability."""
    bins_above: npt.NDArray[np.intp]
    """(member,) how many bins of other cells lie above the member."""
    bins_at_or_above: npt.NDArray[np.intp]
    """(member,) the same, with the bin of equal probability."""
    bin_of: npt.NDArray[np.intp]
    """(other,) bin of each other cell, in the order of the cells."""
    n_bins: int

    @classmethod
    def of(cls, scores: npt.NDArray[np.floating], is_member: npt.NDArray[np.bool_]) -> _Ranking:
        members = np.flatnonzero(is_member)
        members = members[np.argsort(-scores[members], kind="stable")]
        falling, others = -scores[members], -scores[~is_member]
        # The members strictly above, and those at or above, place another cell in falling order.
        above = np.searchsorted(falling, others, side="left")
        at_or_above = np.searchsorted(falling, others, side="right")
        code, bin_of = np.unique(above * (len(members) + 1) + at_or_above, return_inverse=True)
        bin_above, bin_at_or_above = np.divmod(code, len(members) + 1)
        position = np.arange(len(members))
        return cls(
            members=members,
            last_of_tie=np.searchsorted(falling, falling, side="right") - 1,
            bins_above=np.searchsorted(bin_at_or_above, position, side="right"),
            bins_at_or_above=np.searchsorted(bin_above, position, side="right"),
            bin_of=bin_of,
            n_bins=len(code),
        )

    def scores(self, members: Floats, bins: Floats) -> tuple[Floats, Floats]:
        """Score (replicate, member) against (replicate, bin) counts: ROC-AUC and average precision, (replicate,).

        The area counts a tie as half (Mann-Whitney); average precision is the sum, over the distinct probabilities, of
        the precision there times the gain in recall, without interpolation. Both as in scikit-learn.
        """
        cumulated = np.zeros((len(bins), self.n_bins + 1))
        bins.cumsum(axis=1, out=cumulated[:, 1:])
        above, at_or_above = cumulated[:, self.bins_above], cumulated[:, self.bins_at_or_above]
        n_members, n_others = members.sum(axis=1), cumulated[:, -1]
        below = n_others[:, None] - (above + at_or_above) / 2
        area = _divide((members * below).sum(axis=1), n_members * n_others, otherwise=np.nan)
        found = members.cumsum(axis=1)[:, self.last_of_tie]
        gained = members * _divide(found, found + at_or_above, otherwise=0.0)
        return area, _divide(gained.sum(axis=1), n_members, otherwise=np.nan)


def curve_scores(
    true: Codes, probabilities: npt.NDArray[np.floating], *, weights: Floats | None = None
) -> tuple[Floats, Floats]:
    """ROC-AUC and average precision of each class against the rest.

    Returns
    -------
    tuple of ndarray
        Two (class,) arrays; NaN for a class without cells, and for the ROC-AUC of a class that all cells belong to.
    """
    weights = np.ones(len(true)) if weights is None else weights
    n_classes = probabilities.shape[1]
    areas, precisions = np.full(n_classes, np.nan), np.full(n_classes, np.nan)
    for code in np.unique(true):
        is_member = true == code
        ranking = _Ranking.of(probabilities[:, code], is_member)
        bins = np.bincount(ranking.bin_of, weights[~is_member], minlength=ranking.n_bins).astype(np.float64)
        area, average_precision = ranking.scores(weights[ranking.members][None], bins[None])
        areas[code], precisions[code] = area[0], average_precision[0]
    return areas, precisions


def _calibration(
    true: Codes, predicted: Codes, probabilities: npt.NDArray[np.floating]
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return each cell's bin of confidence, and its confidence less whether it is right."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    return bins, confidence - (true == predicted)


def calibration_error(
    true: Codes, predicted: Codes, probabilities: npt.NDArray[np.floating], *, weights: Floats | None = None
) -> float:
    """Expected calibration error: how far the top probability is from the share that is right.

    In 15 bins of equal width over the top probability, each open below and closed above, the absolute difference
    between mean probability and share of cells predicted right, averaged by the number of cells (Guo et al. 2017, ICML,
    eq. 3).
    """
    weights = np.ones(len(true)) if weights is None else weights
    bins, gap = _calibration(true, predicted, probabilities)
    return float(np.abs(np.bincount(bins, weights * gap, minlength=ECE_BINS)).sum() / weights.sum())


# Intervals


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; NaN where `n` is 0. Numbers of cells may be fractions (see the module)."""
    if n == 0:
        return np.nan, np.nan
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return float(max(0.0, min(centre - half, share))), float(min(1.0, max(centre + half, share)))


def interval(draws: Floats, value: float) -> tuple[float, float]:
    """Return the middle 95 % of (draw,) values, widened to hold `value`; NaN where `value` is."""
    if np.isnan(value):
        return np.nan, np.nan
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(min(low, value)), float(max(high, value))


def balanced_accuracy_draws(confusion: Floats, *, rng: np.random.Generator, n_draws: int = BETA_DRAWS) -> Floats:
    """Draw balanced accuracies from what the cells leave open about the recalls, (draw,).

    The recall of each class is given Jeffreys' prior, Beta(1/2, 1/2); its posterior is Beta(right + 1/2, wrong + 1/2),
    independent of the other classes, and a draw is the mean of one draw per class (Brodersen et al. 2010, ICPR, for two
    classes). So 3 right of 3 is no certainty: their recall lies between 0.46 and 1.
    """
    right, n = _correct(confusion), confusion.sum(axis=-1)
    present = n > 0
    if not present.any():
        return np.full(n_draws, np.nan)
    recalls = rng.beta(right[present] + 0.5, (n - right)[present] + 0.5, size=(n_draws, int(present.sum())))
    draws: Floats = recalls.mean(axis=1)
    return draws


def balanced_accuracy_difference(
    true: Codes,
    right: npt.NDArray[np.bool_],
    right_other: npt.NDArray[np.bool_],
    *,
    n_classes: int,
    rng: np.random.Generator,
    weights: Floats | None = None,
    n_draws: int = BETA_DRAWS,
) -> tuple[float, float, float]:
    """Difference of two models' balanced accuracies on the same cells, with its 95 % interval.

    Of each class, cells are counted by whether both, one, the other or neither model is right. The four shares have a
    Dirichlet prior of 1/4 each, under which either model's recall has the prior of `balanced_accuracy_draws`.

    Returns
    -------
    tuple of float
        Value (first less other), lower and upper end.
    """
    outcome = np.where(right, 0, 1) * 2 + np.where(right_other, 0, 1)
    weights = np.ones(len(true)) if weights is None else weights
    counts = np.bincount(true * 4 + outcome, weights, minlength=4 * n_classes).reshape(n_classes, 4)
    counts = counts[counts.sum(axis=1) > 0]
    # Outcome 1: the first right and the other wrong; outcome 2: the reverse.
    value = float(((counts[:, 1] - counts[:, 2]) / counts.sum(axis=1)).mean())
    draws = np.zeros(n_draws)
    for of_class in counts:
        shares = rng.dirichlet(of_class + 0.25, size=n_draws)
        draws += (shares[:, 1] - shares[:, 2]) / len(counts)
    return value, *interval(draws, value)


def paired_difference(
    true: Codes,
    predicted: Codes,
    predicted_other: Codes,
    *,
    score: Callable[[Floats], Floats],
    n_classes: int,
    rng: np.random.Generator,
    weights: Floats | None = None,
    n_bootstrap: int,
) -> tuple[float, float, float]:
    """Difference of two models' scores on the same cells, with a bootstrap of the cells within each true class.

    What both models say of a cell is redrawn together, so that what they have in common cancels out.

    Parameters
    ----------
    true, predicted, predicted_other
        (cell,) class codes.
    score
        Maps confusion matrices (..., true class, predicted class) to (...).

    Returns
    -------
    tuple of float
        Value (first less other), lower and upper end.
    """
    counts = _cross_count(
        true, predicted * n_classes + predicted_other, shape=(n_classes, n_classes**2), weights=weights
    )

    def difference(of_both: Floats) -> Floats:
        apart = of_both.reshape(*of_both.shape[:-1], n_classes, n_classes)
        return score(apart.sum(axis=-1)) - score(apart.sum(axis=-2))

    value = float(difference(counts))
    return value, *interval(difference(_resample_rows(counts, n_bootstrap=n_bootstrap, rng=rng)), value)


def ranking_area(
    scores: npt.NDArray[np.floating], is_member: npt.NDArray[np.bool_], *, rng: np.random.Generator, n_bootstrap: int
) -> tuple[float, float, float]:
    """Return how probably a member has a higher score than another cell, a tie counting half, with a bootstrap.

    Members and others, (cell,), are redrawn apart.

    Returns
    -------
    tuple of float
        Value (the area under the ROC curve), lower and upper end.
    """
    ranking = _Ranking.of(scores, is_member)
    n_members = len(ranking.members)
    bins = np.bincount(ranking.bin_of, minlength=ranking.n_bins).astype(np.float64)
    value = float(ranking.scores(np.ones((1, n_members)), bins[None])[0][0])
    members = rng.multinomial(n_members, np.full(n_members, 1 / n_members), size=n_bootstrap).astype(np.float64)
    drawn = rng.multinomial(round(bins.sum()), bins / bins.sum(), size=n_bootstrap).astype(np.float64)
    return value, *interval(ranking.scores(members, drawn)[0], value)


def _resample_rows(counts: Floats, *, n_bootstrap: int, rng: np.random.Generator) -> Floats:
    """Redraw the cells of each true class from (true class, column) counts: (replicate, true class, column)."""
    replicates = np.zeros((n_bootstrap, *counts.shape))
    for code, row in enumerate(counts):
        if row.sum() > 0:
            replicates[:, code] = rng.multinomial(round(row.sum()), row / row.sum(), size=n_bootstrap)
    return replicates


def _resample_probabilities(
    true: Codes,
    predicted: Codes,
    probabilities: npt.NDArray[np.floating],
    weights: Floats,
    *,
    n_bootstrap: int,
    rng: np.random.Generator,
) -> tuple[Floats, Floats, Floats]:
    """Redraw the cells of each true class: ROC-AUC and average precision (replicate, class), and ECE (replicate,)."""
    n_classes = probabilities.shape[1]
    areas = np.full((n_bootstrap, n_classes), np.nan)
    precisions = np.full((n_bootstrap, n_classes), np.nan)
    gaps = np.zeros((n_bootstrap, ECE_BINS))
    confidence_bin, gap = _calibration(true, predicted, probabilities)
    present = np.unique(true)
    for code in present:
        is_member = true == code
        ranking = _Ranking.of(probabilities[:, code], is_member)
        members = ranking.members
        share = weights[members] / weights[members].sum()
        gap_in_bin = np.zeros((len(members), ECE_BINS))
        gap_in_bin[np.arange(len(members)), confidence_bin[members]] = gap[members]
        # Rows: the other classes, each redrawn for itself; columns: the bins of the ranking.
        others = _cross_count(
            true[~is_member], ranking.bin_of, shape=(n_classes, ranking.n_bins), weights=weights[~is_member]
        )
        block = max(1, BLOCK_SIZE // len(members))
        for start in range(0, n_bootstrap, block):
            rows = slice(start, min(start + block, n_bootstrap))
            n_rows = rows.stop - rows.start
            counts = rng.multinomial(round(weights[members].sum()), share, size=n_rows).astype(np.float64)
            bins = _resample_rows(others, n_bootstrap=n_rows, rng=rng).sum(axis=1)
            areas[rows, code], precisions[rows, code] = ranking.scores(counts, bins)
            # Not a matrix product: its last digit depends on the machine's linear algebra.
            gaps[rows] += np.einsum("rm,mb->rb", counts, gap_in_bin)
    n_drawn = sum(round(weights[true == code].sum()) for code in present)
    return areas, precisions, np.abs(gaps).sum(axis=1) / n_drawn


# All scores of one group of cells

OVERALL = ("balanced_accuracy", "accuracy", "weighted_precision", "weighted_f1", "macro_f1", "mcc", "ece")
PER_CLASS = ("precision", "recall", "f1", "roc_auc", "average_precision")


def in_words(metric: str) -> str:
    """Write the name of a score as a reader knows it, such as ``macro F1``."""
    return metric.replace("_", " ").replace("f1", "F1")


def score(
    true: Codes,
    predicted: Codes,
    probabilities: npt.NDArray[np.floating],
    *,
    rng: np.random.Generator,
    n_bootstrap: int,
    weights: Floats | None = None,
) -> list[Score]:
    """Compute every score with its interval: those of `OVERALL`, then those of `PER_CLASS` class by class.

    Parameters
    ----------
    true, predicted
        (cell,) class codes.
    probabilities
        (cell, class).
    rng
        The source of chance of the intervals.
    n_bootstrap
        Replicates of the bootstrap.
    weights
        (cell,) weights, adding up to the number of distinct cells (see the module); 1 each where None.
    """
    weights = np.ones(len(true)) if weights is None else weights
    confusion = confusion_matrix(true, predicted, n_classes=probabilities.shape[1], weights=weights)
    beta_rng, confusion_rng, probability_rng = rng.spawn(3)
    redrawn = _resample_rows(confusion, n_bootstrap=n_bootstrap, rng=confusion_rng)
    areas, precisions, errors = _resample_probabilities(
        true, predicted, probabilities, weights, n_bootstrap=n_bootstrap, rng=probability_rng
    )
    area, average_precision = curve_scores(true, probabilities, weights=weights)
    n_cells = confusion.sum(axis=1)

    scores = []
    right, n = float(_correct(confusion).sum()), float(n_cells.sum())
    draws = {
        "balanced_accuracy": balanced_accuracy_draws(confusion, rng=beta_rng),
        "weighted_precision": weighted_precision(redrawn),
        "weighted_f1": weighted_f1(redrawn),
        "macro_f1": macro_f1(redrawn),
        "mcc": matthews(redrawn),
        "ece": errors,
    }
    values: dict[str, Any] = {
        "balanced_accuracy": balanced_accuracy(confusion),
        "accuracy": accuracy(confusion),
        "weighted_precision": weighted_precision(confusion),
        "weighted_f1": weighted_f1(confusion),
        "macro_f1": macro_f1(confusion),
        "mcc": matthews(confusion),
        "ece": calibration_error(true, predicted, probabilities, weights=weights),
    }
    for metric in OVERALL:
        value = float(values[metric])
        low, high = wilson(right, n) if metric == "accuracy" else interval(draws[metric], value)
        scores.append(Score(metric, None, value, low, high, round(n)))

    per_class = {
        "precision": (precision(confusion), precision(redrawn)),
        "recall": (recall(confusion), None),
        "f1": (f1(confusion), f1(redrawn)),
        "roc_auc": (area, areas),
        "average_precision": (average_precision, precisions),
    }
    for code, of_class in enumerate(n_cells):
        for metric in PER_CLASS:
            of_metric, replicates = per_class[metric]
            value = float(of_metric[code])
            if replicates is None:
                low, high = wilson(confusion[code, code], of_class)
            else:
                low, high = interval(replicates[:, code], value)
            scores.append(Score(metric, code, value, low, high, round(of_class)))
    return scores
