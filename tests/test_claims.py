"""Every measure on made-up tables: a claim that holds, one that does not, one that cannot be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from stainfree import cells, claims, evidence, measures, metrics, predictions
from stainfree.errors import ConfigError
from stainfree.evidence import FAILS, HOLDS, OPEN

CLASSES = ("Interphase", "Prophase", "Telophase")
STUDIES = Path(__file__).parent.parent / "workflow" / "studies"
STUDY = STUDIES / "espinosa.yaml"


class Results:
    """A folder of results made to order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: list[Path] = []
        self.shares: list[dict[str, Any]] = []
        self.cells: Path | None = None

    def train(
        self,
        model: str,
        loss: str = "own",
        *,
        variant: str = "holdout",
        n_folds: int = 1,
        keep_folds: int = 1,
        test: dict[tuple[str, str], int] | None = None,
        train: dict[tuple[str, str], int] | None = None,
        last_steps: tuple[int, ...] = (20,),
        seconds: float = 60.0,
        embeddings: pd.DataFrame | None = None,
    ) -> None:
        """Add a training whose cells are given as numbers per (class, predicted class).

        Test cells are dealt out over `n_folds` folds, of which the first `keep_folds` are there.
        """
        folder = self.folder / variant / model / loss
        folder.mkdir(parents=True)
        parts = [
            {"fold": 0, "seed": seed, "last_step": step, "seconds": seconds} for seed, step in enumerate(last_steps)
        ]
        about = {"variant": variant, "model": model, "loss": loss, "parts": parts}
        (folder / "model.json").write_text(json.dumps(about))
        self.models.append(folder / "model.json")
        tables = [rows(subset, counts) for subset, counts in (("train", train), ("test", test)) if counts is not None]
        if tables:
            table = pd.concat(tables, ignore_index=True)
            table["fold"] = np.arange(len(table)) % n_folds
            predictions.write(folder / "predictions.parquet", table[table["fold"] < keep_folds])
        if embeddings is not None:
            embeddings.to_parquet(folder / "embeddings.parquet")

    def explain(
        self,
        model: str,
        loss: str = "own",
        *,
        share: float,
        n: int = 40,
        noise: float = 0.05,
        peaks: tuple[int, ...] = (),
        right: bool = True,
    ) -> None:
        """Add saliency of `n` cells in turn of each class (or, with `peaks`, of Telophase cells)."""
        rng = np.random.default_rng(len(self.shares))
        for at in range(len(peaks) or n):
            self.shares.append({
                "cell_id": f"cell-{at}", "class": "Telophase" if peaks else CLASSES[at % 3],
                "model_right": right, "model": model, "loss": loss, "method": "gradient", "mask_fraction": 0.2,
                "share_inside": share + noise * rng.normal(), "n_peaks": peaks[at] if peaks else 1,
            })  # fmt: skip

    def inputs(self) -> evidence.Inputs:
        """Return what `claims.check` takes."""
        path = None
        if self.shares:
            path = self.folder / "shares.csv"
            pd.DataFrame(self.shares).to_csv(path, index=False)
        pairs = dict.fromkeys(("fc", "cnn3", "vit"), "own")
        return evidence.Inputs(self.models, published_pairs=pairs, shares=path, cells=self.cells)


def rows(subset: str, counts: dict[tuple[str, str], int]) -> pd.DataFrame:
    """Make predictions of so many cells per (class, predicted class)."""
    named = [pair for pair, n in counts.items() for _ in range(n)]
    cells = pd.DataFrame({
        "cell_id": [f"{subset}-{i}" for i in range(len(named))], "source": "a", "group": "g", "origin": "real",
        "fold": 0, "subset": subset, "stage": [true for true, _ in named], "class": [true for true, _ in named],
    })  # fmt: skip
    chances = np.array([[name == said for name in CLASSES] for _, said in named], dtype=float)
    return predictions.table(cells, chances, classes=CLASSES, seed=0)


def embedded(distance: float, *, n_telophase: int = 12, seed: int = 0) -> pd.DataFrame:
    """Embed 200 Interphase, 40 Prophase and some Telophase cells, Telophase `distance` away from the others."""
    rng = np.random.default_rng(seed)
    names = np.repeat(CLASSES, [200, 40, n_telophase])
    vectors = rng.normal(size=(len(names), 4)) + distance * (names == "Telophase")[:, None]
    table = pd.DataFrame({"cell_id": [f"c{i}" for i in range(len(names))], "fold": 0, "seed": 0, "subset": "test"})
    return table.assign(**{"class": names}, **{f"e{i}": vectors[:, i].astype(np.float32) for i in range(4)})


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """An empty folder of results."""
    return Results(tmp_path)


