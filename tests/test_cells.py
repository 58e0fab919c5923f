"""The cells contract: what is written is read back, and nothing half-written is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from stainfree import cells
from stainfree.cells import CellsInfo, CellsWriter
from stainfree.errors import DataError

INFO = CellsInfo(channels=("BF", "PI"), bit_depth=12, pixel_size_um=0.5, licence="MIT", source_checksums={"a": "0"})


def write(path: Path, n: int = 600, *, batch: int = 250, seed: int = 0) -> np.ndarray:
    images = np.random.default_rng(seed).integers(0, 4096, (n, 2, 8, 9)).astype(np.uint16)
    with CellsWriter(path, INFO, image_shape=(8, 9), dtype=np.uint16) as file:
        for start in range(0, n, batch):
            rows = range(start, min(start + batch, n))
            file.append(
                images[start : start + batch],
                stage=["G1" if k % 2 else "S" for k in rows],
                cell_id=[f"c{k}" for k in rows],
                source=["one" for _ in rows],
                dna_content=[k / 2 for k in rows],
            )
    return images


def test_images_and_columns_come_back(tmp_path: Path) -> None:
    images = write(tmp_path / "cells.h5")
    info = cells.read_info(tmp_path / "cells.h5")
    assert (info.n_cells, info.image_shape, info.channels) == (600, (8, 9), ("BF", "PI"))
    assert (info.pixel_size_um, info.bit_depth, info.source_checksums) == (0.5, 12, {"a": "0"})
    np.testing.assert_array_equal(cells.read_images(tmp_path / "cells.h5"), images)
    table = cells.read_table(tmp_path / "cells.h5")
    assert list(table["cell_id"][:2]) == ["c0", "c1"]
    assert set(table["origin"]) == {"real"}
    np.testing.assert_allclose(table["dna_content"], np.arange(600) / 2)


def test_channels_and_rows_are_picked_in_the_order_asked(tmp_path: Path) -> None:
    images = write(tmp_path / "cells.h5")
    rows = np.array([599, 0, 256, 255, 0])
    picked = cells.read_images(tmp_path / "cells.h5", channels=["PI"], rows=rows)
    np.testing.assert_array_equal(picked, images[rows][:, [1]])
    streamed = np.concatenate(list(cells.iterate_images(tmp_path / "cells.h5", channels=["PI", "BF"], batch=100)))
    np.testing.assert_array_equal(streamed, images[:, ::-1])


def test_the_digest_follows_the_content_not_the_batches(tmp_path: Path) -> None:
    def digest(**options: int) -> str:
        write(tmp_path / "cells.h5", **options)
        return cells.read_info(tmp_path / "cells.h5").content_sha256

    assert digest() == digest(batch=77)
    assert digest() != digest(seed=1)


def test_a_failed_writing_leaves_nothing_and_harms_nothing(tmp_path: Path) -> None:
    write(tmp_path / "cells.h5")
    before = (tmp_path / "cells.h5").read_bytes()

    def write_until_the_power_fails() -> None:
        with CellsWriter(tmp_path / "cells.h5", INFO, image_shape=(8, 9), dtype=np.uint16) as file:
            file.append(np.zeros((1, 2, 8, 9), np.uint16), stage=["G1"], cell_id=["x"], source=["one"])
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_until_the_power_fails()
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5"]
    assert (tmp_path / "cells.h5").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((1, 2, 8, 8), np.uint16)}, "do not fit a file of"),
        ({"images": np.zeros((1, 2, 8, 9), np.uint8)}, "dtype uint8"),
        ({"stage": ["G1", "S"]}, "2 values of stage for 1 images"),
        ({"dna_content": [1.0]}, "every batch must have the columns"),
        ({"cell_id": ["first"]}, "not unique"),
    ],
)
def test_cells_that_do_not_fit_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    good = {"images": np.zeros((1, 2, 8, 9), np.uint16), "stage": ["G1"], "cell_id": ["x"], "source": ["one"]}

    def write_both() -> None:
        with CellsWriter(tmp_path / "cells.h5", INFO, image_shape=(8, 9), dtype=np.uint16) as file:
            file.append(**{**good, "cell_id": ["first"]})
            file.append(**{**good, **change})

    with pytest.raises(DataError, match=message):
        write_both()
    assert not list(tmp_path.iterdir())


class TestRefusals:
    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"none\.h5: no such file"):
            cells.read_info(tmp_path / "none.h5")

    def test_truncated_file(self, tmp_path: Path) -> None:
        write(tmp_path / "cells.h5")
        whole = (tmp_path / "cells.h5").read_bytes()
        (tmp_path / "cells.h5").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=r"cells\.h5: not a readable HDF5 file"):
            cells.read_table(tmp_path / "cells.h5")

    def test_another_format_version(self, tmp_path: Path) -> None:
        write(tmp_path / "cells.h5")
        with h5py.File(tmp_path / "cells.h5", "a") as file:
            file.attrs["format_version"] = 99
        with pytest.raises(DataError, match="format version 99, not 1"):
            cells.read_info(tmp_path / "cells.h5")

    def test_missing_channel_names_those_that_are_there(self, tmp_path: Path) -> None:
        write(tmp_path / "cells.h5")
        with pytest.raises(DataError, match="has no channel DF; it has BF, PI"):
            cells.read_images(tmp_path / "cells.h5", channels=["DF"])

    def test_a_file_that_may_not_be_read_is_not_called_damaged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "cells.h5")

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(h5py, "File", refuse)
        with pytest.raises(PermissionError):
            cells.read_info(tmp_path / "cells.h5")


def test_texts_of_any_length_and_script_come_back(tmp_path: Path) -> None:
    checksums = {f"folder {k}/größe µm.tif": "0" * 64 for k in range(2000)}
    info = CellsInfo(channels=("BF", "DF µ"), bit_depth=12, citation="Ångström", source_checksums=checksums)
    ids = ["a", "ein sehr langer Name, länger als die anderen", "日本"]
    with CellsWriter(tmp_path / "cells.h5", info, image_shape=(4, 4), dtype=np.uint8) as file:
        for cell_id in ids:
            images = np.zeros((1, 2, 4, 4), np.uint8)
            file.append(images, stage=["G1"], cell_id=[cell_id], source=["Quelle"], group=[f"{cell_id}!"])
    read = cells.read_info(tmp_path / "cells.h5")
    assert (read.channels, read.citation, read.licence) == (("BF", "DF µ"), "Ångström", "")
    assert read.source_checksums == checksums
    table = cells.read_table(tmp_path / "cells.h5")
    assert table["cell_id"].tolist() == ids
    assert table["group"].tolist() == [f"{cell_id}!" for cell_id in ids]


# In a process of its own: a damaged file might crash the HDF5 library, or make it hang.
READ_DAMAGED = """
import json, sys
from pathlib import Path
from stainfree import cells
from stainfree.errors import DataError

