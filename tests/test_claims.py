"""Every measure on made-up tables: a claim that holds, one that does not, one that cannot be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from stainfree import claims, metrics, predictions
from stainfree.claims import FAILS, HOLDS, OPEN
from stainfree.errors import ConfigError

CLASSES = ("Interphase", "Prophase", "Telophase")
STUDY = Path(__file__).parent.parent / "workflow" / "studies" / "espinosa.yaml"


class Results:
    """A folder of results made to order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: list[Path] = []
        self.shares: list[dict[str, Any]] = []

    def train(
        self,
        model: str,
        loss: str = "own",
        *,
        test: dict[tuple[str, str], int] | None = None,
        train: dict[tuple[str, str], int] | None = None,
        last_steps: tuple[int, ...] = (20,),
        seconds: float = 60.0,
        embeddings: pd.DataFrame | None = None,
    ) -> None:
        """Add a training whose cells are given as numbers per (class, predicted class)."""
        folder = self.folder / model / loss
        folder.mkdir(parents=True)
        parts = [
            {"fold": 0, "seed": seed, "last_step": step, "seconds": seconds} for seed, step in enumerate(last_steps)
        ]
        about = {"variant": "holdout", "model": model, "loss": loss, "parts": parts}
        (folder / "model.json").write_text(json.dumps(about))
        self.models.append(folder / "model.json")
        tables = [rows(subset, counts) for subset, counts in (("train", train), ("test", test)) if counts is not None]
        if tables:
            predictions.write(folder / "predictions.parquet", pd.concat(tables, ignore_index=True))
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

    def inputs(self) -> claims.Inputs:
        """Return what `claims.check` takes."""
        path = None
        if self.shares:
            path = self.folder / "shares.csv"
            pd.DataFrame(self.shares).to_csv(path, index=False)
        return claims.Inputs(self.models, published_pairs=dict.fromkeys(("fc", "cnn3", "vit"), "own"), shares=path)


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
        assert claims.judge(low, high, **threshold) == verdict

    def test_needs_one_threshold(self) -> None:
        with pytest.raises(ConfigError, match="either `above` or `below`"):
            claims.judge(0.0, 1.0)


class TestOfEach:
    """Claims about several models."""

    @pytest.mark.parametrize(
        ("verdicts", "expected"),
        [((HOLDS, HOLDS), HOLDS), ((HOLDS, OPEN), OPEN), ((OPEN, FAILS), FAILS), ((HOLDS, FAILS), FAILS)],
    )
    def test_all_must_hold_and_one_refutes(self, verdicts: tuple[str, str], expected: str) -> None:
        findings = {name: claims.Finding("m", v, 0.5, 0.4, 0.6) for name, v in zip("ab", verdicts, strict=True)}
        found = claims.of_each(["a", "b"], findings.__getitem__)
        assert found.verdict == expected
        assert f"Shown: {'ab'[verdicts.index(expected)]}." in found.note

    def test_one_that_was_not_made_leaves_it_open_unless_another_refutes(self) -> None:
        def measure(name: str) -> claims.Finding:
            if name.startswith("absent"):
                raise claims.NotMadeError(f"{name} was not trained")
            return claims.Finding("m", name, 0.5, 0.4, 0.6)

        assert claims.of_each([HOLDS, "absent"], measure).verdict == OPEN
        assert "absent was not trained" in claims.of_each([HOLDS, "absent"], measure).note
        assert claims.of_each([FAILS, "absent"], measure).verdict == FAILS
        with pytest.raises(claims.NotMadeError, match="absent was not trained; absent too was not trained"):
            claims.of_each(["absent", "absent too"], measure)


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
        found = claims.predicted_share(results.inputs(), **self.OPTIONS)
        assert found.verdict == verdict
        assert found.value == pytest.approx(said / (n + true))
        assert found.low <= found.value <= found.high

    def test_without_a_true_cell(self, results: Results) -> None:
        results.train("fc", test={("Interphase", "Interphase"): 100})
        assert claims.predicted_share(results.inputs(), **self.OPTIONS).verdict == OPEN

    def test_another_loss_than_the_studys(self, results: Results) -> None:
        results.train("fc", test={("Telophase", "Telophase"): 100})
        results.train("fc", "plain", test={("Telophase", "Interphase"): 100})
        assert claims.predicted_share(results.inputs(), **self.OPTIONS).value == 1.0
        assert claims.predicted_share(results.inputs(), **self.OPTIONS, loss="plain").value == 0.0