class TestJudge:
    """From interval and threshold to verdict."""

    @pytest.mark.parametrize(
        ("low", "high", "threshold", "verdict"),
        [
            (0.6, 0.8, {"above": 0.5}, HOLDS),
            (0.2, 0.4, {"above": 0.5}, FAILS),
            (0.4, 0.6, {"above": 0.5}, OPEN),
            (0.2, 0.4, {"below": 0.5}, HOLDS),
            (0.6, 0.8, {"below": 0.5}, FAILS),
            (0.4, 0.6, {"below": 0.5}, OPEN),
            (np.nan, np.nan, {"below": 0.5}, OPEN),
        ],
    )
    def test_verdicts(self, low: float, high: float, threshold: dict[str, float], verdict: str) -> None:
        assert evidence.judge(low, high, **threshold) == verdict

    def test_needs_one_threshold(self) -> None:
        with pytest.raises(ConfigError, match="either `above` or `below`"):
            evidence.judge(0.0, 1.0)


class TestOfEach:
    """Claims about several models."""

    @pytest.mark.parametrize(
        ("verdicts", "expected"),
        [((HOLDS, HOLDS), HOLDS), ((HOLDS, OPEN), OPEN), ((OPEN, FAILS), FAILS), ((HOLDS, FAILS), FAILS)],
    )
    def test_all_must_hold_and_one_refutes(self, verdicts: tuple[str, str], expected: str) -> None:
        findings = {name: evidence.Finding("m", v, 0.5, 0.4, 0.6) for name, v in zip("ab", verdicts, strict=True)}
        found = evidence.of_each(["a", "b"], findings.__getitem__)
        assert found.verdict == expected
        assert f"Shown: {'ab'[verdicts.index(expected)]}." in found.note

    def test_one_that_was_not_made_leaves_it_open_unless_another_refutes(self) -> None:
        def measure(name: str) -> evidence.Finding:
            if name.startswith("absent"):
                raise evidence.NotMadeError(f"{name} was not trained")
            return evidence.Finding("m", name, 0.5, 0.4, 0.6)

        assert evidence.of_each([HOLDS, "absent"], measure).verdict == OPEN
        assert "absent was not trained" in evidence.of_each([HOLDS, "absent"], measure).note
        assert evidence.of_each([FAILS, "absent"], measure).verdict == FAILS
        with pytest.raises(evidence.NotMadeError, match="absent was not trained; absent too was not trained"):
            evidence.of_each(["absent", "absent too"], measure)


