"""The embedding map: repeatable, of one part, thinned after the projection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import NearestNeighbors

from stainfree import files
from stainfree.errors import DataError
from stainfree.explain import embedding

WHOSE = {"model": "cnn3", "loss": "b"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write embeddings of two parts: 60 + 20 test cells in two far clusters, and 5 validation cells."""
    rng = np.random.default_rng(0)
    tables = []
    for fold in (0, 1):
        values = np.concatenate([rng.normal(0, 1, (65, 8)), rng.normal(12, 1, (20, 8))]).astype(np.float32)
        table = pd.DataFrame(values, columns=[f"e{i}" for i in range(8)])
        table.insert(0, "class", ["Interphase"] * 65 + ["Prophase"] * 20)
        table.insert(0, "subset", ["validation"] * 5 + ["test"] * 80)
        table.insert(0, "seed", 0)
        table.insert(0, "fold", fold)
        table.insert(0, "cell_id", [f"f{fold}c{i}" for i in range(85)])
        tables.append(table)
    path = tmp_path / "embeddings.parquet"
    files.write_parquet(path, pd.concat(tables))
    return path


def test_lays_out_the_test_cells_of_one_part_the_same_way_twice(source: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        embedding.embed(source, out=tmp_path / f"{name}.parquet", fold=1, seed=0, thin={"Interphase": 25}, **WHOSE)
    one, two = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)
    told = ["cell_id", "class", "subset", "model", "loss", "fold", "seed", "u0", "u1", "u2", "drawn"]
    assert list(one.columns) == told
    assert set(one[["model", "loss", "fold", "seed"]].itertuples(index=False, name=None)) == {("cnn3", "b", 1, 0)}
    assert set(one["subset"]) == {"test"}
    assert one["cell_id"].str.startswith("f1").all()
    assert one.groupby("class")["drawn"].sum().to_dict() == {"Interphase": 25, "Prophase": 20}
    # Clusters that are far apart stay neighbours of their own kind.
    places = one[["u0", "u1", "u2"]].to_numpy()
    nearest = NearestNeighbors(n_neighbors=2).fit(places).kneighbors(places, return_distance=False)[:, 1]
    assert (one["class"].to_numpy()[nearest] == one["class"].to_numpy()).mean() > 0.95


@pytest.mark.parametrize("n_cells", [4, 7, 16, 31])
def test_few_cells_still_make_a_map(n_cells: int) -> None:
    values = np.random.default_rng(n_cells).normal(size=(n_cells, 5)).astype(np.float32)
    places = embedding.project(values)
    assert places.shape == (n_cells, 3)
    assert np.isfinite(places).all()


def test_thinning_is_seeded_and_touches_named_classes_only() -> None:
    classes = pd.Series(["a"] * 50 + ["b"] * 9)
    drawn = embedding.thinned(classes, {"a": 10, "b": 20, "absent": 1}, random_state=1)
    assert (drawn[:50].sum(), drawn[50:].sum()) == (10, 9)
    np.testing.assert_array_equal(embedding.thinned(classes, {"a": 10}, random_state=1), drawn)
    assert (embedding.thinned(classes, {"a": 10}, random_state=2) != drawn).any()


def test_refuses_what_makes_no_map(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(DataError, match=r"no part of fold 3 and seed 0; it has \(fold, seed\) \(0, 0\), \(1, 0\)"):
        embedding.embed(source, out=out, fold=3, seed=0, **WHOSE)
    table = pd.read_parquet(source)
    files.write_parquet(source, table.groupby("fold").head(8))
    with pytest.raises(DataError, match="has 3 test cells; a map needs at least 4"):
        embedding.embed(source, out=out, fold=0, seed=0, **WHOSE)
    table["e3"] = np.float32("nan")
    files.write_parquet(source, table)
    with pytest.raises(DataError, match="not finite"):
        embedding.embed(source, out=out, fold=0, seed=0, **WHOSE)
    assert not out.exists()


def test_the_loss_chosen_on_validation_is_laid_out(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    table = pd.read_parquet(source)
    files.write_parquet(other, table.assign(cell_id="other" + table["cell_id"]))
    rows = [("v", "cnn3", "a", False, True), ("v", "cnn3", "b", True, False), ("v", "fc", "a", True, False)]
    chosen = pd.DataFrame(rows, columns=["variant", "model", "loss", "chosen", "published"])
    chosen.to_csv(tmp_path / "chosen.csv", index=False)
    pairs = [("v", "cnn3", "a"), ("v", "cnn3", "b")]
    out = tmp_path / "out.parquet"
    embedding.embed_chosen([other, source], tmp_path / "chosen.csv", pairs=pairs, out=out, fold=0, seed=0)
    laid = pd.read_parquet(out)
    assert set(laid["loss"]) == {"b"}
    assert laid["cell_id"].str.startswith("f0").all()
    with pytest.raises(DataError, match=r"chosen\.csv: no loss of the mapped model is chosen \(v, cnn3, a\)"):
        embedding.embed_chosen([other], tmp_path / "chosen.csv", pairs=pairs[:1], out=out, fold=0, seed=0)
