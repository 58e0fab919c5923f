"""A user's own folder of pictures: what was written is what is read, and what cannot be read ends in one clear line."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import struct
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stainfree import cells
from stainfree.cells import CHUNK_CELLS
from stainfree.datasets import Dataset, Drops, convert, folder, pictures
from stainfree.errors import ConfigError, DataError
from stainfree.stain import integrate

SIDE = (18, 22)
KEYS = {"BF": "Ch3", "PI": "Ch4"}


def _dataset(path: Path, **changes: Any) -> Dataset:
    description = {
        "kind": "folder",
        "path": str(path),
        "channels": ["BF"],
        "bit_depth": 12,
        "stages": {"resting": "G1", "round ones": "Metaphase"},
    }
    return Dataset.from_config("mine", description | changes)


def _images(n: int, *, channels: int = 1, top: int = 4096, dtype: Any = np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, (n, channels, *SIDE)).astype(dtype)


def _encoded(plane: np.ndarray, kind: str, **options: Any) -> bytes:
    """Return a grey picture (y, x) as a file's bytes."""
    out = io.BytesIO()
    if kind == "tif":
        tifffile.imwrite(out, plane, photometric="minisblack")
    else:
        Image.fromarray(plane).save(out, kind, **options)
    return out.getvalue()


def _write(root: Path, images: np.ndarray, *, kind: str = "png") -> list[str]:
    """Write grey cells by turns into two folders, named by numbers; return their ids in the order of reading."""
    for number, image in enumerate(images):
        path = root / ("resting", "round ones")[number % 2] / f"{number}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_encoded(image[0], kind))
    return [f"{name}/{n}" for first, name in enumerate(("resting", "round ones")) for n in range(first, len(images), 2)]