class TestPredictedShare:
    """Classes that a model is said never to predict."""

    OPTIONS: dict[str, Any] = {"models": ["fc"], "classes": ["Telophase"], "of_true_share": 0.5}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("said", "n", "verdict"), [(0, 1000, HOLDS), (40, 1000, FAILS), (9, 1000, OPEN), (0, 20, OPEN)]
    )
    def test_verdicts(self, results: Results, said: int, n: int, verdict: str) -> None:
        true = max(1, n // 50)
        results.train("fc", test={
            ("Interphase", "Telophase"): said, ("Interphase", "Interphase"): n - said,
            ("Telophase", "Interphase"): true,
        })  # fmt: skip
        found = measures.predicted_share(results.inputs(), **self.OPTIONS)
        assert found.verdict == verdict
        assert found.value == pytest.approx(said / (n + true))
        assert found.low <= found.value <= found.high

    def test_without_a_true_cell(self, results: Results) -> None:
        results.train("fc", test={("Interphase", "Interphase"): 100})
        assert measures.predicted_share(results.inputs(), **self.OPTIONS).verdict == OPEN

    def test_another_loss_than_the_studys(self, results: Results) -> None:
        results.train("fc", test={("Telophase", "Telophase"): 100})
        results.train("fc", "plain", test={("Telophase", "Interphase"): 100})
        assert measures.predicted_share(results.inputs(), **self.OPTIONS).value == 1.0
        assert measures.predicted_share(results.inputs(), **self.OPTIONS, loss="plain").value == 0.0


class TestTrainingGap:
    """Overfitting."""

    @pytest.mark.parametrize(("right_in_test", "n", "verdict"), [(0.9, 400, HOLDS), (0.5, 400, FAILS), (0.8, 10, OPEN)])
    def test_verdicts(self, results: Results, right_in_test: float, n: int, verdict: str) -> None:
        counts = {}
        for name, share in (("train", 0.9), ("test", right_in_test)):
            right = round(share * n)
            counts[name] = {(c, said): k for c in CLASSES[:2] for said, k in ((c, right), ("Telophase", n - right))}
        results.train("fc", train=counts["train"], test=counts["test"])
        found = measures.training_gap(results.inputs(), models=["fc"], below=0.1)
        assert found.verdict == verdict
        assert found.value == pytest.approx(0.9 - right_in_test)

    def test_class_that_one_subset_lacks_is_left_out(self, results: Results) -> None:
        results.train(
            "fc",
            train={("Interphase", "Interphase"): 90, ("Telophase", "Interphase"): 90},
            test={("Interphase", "Interphase"): 90},
        )
        found = measures.training_gap(results.inputs(), models=["fc"], below=0.1)
        assert found.value == 0.0
        assert "Telophase" in found.note


class TestBestOnTest:
    """One model against its rivals."""

    @pytest.mark.parametrize(("n_better", "verdict"), [(100, HOLDS), (-100, FAILS), (2, OPEN)])
    def test_verdicts(self, results: Results, n_better: int, verdict: str) -> None:
        for model, right in (("fc", 200 + max(0, n_better)), ("vit", 200 - min(0, n_better))):
            results.train(model, test={
                ("Interphase", "Interphase"): right, ("Interphase", "Prophase"): 400 - right,
                ("Prophase", "Prophase"): 30,
            })  # fmt: skip
        found = measures.best_on_test(results.inputs(), model="fc", rivals=["vit"])
        assert found.verdict == verdict
        assert found.value == pytest.approx(n_better / 400 / 2)
        assert found.n_cells == 430

    def test_other_cells_cannot_be_compared(self, results: Results) -> None:
        results.train("fc", test={("Interphase", "Interphase"): 20}, n_folds=2)
        results.train("vit", test={("Interphase", "Interphase"): 1})
        path = results.folder / "holdout/vit/own/predictions.parquet"
        predictions.write(path, predictions.read(path).assign(fold=3))
        with pytest.raises(evidence.NotMadeError, match="not tested on the same cells"):
            measures.best_on_test(results.inputs(), model="fc", rivals=["vit"])

    @pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "weighted_f1"])
    def test_another_metric(self, results: Results, metric: str) -> None:
        results.train("fc", test={("Interphase", "Interphase"): 90, ("Prophase", "Prophase"): 30})
        results.train("vit", test={
            ("Interphase", "Interphase"): 80, ("Interphase", "Prophase"): 10, ("Prophase", "Interphase"): 20,
            ("Prophase", "Prophase"): 10,
        })  # fmt: skip
        found = measures.best_on_test(results.inputs(), model="fc", rivals=["vit"], metric=metric)
        # Of 90 Interphase cells 80 are right and 20 others are called so; of 30 Prophase cells 10, and 10 others.
        theirs = {"Interphase": 160 / 190, "Prophase": 20 / 50}
        expected = {"accuracy": 90 / 120, "macro_f1": sum(theirs.values()) / 2}
        expected["weighted_f1"] = (90 * theirs["Interphase"] + 30 * theirs["Prophase"]) / 120
        assert found.value == pytest.approx(1 - expected[metric])
        assert found.verdict == HOLDS

    def test_unknown_metric(self, results: Results) -> None:
        with pytest.raises(ConfigError, match="mcc is not one of balanced_accuracy, accuracy, weighted_f1, macro_f1"):
            measures.best_on_test(results.inputs(), model="fc", rivals=["vit"], metric="mcc")