class TestTrainingGap:
    """Overfitting."""

    @pytest.mark.parametrize(("right_in_test", "n", "verdict"), [(0.9, 400, HOLDS), (0.5, 400, FAILS), (0.8, 10, OPEN)])
    def test_verdicts(self, results: Results, right_in_test: float, n: int, verdict: str) -> None:
        counts = {}
        for name, share in (("train", 0.9), ("test", right_in_test)):
            right = round(share * n)
            counts[name] = {(c, said): k for c in CLASSES[:2] for said, k in ((c, right), ("Telophase", n - right))}
        results.train("fc", train=counts["train"], test=counts["test"])
        found = claims.training_gap(results.inputs(), models=["fc"], below=0.1)
        assert found.verdict == verdict
        assert found.value == pytest.approx(0.9 - right_in_test)

    def test_class_that_one_subset_lacks_is_left_out(self, results: Results) -> None:
        results.train(
            "fc",
            train={("Interphase", "Interphase"): 90, ("Telophase", "Interphase"): 90},
            test={("Interphase", "Interphase"): 90},
        )
        found = claims.training_gap(results.inputs(), models=["fc"], below=0.1)
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
        found = claims.best_on_test(results.inputs(), model="fc", rivals=["vit"])
        assert found.verdict == verdict
        assert found.value == pytest.approx(n_better / 400 / 2)
        assert found.n_cells == 430

    def test_other_cells_cannot_be_compared(self, results: Results) -> None:
        results.train("fc", test={("Interphase", "Interphase"): 20})
        results.train("vit", test={("Interphase", "Interphase"): 10})
        with pytest.raises(claims.NotMadeError, match="not tested on the same cells"):
            claims.best_on_test(results.inputs(), model="fc", rivals=["vit"])


class TestTraining:
    """Steps and time."""

    @pytest.mark.parametrize(
        ("steps", "verdict"), [((22,) * 9, HOLDS), ((50,) * 9, FAILS), ((22,) * 5 + (50,) * 4, OPEN)]
    )
    def test_stopped_before(self, results: Results, steps: tuple[int, ...], verdict: str) -> None:
        results.train("fc", last_steps=steps[:4])
        results.train("vit", last_steps=steps[4:])
        found = claims.stopped_before(results.inputs(), step=35, above=0.5)
        assert found.verdict == verdict
        assert found.value == pytest.approx(sum(step < 35 for step in steps) / 9)

    def test_step_itself_is_not_before(self, results: Results) -> None:
        results.train("fc", last_steps=(35,) * 9)
        assert claims.stopped_before(results.inputs(), step=35, above=0.5).value == 0.0

    @pytest.mark.parametrize(("seconds", "verdict"), [(1700.0, HOLDS), (1900.0, FAILS)])
    def test_training_time(self, results: Results, seconds: float, verdict: str) -> None:
        results.train("fc", seconds=10.0)
        results.train("vit", seconds=seconds)
        found = claims.training_time(results.inputs(), minutes=30)
        assert found.verdict == verdict
        assert found.value == pytest.approx(seconds / 60)
        assert "vit under own" in found.note

    def test_nothing_trained(self, results: Results) -> None:
        for measure, options in (
            (claims.training_time, {"minutes": 30}),
            (claims.stopped_before, {"step": 1, "above": 0}),
        ):
            with pytest.raises(claims.NotMadeError, match="no training"):
                measure(results.inputs(), **options)


class TestSaliency:
    """Where models look; the mask is a fifth of the frame."""

    @pytest.mark.parametrize(("share", "noise", "verdict"), [(0.5, 0.05, HOLDS), (0.1, 0.02, FAILS), (0.2, 0.1, OPEN)])
    def test_on_cell(self, results: Results, share: float, noise: float, verdict: str) -> None:
        results.explain("fc", share=share, noise=noise)
        found = claims.saliency_on_cell(results.inputs(), models=["fc"], method="gradient", above=1.0)
        assert found.verdict == verdict
        assert found.value == pytest.approx(share / 0.2, abs=0.3)

    def test_classes_count_alike(self, results: Results) -> None:
        results.explain("fc", share=0.2, noise=0.0, n=99)
        for row in results.shares[3:]:
            row["class"] = "Interphase"
        results.shares[1]["share_inside"] = results.shares[2]["share_inside"] = 0.8
        found = claims.saliency_on_cell(results.inputs(), models=["fc"], method="gradient", above=1.0)
        assert found.value == pytest.approx((1 + 4 + 4) / 3)

    @pytest.mark.parametrize(
        ("fc", "vit", "noise", "verdict"), [(0.5, 0.3, 0.05, HOLDS), (0.3, 0.5, 0.05, FAILS), (0.3, 0.3, 0.1, OPEN)]
    )
    def test_contrast(self, results: Results, fc: float, vit: float, noise: float, verdict: str) -> None:
        results.explain("fc", share=fc, noise=noise)
        results.explain("vit", share=vit, noise=noise)
        found = claims.saliency_contrast(results.inputs(), models=["fc"], against="vit", method="gradient")
        assert found.verdict == verdict
        assert found.n_cells == 40

    @pytest.mark.parametrize(("peaks", "verdict"), [((2,) * 12, HOLDS), ((1,) * 12, FAILS), ((2, 2, 1), OPEN)])
    def test_peaks(self, results: Results, peaks: tuple[int, ...], verdict: str) -> None:
        results.explain("cnn3", share=0.5, peaks=peaks)
        options: dict[str, Any] = {"class_name": "Telophase", "n_peaks": 2, "method": "gradient", "above": 0.5}
        found = claims.saliency_peaks(results.inputs(), model="cnn3", **options)
        assert found.verdict == verdict
        assert found.value == pytest.approx(peaks.count(2) / len(peaks))

    def test_peaks_are_those_of_cells_that_the_model_itself_gets_right_under_the_studys_loss(
        self, results: Results
    ) -> None:
        results.explain("cnn3", share=0.5, peaks=(2,) * 9)
        results.explain("cnn3", share=0.5, peaks=(1,) * 30, right=False)
        results.explain("cnn3", "chosen", share=0.5, peaks=(1,) * 30)
        options: dict[str, Any] = {"class_name": "Telophase", "n_peaks": 2, "method": "gradient", "above": 0.5}
        found = claims.saliency_peaks(results.inputs(), model="cnn3", **options)
        assert (found.value, found.n_cells, found.verdict) == (1.0, 9, HOLDS)
        assert "9 of 9 cells; of those predicted wrong, 0 of 30." in found.note

    def test_not_computed(self, results: Results) -> None:
        with pytest.raises(claims.NotMadeError, match="no saliency was computed"):
            claims.saliency_on_cell(results.inputs(), models=["fc"], method="gradient", above=1.0)


