"""Families without torch: the trivial answer, and cut-offs of integrated PI against all there could be."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
import yaml
from conftest import ROOT
from sklearn.metrics import balanced_accuracy_score

from stainfree import models
from stainfree.datasets import Dataset, montage
from stainfree.models.pi_threshold import best_cuts

Floats = npt.NDArray[np.float64]

ESTIMATORS = [name for name in models.family_names() if models.family(name).kind == "estimator"]
CHANNELS = ("BF", "PI")


def make(name: str, *, n_classes: int, **parameters: Any) -> Any:
    return models.module(name).Model(CHANNELS, n_classes, **models.entry({name: parameters}).parameters)


def cells_with(stain: Sequence[float]) -> npt.NDArray[np.uint16]:
    """Return images (n, BF and PI, 8, 8) with so much PI above a background of 100."""
    images = np.full((len(stain), 2, 8, 8), 100, dtype=np.uint16)
    images[:, 1, 3, 4] += np.asarray(stain, dtype=np.uint16)
    return images


def value_of(cuts: Floats, values: Floats, ranks: npt.NDArray[np.int64], worth: Floats) -> float:
    """Return what the cells in their own class's interval are worth, counted one by one."""
    return sum(worth[rank] for v, rank in zip(values, ranks, strict=True) if sum(v >= cut for cut in cuts) == rank)


