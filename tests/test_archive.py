"""Archives of pictures are streamed and joined by id; what is broken in them is left out by name, never trusted."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import snakemake
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stainfree import cells, files
from stainfree.cells import CHUNK_CELLS
from stainfree.datasets import Dataset, Drops, archive, convert, montage, pictures, zips
from stainfree.errors import ConfigError, DataError
from stainfree.stain import integrate

DATASETS = yaml.safe_load((Path(__file__).parents[1] / "workflow" / "datasets.yaml").read_text(encoding="utf-8"))
KEYS = {"BF": "Ch3", "PI": "Ch4", "DF": "Ch6"}
SIDE = (16, 20)


def _dataset(path: Path, **changes: Any) -> Dataset:
    description = DATASETS["bbbc048"] | {"path": str(path), "image_size": list(SIDE), "files": []}
    return Dataset.from_config("bbbc048", description | changes)


def _jpeg(plane: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(plane).save(out, "JPEG", quality=95)
    return out.getvalue()


def _plane(seed: int) -> np.ndarray:
    """Return a smooth picture, which JPEG keeps within a few counts."""
    y, x = np.mgrid[: SIDE[0], : SIDE[1]]
    return np.round(120 + 90 * np.sin(seed + x / 7) * np.cos(seed + y / 5)).astype(np.uint8)


def _entries(cells_of: dict[str, list[int]]) -> dict[str, bytes]:
    return {
        f"CellCycle/{phase}/{number}_{key}.ome.jpg": _jpeg(_plane(3 * number + channel))
        for phase, numbers in cells_of.items()
        for number in numbers
        for channel, key in enumerate(KEYS.values())
    }


FOREIGN = {
    "CellCycle/G1/2_merged.jpg": b"colours",
    "CellCycle/G1/Thumbs.db": b"thumbs",
    "CellCycle/G1/.DS_Store": b"",
    "__MACOSX/CellCycle/G1/._2_Ch3.ome.jpg": b"twin",
    "CellCycle/G1/._2_Ch3.ome.jpg": b"twin",
    "CellCycle/G1/2_Ch9.ome.jpg": b"another channel",
    "readme.txt": b"hello",
}


def _zip(entries: Iterable[tuple[str, bytes]], *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as packed:
        for name, content in entries:
            packed.writestr(name, content)
    return out.getvalue()


def _write(path: Path, entries: dict[str, bytes], *, outer: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive in an archive, with something before and behind the inner one."""
    inner = _zip(entries.items())
    around = [("note.txt", b"1" * 77), ("BBBC048/CellCycle.zip", inner), ("__MACOSX/CellCycle.zip", b"twin")]
    path.write_bytes(_zip(around, compression=outer))
    return path


def _read(dataset: Dataset, drops: Drops | None = None) -> list[Any]:
    assert dataset.path is not None
    return list(archive.read(dataset, Path(dataset.path), drops))