class TestDifferences:
    """Two models, or two variants of one, on the cells that both have tested."""

    GOOD: dict[tuple[str, str], int] = {("Interphase", "Interphase"): 500}  # noqa: RUF012
    BAD: dict[tuple[str, str], int] = {("Interphase", "Prophase"): 250, ("Interphase", "Interphase"): 250}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("limit", "verdict"), [({"below": 0.02}, HOLDS), ({"above": 0.0}, FAILS), ({"below": -0.5}, OPEN)]
    )
    def test_between_models(self, results: Results, limit: dict[str, float], verdict: str) -> None:
        results.train("deep", "none", test=self.BAD)
        results.train("flat", "none", test=self.GOOD)
        found = measures.difference_between_models(
            results.inputs(), pairs=[["deep", "flat"]], metric="accuracy", **limit
        )
        assert (found.value, found.verdict) == (-0.5, verdict)

    def test_folds_that_one_has_not_are_left_out(self, results: Results) -> None:
        # All wrong cells come first, and the cells are dealt out over the folds in turn.
        results.train("deep", "none", test=self.BAD, n_folds=5, keep_folds=1)
        results.train("flat", "none", test=self.GOOD, n_folds=5, keep_folds=5)
        found = measures.difference_between_models(
            results.inputs(), pairs=[["deep", "flat"]], metric="accuracy", above=0.0
        )
        assert (found.value, found.n_cells) == (-0.5, 100)
        assert "On the 100 of 500 cells that both have tested, 1 fold." in found.note

    def test_all_pairs_must_hold(self, results: Results) -> None:
        for name, counts in (("a", self.GOOD), ("b", self.BAD), ("c", self.BAD)):
            results.train(name, "none", test=counts)
        pairs = [["b", "a"], ["c", "b"]]
        found = measures.difference_between_models(results.inputs(), pairs=pairs, metric="accuracy", below=-0.1)
        assert found.verdict == FAILS
        assert "Shown: c less b." in found.note

    def test_between_variants(self, results: Results) -> None:
        results.train("flat", "none", variant="D1", test=self.BAD)
        results.train("flat", "none", variant="D2", test=self.GOOD)
        options: dict[str, Any] = {"models": ["flat"], "variants": ["D2", "D1"], "metric": "balanced_accuracy"}
        found = measures.difference_between_variants(results.inputs(), **options, above=0.0)
        assert (found.value, found.verdict) == (0.5, HOLDS)
        assert "flat on D2 less that of flat on D1; holds above 0" in found.measure
        with pytest.raises(evidence.NotMadeError, match="flat was not trained in D3"):
            measures.difference_between_variants(results.inputs(), **{**options, "variants": ["D3", "D1"]}, above=0.0)


class TestClasses:
    """What is found of a class, and what it is taken for."""

    @pytest.mark.parametrize(("right", "n", "verdict"), [(95, 100, HOLDS), (10, 100, FAILS), (3, 4, OPEN)])
    def test_recall(self, results: Results, right: int, n: int, verdict: str) -> None:
        results.train("cnn", test={("Telophase", "Telophase"): right, ("Telophase", "Prophase"): n - right})
        found = measures.class_scores(
            results.inputs(), model="cnn", classes=["Telophase"], scores=["recall"], above=0.75
        )
        assert (found.value, found.n_cells, found.verdict) == (right / n, n, verdict)
        assert (found.low, found.high) == metrics.wilson(right, n)

    def test_precision_counts_the_cells_called_so(self, results: Results) -> None:
        results.train("cnn", test={("Telophase", "Telophase"): 20, ("Interphase", "Telophase"): 20})
        found = measures.class_scores(
            results.inputs(), model="cnn", classes=["Telophase"], scores=["recall", "precision"], above=0.8
        )
        assert (found.value, found.n_cells, found.verdict) == (0.5, 40, FAILS)
        assert "Shown: precision of Telophase." in found.note

    def test_class_that_is_never_called_has_no_precision(self, results: Results) -> None:
        results.train("cnn", test={("Telophase", "Interphase"): 20})
        with pytest.raises(evidence.NotMadeError, match="no test cell is called Telophase"):
            measures.class_scores(results.inputs(), model="cnn", classes=["Telophase"], scores=["precision"], above=0.8)

    @pytest.mark.parametrize(("n_right", "verdict"), [(195, HOLDS), (20, FAILS), (160, OPEN)])
    def test_contrast(self, results: Results, n_right: int, verdict: str) -> None:
        results.train("cnn", test={
            ("Telophase", "Telophase"): n_right, ("Telophase", "Prophase"): 200 - n_right,
            ("Interphase", "Interphase"): 160, ("Interphase", "Prophase"): 40,
        })  # fmt: skip
        found = measures.recall_contrast(
            results.inputs(), model="cnn", classes=["Telophase"], against=["Interphase"], above=0.0
        )
        assert found.value == pytest.approx(n_right / 200 - 0.8)
        assert found.verdict == verdict

    @pytest.mark.parametrize(("n_prophase", "verdict"), [(99, HOLDS), (10, FAILS), (90, OPEN)])
    def test_taken_for(self, results: Results, n_prophase: int, verdict: str) -> None:
        results.train("cnn", test={
            ("Telophase", "Prophase"): n_prophase, ("Telophase", "Interphase"): 100 - n_prophase,
            ("Telophase", "Telophase"): 50,
        })  # fmt: skip
        found = measures.taken_for(
            results.inputs(), model="cnn", class_name="Telophase", others=["Prophase"], above=0.9
        )
        assert (found.value, found.n_cells, found.verdict) == (n_prophase / 100, 100, verdict)
        assert "33% of 150 Telophase cells are predicted right." in found.note