@pytest.mark.parametrize("name", ESTIMATORS)
class TestEveryEstimator:
    def test_is_the_same_after_being_saved(self, name: str, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        images, target = cells_with(rng.integers(0, 500, 60)), rng.permutation(np.arange(60) % 4)
        model, again = make(name, n_classes=4), make(name, n_classes=4)
        model.fit(images, target, seed=0)
        safetensors.numpy.save_file(model.save(), tmp_path / "weights.safetensors")
        again.load(safetensors.numpy.load_file(tmp_path / "weights.safetensors"))
        np.testing.assert_array_equal(again.predict(images), model.predict(images))

    def test_gives_probabilities(self, name: str) -> None:
        rng = np.random.default_rng(1)
        model = make(name, n_classes=3)
        model.fit(cells_with(rng.integers(0, 90, 30)), np.arange(30) % 3, seed=0)
        found = model.predict(cells_with([0, 45, 20_000]))
        assert found.shape == (3, 3)
        assert found.dtype == np.float64
        assert (found > 0).all()
        np.testing.assert_allclose(found.sum(axis=1), 1)

    def test_declaration_read_from_source_is_the_one_that_is_imported(self, name: str) -> None:
        assert models.family(name) == models.module(name).FAMILY
        assert models.family(name).losses == (models.NO_LOSS,)


def test_majority_answers_with_the_shares_of_training_cells() -> None:
    model = make("majority", n_classes=4)
    model.fit(cells_with([5] * 10), np.array([1, 1, 1, 1, 1, 0, 0, 0, 3, 3]), seed=0)
    assert model.predict(cells_with([0, 400])).tolist() == [[0.3, 0.5, 0.0, 0.2]] * 2


class TestBestCuts:
    @pytest.mark.parametrize("seed", range(30))
    def test_no_other_cuts_are_worth_more(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        n_classes, n = int(rng.integers(2, 5)), int(rng.integers(5, 12))
        values = rng.integers(0, 8, n).astype(np.float64)  # some of them equal
        ranks = rng.integers(0, n_classes, n)
        worth = rng.choice([1.0, 0.5, 1 / 3, 0.1], n_classes)
        cuts = best_cuts(values, ranks, worth)
        levels = np.unique(values)
        places = [-np.inf, *((levels[:-1] + levels[1:]) / 2), np.inf]
        most = max(
            value_of(np.array(tried), values, ranks, worth)
            for tried in itertools.combinations_with_replacement(places, n_classes - 1)
        )
        assert list(cuts) == sorted(cuts)
        assert set(cuts) <= set(places)
        assert value_of(cuts, values, ranks, worth) == pytest.approx(most)

    def test_cuts_lie_halfway_between_cells(self) -> None:
        values = np.array([1.0, 2, 4, 7, 8, 9])
        assert best_cuts(values, np.array([0, 0, 1, 1, 2, 2]), np.ones(3)).tolist() == [3, 7.5]

    def test_a_class_may_have_no_interval(self) -> None:
        values = np.array([1.0, 2, 3, 4, 5])
        assert best_cuts(values, np.array([0, 0, 1, 0, 0]), np.ones(2)).tolist() == [np.inf]
        assert best_cuts(values, np.array([1, 1, 0, 1, 1]), np.ones(2)).tolist() == [-np.inf]
        low, high = best_cuts(values, np.array([0, 0, 1, 2, 2]), np.array([1.0, 0.0, 1.0]))
        assert value_of(np.array([low, high]), values, np.array([0, 0, 1, 2, 2]), np.array([1.0, 0, 1])) == 4


class TestPiThreshold:
    STAIN = (10, 12, 14, 16, 40, 44, 48, 90, 95)
    CLASSES = (2, 2, 2, 2, 0, 0, 0, 1, 1)

    def test_intervals_lie_in_the_order_of_the_stain_whatever_that_of_the_classes(self) -> None:
        model = make("pi_threshold", n_classes=3)
        model.fit(cells_with(self.STAIN), np.array(self.CLASSES), seed=0)
        assert model.cuts.tolist() == [28, 69]
        assert model.predict(cells_with([0, 27, 29, 68, 70, 60_000])).argmax(axis=1).tolist() == [2, 2, 0, 0, 1, 1]

    def test_probabilities_are_smoothed_shares_of_the_interval(self) -> None:
        model = make("pi_threshold", n_classes=3, criterion="accuracy")
        model.fit(cells_with(self.STAIN), np.array(self.CLASSES), seed=0)
        # All 3 cells of class 0 lie there: (3 + 1/3) of 4; of class 1 with 2 cells (1/3) of 3; of class 2 (1/3) of 5.
        expected = np.array([3 * (10 / 3) / 4, 2 * (1 / 3) / 3, 4 * (1 / 3) / 5])
        np.testing.assert_allclose(model.predict(cells_with([44]))[0], expected / expected.sum(), rtol=1e-5)

    @pytest.mark.parametrize("seed", range(5))
    def test_more_stain_never_means_an_earlier_interval(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        target = rng.permutation(np.arange(70) % 7)
        stain = rng.integers(0, 60, 70) + 10 * (6 - target)
        model = make("pi_threshold", n_classes=7)
        model.fit(cells_with(stain), target, seed=0)
        answers = model.predict(cells_with(range(150))).argmax(axis=1)
        ranks = np.argsort(model.order)[answers]
        assert (np.diff(ranks) >= 0).all()
        np.testing.assert_array_equal(ranks, [sum(v >= cut for cut in model.cuts) for v in range(150)])

    @pytest.mark.parametrize("criterion", ["balanced_accuracy", "accuracy"])
    def test_it_is_the_best_by_its_criterion(self, criterion: str) -> None:
        rng = np.random.default_rng(7)
        target = np.repeat([0, 1, 2], [40, 12, 8])
        stain = np.array([50, 54, 58])[target] + rng.integers(-8, 9, 60)
        images = cells_with(stain)

        def score(answers: npt.NDArray[np.int64]) -> float:
            if criterion == "accuracy":
                return float((answers == target).mean())
            return float(balanced_accuracy_score(target, answers))

        model = make("pi_threshold", n_classes=3, criterion=criterion)
        model.fit(images, target, seed=0)
        order = np.argsort([np.median(stain[target == k]) for k in range(3)])
        tried = itertools.combinations_with_replacement(np.arange(stain.min(), stain.max() + 2) - 0.5, 2)
        most = max(score(order[np.searchsorted(cuts, stain, side="right")]) for cuts in tried)
        assert score(model.predict(images).argmax(axis=1)) == pytest.approx(most)

    def test_real_cells_are_told_apart_by_their_dna(self, mirror: Path) -> None:
        described = yaml.safe_load((ROOT / "workflow/datasets.yaml").read_text())["jurkat_montage"]
        described["channels"] = {"PI": "Ch4"}
        described["files"] = [file for file in described["files"] if file["path"].startswith("Experiment_1/")]
        batches = list(montage.read(Dataset.from_config("jurkat_montage", described), mirror / "jurkat-montage"))
        images = np.concatenate([batch.images for batch in batches])
        stages = [stage for batch in batches for stage in batch.stage]
        target = np.array([{"G1": 0, "S": 1, "G2": 2}.get(stage, 3) for stage in stages])
        half = np.arange(len(target)) % 2 == 0
        model = models.module("pi_threshold").Model(("PI",), 4, criterion="balanced_accuracy")
        model.fit(images[half], target[half], seed=0)
        assert model.order[:2].tolist() == [0, 1]
        assert balanced_accuracy_score(target[~half], model.predict(images[~half]).argmax(axis=1)) > 0.5
