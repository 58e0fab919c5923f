"""The tables of a study: numbers in the right places, published ones beside the pairs they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stainfree import evaluation, tables
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

    def test_classes_without_cells_are_named(self) -> None:
        table = tables.balanced_accuracy(scored(PAIRS), CHOSEN)
        assert set(table["validation_absent_classes"]) == {"Anaphase"}
        assert table["test_absent_classes"].isna().all()

    def test_subset_that_was_not_predicted_is_empty(self) -> None:
        table = scored(PAIRS)
        out = tables.balanced_accuracy(table[table["subset"] != "train"], CHOSEN)
        assert out["train_balanced_accuracy"].isna().all()
        assert out["train_n_cells"].isna().all()


def test_scores_are_those_of_the_test_cells() -> None:
    table = tables.scores(scored(PAIRS))
    assert table["n_cells"].tolist() == [100, 101, 102, 103]
    for offset, metric in enumerate(OVERALL):
        assert table[metric].tolist() == pytest.approx([at + 0.2 + offset / 100 for at in range(4)])
        assert (table[f"{metric}_ci_high"] - table[f"{metric}_ci_low"]).tolist() == pytest.approx([0.002] * 4)


def test_run_writes_the_three_tables(tmp_path: Path) -> None:
    whole = scored(PAIRS).reindex(columns=[*evaluation.COLUMNS])
    whole.to_csv(tmp_path / "metrics.csv", index=False)
    CHOSEN.to_csv(tmp_path / "chosen.csv", index=False)
    split({(0, "Interphase", "train"): 3}).to_parquet(tmp_path / "split.parquet")
    outs = [tmp_path / f"{name}.csv" for name in ("class_counts", "balanced_accuracy", "scores")]
    tables.run(
        scored=tmp_path / "metrics.csv",
        chosen=tmp_path / "chosen.csv",
        split_paths={"holdout": tmp_path / "split.parquet"},
        class_counts_out=outs[0],
        balanced_accuracy_out=outs[1],
        scores_out=outs[2],
    )
    assert pd.read_csv(outs[0])["train"].tolist() == [3]
    assert pd.read_csv(outs[1])["chosen"].tolist() == [False, True, False, True]
    assert len(pd.read_csv(outs[2])) == 4