class TestOrderWithinClass:
    """Which cells of a class are taken for which neighbour."""

    OPTIONS: dict[str, Any] = {  # noqa: RUF012
        "models": ["cnn"], "class_name": "Prophase", "lower": "Interphase", "higher": "Telophase", "above": 0.5,
    }  # fmt: skip

    def cells(self, results: Results, contents: Any) -> None:
        """Write a cells file in which test cell i has DNA content i of `contents`, in another order."""
        results.cells = results.folder / "cells.h5"
        n = len(contents)
        info = cells.CellsInfo(channels=("PI",), bit_depth=12)
        with cells.CellsWriter(results.cells, info, image_shape=(2, 2), dtype=np.uint16) as writer:
            writer.append(
                np.zeros((n, 1, 2, 2), dtype=np.uint16),
                stage=["S"] * n,
                cell_id=[f"test-{i}" for i in reversed(range(n))],
                source=["a"] * n,
                dna_content=np.array(contents)[::-1],
            )

    @pytest.mark.parametrize(("shift", "verdict"), [(2.0, HOLDS), (-2.0, FAILS), (0.0, OPEN)])
    def test_verdicts(self, results: Results, shift: float, verdict: str) -> None:
        results.train("cnn", "none", test={
            ("Prophase", "Interphase"): 40, ("Prophase", "Telophase"): 30, ("Prophase", "Prophase"): 30,
            ("Telophase", "Telophase"): 30,
        })  # fmt: skip
        rng = np.random.default_rng(1)
        contents = rng.normal(size=130)
        contents[40:70] += shift
        contents[70:] = 100  # those predicted right, and those of another class, take no part
        self.cells(results, contents)
        found = measures.order_within_class(results.inputs(), **self.OPTIONS)
        by_hand = np.mean(contents[40:70, None] > contents[None, :40])
        assert found.value == pytest.approx(by_hand)
        assert (found.n_cells, found.verdict) == (70, verdict)
        assert "40 Prophase cells are taken for Interphase, 30 for Telophase." in found.note

    def test_an_order_without_exception_is_not_certain(self, results: Results) -> None:
        results.train("cnn", "none", test={("Prophase", "Interphase"): 40, ("Prophase", "Telophase"): 10})
        self.cells(results, np.arange(50.0))
        found = measures.order_within_class(results.inputs(), **self.OPTIONS)
        assert (found.value, found.high) == (1.0, pytest.approx(1.0))
        assert found.low == pytest.approx(10 / (10 + 1.96**2), abs=1e-4)  # Wilson of 10 of 10

    def test_too_few_cells(self, results: Results) -> None:
        results.train("cnn", "none", test={("Prophase", "Interphase"): 40, ("Prophase", "Telophase"): 9})
        self.cells(results, np.arange(49.0))
        with pytest.raises(evidence.NotMadeError, match="takes 9 Prophase cells for Telophase, fewer than 10"):
            measures.order_within_class(results.inputs(), **self.OPTIONS)

    def test_without_dna_content(self, results: Results) -> None:
        results.train("cnn", "none", test={("Prophase", "Interphase"): 40})
        with pytest.raises(evidence.NotMadeError, match="DNA content of these cells is not known"):
            measures.order_within_class(results.inputs(), **self.OPTIONS)


