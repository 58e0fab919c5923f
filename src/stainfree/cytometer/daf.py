"""Read ``.daf`` files: what was measured and gated in the vendor's software, IDEAS, over the events of a ``.cif``.

Such a file begins with XML: images, definitions of features, regions drawn in plots, and populations. Binary tables
follow, little endian: the features, one after the other over all objects, then where each object's images lie in the
``.cif``. Tables are mapped into memory, and a population is worked out when it is asked for.

The layout of the tables, and how gates are drawn on axes that are logarithmic, is as the R package IFC (gitdemont/IFC)
understands them; it was checked against the counts and statistics that a real file keeps of its own populations.
"""

from __future__ import annotations

import mmap
import struct
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from stainfree.errors import DataError

_END_OF_HEAD = b"</Assay>"
# Three bytes that are always the same, then version, features and objects.
_COUNTS = struct.Struct("<3xIII")
# An object's record without what it has per channel, which is four times a number of 8 bytes.
_RECORD_BYTES, _RECORD_BYTES_PER_CHANNEL = 92, 32
_MOST_CHANNELS = 64

Members = npt.NDArray[np.bool_]
"""(object,) True where an object belongs to a population."""


@dataclass(frozen=True)
class Image:
    """An image as it is named and shown in IDEAS."""

    name: str
    channel: int
    """Which channel of the instrument it is, from 1: Ch1."""
    display_range: tuple[float, float]
    """Counts that are shown black and white."""


@dataclass(frozen=True)
class Region:
    """A region drawn in a plot."""

    name: str
    shape: str
    """line (in a histogram), rect, oval or poly."""
    x: npt.NDArray[np.float64]
    """(corner,) in units of the feature along the plot's x axis; two opposite ones of a line, rect or oval."""
    y: npt.NDArray[np.float64]
    """(corner,)."""
    log_from: tuple[float | None, float | None]
    """For x and y: from which value on the axis is logarithmic; None for one that is linear all along."""


@dataclass(frozen=True)
class Population:
    """How a population is defined."""

    name: str
    kind: str
    """B all objects, T tagged one by one, G gated by a region, C combined of others."""
    base: str
    """The population it is a part of; empty for that of all objects."""
    region: str
    features: tuple[str, ...]
    """What the axes of the region are: one feature, or two."""
    definition: str
    """Other populations, And, Or, Not and parentheses, parted by ``|``."""
    tagged: tuple[int, ...]
    """Object numbers."""


@dataclass(frozen=True)
class Daf:
    """A ``.daf`` file."""

    path: Path
    n_objects: int
    cif_name: str
    """The file of images that it describes."""
    software: str
    date: str
    bit_depth: int | None
    images: tuple[Image, ...]
    regions: Mapping[str, Region]
    populations: Mapping[str, Population]
    stated_counts: Mapping[str, int]
    """Population -> objects in it, where the file keeps that."""
    feature_names: tuple[str, ...]
    object_numbers: npt.NDArray[np.uint32]
    """(object,) increasing."""
    image_offsets: npt.NDArray[np.uint64]
    """(object,) where its image's directory stands in the ``.cif``, in bytes."""
    _features: npt.NDArray[Any]

    def feature(self, name: str) -> npt.NDArray[np.float64]:
        """Return the values (object,) of a feature; NaN where it could not be measured.

        Raises
        ------
        DataError
            If there is none of that name.
        """
        if name not in self.feature_names:
            raise DataError(f"{self.path}: has no feature {name!r}; it has {len(self.feature_names)} others")
        return np.array(self._features["values"][self.feature_names.index(name)])

    def members(self, name: str) -> Members:
        """Return which objects (object,) belong to a population.

        Raises
        ------
        DataError
            If there is none of that name, its definition makes no sense, or the file itself counts other members.
        """
        try:
            members = _Gates(self).members(name)
        except RecursionError:
            _refuse(self.path, f"population {name!r} is defined too deeply")
        stated = self.stated_counts.get(name, int(members.sum()))
        if stated != members.sum():
            _refuse(self.path, f"population {name!r} has {members.sum()} objects by its gates, and {stated} as it says")
        return members


def _refuse(path: Path, reason: str) -> NoReturn:
    raise DataError(f"{path}: {reason}; save it anew in IDEAS, or replace it by a sound copy") from None