def _read(dataset: Dataset, drops: Drops | None = None) -> list[Any]:
    assert dataset.path is not None
    return list(folder.read(dataset, Path(dataset.path), drops))


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_grey_pictures(tmp_path: Path, kind: str) -> None:
    images = _images(14)
    ids = _write(tmp_path, images, kind=kind)
    (batch,) = _read(_dataset(tmp_path))
    assert list(batch.cell_id) == ids
    assert ids[:6] == ["resting/0", "resting/2", "resting/4", "resting/6", "resting/8", "resting/10"]
    np.testing.assert_array_equal(batch.images, images[[int(i.rsplit("/", 1)[1]) for i in ids]])
    assert batch.images.dtype == np.uint16
    assert list(batch.stage) == ["G1"] * 7 + ["Metaphase"] * 7
    assert set(batch.source) == {"mine"}


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(SIDE[0]), np.arange(SIDE[1])).astype(np.uint8) * 5
    (tmp_path / "G1").mkdir()
    Image.fromarray(smooth).save(tmp_path / "G1" / "a.JPG", "JPEG", quality=95)
    # Grey saved as colour, as many programs do.
    Image.fromarray(np.stack([smooth] * 3, axis=-1)).save(tmp_path / "G1" / "b.png")
    (batch,) = _read(_dataset(tmp_path, stages=None, bit_depth=8))
    assert list(batch.cell_id) == ["G1/a", "G1/b"]
    assert np.abs(batch.images[0, 0].astype(int) - smooth).max() <= 3
    np.testing.assert_array_equal(batch.images[1, 0], smooth)


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "minisblack"},
        {"photometric": "minisblack", "planarconfig": "separate"},
        {"photometric": "minisblack", "compression": "zlib"},
        {"photometric": "minisblack", "byteorder": ">"},
        {"photometric": "rgb", "planarconfig": "separate"},
        {"photometric": "minisblack", "imagej": True},
        {"photometric": "minisblack", "bigtiff": True, "rowsperstrip": 5},
    ],
)
def test_stacks(tmp_path: Path, options: dict[str, Any]) -> None:
    images = _images(3, channels=3)
    (tmp_path / "S").mkdir()
    for number, image in enumerate(images):
        tifffile.imwrite(tmp_path / "S" / f"{number}.tiff", image, **options)
    (batch,) = _read(_dataset(tmp_path, channels=["BF", "PI", "DF"], stages=None))
    np.testing.assert_array_equal(batch.images, images)
    assert batch.images.dtype == np.dtype(np.uint16)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(compression: str) -> None:
    plane = _images(1)[0, 0]
    content = _encoded(plane, "tiff", compression=compression)
    np.testing.assert_array_equal(pictures.decode(content, name="a.tif"), plane[None])
    with pytest.raises(DataError, match=r"a\.tif: not a readable PNG, JPEG or TIFF of a cell"):
        pictures.decode(content[: len(content) // 2], name="a.tif")


@pytest.mark.parametrize("layout", ["{class}/{id}_{channel}.png", "{folder}/{id}_{channel}.png"])
def test_one_file_per_channel(tmp_path: Path, layout: str) -> None:
    images = _images(4, channels=2)
    (tmp_path / "resting").mkdir()
    for number, image in enumerate(images):
        for key, plane in zip(KEYS.values(), image, strict=True):
            (tmp_path / "resting" / f"cell_{number}_{key}.png").write_bytes(_encoded(plane, "png"))
    (tmp_path / "resting" / "cell_0_merged.png").write_bytes(b"not looked at")
    drops = Drops()
    dataset = _dataset(tmp_path, channels=KEYS, layout=layout, stages={"resting": "G1"}, dna_channel="PI")
    (batch,) = _read(dataset, drops)
    np.testing.assert_array_equal(batch.images, images)
    assert list(batch.cell_id) == [f"resting/cell_{n}" for n in range(4)]
    np.testing.assert_array_equal(batch.dna_content, integrate(images[:, 1]))
    assert (drops.foreign, drops.foreign_examples) == (1, ["resting/cell_0_merged.png"])


def test_source_in_the_layout(tmp_path: Path) -> None:
    for plate in ("plate1", "plate2"):
        _write(tmp_path / plate, _images(2))
    (batch,) = _read(_dataset(tmp_path, layout="{source}/{folder}/{id}.png"))
    assert list(batch.source) == ["plate1", "plate1", "plate2", "plate2"]
    assert batch.cell_id[3] == "plate2/round ones/1"


def test_conversion_of_a_folder(tmp_path: Path) -> None:
    images = _images(6)
    _write(tmp_path / "mine", images)
    dataset = _dataset(tmp_path / "mine")
    convert(dataset, raw=tmp_path / "unused", out=tmp_path / "c.h5", report=tmp_path / "c.json")
    report = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert report["stages"] == {"G1": 3, "Metaphase": 3}
    assert report["cells_left_out"] == []
    assert set(report["source_checksums"]) == {f"{('resting', 'round ones')[n % 2]}/{n}.png" for n in range(6)}
    np.testing.assert_array_equal(cells.read_images(tmp_path / "c.h5"), images[[0, 2, 4, 1, 3, 5]])


def test_many_files_have_a_checksum_per_folder(tmp_path: Path) -> None:
    _write(tmp_path / "mine", _images(52))
    convert(_dataset(tmp_path / "mine"), raw=tmp_path, out=tmp_path / "c.h5", report=tmp_path / "c.json")
    lines = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted((tmp_path / "mine" / "resting").iterdir())
    )
    assert cells.read_info(tmp_path / "c.h5").source_checksums["resting/"] == hashlib.sha256(lines.encode()).hexdigest()


def test_sizes_are_brought_to_one_where_asked(tmp_path: Path) -> None:
    image = np.arange(20, dtype=np.uint8).reshape(1, 4, 5)
    np.testing.assert_array_equal(
        pictures.refit(image, (2, 8))[0],
        [[5, 5, 6, 7, 8, 9, 9, 9], [10, 10, 11, 12, 13, 14, 14, 14]],
    )
    _write(tmp_path, _images(3))
    (tmp_path / "resting" / "0.png").write_bytes(_encoded(np.full((30, 10), 7, dtype=np.uint16), "png"))
    drops = Drops()
    (batch,) = _read(_dataset(tmp_path, image_size=[18, 22]), drops)
    assert batch.images.shape == (3, 1, 18, 22)
    assert drops.refitted == 1


def test_no_more_than_a_batch_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, _images(4))
    decoded: list[weakref.ref[np.ndarray]] = []

    def count(content: bytes, **options: Any) -> np.ndarray:
        decoded.append(weakref.ref(image := np.zeros((1, *SIDE), dtype=np.uint16)))
        return image

    many = {("", "resting", f"{n}"): [tmp_path / "resting" / "0.png"] for n in range(3 * CHUNK_CELLS)}
    monkeypatch.setattr(folder, "decode", count)
    monkeypatch.setattr(folder, "_find", lambda *_: many)
    left = folder.read(_dataset(tmp_path, stages={"resting": "G1"}), tmp_path)
    for n_batches in (1, 2, 3):
        batch = next(left)
        assert len(batch) == CHUNK_CELLS
        assert len(decoded) == n_batches * CHUNK_CELLS
        del batch
        gc.collect()
        assert sum(image() is not None for image in decoded) <= 1