class TestWhichLoss:
    """Where a study picked no loss."""

    def test_the_only_one_is_taken(self, results: Results) -> None:
        results.train("other", "none", test={("Telophase", "Telophase"): 1})
        assert results.inputs().loss_of("other") == "none"

    def test_of_two_none_is(self, results: Results) -> None:
        results.train("other", "none")
        results.train("other", "plain")
        with pytest.raises(evidence.NotMadeError, match="picked no loss for other"):
            results.inputs().loss_of("other")


class TestTraining:
    """Steps and time."""

    @pytest.mark.parametrize(
        ("steps", "verdict"), [((22,) * 9, HOLDS), ((50,) * 9, FAILS), ((22,) * 5 + (50,) * 4, OPEN)]
    )
    def test_stopped_before(self, results: Results, steps: tuple[int, ...], verdict: str) -> None:
        results.train("fc", last_steps=steps[:4])
        results.train("vit", last_steps=steps[4:])
        found = measures.stopped_before(results.inputs(), step=35, above=0.5)
        assert found.verdict == verdict
        assert found.value == pytest.approx(sum(step < 35 for step in steps) / 9)

    def test_models_without_steps_do_not_count(self, results: Results) -> None:
        results.train("fc", last_steps=(50,) * 9)
        results.train("majority", "none", last_steps=(0,) * 9)
        assert measures.stopped_before(results.inputs(), step=35, above=0.5).value == 0.0

    def test_step_itself_is_not_before(self, results: Results) -> None:
        results.train("fc", last_steps=(35,) * 9)
        assert measures.stopped_before(results.inputs(), step=35, above=0.5).value == 0.0

    @pytest.mark.parametrize(("seconds", "verdict"), [(1700.0, HOLDS), (1900.0, FAILS)])
    def test_training_time(self, results: Results, seconds: float, verdict: str) -> None:
        results.train("fc", seconds=10.0)
        results.train("vit", seconds=seconds)
        found = measures.training_time(results.inputs(), minutes=30)
        assert found.verdict == verdict
        assert found.value == pytest.approx(seconds / 60)
        assert "vit under own" in found.note

    def test_nothing_trained(self, results: Results) -> None:
        for measure, options in (
            (measures.training_time, {"minutes": 30}),
            (measures.stopped_before, {"step": 1, "above": 0}),
        ):
            with pytest.raises(evidence.NotMadeError, match="no training"):
                measure(results.inputs(), **options)


class TestSaliency:
    """Where models look; the mask is a fifth of the frame."""

    @pytest.mark.parametrize(("share", "noise", "verdict"), [(0.5, 0.05, HOLDS), (0.1, 0.02, FAILS), (0.2, 0.1, OPEN)])
    def test_on_cell(self, results: Results, share: float, noise: float, verdict: str) -> None:
        results.explain("fc", share=share, noise=noise)
        found = measures.saliency_on_cell(results.inputs(), models=["fc"], method="gradient", above=1.0)
        assert found.verdict == verdict
        assert found.value == pytest.approx(share / 0.2, abs=0.3)

    def test_classes_count_alike(self, results: Results) -> None:
        results.explain("fc", share=0.2, noise=0.0, n=99)
        for row in results.shares[3:]:
            row["class"] = "Interphase"
        results.shares[1]["share_inside"] = results.shares[2]["share_inside"] = 0.8
        found = measures.saliency_on_cell(results.inputs(), models=["fc"], method="gradient", above=1.0)
        assert found.value == pytest.approx((1 + 4 + 4) / 3)

    @pytest.mark.parametrize(
        ("fc", "vit", "noise", "verdict"), [(0.5, 0.3, 0.05, HOLDS), (0.3, 0.5, 0.05, FAILS), (0.3, 0.3, 0.1, OPEN)]
    )
    def test_contrast(self, results: Results, fc: float, vit: float, noise: float, verdict: str) -> None:
        results.explain("fc", share=fc, noise=noise)
        results.explain("vit", share=vit, noise=noise)
        found = measures.saliency_contrast(results.inputs(), models=["fc"], against="vit", method="gradient")
        assert found.verdict == verdict
        assert found.n_cells == 40

    @pytest.mark.parametrize(("peaks", "verdict"), [((2,) * 12, HOLDS), ((1,) * 12, FAILS), ((2, 2, 1), OPEN)])
    def test_peaks(self, results: Results, peaks: tuple[int, ...], verdict: str) -> None:
        results.explain("cnn3", share=0.5, peaks=peaks)
        options: dict[str, Any] = {"class_name": "Telophase", "n_peaks": 2, "method": "gradient", "above": 0.5}
        found = measures.saliency_peaks(results.inputs(), model="cnn3", **options)
        assert found.verdict == verdict
        assert found.value == pytest.approx(peaks.count(2) / len(peaks))

    def test_peaks_are_those_of_cells_that_the_model_itself_gets_right_under_the_studys_loss(
        self, results: Results
    ) -> None:
        results.explain("cnn3", share=0.5, peaks=(2,) * 9)
        results.explain("cnn3", share=0.5, peaks=(1,) * 30, right=False)
        results.explain("cnn3", "chosen", share=0.5, peaks=(1,) * 30)
        options: dict[str, Any] = {"class_name": "Telophase", "n_peaks": 2, "method": "gradient", "above": 0.5}
        found = measures.saliency_peaks(results.inputs(), model="cnn3", **options)
        assert (found.value, found.n_cells, found.verdict) == (1.0, 9, HOLDS)
        assert "9 of 9 cells; of those predicted wrong, 0 of 30." in found.note

    def test_not_computed(self, results: Results) -> None:
        with pytest.raises(evidence.NotMadeError, match="no saliency was computed"):
            measures.saliency_on_cell(results.inputs(), models=["fc"], method="gradient", above=1.0)