whole, path = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])

def read():
    return repr(cells.read_info(path)), cells.read_table(path).to_csv(), cells.read_images(path).tobytes()

path.write_bytes(whole)
sound = read()
for kind, place in json.load(sys.stdin):
    content = bytearray(whole)
    if kind == "cut":
        del content[place:]
    elif kind == "flip":
        content[place] ^= 0x10
    else:
        content[place:place + 512] = bytes(len(content[place:place + 512]))
    path.write_bytes(content)
    try:
        print("same" if read() == sound else "DIFFERENT")
    except DataError as error:
        print(error)
"""


class TestDamage:
    @pytest.fixture
    def whole(self, tmp_path: Path) -> Path:
        # Two chunks of each channel, full to the last cell.
        write(tmp_path / "whole.h5", n=2 * cells.CHUNK_CELLS)
        return tmp_path / "whole.h5"

    def read(self, whole: Path, damages: list[tuple[str, int]]) -> list[str]:
        """What a reader says of copies of a file, each damaged in one place."""
        run = subprocess.run(
            [sys.executable, "-c", READ_DAMAGED, whole, whole.with_name("damaged.h5")],
            input=json.dumps(damages), capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        lines = run.stdout.splitlines()
        assert len(lines) == len(damages)
        return lines

    def is_told(self, line: str) -> bool:
        return "damaged.h5: not a readable HDF5 file of cells (" in line and line.endswith(
            "); delete it and run the conversion again"
        )

    def test_cut_off_anywhere(self, whole: Path) -> None:
        size = whole.stat().st_size
        places = [0, 1, 47, 48, 100, 1000, size // 3, size // 2, size - 1000, size - 1]
        assert all(map(self.is_told, self.read(whole, [("cut", place) for place in places])))

    def test_a_wrong_byte_where_it_matters(self, whole: Path) -> None:
        content = whole.read_bytes()
        with h5py.File(whole) as file:
            chunks = [file["images"].id.get_chunk_info(k) for k in range(4)]
            columns = [file[name].id.get_chunk_info(0) for name in ("cell_id", "stage", "source", "dna_content")]
        superblock = range(48)
        # Signatures of HDF5's format specification: headers of objects, and what says where the chunks lie.
        structures = [content.index(signature) + 10 for signature in (b"OHDR", b"EAHD", b"EAIB")]
        values = [chunk.byte_offset + k * (chunk.size - 1) // 3 for chunk in chunks + columns for k in range(4)]
        places = [*superblock, *structures, *values]
        lines = self.read(whole, [("flip", place) for place in places])
        assert [place for place, line in zip(places, lines, strict=True) if not self.is_told(line)] == []

    def test_wrong_bytes_anywhere_are_told_or_do_not_matter(self, whole: Path) -> None:
        rng = np.random.default_rng(0)
        kinds = ["flip", "hole"] * 60
        places = rng.integers(whole.stat().st_size, size=len(kinds)).tolist()
        lines = self.read(whole, list(zip(kinds, places, strict=True)))
        assert all(self.is_told(line) or line == "same" for line in lines)