@pytest.mark.parametrize("kind", ["png", "tif", "jpeg"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
def test_cut_off_picture(tmp_path: Path, kind: str, share: float) -> None:
    _write(tmp_path, _images(3, top=256, dtype=np.uint8), kind=kind)
    path = tmp_path / "round ones" / f"1.{kind}"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(
        DataError, match=rf"1\.{kind}: not a readable PNG, JPEG or TIFF of a cell .*; replace or remove"
    ):
        _read(_dataset(tmp_path))


@pytest.mark.parametrize(
    ("name", "plane", "message"),
    [
        (
            "1.png",
            np.zeros((18, 23), np.uint16),
            r"1\.png: 18 x 23 pixels, where .*0\.png has 18 x 22; set `image_size",
        ),
        ("1.png", np.zeros(SIDE, np.uint8), r"1\.png: pixels of uint8, where .*0\.png has uint16; .* `bit_depth`"),
        (
            "1.png",
            np.eye(18, 22, dtype=np.uint8)[..., None] * [9, 0, 0],
            "1.png: is a colour picture where grey is exp",
        ),
        ("1.png", np.eye(18, 22, dtype=np.uint8)[..., None] * [9, 9, 9, 9], "1.png: .* transparent in places"),
        ("1.tif", np.zeros((2, *SIDE), np.uint16), r"1\.tif: holds 2 channels, not 1; correct `channels`"),
        ("1.tif", np.zeros((1, 3000), np.uint16), r"1\.tif: .*1 x 3000 pixels, where 2048 a side is the most"),
        ("1.png", np.zeros((3000, 1), np.uint16), r"1\.png: .*3000 x 1 pixels, where 2048 a side is the most"),
        ("1.tif", np.zeros(SIDE, np.complex64), r"1\.tif: .*pixels of type complex64"),
        ("0.tif", np.zeros(SIDE, np.uint16), r"0\.(png|tif): the same cell as 0\.(png|tif); give each cell a name"),
    ],
)
def test_pictures_unlike_the_others(tmp_path: Path, name: str, plane: np.ndarray, message: str) -> None:
    _write(tmp_path, _images(2))
    (tmp_path / "round ones" / "1.png").unlink()
    path = tmp_path / ("resting" if name.startswith("0") else "round ones") / name
    path.write_bytes(_encoded(plane.astype(np.uint8) if plane.dtype == int else plane, name[2:]))
    (tmp_path / "round ones" / "2.png").write_bytes(_encoded(_images(1)[0, 0], "png"))
    with pytest.raises(DataError, match=message):
        _read(_dataset(tmp_path))


def test_inverted_tiff() -> None:
    out = io.BytesIO()
    tifffile.imwrite(out, np.zeros(SIDE, np.uint8), photometric="miniswhite")
    with pytest.raises(DataError, match="pixels stored as MINISWHITE: save it as grey"):
        pictures.decode(out.getvalue(), name="a.tif")


def test_colours_of_16_bits_are_not_cut_down_unseen() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(6 * 4) for _ in range(4))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match="16 bits a sample in mode RGB: save it as grey of 8 or 16 bits"):
        pictures.decode(content, name="a.png")


def test_picture_beyond_the_bit_depth(tmp_path: Path) -> None:
    _write(tmp_path / "mine", _images(2) + np.uint16(4096))
    with pytest.raises(DataError, match=r"cell resting/0: pixels .* do not fit 0 to 4095; set `bit_depth`"):
        convert(_dataset(tmp_path / "mine"), raw=tmp_path, out=tmp_path / "c.h5", report=tmp_path / "c.json")
    assert not (tmp_path / "c.h5").exists()