class TestEmbedding:
    """Neighbours in the embedding."""

    def test_purity_by_hand(self) -> None:
        # On a line: members at 0, 1 and 10; others at 2 and 11.
        vectors = np.array([[0.0], [1.0], [10.0], [2.0], [11.0]])
        member = np.array([True, True, True, False, False])
        np.testing.assert_array_equal(claims.purity(vectors, member, k=1), [1.0, 1.0, 0.0])
        # Two others of the class exist, so two neighbours are asked, however many are wanted.
        np.testing.assert_array_equal(claims.purity(vectors, member, k=5), [0.5, 0.5, 0.0])

    def test_purity_agrees_with_all_distances(self) -> None:
        table = embedded(1.0, seed=4)
        vectors, member = table.filter(regex="^e[0-9]").to_numpy(dtype=float), (table["class"] == "Prophase").to_numpy()
        distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
        np.fill_diagonal(distances, np.inf)
        expected = member[np.argsort(distances[member], axis=1)[:, :5]].mean(axis=1)
        np.testing.assert_allclose(claims.purity(vectors, member, k=5), expected)

    def test_purity_of_cells_in_one_place_leaves_out_one_each(self) -> None:
        assert claims.purity(np.zeros((8, 2)), np.ones(8, dtype=bool), k=3).tolist() == [1.0] * 8

    @pytest.mark.parametrize(
        ("distance", "n", "above", "verdict"),
        [(4.0, 12, 0.5, HOLDS), (0.0, 30, 0.5, FAILS), (1.8, 12, 0.5, OPEN), (2.0, 8, "chance", HOLDS)],
    )
    def test_verdicts(self, results: Results, distance: float, n: int, above: float | str, verdict: str) -> None:
        results.train("cnn3", embeddings=embedded(distance, n_telophase=n))
        found = claims.embedding_purity(results.inputs(), model="cnn3", class_name="Telophase", above=above)
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
            claims.embedding_purity(r.inputs(), model="cnn3", class_name="Telophase", above=0.5) for r in (results, one)
        )
        assert both.value == pytest.approx((1.0 + alone.value) / 2)

    def test_seeds_are_no_further_cells(self, results: Results) -> None:
        results.train("cnn3", embeddings=embedded(1.8))
        # The same embedding under each of four seeds says nothing that one does not.
        same = pd.concat([embedded(1.8).assign(seed=seed) for seed in range(4)])
        seeds = Results(results.folder / "seeds")
        seeds.train("cnn3", embeddings=same)
        one, four = (
            claims.embedding_purity(r.inputs(), model="cnn3", class_name="Telophase", above=0.5)
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
            claims.embedding_purity(r.inputs(), model="cnn3", class_name="Telophase", above=0.5)
            for r in (results, alone)
        )
        assert both.value == pytest.approx((first.value + 1) / 2)
        assert both.n_cells == 12

    def test_where_all_fare_alike_wilson_counts_cells(self, results: Results) -> None:
        results.train("cnn3", embeddings=pd.concat([embedded(40.0).assign(seed=seed) for seed in range(3)]))
        found = claims.embedding_purity(results.inputs(), model="cnn3", class_name="Telophase", above=0.5)
        assert (found.low, found.high) == metrics.wilson(12, 12)

    def test_too_few_cells(self, results: Results) -> None:
        results.train("cnn3", embeddings=embedded(1.0, n_telophase=1))
        with pytest.raises(claims.NotMadeError, match="fewer than two"):
            claims.embedding_purity(results.inputs(), model="cnn3", class_name="Telophase", above=0.5)


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
        assert table[["verdict", "note"]].iloc[0].tolist() == [OPEN, "No training was found."]
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

    def test_every_claim_of_espinosa_can_be_asked(self, results: Results, tmp_path: Path) -> None:
        study = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
        out = tmp_path / "claims.csv"
        claims.run(STUDY, models=[], out=out)
        table = pd.read_csv(out)
        assert len(table) == len(study["claims"]) == 12
        assert set(table["verdict"]) == {OPEN}


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
