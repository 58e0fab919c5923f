"""What an expert gated in the vendor's software is read as the vendor counts it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from conftest import missing
from cytometer_files import write_daf
from matplotlib.path import Path as Outline

from stainfree.cytometer.daf import Daf, read_daf
from stainfree.errors import DataError

TAGGED = dict.fromkeys(["G1", "S", "G2", "pro", "met", "ana", "tel", "lat", "mto", "mon"], 40) | {"dea": 10, "cli": 10}


@pytest.fixture(scope="module")
def example(mirror: Path) -> Path:
    """A real file of 420 objects."""
    path = mirror.parent / "cytometer" / "ut7epo-example.daf"
    if not path.is_file():
        missing(f"{path}: lay the real files of a cytometer beside the mirror (see README) to test on them")
    return path


@pytest.fixture(scope="module")
def daf(example: Path) -> Daf:
    """That file, read."""
    return read_daf(example)


def _statistics(path: Path) -> list[dict[str, str]]:
    """Return the statistics that a file keeps of its own populations."""
    content = path.read_bytes()
    head = ET.fromstring(content[: content.index(b"</Assay>") + 8])
    return [dict(told.attrib) for told in head.iter("PopStatistic")]


# The real file


def test_real_description(daf: Daf) -> None:
    assert (daf.n_objects, len(daf.feature_names), len(daf.populations), len(daf.regions)) == (420, 196, 30, 24)
    assert (daf.cif_name, daf.software, daf.bit_depth) == ("example.cif", "6.2.183.0", 12)
    names = ["DAPI", "ARK2_AF488", "aTub_PE", "BF", "pH3_AF647", "DF"]
    assert [(image.name, image.channel) for image in daf.images] == list(zip(names, range(1, 7), strict=True))
    assert daf.images[3].display_range == (642, 1029)
    np.testing.assert_array_equal(daf.object_numbers, range(420))
    assert (np.diff(daf.image_offsets.astype(np.int64)) > 0).all()


def test_real_tagged_populations(daf: Daf) -> None:
    assert {name: daf.members(f"tagged-{name}").sum() for name in TAGGED} == TAGGED
    np.testing.assert_array_equal(np.flatnonzero(daf.members("tagged-S")), range(40, 80))


def test_real_populations_have_the_members_that_the_vendor_counts(example: Path) -> None:
    counts = {told["population"]: int(told["count"]) for told in _statistics(example)}
    daf = read_daf(example)
    assert len(counts) == 29
    assert counts == daf.stated_counts
    assert {name: daf.members(name).sum() for name in counts} == counts
    # The one of which the file keeps no count: G2/M & Events less Mphase.
    assert daf.members("G2").sum() == 323 - 210


def test_real_features_have_the_statistics_that_the_vendor_tells(example: Path, daf: Daf) -> None:
    statistics = [told for told in _statistics(example) if told["count"] != "0"]
    assert len(statistics) == 47
    for told in statistics:
        values = daf.feature(told["feature"])[daf.members(told["population"])]
        values = values[~np.isnan(values)]
        expected = [float(told[key]) for key in ("min", "max", "mean", "median")]
        np.testing.assert_allclose([values.min(), values.max(), values.mean(), np.median(values)], expected, rtol=1e-9)


def test_real_features_lie_in_their_known_ranges(daf: Daf) -> None:
    np.testing.assert_array_equal(daf.feature("Object Number"), daf.object_numbers)
    for name in daf.feature_names:
        values = daf.feature(name)
        assert values.shape == (420,)
        assert not np.isinf(values).any()
        if name.startswith("Area_"):
            # At 40x a pixel is a quarter of a square µm.
            assert (values >= 0).all()
            assert (values % 0.25 == 0).all()
        if name.startswith("Aspect Ratio_"):
            assert ((values >= 0) & (values <= 1) | np.isnan(values)).all()
    assert (daf.feature("Area_M04") > 0).all()


# Gates


def _region(name: str, shape: str, corners: list[tuple[float, float]], *, x_log: str = "P", y_log: str = "P") -> str:
    points = "".join(f'<axy x="{x!r}" y="{y!r}" />' for x, y in corners)
    return f'<Region type="{shape}" label="{name}" xlogrange="{x_log}" ylogrange="{y_log}">{points}</Region>'


def _gated(name: str, region: str, *features: str, base: str = "All") -> str:
    axes = " ".join(f'{key}="{feature}"' for key, feature in zip(("fx", "fy"), features, strict=False))
    return f'<Pop name="{name}" type="G" base="{base}" region="{region}" {axes} />'


def _combined(name: str, definition: str, *, base: str = "All") -> str:
    return f'<Pop name="{name}" type="C" base="{base}" definition={quoteattr(definition)} />'


def _tagged(name: str, *numbers: int) -> str:
    return f'<Pop name="{name}" type="T" base="All">' + "".join(f'<ob O="{n}" />' for n in numbers) + "</Pop>"


def _points(n: int = 400) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    points = {"x": rng.uniform(-10, 10, n), "y": rng.uniform(-10, 10, n)}
    points["x"][:3] = np.nan
    return points


def _members(tmp_path: Path, region: str, *, points: dict[str, np.ndarray] | None = None) -> np.ndarray:
    """Return which points lie in the region R."""
    points = points or _points()
    write_daf(tmp_path / "x.daf", features=points, regions=region, populations=_gated("P", "R", "x", "y"))
    return read_daf(tmp_path / "x.daf").members("P")


def test_line_and_rect_hold_their_ends_whatever_their_order(tmp_path: Path) -> None:
    points = {"x": np.array([1, 2, 3, 4, 5, np.nan]), "y": np.array([0, 0, 0, 9, 0, 0.0])}
    line = _members(tmp_path, _region("R", "line", [(5, 0.7), (2, 0.7)]), points=points)
    assert line.tolist() == [False, True, True, True, True, False]
    rect = _members(tmp_path, _region("R", "rect", [(5, 0), (2, 3)]), points=points)
    assert rect.tolist() == [False, True, True, False, True, False]


def test_polygon_as_another_library_sees_it(tmp_path: Path) -> None:
    corners = [(-8.0, -3.0), (0.0, 9.0), (7.0, 5.0), (1.0, 0.5), (6.0, -9.0), (-1.0, -2.0)]
    points = _points()
    expected = Outline([*corners, corners[0]]).contains_points(np.stack([points["x"], points["y"]], axis=1))
    members = _members(tmp_path, _region("R", "poly", corners))
    np.testing.assert_array_equal(members, expected)
    assert 50 < members.sum() < 350


def test_polygon_holds_its_edges_and_corners(tmp_path: Path) -> None:
    points = {"x": np.array([0, 1, 2, 1, 2.5, 0]), "y": np.array([0, 1, 0, 0, 1, 2.0])}
    members = _members(tmp_path, _region("R", "poly", [(0, 0), (2, 2), (2, 0)]), points=points)
    assert members.tolist() == [True, True, True, True, False, False]


def test_oval_fits_between_its_corners(tmp_path: Path) -> None:
    points = _points()
    members = _members(tmp_path, _region("R", "oval", [(-6, 8), (2, -4)]))
    np.testing.assert_array_equal(members, ((points["x"] + 2) / 4) ** 2 + ((points["y"] - 2) / 6) ** 2 <= 1)
    assert 50 < members.sum() < 350


def test_edges_are_straight_on_a_logarithmic_axis(tmp_path: Path) -> None:
    # From (1, 0) to (e², 3) on an x axis that is logarithmic from 1 on: half-way at x = e.
    corners = [(1.0, 0.0), (float(np.e**2), 3.0), (1.0, 3.0)]
    points = {"x": np.array([np.e, np.e, np.e, -np.e]), "y": np.array([1.4, 1.6, 2.9, 2.9])}
    assert _members(tmp_path, _region("R", "poly", corners, x_log="1"), points=points).tolist() == [0, 1, 1, 0]
    assert _members(tmp_path, _region("R", "poly", corners), points=points).tolist() == [1, 1, 1, 0]


def test_combined_populations(tmp_path: Path) -> None:
    populations = _tagged("a", 0, 1, 2, 3) + _tagged("b", 2, 3, 4) + _tagged("c", 3, 5)
    definitions = {
        "a|And|b": {2, 3},
        "a|Or|b|And|c": {0, 1, 2, 3},
        "(|a|Or|b|)|And|c": {3},
        "Not|a|And|b": {4},
        "Not|(|a|Or|b|)": {5, 6},
        "Not|Not|c": {3, 5},
        "a": {0, 1, 2, 3},
    }
    populations += "".join(_combined(f"p{k}", definition) for k, definition in enumerate(definitions))
    populations += _combined("part", "Not|a", base="b")
    write_daf(tmp_path / "x.daf", features={"x": np.zeros(7)}, populations=populations)
    daf = read_daf(tmp_path / "x.daf")
    for k, expected in enumerate(definitions.values()):
        assert set(np.flatnonzero(daf.members(f"p{k}")).tolist()) == expected
    assert np.flatnonzero(daf.members("part")).tolist() == [4]


def test_tags_are_object_numbers(tmp_path: Path) -> None:
    populations = _tagged("a", 20, 99)
    write_daf(tmp_path / "x.daf", features={"x": np.zeros(3)}, populations=populations, numbers=[10, 20, 30])
    assert read_daf(tmp_path / "x.daf").members("a").tolist() == [False, True, False]


# Bad input

NONSENSE = {
    "by itself": (_combined("p", "Not|p"), "defined by itself"),
    "in a ring": (_gated("p", "R", "x", base="q") + _combined("q", "p"), "defined by itself"),
    "of nothing": (_combined("p", ""), "has no population ''"),
    "of one unknown": (_combined("p", "All|And|q"), "has no population 'q'"),
    "half a parenthesis": (_combined("p", "(|All"), "lacks a parenthesis"),
    "two in a row": (_combined("p", "All|All"), "is defined by 'All|All'".replace("|", r"\|")),
    "too deep": (_combined("p", "(|" * 100_000 + "All"), "too deeply"),
    "region unknown": (_gated("p", "Q", "x", "y"), "incomplete or not known"),
    "region without y": (_gated("p", "R", "x"), "incomplete or not known"),
    "feature unknown": (_gated("p", "R", "x", "z"), "has no feature 'z'"),
    "kind unknown": ('<Pop name="p" type="X" base="All" />', "unknown kind 'X'"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_populations_that_make_no_sense_are_refused(tmp_path: Path, name: str) -> None:
    populations, message = NONSENSE[name]
    region = _region("R", "rect", [(0, 0), (1, 1)])
    write_daf(tmp_path / "x.daf", features={"x": [0.0], "y": [0.0]}, populations=populations, regions=region)
    with pytest.raises(DataError, match=message) as error:
        read_daf(tmp_path / "x.daf").members("p")
    assert "\n" not in str(error.value)


def test_a_count_that_contradicts_the_gates_is_refused(tmp_path: Path) -> None:
    write_daf(tmp_path / "x.daf", features={"x": [0.0] * 3}, populations=_tagged("a", 1), stated={"a": 2, "All": 3})
    daf = read_daf(tmp_path / "x.daf")
    assert daf.members("All").all()
    with pytest.raises(DataError, match="'a' has 1 objects by its gates, and 2 as it says"):
        daf.members("a")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"</Assay>", b"</Bssay>", "is no .daf file"),
        (b"<SOD", b"<FCS", "is no .daf file|head is damaged"),
        (b'binaryfeatures="True"', b'binaryfeatures="No"', "as text"),
        (b'population="All"', b'populatiom="All"', "KeyError"),
        (b'"All" count="1"', b'"All" count="i"', "ValueError"),
        (b'objcount="1"', b'objcount="2"', "tables of 1 objects, and 2"),
        (b"<UDF", b"<UDE", "defines 1 features"),
        (b"\x01\0\0\0\x02\0\0\0", b"\x01\0\0\0\x40\0\0\0", "is cut off"),
        (b"\x01\0\0\0\x02\0\0\0", b"\x01\0\0\0\0\0\0\0", "0 features"),
        (b"\x02\0\0\0\x01\0\0\0", b"\x02\0\0\0\xff\xff\xff\xff", "tables of 4294967295 objects"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    path = tmp_path / "x.daf"
    write_daf(path, features={"x": [0.0], "y": [0.0]}, stated={"All": 1})
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(DataError, match=message) as error:
        read_daf(path)
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, content in {"empty": b"", "text": b"hello", "entities": _laughs()}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=r"is no \.daf file"):
            read_daf(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        read_daf(tmp_path / "missing")


def _laughs() -> bytes:
    """Return XML of few bytes that would unfold into gigabytes."""
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 20}">' for n in range(9))
    return f'<!DOCTYPE a [<!ENTITY e0 "ha">{entities}]><Assay>&e9;</Assay>'.encode()


def test_objects_out_of_order_are_refused(tmp_path: Path) -> None:
    write_daf(tmp_path / "x.daf", features={"x": [0.0] * 2}, numbers=[1, 0])
    with pytest.raises(DataError, match="out of order"):
        read_daf(tmp_path / "x.daf")


def test_real_bytes_changed_at_random_never_crash_it(example: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = example.read_bytes()
    head = whole.index(b"</Assay>")
    path = tmp_path / "x.daf"
    refused = 0
    for attempt in range(100):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.choice([rng.integers(0, head), rng.integers(head, head + 40), rng.integers(0, len(whole))]))
            content[place : place + 2] = rng.integers(0, 256, 2, dtype=np.uint8).tobytes()
        if attempt % 10 == 0:
            del content[int(rng.integers(0, len(content))) :]
        path.write_bytes(content)
        try:
            daf = read_daf(path)
            for name in daf.populations:
                daf.members(name)
        except DataError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 30