def test_huge_file(tmp_path: Path) -> None:
    _write(tmp_path, _images(2))
    with (tmp_path / "resting" / "0.png").open("r+b") as file:
        file.truncate(pictures.LARGEST_FILE + 1)
    with pytest.raises(DataError, match=r"0\.png: has \d+ bytes, too many for the picture of one cell"):
        _read(_dataset(tmp_path))


def test_file_that_goes_away_meanwhile(tmp_path: Path) -> None:
    _write(tmp_path, _images(2))
    left = folder.read(_dataset(tmp_path), tmp_path)
    (tmp_path / "resting" / "0.png").unlink()
    with pytest.raises(DataError, match=r"0\.png: cannot be read \(No such file or directory\); put it back"):
        next(left)


def test_empty_folder(tmp_path: Path) -> None:
    _write(tmp_path, _images(2))
    (tmp_path / "round ones" / "1.png").rename(tmp_path / "round ones" / "1.txt")
    with pytest.raises(DataError, match=r"round ones: no picture there fits the layout {folder}/{id}; put cells there"):
        _read(_dataset(tmp_path))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "Anaphase").mkdir()
    with pytest.raises(DataError, match=r"Anaphase: no picture there fits the layout"):
        _read(_dataset(tmp_path / "own", stages=None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": {"resting": "G1"}}, "data set mine: round ones has no stage; add it to `stages`"),
        ({"stages": None}, "data set mine: resting has no stage; add it to `stages`"),
        ({"stages": {"resting": "G1", "round ones": "M"}}, "`stages` maps round ones to M; choose one of G1, S"),
        ({"layout": "{folder}/cells.png"}, r"layout .* lacks {id}; add it"),
        ({"layout": "{folder}/{id}_{stain}.png"}, r"layout .* and nothing like {stain}; correct it"),
        ({"layout": "{folder}/{id}{id}.png"}, r"layout .* once at most, and nothing like {id}; correct it"),
        ({"image_size": 66}, r"image_size is 66; give \[height, width\] in pixels"),
        ({"image_size": [66, -1]}, r"image_size is \[66, -1\]; give \[height, width\] in pixels"),
        ({"dna_channel": "PI"}, "dna_channel PI is none of its channels; correct it"),
    ],
)
def test_description_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    _write(tmp_path, _images(2))
    with pytest.raises(ConfigError, match=message):
        _read(_dataset(tmp_path, **changes))


def test_missing_channel(tmp_path: Path) -> None:
    (tmp_path / "resting").mkdir()
    for name in ("1_Ch3", "1_Ch4", "2_Ch3"):
        (tmp_path / "resting" / f"{name}.png").write_bytes(_encoded(_images(1)[0, 0], "png"))
    dataset = _dataset(tmp_path, channels=KEYS, layout="{folder}/{id}_{channel}.png", stages={"resting": "G1"})
    with pytest.raises(DataError, match=r"2_Ch3\.png: its cell has no file of channel Ch4; add it"):
        _read(dataset)
    (tmp_path / "resting" / "2_Ch4.png").write_bytes(_encoded(np.zeros((9, 9), np.uint16), "png"))
    with pytest.raises(DataError, match=r"2_Ch4\.png: 9 x 9 pixels of uint16, where .*2_Ch3\.png has 18 x 22"):
        _read(dataset)


PLANE = _images(1, top=256, dtype=np.uint8)[0, 0]
WHOLE = {
    kind: _encoded(PLANE, kind, **options)
    for kind, options in {"png": {}, "jpeg": {}, "tif": {}, "tiff": {"compression": "tiff_lzw"}}.items()
}
CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(WHOLE)), changes=CHANGES, cut=st.floats(0, 1) | st.just(1.0), rest=st.binary(max_size=8)
)
def test_damaged_pictures_are_refused_or_read(
    kind: str, changes: list[tuple[float, int]], cut: float, rest: bytes
) -> None:
    content = bytearray(WHOLE[kind])
    for where, byte in changes:
        content[int(where * (len(content) - 1))] = byte
    try:
        image = pictures.decode(bytes(content[: int(cut * len(content))]) + rest, name=f"a.{kind}")
    except DataError as error:
        assert str(error).startswith(f"a.{kind}: ")
        assert "\n" not in str(error)
    else:
        assert image.ndim == 3
        assert len(image) == 1
        assert max(image.shape) <= pictures.LARGEST_SIDE
        assert image.dtype.kind in "uif"
