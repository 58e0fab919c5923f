"""The cytometer's files become cells: of one size, named by object number, with the stages that an expert gated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import missing
from cytometer_files import store, write_cif, write_daf

from stainfree import cells, files
from stainfree.cytometer.cif import iterate_events
from stainfree.datasets import Dataset, convert, cytometer
from stainfree.errors import ConfigError, DataError, StainfreeError
from stainfree.sources import source_files
from stainfree.stain import integrate

N_CELLS = 12
GATES = (
    '<Pop name="early" type="T" base="All"><ob O="0" /><ob O="1" /><ob O="2" /><ob O="3" /></Pop>'
    '<Pop name="late" type="T" base="All"><ob O="3" /><ob O="4" /></Pop>'
    '<Pop name="late too" type="T" base="All"><ob O="4" /><ob O="5" /></Pop>'
    '<Pop name="either" type="C" base="All" definition="early|Or|late" />'
)
STAGES = {"early": "G1", "late": "S", "late too": "S"}


def _dataset(folder: Path | None, **changes: Any) -> Dataset:
    description = {
        "kind": "cytometer",
        "path": None if folder is None else str(folder),
        "samples": {"day1": {"images": "x.cif", "daf": "x.daf"}},
        "channels": {"BF": "Ch2", "PI": "Ch1"},
        "bit_depth": 12,
        "image_size": [20, 24],
        "stages": STAGES,
    }
    return Dataset.from_config("mine", description | changes)


def _images() -> list[np.ndarray]:
    """Return two channels of events of differing size, of which the middle block is the cell."""
    rng = np.random.default_rng(0)
    images = []
    for k in range(N_CELLS):
        image = rng.integers(100, 110, (2, 16 + k, 30 - k)).astype(np.uint16)
        image[:, 3:9, 4:10] += 1000 + rng.integers(0, 500, (2, 6, 6)).astype(np.uint16)
        images.append(image)
    return images


def _write(folder: Path, name: str = "x", *, shift: int = 0, **changes: Any) -> list[np.ndarray]:
    """Write a .cif and its .daf; return the images."""
    images = _images()
    masks = [(image > 500).astype(np.uint8) for image in images]
    stored = [
        store(k, image, mask, background=[100, 102]) for k, (image, mask) in enumerate(zip(images, masks, strict=True))
    ]
    places = write_cif(folder / f"{name}.cif", stored, n_events=N_CELLS, n_channels=2)
    told = {
        "features": {"Object Number": range(N_CELLS)},
        "populations": GATES,
        "images": {"bright": 2, "dna": 1},
        "places": [place + shift for place in places],
    }
    write_daf(folder / f"{name}.daf", **{**told, **changes})
    return images


def _convert(dataset: Dataset, folder: Path) -> dict[str, Any]:
    convert(dataset, raw=folder / "unused", out=folder / "cells.h5", report=folder / "cells.json")
    return files.read_json(folder / "cells.json")


# From an instrument's files to cells


def test_populations_become_stages(tmp_path: Path) -> None:
    _write(tmp_path)
    report = _convert(_dataset(tmp_path), tmp_path)
    table = cells.read_table(tmp_path / "cells.h5")
    # Object 3 is in two populations of different stages, 4 in two of the same, 6 to 11 in none.
    assert dict(zip(table["cell_id"], table["stage"], strict=True)) == {
        "day1:0": "G1",
        "day1:1": "G1",
        "day1:2": "G1",
        "day1:4": "S",
        "day1:5": "S",
    }
    assert report["cells_without_stage"] == {
        "in no population or row that `stages` names": 6,
        "in populations of different stages": 1,
    }
    assert (report["pixel_size_um"], report["channels"], report["image_shape"]) == (0.5, ["BF", "PI"], [20, 24])
    assert sorted(report["source_checksums"]) == ["x.cif", "x.daf"]


def test_cells_are_centred_and_filled_up_by_background(tmp_path: Path) -> None:
    images = _write(tmp_path)
    report = _convert(_dataset(tmp_path), tmp_path)
    for got, number in zip(cells.read_images(tmp_path / "cells.h5"), [0, 1, 2, 4, 5], strict=True):
        # The mask of rows 3 to 8 and columns 4 to 9 comes to the middle of 20 x 24; channels in the config's order.
        np.testing.assert_array_equal(got[:, 7:13, 9:15], images[number][::-1, 3:9, 4:10])
        np.testing.assert_array_equal(got[0, :4], 102)
        np.testing.assert_array_equal(got[1, :, :5], 100)
    assert (report["cells_refitted"], report["cells_cut"]) == (5, 0)


def test_cells_larger_than_the_size_are_counted(tmp_path: Path) -> None:
    _write(tmp_path)
    assert _convert(_dataset(tmp_path, image_size=[20, 4]), tmp_path)["cells_cut"] == 5


def test_channels_by_their_names_in_the_daf(tmp_path: Path) -> None:
    images = _write(tmp_path)
    _convert(_dataset(tmp_path, channels={"PI": "dna"}, dna_channel="PI"), tmp_path)
    got = cells.read_images(tmp_path / "cells.h5")
    np.testing.assert_array_equal(got[0, :, 7:13, 9:15], images[0][:1, 3:9, 4:10])
    np.testing.assert_array_equal(cells.read_table(tmp_path / "cells.h5")["dna_content"], integrate(got[:, 0]))


def test_a_table_of_stages_and_several_samples(tmp_path: Path) -> None:
    _write(tmp_path)
    stored = [store(40 + k, 2 * image, None) for k, image in enumerate(_images())]
    write_cif(tmp_path / "y.cif", stored, n_events=N_CELLS, n_channels=2)
    (tmp_path / "y.csv").write_text("object,stage\n41,ana\n43,late\n")
    samples = {"day1": {"images": "x.cif", "daf": "x.daf"}, "day2": {"images": "y.cif", "labels": "y.csv"}}
    dataset = _dataset(tmp_path, samples=samples, stages={"early": "G1", "late": "S", "ana": "Anaphase"})
    report = _convert(dataset, tmp_path)
    table = cells.read_table(tmp_path / "cells.h5")
    assert table["cell_id"].tolist() == ["day1:0", "day1:1", "day1:2", "day1:4", "day2:41", "day2:43"]
    assert table["stage"].tolist() == ["G1", "G1", "G1", "S", "Anaphase", "S"]
    assert report["cells_without_stage"] == {
        "in no population or row that `stages` names": 7 + 10,
        "in populations of different stages": 1,
    }
    assert [Path(file).name for file in source_files(dataset.description())] == ["x.cif", "x.daf", "y.cif", "y.csv"]


def test_real_events(mirror: Path, tmp_path: Path) -> None:
    folder = mirror.parent / "cytometer"
    if not (folder / "imagestream-example.cif").is_file():
        missing(f"{folder}: lay the real files of a cytometer beside the mirror (see README) to test on them")
    (tmp_path / "all.csv").write_text("object,stage\n" + "".join(f"{k},G1\n" for k in range(111)))
    (tmp_path / "all.cif").symlink_to(folder / "imagestream-example.cif")
    dataset = _dataset(
        tmp_path,
        samples={"s": {"images": "all.cif", "labels": "all.csv"}},
        channels={"BF": "Ch5", "DF": "Ch1"},
        image_size=[66, 66],
        stages=None,
    )
    report = _convert(dataset, tmp_path)
    assert (report["n_cells"], report["pixel_size_um"], report["cells_cut"]) == (111, 0.5, 0)
    got = cells.read_images(tmp_path / "cells.h5")
    for event, image in zip((e for events in iterate_events(tmp_path / "all.cif") for e in events), got, strict=True):
        assert event.mask is not None
        # What lies under a mask is there, however the frame was cut; the middle of the masks is the middle.
        for channel, position in enumerate([4, 0]):
            inside = event.image[position][event.mask[position] > 0]
            padded = np.rint(event.background[position]) if event.background is not None else 0
            assert image[channel].sum() - padded * image[channel].size == pytest.approx(
                event.image[position].sum() - padded * event.image[position].size, abs=1
            )
            assert np.isin(inside, image[channel]).all()


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": None}, "set `image_size"),
        ({"image_size": 20}, "image_size is 20"),
        ({"stages": None}, "no cells found"),
        ({"stages": {"early": "G0"}}, "maps early to G0"),
        ({"stages": {"sooner": "G1"}}, "names sooner, a population of no sample; they have All, early, either"),
        ({"channels": ["Ch1", "Ch7"]}, "has no channel Ch7; it has Ch1, Ch2, bright, dna"),
        ({"dna_channel": "DNA"}, "dna_channel DNA"),
        ({"samples": None}, "needs `samples`"),
        ({"samples": {"a": {"images": "x.cif"}}}, "`samples.a`"),
        ({"samples": {"a": {"images": "x.cif", "daf": 5}}}, "`samples.a`"),
        ({"samples": {"a": {"images": "z.cif", "daf": "x.daf"}}}, r"z\.cif: no such file"),
        ({"bit_depth": 8}, "set `bit_depth`"),
    ],
)
def test_descriptions_that_ask_for_what_is_not_there(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    _write(tmp_path)
    with pytest.raises(StainfreeError, match=message) as error:
        _convert(_dataset(tmp_path, **changes), tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cells.h5").exists()


def test_a_daf_of_another_number_of_objects(tmp_path: Path) -> None:
    _write(tmp_path, features={"x": range(N_CELLS - 1)}, places=[0] * (N_CELLS - 1))
    with pytest.raises(DataError, match=r"describes 11 objects, and .*x\.cif holds 12"):
        _convert(_dataset(tmp_path), tmp_path)


@pytest.mark.parametrize("changes", [{"shift": 2}, {"numbers": [*range(N_CELLS - 1), 50]}])
def test_a_daf_of_other_images(tmp_path: Path, changes: dict[str, Any]) -> None:
    _write(tmp_path, **changes)
    with pytest.raises(DataError, match="describes other images than those of"):
        _convert(_dataset(tmp_path), tmp_path)


def test_a_cif_cut_off_leaves_nothing_behind(tmp_path: Path) -> None:
    _write(tmp_path)
    whole = (tmp_path / "x.cif").read_bytes()
    (tmp_path / "x.cif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut off"):
        _convert(_dataset(tmp_path), tmp_path)
    assert not (tmp_path / "cells.h5").exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("object;stage\n1;G1\n", "must have the columns object,stage"),
        ("", "must have the columns object,stage"),
        ("object,stage\n1,G1\none,G1\n", "line 3 must be"),
        ("object,stage\n1,G1\n1,S\n", "line 3 must be"),
        ("object,stage\n1\n", "line 2 must be"),
        ("object,stage\n1,G7\n", "G7 has no stage"),
        ("object,stage\n1,G1\n500,G1\n", "holds 1 of the 2 objects"),
        ("object,stage\n", "no cells found"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, table: str, message: str) -> None:
    _write(tmp_path)
    (tmp_path / "x.csv").write_text(table)
    samples = {"day1": {"images": "x.cif", "labels": "x.csv"}}
    with pytest.raises(StainfreeError, match=message) as error:
        _convert(_dataset(tmp_path, samples=samples, stages=None), tmp_path)
    assert "\n" not in str(error.value)


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    _write(tmp_path)
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="not a readable table"):
        list(cytometer.read(_dataset(tmp_path, samples={"a": {"images": "x.cif", "labels": "x.csv"}}), tmp_path))


def test_a_kind_without_a_path() -> None:
    with pytest.raises(ConfigError, match="needs `path`"):
        source_files(_dataset(None).description())