@pytest.mark.parametrize("outer", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_in_zip(tmp_path: Path, outer: int) -> None:
    entries = _entries({"G1": [2, 10, 1], "Anaphase": [7]})
    path = _write(tmp_path / "a.zip", entries | FOREIGN, outer=outer)
    drops = Drops()
    (batch,) = _read(_dataset(path), drops)
    assert list(batch.cell_id) == [f"bbbc048/{name}" for name in ("Anaphase/7", "G1/1", "G1/2", "G1/10")]
    assert list(batch.stage) == ["Anaphase", "G1", "G1", "G1"]
    assert (batch.images.shape, batch.images.dtype) == ((4, 3, *SIDE), np.uint8)
    for image, number in zip(batch.images, (7, 1, 2, 10), strict=True):
        for channel in range(3):
            assert np.abs(image[channel].astype(int) - _plane(3 * number + channel)).max() <= 6
    np.testing.assert_array_equal(batch.dna_content, integrate(batch.images[:, 1]))
    assert drops.foreign == len(FOREIGN)
    assert drops.cells == []
    assert drops.refitted == 0
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


def test_plain_zip_of_stored_entries(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(_zip(_entries({"S": [1, 2]}).items(), compression=zipfile.ZIP_STORED))
    (batch,) = _read(_dataset(tmp_path / "a.zip", inner=None))
    assert list(batch.cell_id) == ["bbbc048/S/1", "bbbc048/S/2"]


def test_downloaded_archive(tmp_path: Path) -> None:
    _write(tmp_path / "BBBC048v1.zip", _entries({"S": [1]}))
    dataset = Dataset.from_config("bbbc048", DATASETS["bbbc048"] | {"image_size": list(SIDE)})
    (batch,) = archive.read(dataset, tmp_path)
    assert list(batch.cell_id) == ["bbbc048/S/1"]
    assert [(file.path, file.size, file.sha256) for file in dataset.files] == [("BBBC048v1.zip", 1611429608, None)]


def test_incomplete_and_unreadable_cells_are_left_out_by_name(tmp_path: Path) -> None:
    entries = _entries({"G1": [1, 2, 3, 4, 5, 6]})
    del entries["CellCycle/G1/2_Ch4.ome.jpg"]
    entries["CellCycle/G1/3_Ch6.ome.jpg"] = entries["CellCycle/G1/3_Ch6.ome.jpg"][:-40]
    entries["CellCycle/G1/4_Ch3.ome.jpg"] = _jpeg(np.zeros((9, 9), dtype=np.uint8))
    entries["CellCycle/G1/5_Ch3.ome.jpg"] = bytes(pictures.LARGEST_FILE + 1)
    path = _write(tmp_path / "a.zip", entries)
    convert(_dataset(path), raw=tmp_path, out=tmp_path / "c.h5", report=tmp_path / "c.json")
    report = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert cells.read_table(tmp_path / "c.h5")["cell_id"].tolist() == ["bbbc048/G1/1", "bbbc048/G1/6"]
    left_out = {line["cell_id"]: line["reason"] for line in report["cells_left_out"]}
    assert {line["stage"] for line in report["cells_left_out"]} == {"G1"}
    assert list(left_out) == [f"bbbc048/G1/{n}" for n in (2, 3, 4, 5)]
    assert left_out["bbbc048/G1/2"] == "has no picture of channel Ch4"
    assert left_out["bbbc048/G1/3"].startswith("3_Ch6.ome.jpg: not a readable PNG, JPEG or TIFF of a cell")
    assert "4_Ch4.ome.jpg: 16 x 20 pixels" in left_out["bbbc048/G1/4"]
    assert "too many for the picture of one cell" in left_out["bbbc048/G1/5"]
    assert report["source_checksums"] == {"a.zip": files.sha256(path)}


def test_damaged_entry_is_left_out(tmp_path: Path) -> None:
    entries = _entries({"G1": [1, 2]})
    path = tmp_path / "a.zip"
    content = _zip(entries.items(), compression=zipfile.ZIP_STORED)
    where = content.index(entries["CellCycle/G1/2_Ch3.ome.jpg"]) + 300
    path.write_bytes(content[:where] + bytes([content[where] ^ 255]) + content[where + 1 :])
    drops = Drops()
    (batch,) = _read(_dataset(path, inner=None), drops)
    assert list(batch.cell_id) == ["bbbc048/G1/1"]
    assert "2_Ch3.ome.jpg: cannot be read from the archive (its checksum is wrong)" in drops.cells[0]["reason"]


def test_names_are_no_paths(tmp_path: Path) -> None:
    names = ["../../G1/{}_{}.ome.jpg", "/etc/G1/{}_{}.ome.jpg", "C:\\G1\\{}_{}.ome.jpg"]
    entries = {
        names[n].format(n, key): _jpeg(_plane(3 * n + channel))
        for n in range(3)
        for channel, key in enumerate(KEYS.values())
    }
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    drops = Drops()
    (batch,) = _read(_dataset(_write(folder / "a.zip", entries)), drops)
    assert list(batch.cell_id) == ["bbbc048/G1/1"]
    assert drops.foreign == 6
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == ["in", "in/here", "in/here/a.zip"]


def test_another_size_is_refused_or_refitted(tmp_path: Path) -> None:
    entries = _entries({"G1": [1]}) | {
        f"CellCycle/G1/2_{key}.ome.jpg": _jpeg(np.zeros((30, 10), dtype=np.uint8)) for key in KEYS.values()
    }
    path = _write(tmp_path / "a.zip", entries)
    with pytest.raises(
        DataError, match=r"a\.zip: bbbc048/G1/2: 30 x 10 pixels, where .*G1/1 has 16 x 20; set `image_size"
    ):
        _read(_dataset(path, image_size=None))
    drops = Drops()
    (batch,) = _read(_dataset(path), drops)
    assert batch.images.shape == (2, 3, *SIDE)
    assert drops.refitted == 1


def test_no_more_than_a_batch_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_cells = 2 * CHUNK_CELLS + 1
    content = _zip(
        ((f"S/{n}_{key}.ome.jpg", b"") for n in range(n_cells) for key in KEYS.values()), compression=zipfile.ZIP_STORED
    )
    (tmp_path / "a.zip").write_bytes(content)
    decoded = itertools.count()
    monkeypatch.setattr(
        archive, "decode", lambda content, name: np.full((1, *SIDE), next(decoded) % 251, dtype=np.uint8)
    )
    left = archive.read(_dataset(tmp_path / "a.zip", inner=None), tmp_path / "a.zip")
    assert [len(next(left)) for _ in range(2)] == [CHUNK_CELLS, CHUNK_CELLS]
    assert next(decoded) == 2 * CHUNK_CELLS * 3
    assert [len(batch) for batch in left] == [1]


def test_temporary_file_lies_beside_the_archive_without_a_name(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.zip", _entries({"S": [1]}), outer=zipfile.ZIP_DEFLATED)
    with archive._opened(path, "CellCycle.zip") as opened:
        assert len(list(zips.entries(opened))) == 3
        assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


def test_bomb(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(_zip([("CellCycle.zip", bytes(2 << 20))]))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    # The directory claims a gigabyte: what a small file may unfold to.
    where = content.index(b"PK\1\2") + 24
    content[where : where + 4] = (1 << 30).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"CellCycle\.zip: unfolds to 1073741824 bytes, too many for its size"):
        _read(_dataset(tmp_path / "a.zip"))


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "a.zip", _entries({"S": [1]}), outer=zipfile.ZIP_DEFLATED)

    def no_room(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive.shutil, "copyfileobj", no_room)
    with pytest.raises(
        DataError, match=r"CellCycle\.zip: cannot be unfolded .*No space left on device.*; make room for"
    ):
        _read(_dataset(path))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"inner": "Other.zip"}, DataError, r"a\.zip: holds 0 archives called Other\.zip, not one; correct `inner`"),
        ({"stages": {"S": "S"}}, ConfigError, "data set bbbc048: G1 has no stage; add it to `stages`"),
        ({"layout": "{folder}/{id}.jpg"}, ConfigError, "lacks {channel}; add it"),
        ({"layout": "{folder}/{id}_{channel}.png"}, DataError, r"not one cell .* \(none of its 3 entries fits\)"),
        (
            {"channels": {"BF": "Ch3", "X": "Ch1"}, "dna_channel": None},
            DataError,
            "not one cell .*no picture of channel Ch1",
        ),
        ({"dna_channel": "DAPI"}, ConfigError, "dna_channel DAPI is none of its channels"),
    ],
)
def test_description_that_does_not_fit(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    path = _write(tmp_path / "a.zip", _entries({"G1": [1]}))
    with pytest.raises(error, match=message):
        _read(_dataset(path, **changes))


def test_description_without_the_one_file() -> None:
    dataset = Dataset.from_config("bbbc048", DATASETS["bbbc048"] | {"files": []})
    with pytest.raises(ConfigError, match="kind archive reads one file; list it alone under `files`"):
        next(archive.read(dataset, Path()))


def test_name_that_stands_twice(tmp_path: Path) -> None:
    entries = _entries({"G1": [1]})
    path = _write(tmp_path / "a.zip", entries | {f"copy/{name}": content for name, content in entries.items()})
    with pytest.raises(DataError, match=r"holds G1/1_Ch3\.ome\.jpg twice; give more of the folders in `layout`"):
        _read(_dataset(path))
    drops = Drops()
    (batch,) = _read(_dataset(path, layout="{source}/CellCycle/{folder}/{id}_{channel}.ome.jpg"), drops)
    assert list(batch.cell_id) == ["copy/G1/1"]
    assert drops.foreign == 3


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_cut_off_archive(tmp_path: Path, share: float) -> None:
    path = _write(tmp_path / "a.zip", _entries({"G1": [1]}))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(
        DataError, match=r"a\.zip: (not a readable zip archive \(.*\)|holds 0 archives .*).* fetch it again"
    ):
        _read(_dataset(path))


def test_inner_archive_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(_zip([("CellCycle.zip", b"page not found")], compression=zipfile.ZIP_STORED))
    with pytest.raises(DataError, match=r"CellCycle\.zip: not a readable zip archive"):
        _read(_dataset(tmp_path / "a.zip"))


def test_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.zip: no such file; correct `path`, or run the download again"):
        _read(_dataset(tmp_path / "a.zip"))


@pytest.fixture(scope="module")
def whole() -> dict[int, bytes]:
    entries = {name: content for name, content in _entries({"G1": [1, 2]}).items() if "Ch6" not in name}
    return {
        outer: _zip([("CellCycle.zip", _zip(entries.items()))], compression=outer)
        for outer in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    }


@settings(max_examples=60, deadline=None)
@given(
    outer=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    changes=st.lists(st.tuples(st.floats(0, 1) | st.floats(0.9, 1), st.integers(0, 255)), max_size=4),
    cut=st.floats(0, 1) | st.just(1.0),
)
def test_damaged_archives_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory,
    whole: dict[int, bytes],
    outer: int,
    changes: list[tuple[float, int]],
    cut: float,
) -> None:
    content = bytearray(whole[outer])
    for where, byte in changes:
        content[int(where * (len(content) - 1))] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    path.write_bytes(content[: int(cut * len(content))])
    dataset = _dataset(path, channels={"BF": "Ch3", "PI": "Ch4"})
    try:
        read = _read(dataset)
    except (ConfigError, DataError) as error:
        assert "\n" not in str(error)
    else:
        assert 1 <= sum(len(batch) for batch in read) <= 2