def read_daf(path: Path) -> Daf:
    """Read a ``.daf`` file.

    Raises
    ------
    DataError
        If it is missing, no such file, damaged or cut off.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            size = len(content)
            head_size = content.find(_END_OF_HEAD) + len(_END_OF_HEAD)
            head = ET.fromstring(content[:head_size]) if head_size >= len(_END_OF_HEAD) else None
            counts = content[head_size : head_size + _COUNTS.size]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); correct its name") from error
    except (ValueError, ET.ParseError) as error:
        _refuse(path, f"is no .daf file, or its head is damaged ({error})")
    description = None if head is None else head.find("SOD")
    if head is None or description is None:
        _refuse(path, "is no .daf file that describes a .cif file")
    if head.get("binaryfeatures", "").lower() != "true":
        _refuse(path, "keeps its features as text, which IDEAS before version 6 did")
    if len(counts) < _COUNTS.size:
        _refuse(path, "is cut off after its head")
    _, n_features, n_objects = _COUNTS.unpack(counts)
    if description.get("objcount") != str(n_objects):
        _refuse(path, f"has tables of {n_objects} objects, and {description.get('objcount')} as its head says")
    try:
        features, objects = _tables(path, head_size + _COUNTS.size, n_features, n_objects, size)
        return Daf(
            path=path,
            n_objects=n_objects,
            cif_name=description.get("file", ""),
            software=head.get("IDEAS_version", ""),
            date=head.get("date", ""),
            bit_depth=_bit_depth(description),
            images=_images(description),
            regions={region.name: region for region in map(_region, description.iterfind("Regions/Region"))},
            populations={pop.name: pop for pop in map(_population, description.iterfind("Pops/Pop"))},
            stated_counts={
                told.attrib["population"]: int(told.attrib["count"])
                for told in description.iterfind("PopulationStatistics/PopStatistic")
            },
            feature_names=_feature_names(path, description, features),
            object_numbers=np.array(objects["number"]),
            image_offsets=np.array(objects["offset"]),
            _features=features,
        )
    # An attribute that is missing, or no number.
    except (KeyError, ValueError) as error:
        _refuse(path, f"its head is damaged ({type(error).__name__} {error})")


def _tables(
    path: Path, start: int, n_features: int, n_objects: int, size: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Map the tables of features and of objects into memory."""
    if not n_objects or not n_features:
        _refuse(path, f"has {n_features} features of {n_objects} objects")
    end = start + n_features * (4 + 8 * n_objects)
    if end + 4 > size:
        _refuse(
            path, f"is cut off: {n_features} features of {n_objects} objects end at byte {end:,}, and it has {size:,}"
        )
    features = np.memmap(
        path, [("id", "<u4"), ("values", "<f8", (n_objects,))], mode="r", offset=start, shape=(n_features,)
    )
    (n_records,) = np.memmap(path, "<u4", mode="r", offset=end, shape=(1,)).tolist()
    if n_records != n_objects:
        _refuse(path, f"has features of {n_objects} objects, and images of {n_records}")
    per_object, rest = divmod(size - end - 4, n_objects)
    n_channels, odd = divmod(per_object - _RECORD_BYTES, _RECORD_BYTES_PER_CHANNEL)
    if rest or odd or not 0 < n_channels <= _MOST_CHANNELS:
        _refuse(path, f"is cut off, or too long: {size - end - 4:,} bytes cannot be records of {n_objects} objects")
    record = {"names": ["number", "offset"], "formats": ["<u4", "<u8"], "offsets": [0, 4], "itemsize": per_object}
    dtype = np.dtype(record)  # type: ignore[call-overload]
    objects = np.memmap(path, dtype, mode="r", offset=end + 4, shape=(n_objects,))
    if (np.diff(objects["number"].astype(np.int64)) <= 0).any():
        _refuse(path, "has its objects out of order")
    return features, objects


def _feature_names(path: Path, description: ET.Element, features: npt.NDArray[Any]) -> tuple[str, ...]:
    names = tuple(told.attrib["name"] for told in description.iterfind("DefinedFeatures/UDF"))
    if features["id"].tolist() != list(range(len(names))):
        _refuse(path, f"defines {len(names)} features, and has others, or in another order")
    return names


def _bit_depth(description: ET.Element) -> int | None:
    presets = description.find("ChannelPresets")
    told = None if presets is None else presets.get("bits")
    return None if told is None else int(told)


def _images(description: ET.Element) -> tuple[Image, ...]:
    """Return the images that are channels, not made of others."""
    return tuple(
        Image(
            name=told.attrib["name"],
            channel=int(told.attrib["physicalChannel"]) + 1,
            display_range=(float(told.attrib["xmin"]), float(told.attrib["xmax"])),
        )
        for told in description.iterfind("Images/image")
        if not told.get("baseimage")
    )


def _region(told: ET.Element) -> Region:
    corners = np.array([[float(corner.attrib[axis]) for axis in "xy"] for corner in told.iterfind("axy")])
    x, y = corners.reshape(-1, 2).T
    logs = [told.get(key, "P") for key in ("xlogrange", "ylogrange")]
    x_log, y_log = (None if log == "P" else float(log) for log in logs)
    return Region(told.attrib["label"], told.attrib["type"], x, y, (x_log, y_log))


def _population(told: ET.Element) -> Population:
    return Population(
        name=told.attrib["name"],
        kind=told.attrib["type"],
        base=told.get("base", ""),
        region=told.get("region", ""),
        features=tuple(told.attrib[key] for key in ("fx", "fy") if told.get(key)),
        definition=told.get("definition", ""),
        tagged=tuple(int(next(iter(tag.attrib.values()))) for tag in told.iterfind("ob")),
    )


