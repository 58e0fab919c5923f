"""The tidy table: what stands in it, and what must not move it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from stainfree import evaluation
from stainfree.errors import DataError

CLASSES = ("Interphase", "Prophase", "Telophase")
KEYS = ["variant", "model", "loss", "fold", "seed", "subset", "class", "metric"]
OPTIONS: dict[str, Any] = {
    "dataset": "made_up", "experiment": "espinosa", "channels": ["BF"], "scheme": "three", "bootstrap": 50, "seed": 3,
}  # fmt: skip


def made_up(
    path: Path,
    *,
    rng_seed: int,
    folds: int = 1,
    seeds: tuple[int, ...] = (0,),
    counts: tuple[int, int, int] = (60, 20, 10),
    signal: float = 1.0,
) -> Path:
    """Write predictions of the same cells and folds whatever the model; in folds every cell is in test once."""
    names = np.repeat(CLASSES, counts)
    ids = np.array([f"cell-{i:03d}" for i in range(len(names))])
    place = np.random.default_rng(0).permutation(len(names))
    rng = np.random.default_rng(rng_seed)
    tables = []
    for fold in range(folds):
        if folds == 1:
            subset = np.where(place % 10 < 6, "train", np.where(place % 10 < 8, "validation", "test"))
        else:
            subset = np.where(place % folds == fold, "test", np.where(place % 7 == fold, "validation", "train"))
        for seed in seeds:
            logits = rng.normal(size=(len(names), 3))
            logits[np.arange(len(names)), np.repeat(range(3), counts)] += signal
            chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            table = pd.DataFrame({
                "cell_id": ids, "source": "a", "group": ids, "origin": "real", "fold": fold, "seed": seed,
                "subset": subset, "stage": names, "class": names,
                "predicted": np.asarray(CLASSES)[chances.argmax(axis=1)],
            })  # fmt: skip
            for code, name in enumerate(CLASSES):
                table[f"p_{name}"] = chances[:, code].astype(np.float32)
            tables.append(table)
    pd.concat(tables).to_parquet(path, index=False)
    return path


def pick(table: pd.DataFrame, **wanted: str) -> pd.Series[Any]:
    """Return the one row that has the wanted values."""
    rows = table
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1
    return rows.iloc[0]


class TestEvaluate:
    """The table of one experiment."""

    def test_columns_and_unique_rows(self, tmp_path: Path) -> None:
        path = made_up(tmp_path / "a.parquet", rng_seed=1, folds=3, seeds=(0, 1))
        table = evaluation.evaluate({("kfold", "fc", "plain"): path}, **OPTIONS)
        assert tuple(table.columns) == evaluation.COLUMNS
        assert not table.duplicated(KEYS).any()
        assert set(table["fold"]) == {"0", "1", "2", "pooled"}
        assert set(table["seed"]) == {"0", "1", "mean", "none"}
        assert (table["channels"] == "BF").all()

    def test_values_are_those_of_scikit_learn(self, tmp_path: Path) -> None:
        path = made_up(tmp_path / "a.parquet", rng_seed=1)
        table = evaluation.evaluate({("holdout", "fc", "plain"): path}, **OPTIONS)
        predicted = pd.read_parquet(path)
        for subset in ("train", "validation", "test"):
            rows = predicted[predicted["subset"] == subset]
            row = pick(table, model="fc", fold="pooled", subset=subset, metric="balanced_accuracy")
            assert row["value"] == pytest.approx(sk.balanced_accuracy_score(rows["class"], rows["predicted"]))
            assert row["n_cells"] == len(rows)
            area = pick(table, model="fc", fold="0", subset=subset, metric="roc_auc", **{"class": "Prophase"})
            assert area["value"] == pytest.approx(sk.roc_auc_score(rows["class"] == "Prophase", rows["p_Prophase"]))

    def test_pooled_test_holds_every_cell_once(self, tmp_path: Path) -> None:
        path = made_up(tmp_path / "a.parquet", rng_seed=1, folds=3)
        table = evaluation.evaluate({("kfold", "fc", "plain"): path}, **OPTIONS)
        test = pd.read_parquet(path).query("subset == 'test'")
        row = pick(table, model="fc", fold="pooled", subset="test", metric="balanced_accuracy")
        assert row["n_cells"] == 90
        assert row["value"] == pytest.approx(sk.balanced_accuracy_score(test["class"], test["predicted"]))
        recall = pick(table, model="fc", fold="pooled", subset="test", metric="recall", **{"class": "Telophase"})
        assert recall["n_cells"] == 10

    def test_pooled_train_counts_each_cell_once(self, tmp_path: Path) -> None:
        path = made_up(tmp_path / "a.parquet", rng_seed=1, folds=3)
        table = evaluation.evaluate({("kfold", "fc", "plain"): path}, **OPTIONS)
        train = pd.read_parquet(path).query("subset == 'train'")
        row = pick(table, model="fc", fold="pooled", subset="train", metric="accuracy")
        right = (train["class"] == train["predicted"]).groupby(train["cell_id"]).mean()
        assert row["value"] == pytest.approx(right.mean())
        assert row["n_cells"] == len(right) < len(train)

    def test_seeds_are_averaged(self, tmp_path: Path) -> None:
        path = made_up(tmp_path / "a.parquet", rng_seed=1, folds=2, seeds=(4, 5))
        table = evaluation.evaluate({("kfold", "fc", "plain"): path}, **OPTIONS)
        rows = table[(table["model"] == "fc") & (table["fold"] == "pooled") & (table["subset"] == "test")]
        ends = ["value", "ci_low", "ci_high"]
        by_seed = {seed: of_seed[ends].to_numpy() for seed, of_seed in rows.groupby("seed")}
        np.testing.assert_allclose(by_seed["mean"], (by_seed["4"] + by_seed["5"]) / 2)
        assert set(evaluation.headline(table)["seed"]) == {"mean", "none"}

    def test_a_further_model_changes_no_other_row(self, tmp_path: Path) -> None:
        first = {("holdout", "fc", "plain"): made_up(tmp_path / "a.parquet", rng_seed=1)}
        more = {("holdout", "cnn3", "plain"): made_up(tmp_path / "b.parquet", rng_seed=2), **first}
        alone = evaluation.evaluate(first, **OPTIONS)
        both = evaluation.evaluate(more, **OPTIONS)
        kept = both[both["model"] != "cnn3"].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, kept, check_exact=True)

    def test_the_seed_moves_intervals_and_no_value(self, tmp_path: Path) -> None:
        path = made_up(tmp_path / "a.parquet", rng_seed=1)
        one, two = (evaluation.evaluate({("v", "m", "l"): path}, **{**OPTIONS, "seed": seed}) for seed in (1, 2))
        pd.testing.assert_series_equal(one["value"], two["value"])
        assert not one["ci_low"].equals(two["ci_low"])

    def test_class_missing_from_a_subset(self, tmp_path: Path) -> None:
        path = made_up(tmp_path / "a.parquet", rng_seed=1)
        table = pd.read_parquet(path)
        table[~((table["subset"] == "validation") & (table["class"] == "Telophase"))].to_parquet(path)
        table = evaluation.evaluate({("v", "m", "l"): path}, **OPTIONS)
        rows = table[(table["class"] == "Telophase") & (table["subset"] == "validation")]
        assert rows[["value", "ci_low", "ci_high"]].isna().all(axis=None)
        assert (rows["n_cells"] == 0).all()
        trivial = pick(table, model="trivial", fold="pooled", subset="validation", metric="balanced_accuracy")
        assert trivial["value"] == 0.5


class TestTrivial:
    """The answer that needs no model."""

    def test_it_is_the_largest_training_class(self, tmp_path: Path) -> None:
        path = made_up(tmp_path / "a.parquet", rng_seed=1)
        table = pd.read_parquet(path)
        # Prophase is largest in training, Interphase in test.
        moved = (table["subset"] == "train") & (table["class"] == "Interphase")
        table.loc[moved, "subset"] = "test"
        table.to_parquet(path)
        scored = evaluation.evaluate({("v", "m", "l"): path}, **OPTIONS)
        recall = scored[(scored["model"] == "trivial") & (scored["metric"] == "recall") & (scored["fold"] == "pooled")]
        of_test = recall[recall["subset"] == "test"].set_index("class")["value"]
        assert of_test.to_dict() == {"Interphase": 0.0, "Prophase": 1.0, "Telophase": 0.0}

    def test_it_comes_from_the_split_where_training_cells_were_not_predicted(self, tmp_path: Path) -> None:
        path, split = made_up(tmp_path / "a.parquet", rng_seed=1), tmp_path / "split.parquet"
        table = pd.read_parquet(path)
        table[["fold", "cell_id", "stage", "class", "source", "group", "origin", "subset"]].to_parquet(split)
        whole = evaluation.evaluate({("v", "m", "l"): path}, **OPTIONS)
        table[table["subset"] != "train"].to_parquet(path)
        with pytest.raises(DataError, match=r"a\.parquet: has no training cells of fold 0"):
            evaluation.evaluate({("v", "m", "l"): path}, **OPTIONS)
        parted = evaluation.evaluate({("v", "m", "l"): path}, split_paths={"v": split}, **OPTIONS)
        expected = whole[whole["subset"] != "train"].reset_index(drop=True)
        pd.testing.assert_frame_equal(parted, expected, check_exact=True)


class TestRefusals:
    """What cannot be scored is refused in a line that names the file."""

    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda t: pd.concat([t, t.iloc[:1]]), "stands twice in"),
            (lambda t: t.assign(p_Prophase=np.nan), "no numbers"),
            (lambda t: t.assign(**{"class": "Anaphase"}), "Anaphase has no column"),
            (lambda t: t.assign(subset="final"), "subset final is none of"),
            (lambda t: t.drop(columns="group"), "lacks group"),
        ],
    )
    def test_spoiled_predictions(self, tmp_path: Path, spoil: Any, said: str) -> None:
        path = made_up(tmp_path / "spoiled.parquet", rng_seed=1)
        spoil(pd.read_parquet(path)).to_parquet(path)
        with pytest.raises(DataError, match=rf"spoiled\.parquet: .*{said}"):
            evaluation.evaluate({("v", "m", "l"): path}, **OPTIONS)

    def test_models_with_other_classes(self, tmp_path: Path) -> None:
        a, b = made_up(tmp_path / "a.parquet", rng_seed=1), made_up(tmp_path / "b.parquet", rng_seed=1)
        pd.read_parquet(b).assign(p_Anaphase=0.0).to_parquet(b)
        with pytest.raises(DataError, match=r"b\.parquet: has the classes .*Anaphase"):
            evaluation.evaluate({("v", "m", "l"): a, ("v", "n", "l"): b}, **OPTIONS)


class TestChooseLosses:
    """One loss per model, by validation."""

    @staticmethod
    def table(values: dict[tuple[str, str, str], float]) -> pd.DataFrame:
        """Make a table with one value per (model, loss, subset)."""
        rows = [
            {"variant": "v", "model": m, "loss": loss, "fold": "pooled", "seed": "0", "subset": s, "class": "all",
             "metric": "balanced_accuracy", "value": value}
            for (m, loss, s), value in values.items()
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def test_best_on_validation_whatever_the_test_says(self) -> None:
        table = self.table({
            ("fc", "a", "validation"): 0.5, ("fc", "a", "test"): 0.9,
            ("fc", "b", "validation"): 0.6, ("fc", "b", "test"): 0.1,
            ("trivial", "none", "validation"): 0.99,
        })  # fmt: skip
        chosen = evaluation.choose_losses(table, {"fc": "a"})
        assert chosen["chosen"].tolist() == [False, True]
        assert chosen["published"].tolist() == [True, False]
        assert set(chosen["model"]) == {"fc"}

    def test_of_equal_ones_the_first(self) -> None:
        table = self.table({("fc", name, "validation"): 0.5 for name in ("z", "a")})
        assert evaluation.choose_losses(table).query("chosen")["loss"].tolist() == ["z"]
        assert not evaluation.choose_losses(table)["published"].any()

    def test_without_validation(self) -> None:
        table = self.table({("fc", "a", "test"): 0.5})
        with pytest.raises(DataError, match="v/fc: no predictions of validation cells"):
            evaluation.choose_losses(table)


def test_run_writes_both_tables_and_they_read_back_exactly(tmp_path: Path) -> None:
    path = made_up(tmp_path / "a.parquet", rng_seed=1)
    study = tmp_path / "study.yaml"
    study.write_text("published_pairs: {fc: plain}\n")
    out, chosen = tmp_path / "metrics.csv", tmp_path / "chosen.csv"
    evaluation.run([path], pairs=[["holdout", "fc", "plain"]], out=out, chosen=chosen, study=study, **OPTIONS)
    expected = evaluation.evaluate({("holdout", "fc", "plain"): path}, **OPTIONS)
    pd.testing.assert_frame_equal(evaluation.read_metrics(out), expected, check_exact=True)
    assert pd.read_csv(chosen)["published"].tolist() == [True]


@pytest.mark.parametrize("text", ["a: [", "just words"])
def test_unreadable_study(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"study\.yaml: .*correct the file"):
        evaluation.read_study(path)
    assert evaluation.read_study(None) == {}
