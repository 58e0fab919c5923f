"""Montages are cut into cells, padding is told from cells, and broken files are refused in one line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml

from stainfree.datasets import Dataset, Drops, montage
from stainfree.errors import ConfigError, DataError, StainfreeError
from stainfree.stain import integrate

DATASETS = Path(__file__).parents[1] / "workflow" / "datasets.yaml"
TILE = (10, 12)
GRID = (3, 4)


def _description(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "montage",
        "channels": {"BF": "Ch3", "PI": "Ch4"},
        "bit_depth": 12,
        "tile": list(TILE),
        "layout": "{source}/{folder}/{channel}_{montage}.tif",
        "stages": {"S_phase": "S"},
        "dna_channel": "PI",
        "files": [{"path": f"E1/S_phase/{key}_M.tif"} for key in ("Ch3", "Ch4")],
    } | changes


def _dataset(**changes: Any) -> Dataset:
    return Dataset.from_config("mine", _description(**changes))


def _tiles(seed: int = 0) -> np.ndarray:
    shape = (GRID[0] * GRID[1], 2, *TILE)
    return np.random.default_rng(seed).integers(0, 4096, size=shape, dtype=np.uint16)


def _write(raw: Path, tiles: np.ndarray) -> None:
    """Paste tiles one by one: the inverse of cutting, written the plain way."""
    folder = raw / "E1" / "S_phase"
    folder.mkdir(parents=True, exist_ok=True)
    for channel, key in enumerate(("Ch3", "Ch4")):
        picture = np.zeros((GRID[0] * TILE[0], GRID[1] * TILE[1]), dtype=tiles.dtype)
        for index, tile in enumerate(tiles):
            y, x = divmod(index, GRID[1])
            picture[y * TILE[0] : (y + 1) * TILE[0], x * TILE[1] : (x + 1) * TILE[1]] = tile[channel]
        tifffile.imwrite(folder / f"{key}_M.tif", picture)


def test_tiles_of_all_channels_are_joined_by_position(tmp_path: Path) -> None:
    tiles = _tiles()
    _write(tmp_path, tiles)
    drops = Drops()
    (batch,) = montage.read(_dataset(), tmp_path, drops)
    np.testing.assert_array_equal(batch.images, tiles)
    assert batch.images.dtype == np.uint16
    assert batch.cell_id == [f"E1/S_phase/M:{i}" for i in range(12)]
    assert set(batch.stage) == {"S"}
    assert set(batch.source) == {"E1"}
    assert drops.padding == {"E1/S_phase/M": 0}


@pytest.mark.parametrize("kind", ["rows", "columns", "blank", "picture"])
def test_padding_is_left_out_wherever_it_stands(kind: str) -> None:
    tiles = _tiles()
    padding = tiles[1].copy()
    if kind == "rows":
        padding[:] = padding[:, :1]
    elif kind == "columns":
        padding[:] = padding[:, :, :1]
    elif kind == "blank":
        padding[:] = 0
    where = [1, 4, 6, 11]
    tiles[where] = padding
    np.testing.assert_array_equal(np.flatnonzero(montage.is_padding(tiles)), where)


def test_single_drawn_out_tile_is_padding() -> None:
    tiles = _tiles()
    tiles[3] = tiles[2][:, :1]
    np.testing.assert_array_equal(np.flatnonzero(montage.is_padding(tiles)), [3])


def test_flat_channel_alone_makes_no_padding() -> None:
    tiles = _tiles()
    tiles[:, 1] = 0
    assert not montage.is_padding(tiles).any()


def test_copied_cell_is_no_padding() -> None:
    tiles = _tiles()
    tiles[7] = tiles[2]
    assert not montage.is_padding(tiles).any()
    tiles[9] = tiles[2]
    tiles[[0, 5]] = 0
    np.testing.assert_array_equal(np.flatnonzero(montage.is_padding(tiles)), [0, 5])


def test_dna_content_is_the_sum_above_background() -> None:
    images = np.full((2, 12, 12), 30, dtype=np.uint16)
    images[0, 5:7, 5:7] += 100
    images[1, 4:8, 4:8] += 200
    np.testing.assert_allclose(integrate(images), [400, 3200])


def test_missing_channel(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="montage E1/S_phase/M: has no file of channel Ch4"):
        next(montage.read(_dataset(files=_description()["files"][:1]), tmp_path))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Ch3_M\.tif: no such file; run the download again"):
        next(montage.read(_dataset(), tmp_path))


@pytest.mark.parametrize("share", [0.002, 0.5, 0.95])
def test_cut_off_file(tmp_path: Path, share: float) -> None:
    _write(tmp_path, _tiles())
    path = tmp_path / "E1" / "S_phase" / "Ch3_M.tif"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"Ch3_M\.tif: not a readable TIFF"):
        next(montage.read(_dataset(), tmp_path))


def test_no_whole_number_of_tiles(tmp_path: Path) -> None:
    _write(tmp_path, _tiles())
    with pytest.raises(DataError, match=r"30 x 48 pixels are no whole number of 7 x 12 tiles"):
        next(montage.read(_dataset(tile=[7, 12]), tmp_path))


def test_unequal_number_of_tiles(tmp_path: Path) -> None:
    _write(tmp_path, _tiles())
    tifffile.imwrite(tmp_path / "E1" / "S_phase" / "Ch4_M.tif", np.zeros((20, 48), dtype=np.uint16))
    with pytest.raises(DataError, match=r"Ch4_M\.tif: 20 x 48 pixels .* where Ch3_M\.tif has 30 x 48"):
        next(montage.read(_dataset(), tmp_path))


def test_colour_picture(tmp_path: Path) -> None:
    _write(tmp_path, _tiles())
    colour = np.zeros((30, 48, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "E1" / "S_phase" / "Ch4_M.tif", colour, photometric="rgb")
    with pytest.raises(DataError, match=r"Ch4_M\.tif: has shape \(30, 48, 3\)"):
        next(montage.read(_dataset(), tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": {"G1": "G1"}}, "data set mine: S_phase has no stage; add it to `stages`"),
        ({"stages": {"S_phase": "Sleep"}}, "`stages` maps S_phase to Sleep; choose one of G1, S"),
        ({"layout": "{source}/{channel}_{montage}.tif"}, "lacks {folder}; add it"),
        ({"layout": "{source}/{folder}/{montage}.tif"}, "lacks {channel}; add it"),
        ({"tile": 40}, r"tile is 40; give \[height, width\] of a cell in pixels"),
        ({"layout": "{source}/{folder}/{montage}_{channel}.png"}, "does not fit the layout"),
        ({"dna_channel": "DAPI"}, "dna_channel DAPI is none of its channels"),
    ],
)
def test_description_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    _write(tmp_path, _tiles())
    with pytest.raises(ConfigError, match=message):
        next(montage.read(_dataset(**changes), tmp_path))


def test_missing_option(tmp_path: Path) -> None:
    description = _description()
    del description["tile"]
    with pytest.raises(StainfreeError, match="needs the key tile"):
        next(montage.read(Dataset.from_config("mine", description), tmp_path))


def test_own_montages_are_found_by_their_layout(tmp_path: Path) -> None:
    tiles = _tiles()
    _write(tmp_path, tiles)
    (tmp_path / "E1" / "S_phase" / "overview.tif").write_bytes(b"not looked at")
    description = _description(path=str(tmp_path))
    del description["files"]
    drops = Drops()
    (batch,) = montage.read(Dataset.from_config("mine", description), tmp_path, drops)
    np.testing.assert_array_equal(batch.images, tiles)
    assert (batch.cell_id[11], batch.source[11]) == ("E1/S_phase/M:11", "E1")
    assert drops.foreign_examples == ["E1/S_phase/overview.tif"]
    # A folder per class alone; of one channel, which needs no place in the layout.
    description |= {"path": str(tmp_path / "E1"), "channels": ["BF"], "layout": "{folder}/Ch3_{montage}.tif"}
    del description["dna_channel"]
    (batch,) = montage.read(Dataset.from_config("mine", description), tmp_path / "E1")
    np.testing.assert_array_equal(batch.images, tiles[:, :1])
    assert (batch.cell_id[11], batch.source[11]) == ("S_phase/M:11", "mine")


def test_own_folder_without_a_montage(tmp_path: Path) -> None:
    _write(tmp_path, _tiles())
    description = _description(path=str(tmp_path), stages={"S_phase": "S", "G1": "G1"})
    with pytest.raises(DataError, match="data set mine: G1 of `stages` has no montage; add one, or take it out"):
        next(montage.read(Dataset.from_config("mine", description), tmp_path))


def test_real_cells(mirror: Path) -> None:
    raw = mirror / "jurkat-montage"
    description = yaml.safe_load(DATASETS.read_text(encoding="utf-8"))["jurkat_montage"]
    drops = Drops()
    counts: Counter[tuple[str, str]] = Counter()
    dna: dict[str, list[float]] = {}
    for batch in montage.read(Dataset.from_config("jurkat_montage", description), raw, drops):
        counts.update(zip(batch.source, batch.stage, strict=True))
        assert batch.dna_content is not None
        dna.setdefault(batch.stage[0], []).extend(batch.dna_content.tolist())
    # Copies included: two tiles each of one Metaphase, Anaphase and Telophase cell.
    assert counts == {
        ("Experiment_1", "G1"): 900,
        ("Experiment_1", "S"): 900,
        ("Experiment_1", "G2"): 900,
        ("Experiment_1", "Prophase"): 606,
        ("Experiment_1", "Metaphase"): 69,
        ("Experiment_1", "Anaphase"): 16,
        ("Experiment_1", "Telophase"): 28,
        ("Experiment_2", "G1"): 4500,
    }
    assert {name: n for name, n in drops.padding.items() if n} == {
        "Experiment_1/Anaphase/CP0001": 884,
        "Experiment_1/Metaphase/CP0001": 831,
        "Experiment_1/Prophase/CP0001": 294,
        "Experiment_1/Telophase/CP0001": 872,
    }
    # G1, S and G2 were told apart by their DNA: G2 has about twice that of G1, S stands between.
    g1, s, g2 = (np.median(dna[stage]) for stage in ("G1", "S", "G2"))
    assert g1 < s < g2
    assert g2 / g1 == pytest.approx(2.0, abs=0.2)