class TestEmbedding:
    """Neighbours in the embedding."""

    def test_purity_by_hand(self) -> None:
        # On a line: members at 0, 1 and 10; others at 2 and 11.
        vectors = np.array([[0.0], [1.0], [10.0], [2.0], [11.0]])
        member = np.array([True, True, True, False, False])
        np.testing.assert_array_equal(measures.purity(vectors, member, k=1), [1.0, 1.0, 0.0])
        # Two others of the class exist, so two neighbours are asked, however many are wanted.
        np.testing.assert_array_equal(measures.purity(vectors, member, k=5), [0.5, 0.5, 0.0])

    def test_purity_agrees_with_all_distances(self) -> None:
        table = embedded(1.0, seed=4)
        vectors, member = table.filter(regex="^e[0-9]").to_numpy(dtype=float), (table["class"] == "Prophase").to_numpy()
        distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
        np.fill_diagonal(distances, np.inf)
        expected = member[np.argsort(distances[member], axis=1)[:, :5]].mean(axis=1)
        np.testing.assert_allclose(measures.purity(vectors, member, k=5), expected)

    def test_purity_of_cells_in_one_place_leaves_out_one_each(self) -> None:
        assert measures.purity(np.zeros((8, 2)), np.ones(8, dtype=bool), k=3).tolist() == [1.0] * 8

    @pytest.mark.parametrize(
        ("distance", "n", "above", "verdict"),
        [(4.0, 12, 0.5, HOLDS), (0.0, 30, 0.5, FAILS), (1.8, 12, 0.5, OPEN), (2.0, 8, "chance", HOLDS)],
    )
    def test_verdicts(self, results: Results, distance: float, n: int, above: float | str, verdict: str) -> None:
        results.train("cnn3", embeddings=embedded(distance, n_telophase=n))
        found = measures.embedding_purity(results.inputs(), model="cnn3", class_name="Telophase", above=above)
        assert found.verdict == verdict
        assert found.n_cells == n
        assert found.low < found.high

    def test_parts_do_not_mix(self, results: Results) -> None:
        table = embedded(8.0)
        moved = table.assign(fold=1)
        shift = moved.filter(regex="^e[0-9]").columns
        moved[shift] = table[shift].where(table["class"] == "Telophase", table[shift] + 8.0)
        results.train("cnn3", embeddings=pd.concat([table, moved.assign(cell_id=moved["cell_id"] + "x")]))
        one = Results(results.folder / "one")
        one.train("cnn3", embeddings=moved)
        both, alone = (
            measures.embedding_purity(r.inputs(), model="cnn3", class_name="Telophase", above=0.5)
            for r in (results, one)
        )
        assert both.value == pytest.approx((1.0 + alone.value) / 2)

    def test_seeds_are_no_further_cells(self, results: Results) -> None:
        results.train("cnn3", embeddings=embedded(1.8))
        # The same embedding under each of four seeds says nothing that one does not.
        same = pd.concat([embedded(1.8).assign(seed=seed) for seed in range(4)])
        seeds = Results(results.folder / "seeds")
        seeds.train("cnn3", embeddings=same)
        one, four = (
            measures.embedding_purity(r.inputs(), model="cnn3", class_name="Telophase", above=0.5)
            for r in (results, seeds)
        )
        assert one == four
        assert four.n_cells == 12

    def test_a_cell_counts_with_its_mean_over_seeds(self, results: Results) -> None:
        near, far = embedded(0.0), embedded(30.0).assign(seed=1)
        results.train("cnn3", embeddings=pd.concat([near, far]))
        alone = Results(results.folder / "alone")
        alone.train("cnn3", embeddings=near)
        both, first = (
            measures.embedding_purity(r.inputs(), model="cnn3", class_name="Telophase", above=0.5)
            for r in (results, alone)
        )
        assert both.value == pytest.approx((first.value + 1) / 2)
        assert both.n_cells == 12

    def test_where_all_fare_alike_wilson_counts_cells(self, results: Results) -> None:
        results.train("cnn3", embeddings=pd.concat([embedded(40.0).assign(seed=seed) for seed in range(3)]))
        found = measures.embedding_purity(results.inputs(), model="cnn3", class_name="Telophase", above=0.5)
        assert (found.low, found.high) == metrics.wilson(12, 12)

    def test_too_few_cells(self, results: Results) -> None:
        results.train("cnn3", embeddings=embedded(1.0, n_telophase=1))
        with pytest.raises(evidence.NotMadeError, match="fewer than two"):
            measures.embedding_purity(results.inputs(), model="cnn3", class_name="Telophase", above=0.5)


