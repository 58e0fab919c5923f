"""A user's own HDF5 in the project's format is checked, streamed, and written anew with its provenance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stainfree import cells, files
from stainfree.cells import CHUNK_CELLS, CellsInfo, CellsWriter
from stainfree.datasets import Dataset, convert, hdf5
from stainfree.errors import ConfigError, DataError
from stainfree.schemes import STAGES

Make = Callable[..., Path]


def _dataset(path: Path, **changes: Any) -> Dataset:
    description = {"kind": "hdf5", "path": str(path), "channels": ["BF"], "bit_depth": 12}
    return Dataset.from_config("mine", description | changes)


def _read(dataset: Dataset) -> list[Any]:
    assert dataset.path is not None
    return list(hdf5.read(dataset, Path(dataset.path)))


def _convert(tmp_path: Path, dataset: Dataset) -> Path:
    convert(dataset, raw=tmp_path / "unused", out=tmp_path / "new.h5", report=tmp_path / "new.json")
    return tmp_path / "new.h5"


def test_written_anew_with_provenance(tmp_path: Path, make_cells: Make) -> None:
    path = make_cells(dict.fromkeys(STAGES, 40))
    new = _convert(tmp_path, _dataset(path))
    np.testing.assert_array_equal(cells.read_images(new), cells.read_images(path))
    assert cells.read_table(new).equals(cells.read_table(path))
    info = cells.read_info(new)
    assert (info.licence, info.citation) == ("MIT", "made by a test")
    assert info.source_checksums == {"cells.h5": files.sha256(path)}


def test_the_description_wins_over_the_file(tmp_path: Path, make_cells: Make) -> None:
    new = _convert(tmp_path, _dataset(make_cells(), licence="CC0", pixel_size_um=0.5))
    info = cells.read_info(new)
    assert (info.licence, info.citation, info.pixel_size_um) == ("CC0", "made by a test", 0.5)


def test_channels_by_name_and_order(tmp_path: Path, make_cells: Make) -> None:
    path = make_cells(channels=("BF", "PI", "DF"))
    new = _convert(tmp_path, _dataset(path, channels={"scatter": "DF", "BF": "BF"}))
    assert cells.read_info(new).channels == ("scatter", "BF")
    np.testing.assert_array_equal(cells.read_images(new), cells.read_images(path, channels=["DF", "BF"]))


def _write_own(path: Path, n_cells: int = 6, **changes: Any) -> Path:
    """Write a file as a stranger would: the least that the format needs; None leaves something out."""
    columns: dict[str, Any] = {
        "images": np.random.default_rng(0).integers(0, 4096, (n_cells, 1, 30, 40)).astype(np.uint16),
        "stage": np.array([b"G1", b"S"] * (n_cells // 2)),
        "cell_id": np.array([f"c{n}".encode() for n in range(n_cells)]),
    } | {key: value for key, value in changes.items() if not key.startswith("at_")}
    attributes = {"channels": ["BF"]} | {key[3:]: value for key, value in changes.items() if key.startswith("at_")}
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            if values is not None:
                file[name] = values
        for name, value in attributes.items():
            if value is not None:
                file.attrs[name] = value
    return path


def test_least_that_is_needed(tmp_path: Path) -> None:
    (batch,) = _read(_dataset(_write_own(tmp_path / "own.h5")))
    assert list(batch.stage) == ["G1", "S"] * 3
    assert list(batch.source) == ["mine"] * 6
    assert batch.group is None
    assert batch.dna_content is None


def test_groups_dna_content_and_own_stage_names(tmp_path: Path) -> None:
    path = _write_own(
        tmp_path / "own.h5",
        group=["a", "a", "b", "b", "c", "c"],
        dna_content=np.arange(6.0),
        stage=["early", "S"] * 3,
        origin=["real"] * 6,
    )
    table = cells.read_table(_convert(tmp_path, _dataset(path, stages={"early": "G1", "S": "S"})))
    assert table["group"].tolist() == ["a", "a", "b", "b", "c", "c"]
    assert table["dna_content"].tolist() == list(np.arange(6.0))
    assert table["stage"].tolist() == ["G1", "S"] * 3


def test_copy_that_is_kept_joins_the_group_of_its_original(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 4096, (6, 1, 30, 40)).astype(np.uint16)
    images[5] = images[0]
    path = _write_own(tmp_path / "own.h5", images=images, group=["a", "a", "b", "b", "c", "c"])
    table = cells.read_table(_convert(tmp_path, _dataset(path, keep_duplicates=["c5"])))
    assert table["group"].tolist() == ["a", "a", "b", "b", "c", "a"]


def test_no_more_than_a_batch_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_cells = 2 * CHUNK_CELLS + 6
    images = np.arange(n_cells * 4, dtype=np.uint16).reshape(n_cells, 1, 2, 2) % 4096
    path = _write_own(tmp_path / "own.h5", n_cells, images=images)
    read: list[int] = []
    given = h5py.Dataset.__getitem__

    def count(self: h5py.Dataset, key: Any, **options: Any) -> Any:
        values = given(self, key, **options)
        if self.name == "/images":
            read.append(len(values))
        return values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", count)
    left = hdf5.read(_dataset(path), path)
    next(left)
    assert read == [CHUNK_CELLS]
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in left]), images[CHUNK_CELLS:])
    assert read == [CHUNK_CELLS, CHUNK_CELLS, 6]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"stage": None}, DataError, "lacks /stage; write it in the format of stainfree.cells"),
        ({"at_format_version": 9}, DataError, "has format version 9, not 1"),
        (
            {"images": np.zeros((6, 30, 40))},
            DataError,
            r"/images is \(6, 30, 40\) float64; it must be numbers of shape",
        ),
        ({"images": np.zeros((0, 1, 3, 4))}, DataError, r"/images is \(0, 1, 3, 4\)"),
        ({"images": np.zeros((6, 1, 1, 3000), np.uint8)}, DataError, "with 2048 pixels a side at most"),
        ({"at_channels": None}, DataError, "its attribute channels names 0 for 1 channels of /images"),
        ({"at_channels": ["PI"]}, DataError, "has no channel BF; it has PI: correct `channels` of data set mine"),
        ({"at_bit_depth": 16}, DataError, "has a bit depth of 16; set `bit_depth` of data set mine to that"),
        ({"cell_id": [b"a"] * 6}, DataError, "values of /cell_id stand twice; give each cell an id of its own"),
        ({"group": ["a"]}, DataError, "/group does not have one value for each of 6 images"),
        ({"stage": np.arange(6)}, DataError, "not a readable HDF5 file of cells"),
        ({"dna_content": ["a"] * 6}, DataError, "not a readable HDF5 file of cells"),
        ({"origin": ["real"] * 5 + ["wgan_gp"]}, DataError, "1 of 6 cells are generated; give the file of the real"),
        ({"stage": [b"M"] * 6}, ConfigError, "data set mine: M has no stage; add it to `stages`"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    path = _write_own(tmp_path / "own.h5", **changes)
    with pytest.raises(error, match=message) as caught:
        _read(_dataset(path))
    assert error is ConfigError or str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_cut_off_file(tmp_path: Path, share: float) -> None:
    path = _write_own(tmp_path / "own.h5")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(
        DataError, match=r"own\.h5: not a readable HDF5 file of cells \(.*\); replace it by a sound copy"
    ):
        _convert(tmp_path, _dataset(path))
    assert not (tmp_path / "new.h5").exists()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"own\.h5: no such file; correct `path`"):
        _read(_dataset(tmp_path / "own.h5"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "whole.h5"
    info = CellsInfo(channels=("BF",), bit_depth=12)
    with CellsWriter(path, info, image_shape=(4, 5), dtype=np.uint16) as written:
        written.append(np.ones((2, 1, 4, 5), np.uint16), stage=["S", "G1"], cell_id=["a", "b"], source=["x", "x"])
    return path.read_bytes()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.abort()", "the HDF5 library crashes on it, so it is damaged; replace it"),
        ("import time; time.sleep(60)", "not read to its end in 1 s, so it is damaged; replace it"),
    ],
)
def test_crash_and_hang_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    monkeypatch.setattr(hdf5, "_READ_ALL", program)
    monkeypatch.setattr(hdf5, "_PATIENCE_SECONDS", 0.5)
    with pytest.raises(DataError, match=message):
        _read(_dataset(_write_own(tmp_path / "own.h5")))


@settings(max_examples=30, deadline=None)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1) | st.floats(0, 0.2), st.integers(0, 255)), max_size=8),
    cut=st.floats(0, 1) | st.just(1.0),
)
def test_damaged_files_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, changes: list[tuple[float, int]], cut: float
) -> None:
    content = bytearray(whole)
    for where, byte in changes:
        content[int(where * (len(content) - 1))] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.h5"
    path.write_bytes(content[: int(cut * len(content))])
    hdf5._refuse_crashing.cache_clear()
    try:
        dataset = hdf5.described(_dataset(path), path)
        read = _read(dataset)
    except (ConfigError, DataError) as error:
        assert "\n" not in str(error)
    else:
        assert sum(len(batch) for batch in read) >= 1
