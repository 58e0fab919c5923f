"""Splits: invariants for any data set, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stainfree import splits
from stainfree.errors import DataError
from stainfree.schemes import STAGES, Scheme

SEVEN = Scheme("seven", {stage: [stage] for stage in STAGES})
FIVE = Scheme("five", {"Interphase": ["G1", "S", "G2"], **{stage: [stage] for stage in STAGES[3:]}})
HOLDOUT = {"kind": "holdout", "validation": 0.1, "test": 0.2}
KFOLD = {"kind": "kfold", "folds": 5, "validation": 0.125}

counts = st.fixed_dictionaries({stage: st.integers(10, 60) for stage in STAGES})


def cells_of(counts: dict[str, int], *, groups: int | None = None) -> pd.DataFrame:
    stages = np.array([stage for stage, n in counts.items() for _ in range(n)], dtype=object)
    n = len(stages)
    ids = [f"c{k:05d}" for k in range(n)]
    return pd.DataFrame(
        {
            "cell_id": ids,
            "group": ids,
            "stage": stages,
            "source": [f"s{k % groups}" if groups else "all" for k in range(n)],
            "origin": "real",
        }
    )


@given(counts=counts, seed=st.integers(0, 5), spec=st.sampled_from([HOLDOUT, KFOLD]))
@settings(max_examples=40, deadline=None)
def test_each_fold_holds_every_cell_once_in_even_shares(counts: dict[str, int], seed: int, spec: dict) -> None:
    split = splits.draw(cells_of(counts), spec, scheme=SEVEN, seed=seed)
    for _, fold in split.groupby("fold"):
        assert fold["cell_id"].is_unique
        assert len(fold) == sum(counts.values())
        test_share = 0.2
        for stage, n in counts.items():
            in_test = ((fold["stage"] == stage) & (fold["subset"] == "test")).sum()
            assert abs(in_test - test_share * n) < 1
    if spec is KFOLD:
        tested = split[split["subset"] == "test"]["cell_id"]
        assert sorted(tested) == sorted(cells_of(counts)["cell_id"])


@given(counts=counts, seed=st.integers(0, 5), spec=st.sampled_from([HOLDOUT, KFOLD]))
@settings(max_examples=20, deadline=None)
def test_all_schemes_share_their_folds_whatever_the_order_of_the_file(
    counts: dict[str, int], seed: int, spec: dict
) -> None:
    cells = cells_of(counts)
    seven = splits.draw(cells, spec, scheme=SEVEN, seed=seed).drop(columns="class")
    five = splits.draw(cells.sample(frac=1, random_state=seed), spec, scheme=FIVE, seed=seed).drop(columns="class")
    pd.testing.assert_frame_equal(seven, five)


@given(counts=counts, groups=st.integers(25, 60), spec=st.sampled_from([HOLDOUT, KFOLD]))
@settings(max_examples=20, deadline=None)
def test_groups_are_never_parted(counts: dict[str, int], groups: int, spec: dict) -> None:
    cells = cells_of(counts, groups=groups)
    try:
        split = splits.draw(cells, {**spec, "group_by": "source"}, scheme=SEVEN, seed=0)
    except DataError:  # too few groups of a stage is a refusal, not a parted group
        return
    assert (split.groupby(["fold", "source"])["subset"].nunique() == 1).all()


@pytest.mark.parametrize("spec", [HOLDOUT, KFOLD])
def test_two_copies_of_a_cell_stay_together(spec: dict) -> None:
    cells = cells_of(dict.fromkeys(STAGES, 30))
    cells.loc[5, "group"] = cells.loc[4, "group"]
    for seed in range(10):
        split = splits.draw(cells, spec, scheme=SEVEN, seed=seed)
        pair = split[split["group"] == cells.loc[4, "group"]]
        assert (pair.groupby("fold")["subset"].nunique() == 1).all()
        assert (split.groupby(["fold", "stage", "subset"]).size().unstack() >= 2).all(axis=None)


def test_another_seed_gives_another_split() -> None:
    cells = cells_of(dict.fromkeys(STAGES, 30))
    first, second = (splits.draw(cells, HOLDOUT, scheme=SEVEN, seed=seed)["subset"] for seed in (0, 1))
    assert (first != second).any()


def test_published_counts_are_drawn_exactly() -> None:
    wanted = {
        "Interphase": {"train": 40, "validation": 5, "test": 10},
        **{stage: {"train": 5, "validation": 0, "test": 3} for stage in STAGES[3:]},
    }
    split = splits.draw(cells_of(dict.fromkeys(STAGES, 20)), {"kind": "counts", "counts": wanted}, scheme=FIVE, seed=0)
    found = split.groupby(["class", "subset"]).size()
    assert found[("Interphase", "test")] == 10
    assert found[("Anaphase", "train")] == 5
    assert ("Anaphase", "validation") not in found.index


def test_a_listed_split_is_taken_as_it_is(tmp_path: Path) -> None:
    cells = cells_of(dict.fromkeys(STAGES, 3))
    listed = cells[["cell_id"]].assign(subset=["train", "validation", "test"] * len(STAGES))
    listed.to_csv(tmp_path / "list.csv", index=False)
    split = splits.draw(cells, {"kind": "file", "path": str(tmp_path / "list.csv")}, scheme=FIVE, seed=0)
    assert split.set_index("cell_id")["subset"].to_dict() == listed.set_index("cell_id")["subset"].to_dict()


@pytest.mark.parametrize(
    ("counts", "spec", "message"),
    [
        ({"G1": 20, "Anaphase": 4}, KFOLD, "class Anaphase has 4 independent cells, fewer than the 5 folds"),
        ({"G1": 20}, HOLDOUT, "no training cell of S"),
        ({"G1": 20}, {"kind": "counts", "counts": {"G1": {"train": 21}}}, "21 cells of G1 are asked for"),
        (dict.fromkeys(STAGES, 20), {**HOLDOUT, "group_by": "source"}, "no validation cell at all"),
        ({"G1": 20}, {"kind": "file", "path": "nowhere.csv"}, "nowhere.csv: no such file"),
    ],
)
def test_impossible_splits_are_refused(counts: dict[str, int], spec: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        splits.draw(cells_of(counts), spec, scheme=SEVEN, seed=0)


def test_an_empty_validation_class_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    counts = {**dict.fromkeys(STAGES, 20), "Anaphase": 1}
    splits.draw(cells_of(counts), HOLDOUT, scheme=SEVEN, seed=0)
    assert "no validation cell of Anaphase" in caplog.text


def test_unknown_source_is_named(make_cells: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no source c; it has a, b"):
        splits.make(make_cells(), tmp_path / "split.parquet", spec=HOLDOUT, scheme=FIVE, sources=["c"], seed=0)


@given(n=st.integers(0, 500), shares=st.lists(st.floats(0.05, 1), min_size=2, max_size=5))
def test_quotas_add_up_and_stay_near_their_shares(n: int, shares: list[float]) -> None:
    normal = np.array(shares) / sum(shares)
    found = splits.quotas(n, normal)
    assert found.sum() == n
    if n >= 20 * len(shares):
        assert np.abs(found - n * normal).max() <= 1
