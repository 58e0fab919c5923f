"""Pairs of arrays are mapped into memory, checked and cut into batches; nothing in them is executed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stainfree import cells
from stainfree.cells import CHUNK_CELLS
from stainfree.datasets import Dataset, arrays, convert
from stainfree.errors import ConfigError, DataError
from stainfree.stain import integrate

PAIRS = {
    "train": {"images": "x_train.npy", "labels": "y_train.npy"},
    "test": {"images": "X_test.npy", "labels": "Y_test.npy"},
}
SIDE = (12, 10)


def _dataset(folder: Path | None, **changes: Any) -> Dataset:
    description = {
        "kind": "arrays",
        "path": None if folder is None else str(folder),
        "channels": ["BF"],
        "bit_depth": 8,
        "pairs": {"train": PAIRS["train"]},
        "stages": {0: "G2", 1: "Prophase"},
    }
    return Dataset.from_config("mine", description | changes)


def _write(path: Path, images: np.ndarray, labels: Any, *, pair: str = "train") -> np.ndarray:
    np.save(path / PAIRS[pair]["images"], images)
    np.save(path / PAIRS[pair]["labels"], np.asarray(labels))
    return images


def _images(n: int, *channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *SIDE, *channels)).astype(np.uint8)


def _read(dataset: Dataset) -> list[Any]:
    assert dataset.path is not None
    return list(arrays.read(dataset, Path(dataset.path)))


@pytest.mark.parametrize("labels", [[0, 1, 1], [[0], [1], [1]], ["0", "1", "1"], np.array([b"0", b"1", b"1"])])
def test_grey_images(tmp_path: Path, labels: Any) -> None:
    images = _write(tmp_path, _images(3), labels)
    (batch,) = _read(_dataset(tmp_path))
    np.testing.assert_array_equal(batch.images, images[:, None])
    assert list(batch.stage) == ["G2", "Prophase", "Prophase"]
    assert list(batch.cell_id) == ["train:0", "train:1", "train:2"]
    assert set(batch.source) == {"train"}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_channels_in_the_order_of_the_description(tmp_path: Path, order: Any, dtype: str) -> None:
    images = _write(tmp_path, np.asarray(_images(4, 2), dtype=dtype, order=order), ["S", "G1", "S", "G2"])
    (batch,) = _read(_dataset(tmp_path, channels=["BF", "PI"], stages=None, dna_channel="PI"))
    assert batch.images.dtype == np.dtype(np.uint16)
    np.testing.assert_array_equal(batch.images[:, 1], images[..., 1])
    np.testing.assert_array_equal(batch.dna_content, integrate(images[..., 1]))
    assert list(batch.stage) == ["S", "G1", "S", "G2"]


def test_several_pairs_as_published_by_nagao(tmp_path: Path) -> None:
    # Their layout: (n, height, width, 3), three equal colours, a training and a test part.
    train = _write(tmp_path, np.repeat(_images(5, 1), 3, axis=-1), [0, 1, 0, 1, 0])
    test = _write(tmp_path, np.repeat(_images(2, 1, seed=1), 3, axis=-1), [1, 0], pair="test")
    convert(_dataset(tmp_path, pairs=PAIRS), raw=tmp_path / "unused", out=tmp_path / "c.h5", report=tmp_path / "c.json")
    table = cells.read_table(tmp_path / "c.h5")
    assert table["source"].tolist() == ["train"] * 5 + ["test"] * 2
    assert table["cell_id"].tolist() == [f"train:{n}" for n in range(5)] + ["test:0", "test:1"]
    np.testing.assert_array_equal(cells.read_images(tmp_path / "c.h5")[:, 0], np.concatenate([train, test])[..., 0])
    assert set(cells.read_info(tmp_path / "c.h5").source_checksums) == {p[k] for p in PAIRS.values() for k in p}


def test_downloaded_arrays(tmp_path: Path) -> None:
    _write(tmp_path, _images(2), [0, 1])
    files = [{"path": name} for name in PAIRS["train"].values()]
    dataset = _dataset(None, files=files, base_url="https://example.org")
    (batch,) = arrays.read(dataset, tmp_path)
    assert len(batch) == 2


def test_no_more_than_a_batch_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_cells = 2 * CHUNK_CELLS + 5

    class Counted(np.ndarray):
        reads: list[int] = []  # noqa: RUF012 - shared by the views that NumPy makes

        def __getitem__(self, key: Any) -> Any:
            if isinstance(key, slice):
                self.reads.append(len(range(*key.indices(len(self)))))
            return super().__getitem__(key)

    _write(tmp_path, _images(n_cells), np.zeros(n_cells, dtype=int))
    monkeypatch.setattr(arrays, "_images", lambda *_: np.load(tmp_path / "x_train.npy")[..., None].view(Counted))
    left = arrays.read(_dataset(tmp_path), tmp_path)
    next(left)
    assert max(Counted.reads) == CHUNK_CELLS
    assert len(list(left)) == 2
    assert sum(Counted.reads) == n_cells


def test_arrays_are_mapped_into_memory(tmp_path: Path) -> None:
    _write(tmp_path, _images(3), [0, 1, 1])
    assert isinstance(arrays._images(tmp_path / "x_train.npy", 1).base, np.memmap)


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (_images(3), [0, 1, 2], ConfigError, "data set mine: 2 has no stage; add it to `stages`"),
        (_images(3), [0, 1], DataError, r"y_train\.npy: 2 labels for 3 images; correct `pairs` of data set mine"),
        (
            _images(3),
            [0.0, 1.0, 1.0],
            DataError,
            r"y_train\.npy: an array of \(3,\) float64; labels must be whole numbers",
        ),
        (_images(3), np.eye(3, dtype=int), DataError, r"y_train\.npy: an array of \(3, 3\) int64; labels must be"),
        (_images(2), np.array([b"\xff", b"0"]), DataError, r"y_train\.npy: labels that are no text"),
        (
            _images(3, 2),
            [0, 1, 1],
            DataError,
            r"x_train\.npy: 2 channels along the last axis, not 1; correct `channels`",
        ),
        (_images(3, 3), [0, 1, 1], DataError, r"x_train\.npy: image 0 is a colour picture where grey is expected"),
        (_images(3)[0], [0], DataError, r"x_train\.npy: an array of \(12, 10\) uint8; images must be numbers of shape"),
        (_images(0), [], DataError, r"x_train\.npy: (an array of \(0, 12, 10\) uint8|not a readable \.npy array)"),
        (
            np.zeros((2, 3000, 1), np.uint8),
            [0, 1],
            DataError,
            r"images of 3000 x 1 pixels, where 2048 a side is the most",
        ),
        (np.array([[["a"]]]), [0], DataError, r"x_train\.npy: an array of \(1, 1, 1\) <U1; images must be numbers"),
    ],
)
def test_arrays_that_do_not_fit(
    tmp_path: Path, images: np.ndarray, labels: Any, error: type[Exception], message: str
) -> None:
    _write(tmp_path, images, labels)
    with pytest.raises(error, match=message):
        _read(_dataset(tmp_path))


def test_pairs_unlike_each_other(tmp_path: Path) -> None:
    _write(tmp_path, _images(2), [0, 1])
    _write(tmp_path, _images(2).astype(np.uint16), [0, 1], pair="test")
    with pytest.raises(DataError, match=r"X_test\.npy: images of \(12, 10\) pixels and uint16, where the first pair"):
        _read(_dataset(tmp_path, pairs=PAIRS))


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x_train.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"x_train\.npy: not a readable \.npy array .*; save it anew with numpy\.save"):
        _read(_dataset(tmp_path))


def test_archive_of_arrays(tmp_path: Path) -> None:
    with (tmp_path / "x_train.npy").open("wb") as file:
        np.savez(file, _images(2))
    with pytest.raises(DataError, match=r"x_train\.npy: an archive of arrays; save each array on its own"):
        _read(_dataset(tmp_path))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x_train\.npy: no such file; correct `path` or `pairs`"):
        _read(_dataset(tmp_path))


def test_unknown_dna_channel(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dna_channel PI is none of its channels"):
        _read(_dataset(tmp_path, dna_channel="PI"))


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@settings(max_examples=60, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 127) | st.integers(0, 367), st.integers(0, 255)), max_size=5),
    cut=st.floats(0, 1) | st.just(1.0),
)
def test_damaged_arrays_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: float
) -> None:
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(_npy(_images(2)))
    for where, byte in changes:
        content[where] = byte
    (folder / "x_train.npy").write_bytes(content[: int(cut * len(content))])
    (folder / "y_train.npy").write_bytes(_npy(np.array([0, 1])))
    try:
        read = _read(_dataset(folder))
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert sum(len(batch) for batch in read) == 2