class TestCheck:
    """The table of claims."""

    def claim(self, **changes: Any) -> dict[str, Any]:
        """Make one claim."""
        claim = {
            "id": "time",
            "claim": "Fast",
            "where": "section 6",
            "measure": "training_time",
            "options": {"minutes": 30},
        }
        return {**claim, **changes}

    def test_table(self, results: Results) -> None:
        results.train("fc")
        table = claims.check({"claims": [self.claim()]}, results.inputs())
        assert tuple(table.columns) == claims.COLUMNS
        assert table.iloc[0]["verdict"] == HOLDS
        assert pd.isna(table.iloc[0]["n_cells"])

    def test_what_was_not_made_cannot_be_told(self, results: Results) -> None:
        table = claims.check({"claims": [self.claim()]}, results.inputs())
        assert table[["verdict", "note"]].iloc[0].tolist() == [OPEN, "Not measured: no training was found."]
        assert np.isnan(table["value"].iloc[0])

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"measure": "magic"}, "magic is not one of .*training_time"),
            ({"options": {"hours": 1}}, "correct `options`"),
        ],
    )
    def test_mistyped_claims(self, results: Results, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError, match=f"claim time: .*{said}"):
            claims.check({"claims": [self.claim(**changes)]}, results.inputs())

    @pytest.mark.parametrize(("study", "n"), [("espinosa", 12), ("billard", 20), ("duque", 7)])
    def test_every_claim_can_be_asked(self, study: str, n: int, tmp_path: Path) -> None:
        path, out = STUDIES / f"{study}.yaml", tmp_path / "claims.csv"
        said = yaml.safe_load(path.read_text(encoding="utf-8"))["claims"]
        claims.run(path, models=[], out=out)
        table = pd.read_csv(out)
        assert table["id"].tolist() == [claim["id"] for claim in said]
        assert table["id"].nunique() == n
        assert set(table["verdict"]) == {OPEN}

    def test_a_threshold_that_is_ours_says_so(self, results: Results) -> None:
        results.train("fc")
        table = claims.check({"claims": [self.claim(threshold="ours")]}, results.inputs())
        assert table["measure"].iloc[0].endswith("holds below 30, a threshold of ours")


class TestEspinosa:
    """The study as data agrees with itself."""

    def test_published_counts_add_up(self) -> None:
        study = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
        counts = pd.DataFrame(study["class_counts"]).T
        assert counts.sum(axis=1).to_dict() == {
            "Interphase": 31550, "Prophase": 606, "Metaphase": 68, "Anaphase": 15, "Telophase": 27,
        }  # fmt: skip
        assert counts.to_numpy().sum() == 32266

    def test_published_numbers_are_of_the_same_models(self) -> None:
        study = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
        assert set(study["published_pairs"]) == set(study["balanced_accuracy"]) == set(study["n_parameters"])