class _Gates:
    """Works out populations of one file, each once."""

    def __init__(self, daf: Daf) -> None:
        self._daf = daf
        self._known: dict[str, Members] = {}
        self._open: set[str] = set()

    def members(self, name: str) -> Members:
        """Return which objects belong to a population."""
        if name not in self._known:
            if name not in self._daf.populations:
                _refuse(self._daf.path, f"has no population {name!r}; it has {', '.join(self._daf.populations)}")
            if name in self._open:
                _refuse(self._daf.path, f"population {name!r} is defined by itself")
            self._open.add(name)
            population = self._daf.populations[name]
            base = self.members(population.base) if population.base else np.ones(self._daf.n_objects, dtype=bool)
            self._known[name] = base & self._own(population)
        return self._known[name]

    def _own(self, population: Population) -> Members:
        """Return what the definition of a population says, whatever its base."""
        if population.kind == "B":
            return np.ones(self._daf.n_objects, dtype=bool)
        if population.kind == "T":
            return np.isin(self._daf.object_numbers, population.tagged)
        if population.kind == "G":
            return self._gated(population)
        if population.kind == "C":
            tokens = population.definition.split("|")
            members = self._either(tokens)
            if tokens:
                _refuse(self._daf.path, f"population {population.name!r} is defined by {population.definition!r}")
            return members
        _refuse(self._daf.path, f"population {population.name!r} is of the unknown kind {population.kind!r}")

    def _either(self, tokens: list[str]) -> Members:
        """Take populations joined by Or from the front of the tokens of a definition."""
        members = self._both(tokens)
        while tokens and tokens[0] == "Or":
            del tokens[0]
            members = members | self._both(tokens)
        return members

    def _both(self, tokens: list[str]) -> Members:
        """Take populations joined by And, which binds more closely than Or."""
        members = self._single(tokens)
        while tokens and tokens[0] == "And":
            del tokens[0]
            members = members & self._single(tokens)
        return members

    def _single(self, tokens: list[str]) -> Members:
        """Take one population, one that is negated, or what stands in parentheses."""
        token = tokens.pop(0) if tokens else ""
        if token == "Not":
            return ~self._single(tokens)
        if token != "(":
            return self.members(token)
        members = self._either(tokens)
        if not tokens or tokens.pop(0) != ")":
            _refuse(self._daf.path, "the definition of a population lacks a parenthesis")
        return members

    def _gated(self, population: Population) -> Members:
        """Return the objects inside a region."""
        region = self._daf.regions.get(population.region)
        axes = {"line": 1, "rect": 2, "oval": 2, "poly": 2}.get(region.shape, 0) if region else 0
        if region is None or not axes or len(region.x) < 2 or len(population.features) < axes:
            _refuse(self._daf.path, f"the region that gates population {population.name!r} is incomplete or not known")
        values = [self._daf.feature(name) for name in population.features[:axes]]
        if region.shape == "line":
            return _between(values[0], region.x)
        x, y = (_on_axis(value, log) for value, log in zip(values, region.log_from, strict=True))
        corners = [_on_axis(corner, log) for corner, log in zip((region.x, region.y), region.log_from, strict=True)]
        if region.shape == "rect":
            return _between(x, corners[0]) & _between(y, corners[1])
        inside = _in_oval if region.shape == "oval" else _in_polygon
        with np.errstate(invalid="ignore", over="ignore"):  # a value that is NaN lies in no region
            return inside(x, y, *corners)


def _on_axis(values: npt.NDArray[np.float64], log_from: float | None) -> npt.NDArray[np.float64]:
    """Return where values lie on an axis: linear about zero, logarithmic from a value on."""
    if log_from is None:
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.sign(values) * (1 + np.log(np.abs(values) / log_from))
        return np.where(np.abs(values) <= log_from, values / log_from, log)


def _between(values: npt.NDArray[np.float64], ends: npt.NDArray[np.float64]) -> Members:
    return (values >= ends.min()) & (values <= ends.max())


def _in_oval(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]
) -> Members:
    """Tell which points lie in the ellipse that fits between two corners."""
    distance = np.zeros_like(x)
    for values, ends in ((x, xs), (y, ys)):
        radius = (ends.max() - ends.min()) / 2
        if not radius > 0:
            return np.zeros(len(x), dtype=bool)
        distance += ((values - ends.min() - radius) / radius) ** 2
    return distance <= 1


def _in_polygon(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]
) -> Members:
    """Tell which points a polygon winds around, or that lie on its edges."""
    windings = np.zeros(len(x), dtype=int)
    on_edge = np.zeros(len(x), dtype=bool)
    corners: Sequence[tuple[float, float]] = list(zip(xs.tolist(), ys.tolist(), strict=True))
    for (x0, y0), (x1, y1) in pairwise([*corners, corners[0]]):
        side = (x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)
        windings += (y0 <= y) & (y < y1) & (side > 0)
        windings -= (y1 <= y) & (y < y0) & (side < 0)
        on_edge |= (side == 0) & _between(x, np.array([x0, x1])) & _between(y, np.array([y0, y1]))
    return (windings != 0) | on_edge
