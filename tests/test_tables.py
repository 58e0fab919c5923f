"""The tables of a study: numbers in the right places, published ones beside the pairs they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stainfree import evaluation, predictions, tables
from stainfree.metrics import OVERALL

STUDY: dict[str, Any] = {
    "published_variant": "holdout",
    "class_counts": {"Interphase": {"train": 70, "validation": 10, "test": 20}, "Anaphase": {"train": 2, "test": 1}},
    "balanced_accuracy": {"fc": {"train": 0.6, "validation": 0.5, "test": 0.4}},
}


def split(counts: dict[tuple[int, str, str], int]) -> pd.DataFrame:
    """Make a split of so many cells per (fold, class, subset)."""
    rows = [
        {"fold": fold, "cell_id": f"{name}-{subset}-{i}", "stage": name, "class": name, "source": "a", "group": str(i),
         "origin": "real", "subset": subset}
        for (fold, name, subset), n in counts.items() for i in range(n)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def scored(pairs: list[tuple[str, str, str]]) -> pd.DataFrame:
    """Make a table of scores in which every number tells its place."""
    rows = []
    for at, (variant, model, loss) in enumerate(pairs):
        for number, subset in enumerate(("train", "validation", "test")):
            for offset, metric in enumerate((*OVERALL, "recall")):
                value = at + number / 10 + offset / 100
                absent = metric == "recall" and subset == "validation"
                rows.append({
                    "variant": variant, "model": model, "loss": loss, "fold": "pooled", "seed": "0", "subset": subset,
                    "class": "Anaphase" if metric == "recall" else "all", "metric": metric, "value": value,
                    "ci_low": value - 0.001, "ci_high": value + 0.001, "n_cells": 0 if absent else 100 + at,
                })  # fmt: skip
    return pd.DataFrame(rows)


PAIRS = [("holdout", "trivial", "none"), ("holdout", "fc", "a"), ("holdout", "fc", "b"), ("kfold", "fc", "b")]
CHOSEN = pd.DataFrame({
    "variant": ["holdout", "holdout", "kfold"], "model": "fc", "loss": ["a", "b", "b"],
    "validation_balanced_accuracy": [0.5, 0.4, 0.4], "chosen": [True, False, True], "published": [False, True, True],
})  # fmt: skip


class TestClassCounts:
    """Table 1."""

    def test_counts_with_the_published_ones_beside(self) -> None:
        drawn = split({(0, "Interphase", "train"): 7, (0, "Interphase", "test"): 2, (0, "Anaphase", "train"): 1})
        table = tables.class_counts({"holdout": drawn}, classes=["Interphase", "Anaphase"], study=STUDY)
        assert table["class"].tolist() == ["Interphase", "Anaphase"]
        assert table[["train", "validation", "test"]].to_numpy().tolist() == [[7, 0, 2], [1, 0, 0]]
        assert table["published_train"].tolist() == [70, 2]
        assert table["published_validation"].isna().tolist() == [False, True]
        assert table["all"].tolist() == [9, 1]
        assert table["published_all"].isna().all()

    def test_published_counts_of_all_cells_stand_beside_every_variant(self) -> None:
        drawn = split({(0, "Interphase", "train"): 7, (0, "Anaphase", "train"): 1})
        study = {"class_counts": {"Interphase": {"all": 257}}}
        table = tables.class_counts({"D1": drawn, "D2": drawn}, classes=["Interphase", "Anaphase"], study=study)
        assert table["published_all"].tolist() == [257, pd.NA, 257, pd.NA]
        assert table["published_train"].isna().all()

    def test_folds_and_other_variants(self) -> None:
        drawn = split({(fold, "Interphase", "test"): 3 + fold for fold in range(2)})
        table = tables.class_counts({"kfold": drawn}, study=STUDY)
        assert table[["variant", "fold", "test"]].to_numpy().tolist() == [["kfold", 0, 3], ["kfold", 1, 4]]
        assert table["published_test"].isna().all()


class TestBalancedAccuracy:
    """Table 2."""

    def test_published_numbers_stand_beside_the_published_pair_alone(self) -> None:
        table = tables.balanced_accuracy(scored(PAIRS), CHOSEN, study=STUDY)
        assert list(table[["variant", "model", "loss"]].itertuples(index=False, name=None)) == PAIRS
        assert table["published_pair"].tolist() == [False, False, True, True]
        assert table["chosen"].tolist() == [False, True, False, True]
        np.testing.assert_array_equal(table["published_test"], [np.nan, np.nan, 0.4, 0.4])

    def test_values_intervals_and_cells(self) -> None:
        table = tables.balanced_accuracy(scored(PAIRS), CHOSEN)
        assert table["test_balanced_accuracy"].tolist() == pytest.approx([0.2, 1.2, 2.2, 3.2])
        assert table["train_ci_low"].tolist() == pytest.approx([-0.001, 0.999, 1.999, 2.999])
        assert table["test_n_cells"].tolist() == [100, 101, 102, 103]
        assert table["published_test"].isna().all()

    def test_folds_of_a_model_and_of_its_split(self) -> None:
        single = [scored(PAIRS).assign(fold=str(fold)) for fold in range(5)]
        some = single[0].query("variant == 'kfold' or model == 'trivial'")
        whole = pd.concat([scored(PAIRS), some, *(table.query("variant == 'holdout'") for table in single[1:])])
        folds_of_split = {"holdout": 5, "kfold": 3}
        for table in (
            tables.balanced_accuracy(whole, CHOSEN, folds_of_split=folds_of_split),
            tables.scores(whole, folds_of_split=folds_of_split),
        ):
            assert table["n_folds"].tolist() == [5, 4, 4, 1]
            assert table["n_folds_of_split"].tolist() == [5, 5, 5, 3]

    def test_classes_without_cells_are_named(self) -> None:
        table = tables.balanced_accuracy(scored(PAIRS), CHOSEN)
        assert set(table["validation_absent_classes"]) == {"Anaphase"}
        assert table["test_absent_classes"].isna().all()

    def test_subset_that_was_not_predicted_is_empty(self) -> None:
        table = scored(PAIRS)
        out = tables.balanced_accuracy(table[table["subset"] != "train"], CHOSEN)
        assert out["train_balanced_accuracy"].isna().all()
        assert out["train_n_cells"].isna().all()


def cells_of_sources() -> pd.DataFrame:
    """Make a split of three sources: two hold both classes, one holds Interphase alone, and two hold test cells."""
    counts = {
        ("one", "Interphase", "train"): 30, ("one", "Anaphase", "train"): 4, ("two", "Interphase", "train"): 2,
        ("two", "Anaphase", "train"): 2, ("one", "Interphase", "test"): 8, ("one", "Anaphase", "test"): 4,
        ("two", "Interphase", "test"): 3, ("lone", "Interphase", "test"): 20,
    }  # fmt: skip
    rows = [
        {"fold": 0, "cell_id": f"{source}-{name}-{subset}-{i}", "stage": name, "class": name, "source": source,
         "group": "", "origin": "real", "subset": subset}
        for (source, name, subset), n in counts.items() for i in range(n)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def answers(cells: pd.DataFrame, *, wrong: dict[str, int], seed: int = 0) -> pd.DataFrame:
    """Predict every cell right but the first so many of each source and class, named `source class`."""
    test = cells[cells["subset"] == "test"].reset_index(drop=True)
    place = test.groupby(["source", "class"]).cumcount()
    is_wrong = place < (test["source"] + " " + test["class"]).map(wrong).fillna(0)
    said = test["class"].where(~is_wrong, test["class"].map({"Interphase": "Anaphase", "Anaphase": "Interphase"}))
    chances = np.stack([said == name for name in ("Interphase", "Anaphase")], axis=1).astype(float)
    return predictions.table(test, chances, classes=["Interphase", "Anaphase"], seed=seed)


class TestBySource:
    """Balanced accuracy with and without a source that holds one class."""

    WHOLE = tables.balanced_accuracy(scored(PAIRS[:3]), CHOSEN, study=STUDY)

    def table(self, cells: pd.DataFrame, **predicted: pd.DataFrame) -> pd.DataFrame:
        """Lay out the scores of fc under losses a and b."""
        right = answers(cells, wrong={})
        keyed = {("holdout", "fc", loss): predicted.get(loss, right) for loss in "ab"}
        return tables.balanced_accuracy_by_source(self.WHOLE, keyed, cells, classes=["Interphase", "Anaphase"])

    def test_scores_each_source_of_several_classes(self) -> None:
        cells = cells_of_sources()
        # One source: 2 of 8 and 1 of 4 wrong. The other has no Anaphase cell in test.
        wrong = {"one Interphase": 2, "one Anaphase": 1, "two Interphase": 1, "lone Interphase": 20}
        table = self.table(cells, b=answers(cells, wrong=wrong))
        assert table.columns.tolist() == list(tables.BY_SOURCE_COLUMNS)
        keys = list(table[["model", "loss", "source"]].itertuples(index=False, name=None))
        expected = [("trivial", "none"), ("fc", "a"), ("fc", "b")]
        assert keys == [(*pair, source) for pair in expected for source in ("all", "one", "two")]
        own = table[(table["model"] == "fc") & (table["loss"] == "b")].set_index("source")
        assert own.loc["one", "balanced_accuracy"] == pytest.approx((6 / 8 + 3 / 4) / 2)
        assert own.loc["two", "balanced_accuracy"] == pytest.approx(2 / 3)
        assert own["n_cells"].tolist()[1:] == [12, 3]
        assert own["absent_classes"].tolist()[1:] == ["", "Anaphase"]
        assert own["published_pair"].all()
        assert not own["chosen"].any()
        # The Beta posterior of one recall, integrated instead of drawn.
        low, high = stats.beta.ppf([0.025, 0.975], 2.5, 1.5)
        assert own.loc["two", ["ci_low", "ci_high"]].tolist() == pytest.approx([low, high], abs=0.01)

    def test_over_all_cells_the_numbers_are_those_of_table_2(self) -> None:
        table = self.table(cells_of_sources())
        over_all = table[table["source"] == "all"]
        assert over_all["balanced_accuracy"].tolist() == self.WHOLE["test_balanced_accuracy"].tolist()
        assert over_all["ci_low"].tolist() == self.WHOLE["test_ci_low"].tolist()
        assert over_all["n_cells"].tolist() == self.WHOLE["test_n_cells"].tolist()

    def test_the_trivial_answer_is_the_largest_training_class_of_all_sources(self) -> None:
        table = self.table(cells_of_sources()).set_index(["model", "source"])
        assert table.loc[("trivial", "one"), "balanced_accuracy"] == pytest.approx(0.5)
        assert table.loc[("trivial", "two"), "balanced_accuracy"] == pytest.approx(1.0)

    def test_seeds_are_averaged_and_cells_counted_once(self) -> None:
        cells = cells_of_sources()
        two = pd.concat([answers(cells, wrong={"one Anaphase": n}, seed=n) for n in (0, 4)])
        own = self.table(cells, a=two).query("loss == 'a' and source == 'one'").iloc[0]
        assert own["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)
        assert own["n_cells"] == 12

    @pytest.mark.parametrize("by", ["origin", "class"])
    def test_one_source_or_none_of_several_classes_has_rows_of_all_cells_alone(self, by: str) -> None:
        cells = cells_of_sources()
        assert set(self.table(cells.assign(source=cells[by]))["source"]) == {"all"}


def test_scores_are_those_of_the_test_cells() -> None:
    table = tables.scores(scored(PAIRS))
    assert table["n_cells"].tolist() == [100, 101, 102, 103]
    for offset, metric in enumerate(OVERALL):
        assert table[metric].tolist() == pytest.approx([at + 0.2 + offset / 100 for at in range(4)])
        assert (table[f"{metric}_ci_high"] - table[f"{metric}_ci_low"]).tolist() == pytest.approx([0.002] * 4)


def test_run_writes_the_tables(tmp_path: Path) -> None:
    whole = scored(PAIRS).reindex(columns=[*evaluation.COLUMNS])
    whole.to_csv(tmp_path / "metrics.csv", index=False)
    CHOSEN.to_csv(tmp_path / "chosen.csv", index=False)
    cells = cells_of_sources()
    cells.to_parquet(tmp_path / "split.parquet")
    for loss in "ab":
        predictions.write(tmp_path / f"{loss}.parquet", answers(cells, wrong={}))
    names = ("class_counts", "balanced_accuracy", "by_source", "scores")
    tables.run(
        scored=tmp_path / "metrics.csv",
        chosen=tmp_path / "chosen.csv",
        split_paths={"holdout": tmp_path / "split.parquet"},
        classes=["Interphase", "Anaphase"],
        predicted=[tmp_path / f"{loss}.parquet" for loss in "ab"],
        pairs=[["holdout", "fc", loss] for loss in "ab"],
        **{f"{name}_out": tmp_path / f"{name}.csv" for name in names},
    )
    outs = {name: pd.read_csv(tmp_path / f"{name}.csv") for name in names}
    assert outs["class_counts"]["train"].tolist() == [32, 6]
    assert outs["balanced_accuracy"]["chosen"].tolist() == [False, True, False, True]
    assert set(outs["by_source"]["variant"]) == {"holdout"}
    assert len(outs["by_source"]) == 9
    assert len(outs["scores"]) == 4