@pytest.fixture
def real(tmp_path: Path, mirror: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """An archive of all real cells of the three rarest stages, laid out as BBBC048, and their images by id."""
    raw = mirror / "jurkat-montage"
    description = DATASETS["jurkat_montage"]
    wanted = [
        file for file in description["files"] if file["path"].split("/")[1] in ("Anaphase", "Telophase", "Metaphase")
    ]
    truth: dict[str, np.ndarray] = {}
    entries: dict[str, bytes] = {}
    for batch in montage.read(Dataset.from_config("jurkat_montage", description | {"files": wanted}), raw):
        for cell_id, image in zip(batch.cell_id, batch.images, strict=True):
            folder, number = cell_id.split("/")[1], cell_id.rsplit(":", 1)[1]
            truth[f"bbbc048/{folder}/{number}"] = eight_bits = (image >> 4).astype(np.uint8)
            for plane, key in zip(eight_bits, KEYS.values(), strict=True):
                entries[f"CellCycle/{folder}/{number}_{key}.ome.jpg"] = _jpeg(plane)
            entries[f"CellCycle/{folder}/{number}_merged.jpg"] = b"colours"
    path = tmp_path / "mirror" / "bbbc048" / "BBBC048v1.zip"
    path.parent.mkdir(parents=True)
    return _write(path, entries), truth


def test_real_cells(tmp_path: Path, real: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, truth = real
    convert(_dataset(path, image_size=[40, 40]), raw=tmp_path, out=tmp_path / "c.h5", report=tmp_path / "c.json")
    report = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert report["stages"] == {"Metaphase": 68, "Anaphase": 15, "Telophase": 27}
    assert report["foreign_files"]["n"] == len(truth)
    assert (report["cells_left_out"], report["cells_refitted"]) == ([], 0)
    table = cells.read_table(tmp_path / "c.h5")
    images = cells.read_images(tmp_path / "c.h5")
    errors = [
        np.abs(image.astype(int) - truth[cell_id]).mean()
        for image, cell_id in zip(images, table["cell_id"], strict=True)
    ]
    assert max(errors) < 2


def test_the_workflow_reads_it_from_a_mirror(project: Path, real: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, truth = real

    def run() -> subprocess.CompletedProcess[str]:
        mirror = {"STAINFREE_MIRROR": str(path.parents[1])}
        return snakemake(project, "data/bbbc048.h5", "--config", "dataset=bbbc048", check=False, environment=mirror)

    refused = run()
    assert refused.returncode != 0
    size = path.stat().st_size
    assert f"BBBC048v1.zip: has {size} bytes, not 1611429608; replace it in the mirror" in refused.stdout
    config = yaml.safe_load((project / "config.yaml").read_text(encoding="utf-8"))
    described = {"files": [{"path": path.name, "size": size}], "image_size": [40, 40]}
    (project / "config.yaml").write_text(yaml.safe_dump(config | {"datasets": {"bbbc048": described}}))
    done = run()
    assert done.returncode == 0, done.stdout
    manifest = json.loads((project / "data/raw/bbbc048.json").read_text(encoding="utf-8"))
    assert manifest["files"][0]["sha256"] == files.sha256(path)
    info = cells.read_info(project / "data/bbbc048.h5")
    # Three of them are copies.
    assert (info.n_cells, info.source_checksums) == (len(truth) - 3, {path.name: files.sha256(path)})
