"""Conversion keeps the cells contract, drops copies, reports what it did, and leaves nothing half-made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml

from stainfree import cells, files
from stainfree.datasets import Batch, Dataset, convert, kinds, montage
from stainfree.errors import ConfigError, DataError

DATASETS = Path(__file__).parents[1] / "workflow" / "datasets.yaml"
SIDE = 20


def _description(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "montage",
        "channels": {"BF": "Ch3", "PI": "Ch4"},
        "bit_depth": 12,
        "tile": [SIDE, SIDE],
        "layout": "{source}/{folder}/{channel}_{montage}.tif",
        "stages": {"G1": "G1", "S_phase": "S"},
        "dna_channel": "PI",
        "licence": "CC0",
        "citation": ["First", "Second"],
        "files": [{"path": f"E1/{folder}/{key}_M.tif"} for folder in ("G1", "S_phase") for key in ("Ch3", "Ch4")],
    } | changes


def _write(raw: Path) -> dict[str, np.ndarray]:
    """Two montages of 2 x 3 tiles: a byte copy in G1, a near copy across montages, two padding tiles in S_phase."""
    rng = np.random.default_rng(0)
    tiles = rng.integers(100, 4000, size=(2, 6, 2, SIDE, SIDE), dtype=np.uint16)
    tiles[0, 4] = tiles[0, 1]
    tiles[1, 0] = tiles[0, 2] + rng.integers(0, 2, size=(2, SIDE, SIDE), dtype=np.uint16)
    tiles[1, [3, 5]] = tiles[1, 4][:, :1]
    for folder, cells_of in zip(("G1", "S_phase"), tiles, strict=True):
        (raw / "E1" / folder).mkdir(parents=True)
        for channel, key in enumerate(("Ch3", "Ch4")):
            rows = [np.concatenate(list(cells_of[start : start + 3, channel]), axis=1) for start in (0, 3)]
            tifffile.imwrite(raw / "E1" / folder / f"{key}_M.tif", np.concatenate(rows))
    return {f"E1/{folder}/M:{i}": tiles[m, i] for m, folder in enumerate(("G1", "S_phase")) for i in range(6)}


def _convert(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    report = tmp_path / "mine.json"
    dataset = Dataset.from_config("mine", _description(**changes))
    convert(dataset, raw=tmp_path / "raw", out=tmp_path / "mine.h5", report=report)
    loaded: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return loaded


def test_cells_and_report(tmp_path: Path) -> None:
    truth = _write(tmp_path / "raw")
    report = _convert(tmp_path)
    table = cells.read_table(tmp_path / "mine.h5")
    expected = [f"E1/G1/M:{i}" for i in (0, 1, 2, 3, 5)] + [f"E1/S_phase/M:{i}" for i in (1, 2, 4)]
    assert table["cell_id"].tolist() == expected
    assert table["stage"].tolist() == ["G1"] * 5 + ["S"] * 3
    assert table["dna_content"].dtype == np.float32
    images = cells.read_images(tmp_path / "mine.h5")
    np.testing.assert_array_equal(images, np.stack([truth[cell_id] for cell_id in expected]))
    info = cells.read_info(tmp_path / "mine.h5")
    assert info.citation == "First; Second"
    assert report["n_cells"] == 8
    assert report["stages"] == {"G1": 5, "S": 3}
    assert report["counts"] == {"E1": {"G1": 5, "S": 3}}
    assert report["padding_tiles"] == {"E1/G1/M": 0, "E1/S_phase/M": 2}
    assert [(line["cell_id"], line["of"], line["match"]) for line in report["duplicates_dropped"]] == [
        ("E1/G1/M:4", "E1/G1/M:1", "exact"),
        ("E1/S_phase/M:0", "E1/G1/M:2", "near"),
    ]
    assert report["duplicates_dropped"][1]["correlation"] > 0.99
    assert (report["duplicates_dropped"][1]["stage"], report["duplicates_dropped"][1]["of_stage"]) == ("S", "G1")
    assert report["content_sha256"] == info.content_sha256
    path = "E1/G1/Ch3_M.tif"
    assert report["source_checksums"][path] == info.source_checksums[path] == files.sha256(tmp_path / "raw" / path)


def test_same_source_gives_the_same_bytes_of_content(tmp_path: Path) -> None:
    _write(tmp_path / "raw")
    assert _convert(tmp_path) == _convert(tmp_path)


def test_listed_copies_are_kept_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _write(tmp_path / "raw")
    report = _convert(tmp_path, keep_duplicates=["E1/G1/M:4", "E1/G1/M:3"])
    assert report["n_cells"] == 9
    assert [line["cell_id"] for line in report["duplicates_kept"]] == ["E1/G1/M:4"]
    assert [line["cell_id"] for line in report["duplicates_dropped"]] == ["E1/S_phase/M:0"]
    assert "keep_duplicates names E1/G1/M:3, which is no copy" in caplog.text


def test_pixels_beyond_the_bit_depth(tmp_path: Path) -> None:
    _write(tmp_path / "raw")
    with pytest.raises(DataError, match=r"cell E1/G1/M:0: pixels .* do not fit 0 to 255; set `bit_depth`"):
        _convert(tmp_path, bit_depth=8)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_reader_that_gives_an_unknown_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch(images=np.zeros((1, 2, 9, 9), dtype=np.uint16), stage=["Sleep"], cell_id=["a"], source=["E1"])
    _write(tmp_path / "raw")
    monkeypatch.setattr(montage, "read", lambda *_: iter([batch]))
    with pytest.raises(DataError, match="stage Sleep is not one of G1, S, G2"):
        _convert(tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    _write(tmp_path / "raw")
    (tmp_path / "raw" / "E1" / "G1" / "Ch4_M.tif").unlink()
    with pytest.raises(DataError, match=r"Ch4_M\.tif: no such file; run the download of mine again"):
        _convert(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "microscope"}, "data set mine: unknown kind 'microscope'; choose one of .*montage"),
        ({"kind": "download"}, "unknown kind 'download'"),
        ({"files": [{"path": "a.tif", "md5": "0"}]}, "unknown key md5 in `files`"),
    ],
)
def test_description_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Dataset.from_config("mine", _description(**changes))


def test_incomplete_description() -> None:
    with pytest.raises(ConfigError, match="data set mine: lacks channels, bit_depth"):
        Dataset.from_config("mine", {"kind": "montage"})


def test_public_descriptions_are_complete() -> None:
    descriptions = yaml.safe_load(DATASETS.read_text(encoding="utf-8"))
    jurkat = Dataset.from_config("jurkat_montage", descriptions["jurkat_montage"])
    assert len(jurkat.files) == 36
    assert all(file.size and file.sha256 and len(file.sha256) == 64 for file in jurkat.files)
    assert jurkat.channel_keys == {"BF": "Ch3", "PI": "Ch4", "DF": "Ch6"}
    assert "montage" in kinds()


def test_real_cells(tmp_path: Path, mirror: Path) -> None:
    raw = mirror / "jurkat-montage"
    description = yaml.safe_load(DATASETS.read_text(encoding="utf-8"))["jurkat_montage"]
    dataset = Dataset.from_config("jurkat_montage", description)
    convert(dataset, raw=raw, out=tmp_path / "j.h5", report=tmp_path / "j.json")
    report = files.read_json(tmp_path / "j.json")
    assert report["n_cells"] == 7916
    assert report["stages"] == {
        "G1": 5400,
        "S": 900,
        "G2": 900,
        "Prophase": 606,
        "Metaphase": 68,
        "Anaphase": 15,
        "Telophase": 27,
    }
    assert {(line["of"], line["cell_id"], line["match"]) for line in report["duplicates_dropped"]} == {
        ("Experiment_1/Anaphase/CP0001:360", "Experiment_1/Anaphase/CP0001:450", "exact"),
        ("Experiment_1/Metaphase/CP0001:62", "Experiment_1/Metaphase/CP0001:242", "near"),
        ("Experiment_1/Telophase/CP0001:750", "Experiment_1/Telophase/CP0001:810", "near"),
    }
    assert [(line["of"], line["cell_id"]) for line in report["duplicates_kept"]] == [
        ("Experiment_2/G1/CP0002:696", "Experiment_2/G1/CP0002:816"),
    ]
    info = cells.read_info(tmp_path / "j.h5")
    assert (info.channels, info.image_shape, info.bit_depth) == (("BF", "PI", "DF"), (40, 40), 12)
