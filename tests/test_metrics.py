"""Scores against scikit-learn, and intervals against plain, slow computations."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from stainfree import metrics

N_CLASSES = 4


def made_up(seed: int, counts: tuple[int, ...], *, levels: int | None = None, signal: float = 1.0) -> Any:
    """Make labels, predictions and probabilities; `levels` rounds the probabilities, so that there are ties."""
    rng = np.random.default_rng(seed)
    true = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    logits = rng.normal(size=(len(true), len(counts)))
    logits[np.arange(len(true)), true] += signal
    if levels is not None:
        logits = np.round(logits * levels) / levels
    probabilities = np.exp(logits)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return true, probabilities.argmax(axis=1), probabilities.astype(np.float32)


cases = st.builds(
    made_up,
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(0, 12)] * N_CLASSES).filter(any),
    levels=st.sampled_from([None, 1, 2]),
    signal=st.sampled_from([-1.0, 0.0, 3.0]),
)


def plain_ece(true: Any, predicted: Any, probabilities: Any, weights: Any = None) -> float:
    """Compute the calibration error bin by bin."""
    weights = np.ones(len(true)) if weights is None else weights
    confidence, total = probabilities.max(axis=1), 0.0
    for index in range(15):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if inside.any():
            share = weights[inside].sum() / weights.sum()
            right = np.average((true == predicted)[inside], weights=weights[inside])
            total += share * abs(np.average(confidence[inside], weights=weights[inside]) - right)
    return total


class TestValues:
    """Point values are those of scikit-learn."""

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(cases)
    def test_confusion_scores(self, case: Any) -> None:
        true, predicted, _ = case
        confusion = metrics.confusion_matrix(true, predicted, n_classes=N_CLASSES)
        labels = list(range(N_CLASSES))
        present = [code for code in labels if (true == code).any()]
        absent = [code for code in labels if code not in present]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_array_equal(confusion, sk.confusion_matrix(true, predicted, labels=labels))
            per_class = sk.precision_recall_fscore_support(true, predicted, labels=labels, zero_division=0)
            balanced = sk.balanced_accuracy_score(true, predicted)
            weighted = sk.f1_score(true, predicted, average="weighted", labels=present)
            macro = sk.f1_score(true, predicted, average="macro", labels=present)
            precision = sk.precision_score(true, predicted, average="weighted", labels=present, zero_division=0)
            correlation = sk.matthews_corrcoef(true, predicted)
        for ours, theirs in zip(
            (metrics.precision(confusion), metrics.recall(confusion), metrics.f1(confusion)), per_class[:3], strict=True
        ):
            np.testing.assert_allclose(ours[present], theirs[present])
            assert np.isnan(ours[absent]).all()
        assert metrics.balanced_accuracy(confusion) == pytest.approx(balanced)
        assert metrics.accuracy(confusion) == pytest.approx(sk.accuracy_score(true, predicted))
        assert metrics.weighted_f1(confusion) == pytest.approx(weighted)
        assert metrics.macro_f1(confusion) == pytest.approx(macro)
        assert metrics.weighted_precision(confusion) == pytest.approx(precision)
        assert metrics.matthews(confusion) == pytest.approx(correlation, abs=1e-9)

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(cases, st.booleans())
    def test_curve_scores_with_ties_and_weights(self, case: Any, weighted: bool) -> None:
        true, _, probabilities = case
        rng = np.random.default_rng(len(true))
        weights = rng.choice([1.0, 0.5, 0.25], size=len(true)) if weighted else None
        area, precision = metrics.curve_scores(true, probabilities, weights=weights)
        for code in range(N_CLASSES):
            is_member, score = true == code, probabilities[:, code]
            if not is_member.any():
                assert np.isnan(area[code])
                assert np.isnan(precision[code])
                continue
            theirs = sk.average_precision_score(is_member, score, sample_weight=weights)
            assert precision[code] == pytest.approx(theirs, abs=1e-9)
            if is_member.all():
                assert np.isnan(area[code])
            else:
                theirs = sk.roc_auc_score(is_member, score, sample_weight=weights)
                assert area[code] == pytest.approx(theirs, abs=1e-9)

    @settings(max_examples=50, deadline=None, derandomize=True)
    @given(cases)
    def test_calibration_error(self, case: Any) -> None:
        ours = metrics.calibration_error(*case)
        assert ours == pytest.approx(plain_ece(*case), abs=1e-6)

    def test_batched_matrices_score_like_single_ones(self) -> None:
        true, predicted, _ = made_up(0, (20, 5, 0, 3))
        one = metrics.confusion_matrix(true, predicted, n_classes=4)
        many = np.stack([one, 2 * one, one[::-1, ::-1]])
        for scorer in (metrics.balanced_accuracy, metrics.macro_f1, metrics.weighted_f1, metrics.matthews):
            np.testing.assert_allclose(scorer(many), [scorer(matrix) for matrix in many])

    def test_class_never_predicted_has_precision_zero_and_absent_class_nan(self) -> None:
        confusion = metrics.confusion_matrix(np.array([0, 0, 1]), np.array([0, 0, 0]), n_classes=3)
        np.testing.assert_array_equal(metrics.precision(confusion), [2 / 3, 0.0, np.nan])
        assert metrics.balanced_accuracy(confusion) == 0.5
        assert metrics.matthews(confusion) == 0.0

    def test_repeated_rows_with_weights_count_once(self) -> None:
        true, predicted, probabilities = made_up(3, (60, 25, 15, 12))
        once = metrics.score(true, predicted, probabilities, rng=np.random.default_rng(0), n_bootstrap=3000)
        twice = metrics.score(
            np.tile(true, 2),
            np.tile(predicted, 2),
            np.tile(probabilities, (2, 1)),
            rng=np.random.default_rng(0),
            n_bootstrap=3000,
            weights=np.full(2 * len(true), 0.5),
        )
        for a, b in zip(once, twice, strict=True):
            assert (a.metric, a.class_code, a.n_cells) == (b.metric, b.class_code, b.n_cells)
            assert a.value == pytest.approx(b.value)
            assert (a.low, a.high) == pytest.approx((b.low, b.high), abs=0.03)


class TestIntervals:
    """Intervals agree with independent computations."""

    @pytest.mark.parametrize(("right", "n"), [(0, 1), (3, 3), (5, 14), (1580, 1583)])
    def test_wilson(self, right: int, n: int) -> None:
        theirs = stats.binomtest(right, n).proportion_ci(method="wilson")
        assert metrics.wilson(right, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
        assert metrics.wilson(right, n)[0] <= right / n <= metrics.wilson(right, n)[1]

    def test_wilson_without_cells(self) -> None:
        assert np.isnan(metrics.wilson(0, 0)).all()

    def test_balanced_accuracy_of_one_class_is_its_beta_posterior(self) -> None:
        draws = metrics.balanced_accuracy_draws(np.array([[5.0, 9.0], [0.0, 0.0]]), rng=np.random.default_rng(1))
        expected = stats.beta(5.5, 9.5).ppf([0.025, 0.975])
        np.testing.assert_allclose(np.quantile(draws, [0.025, 0.975]), expected, atol=0.01)

    def test_balanced_accuracy_of_two_classes_has_the_posterior_moments(self) -> None:
        draws = metrics.balanced_accuracy_draws(np.array([[3.0, 0.0], [40.0, 60.0]]), rng=np.random.default_rng(2))
        a, b = stats.beta(3.5, 0.5), stats.beta(60.5, 40.5)
        assert draws.mean() == pytest.approx((a.mean() + b.mean()) / 2, abs=0.003)
        assert draws.std() == pytest.approx(np.sqrt(a.var() + b.var()) / 2, rel=0.03)

    def test_all_right_has_width_and_holds_its_value(self) -> None:
        scores = metrics.score(
            np.array([0, 0, 0]),
            np.array([0, 0, 0]),
            np.array([[0.9, 0.1]] * 3),
            rng=np.random.default_rng(0),
            n_bootstrap=50,
        )
        balanced = next(s for s in scores if s.metric == "balanced_accuracy")
        assert balanced.value == balanced.high == 1.0
        assert balanced.low < 0.6

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(cases)
    def test_every_interval_holds_its_value(self, case: Any) -> None:
        for s in metrics.score(*case, rng=np.random.default_rng(0), n_bootstrap=40):
            assert (np.isnan([s.value, s.low, s.high]).all()) or s.low <= s.value <= s.high
            if s.class_code is not None:
                assert s.n_cells == (case[0] == s.class_code).sum()

    def test_bootstrap_agrees_with_a_plain_one(self) -> None:
        true, predicted, probabilities = made_up(5, (60, 25, 9, 6), levels=2)
        ours = metrics.score(true, predicted, probabilities, rng=np.random.default_rng(0), n_bootstrap=3000)
        plain = self.plain_bootstrap(true, predicted, probabilities, 400)
        n_checked = 0
        for s in ours:
            name = s.metric if s.class_code is None else f"{s.metric} {s.class_code}"
            if name in plain:
                low, high = np.quantile(plain[name], [0.025, 0.975])
                # Within a quarter of the width: what 400 replicates leave open at the ends.
                expected = (min(low, s.value), max(high, s.value))
                assert (s.low, s.high) == pytest.approx(expected, abs=0.25 * (high - low) + 1e-9), name
                n_checked += 1
        assert n_checked == 5 + 4 * 4

    @staticmethod
    def plain_bootstrap(true: Any, predicted: Any, probabilities: Any, n: int) -> dict[str, npt.NDArray[Any]]:
        """Redraw cells class by class and score with scikit-learn, one replicate at a time."""
        rng = np.random.default_rng(99)
        rows: list[dict[str, float]] = []
        for _ in range(n):
            drawn = np.concatenate([rng.choice(np.flatnonzero(true == c), (true == c).sum()) for c in np.unique(true)])
            t, y, p = true[drawn], predicted[drawn], probabilities[drawn]
            parts = sk.precision_recall_fscore_support(t, y, labels=range(4), zero_division=0)
            row = {
                "weighted_precision": np.average(parts[0], weights=parts[3]),
                "weighted_f1": np.average(parts[2], weights=parts[3]),
                "macro_f1": parts[2].mean(),
                "mcc": sk.matthews_corrcoef(t, y),
                "ece": plain_ece(t, y, p),
            }
            for c in range(4):
                row[f"precision {c}"], row[f"f1 {c}"] = parts[0][c], parts[2][c]
                row[f"roc_auc {c}"] = sk.roc_auc_score(t == c, p[:, c])
                row[f"average_precision {c}"] = sk.average_precision_score(t == c, p[:, c])
            rows.append(row)
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def test_blocks_do_not_change_the_scores_of_a_seed_beyond_chance(self, monkeypatch: pytest.MonkeyPatch) -> None:
        case = made_up(7, (50, 12, 8, 4))
        whole = metrics.score(*case, rng=np.random.default_rng(4), n_bootstrap=2000)
        monkeypatch.setattr(metrics, "BLOCK_SIZE", 1000)
        parted = metrics.score(*case, rng=np.random.default_rng(4), n_bootstrap=2000)
        for a, b in zip(whole, parted, strict=True):
            assert (a.low, a.high) == pytest.approx((b.low, b.high), abs=0.03, nan_ok=True)

    def test_same_seed_same_scores(self) -> None:
        case = made_up(8, (40, 9, 0, 3))
        first, second = (metrics.score(*case, rng=np.random.default_rng(6), n_bootstrap=100) for _ in range(2))
        assert repr(first) == repr(second)


class TestDifference:
    """Paired difference of two balanced accuracies."""

    def test_value_is_the_difference_of_balanced_accuracies(self) -> None:
        true, predicted, _ = made_up(1, (50, 20, 6, 4))
        _, other, _ = made_up(2, (50, 20, 6, 4))
        value, low, high = metrics.balanced_accuracy_difference(
            true, true == predicted, true == other, n_classes=4, rng=np.random.default_rng(0)
        )
        expected = sk.balanced_accuracy_score(true, predicted) - sk.balanced_accuracy_score(true, other)
        assert value == pytest.approx(expected)
        assert low < value < high

    def test_pairing_narrows_it(self) -> None:
        true = np.repeat([0, 1], [200, 40])
        right = np.random.default_rng(0).random(240) < 0.7
        other = right.copy()
        other[::30] = False
        value, low, high = metrics.balanced_accuracy_difference(
            true, right, other, n_classes=2, rng=np.random.default_rng(0)
        )
        draws = [
            metrics.balanced_accuracy_draws(
                metrics.confusion_matrix(true, np.where(r, true, 1 - true), n_classes=2),
                rng=np.random.default_rng(seed),
            )
            for seed, r in enumerate((right, other))
        ]
        unpaired = np.quantile(draws[0] - draws[1], [0.025, 0.975])
        assert high - low < 0.6 * (unpaired[1] - unpaired[0])
        assert value > 0

    def test_no_zero_width_from_few_cells(self) -> None:
        true, right = np.zeros(3, dtype=np.int64), np.ones(3, dtype=bool)
        value, low, high = metrics.balanced_accuracy_difference(
            true, right, ~right, n_classes=2, rng=np.random.default_rng(0)
        )
        assert value == high == 1.0
        assert low < 0.95


class TestPairedDifference:
    """Paired difference of any score of confusion matrices."""

    @pytest.mark.parametrize("score", [metrics.accuracy, metrics.macro_f1, metrics.weighted_f1])
    def test_agrees_with_a_plain_paired_bootstrap(self, score: Any) -> None:
        true, predicted, _ = made_up(1, (60, 30, 20, 10))
        other = np.where(np.random.default_rng(2).random(len(true)) < 0.7, predicted, (predicted + 1) % 4)

        def difference(rows: Any) -> float:
            pair = (metrics.confusion_matrix(true[rows], said[rows], n_classes=4) for said in (predicted, other))
            return float(np.subtract(*map(score, pair)))

        rng = np.random.default_rng(3)
        members = [np.flatnonzero(true == code) for code in range(4)]
        plain = [difference(np.concatenate([rng.choice(rows, len(rows)) for rows in members])) for _ in range(400)]
        value, low, high = metrics.paired_difference(
            true, predicted, other, score=score, n_classes=4, rng=np.random.default_rng(0), n_bootstrap=3000
        )
        assert value == pytest.approx(difference(np.arange(len(true))))
        ends = np.quantile(plain, [0.025, 0.975])
        np.testing.assert_allclose([low, high], ends, atol=0.25 * (ends[1] - ends[0]))

    def test_repeated_cells_are_no_further_cells(self) -> None:
        true, predicted, _ = made_up(1, (60, 30, 20, 10))
        other = np.roll(predicted, 1)
        once = metrics.paired_difference(
            true, predicted, other, score=metrics.accuracy, n_classes=4, rng=np.random.default_rng(0), n_bootstrap=500
        )
        thrice = metrics.paired_difference(
            *(np.tile(codes, 3) for codes in (true, predicted, other)),
            score=metrics.accuracy,
            n_classes=4,
            rng=np.random.default_rng(0),
            weights=np.full(3 * len(true), 1 / 3),
            n_bootstrap=500,
        )
        assert thrice[0] == pytest.approx(once[0])
        assert thrice[1:] == pytest.approx(once[1:], abs=0.02)


class TestRankingArea:
    """Whether members have higher scores."""

    def test_value_and_interval(self) -> None:
        rng = np.random.default_rng(0)
        is_member = rng.random(200) < 0.3
        scores = np.round(rng.normal(size=200) + is_member, 1)
        value, low, high = metrics.ranking_area(scores, is_member, rng=rng, n_bootstrap=2000)
        assert value == pytest.approx(sk.roc_auc_score(is_member, scores))
        # DeLong et al. 1988, Biometrics 44:837: the standard error of an area.
        ours, others = scores[is_member][:, None], scores[~is_member][None]
        above = (ours > others) + (ours == others) / 2
        error = np.sqrt(
            above.mean(axis=1).var(ddof=1) / above.shape[0] + above.mean(axis=0).var(ddof=1) / above.shape[1]
        )
        assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.08)
        assert low < value < high
