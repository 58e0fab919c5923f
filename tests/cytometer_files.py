"""Writes small ``.cif`` and ``.daf`` files in the layout of the cytometer's own, for tests and benchmarks."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from xml.sax.saxutils import quoteattr

import numpy as np

GREYSCALE, BITMASK, UNCOMPRESSED = 30817, 30818, 1

# Type of a value in a TIFF -> how struct calls it.
_LETTERS = {2: "s", 3: "H", 4: "I", 12: "d"}


def encode_greyscale(picture: np.ndarray) -> bytes:
    """Code a picture (y, x) of 16 bits by compression 30817, each number in as few groups as it takes."""
    deltas = np.diff(picture.view(np.int16), axis=1, prepend=np.int16(0))
    numbers = np.diff(deltas, axis=0, prepend=np.zeros((1, picture.shape[1]), np.int16)).ravel().astype(np.int64)
    n_groups = sum((numbers < -(1 << bits)) | (numbers >= 1 << bits) for bits in range(2, 18, 3)) + 1
    n_groups = np.asarray(n_groups)
    ends = np.cumsum(n_groups)
    halves = np.zeros(ends[-1] + ends[-1] % 2, np.uint8)
    for group in range(int(n_groups.max())):
        has = n_groups > group
        more = n_groups[has] > group + 1
        halves[(ends - n_groups)[has] + group] = (numbers[has] >> 3 * group & 7) | more << 3
    return (halves[0::2] | halves[1::2] << 4).astype(np.uint8).tobytes()


def encode_bitmask(picture: np.ndarray) -> bytes:
    """Code a picture (y, x) of 8 bits by compression 30818."""
    pixels = picture.ravel()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(pixels)) + 1])
    runs = np.diff(starts, append=pixels.size)
    n_parts = (runs + 255) // 256
    values, lengths = np.repeat(pixels[starts], n_parts), np.full(n_parts.sum(), 256)
    lengths[np.cumsum(n_parts) - 1] = runs - 256 * (n_parts - 1)
    return np.stack([values, lengths - 1], axis=1).astype(np.uint8).tobytes()


@dataclass(frozen=True)
class Stored:
    """An event, coded as it will stand in a file."""

    number: int
    shape: tuple[int, int]
    image: bytes
    mask: bytes | None
    compression: int
    background: tuple[float, ...]
    n_strips: int = 1


def store(
    number: int,
    image: np.ndarray,
    mask: np.ndarray | None,
    *,
    background: Sequence[float] = (),
    compression: int = GREYSCALE,
    order: str = "<",
    n_strips: int = 1,
) -> Stored:
    """Code an event: image (channel, y, x) of 16 bits, and mask of 8 bits."""

    def beside(channels: np.ndarray) -> np.ndarray:
        return np.concatenate(list(channels), axis=1)

    side_by_side = np.ascontiguousarray(beside(image))
    plain = side_by_side.astype(f"{order}u2").tobytes()
    return Stored(
        number,
        (side_by_side.shape[0], side_by_side.shape[1]),
        encode_greyscale(side_by_side) if compression == GREYSCALE else plain,
        None if mask is None else encode_bitmask(beside(mask)),
        compression,
        tuple(background),
        n_strips,
    )


def acquisition(n_channels: int = 6, magnification: float = 40) -> str:
    """Return the XML that describes an acquisition, as far as it is read."""
    flags = " ".join(["1"] * n_channels + ["0"] * (12 - n_channels))
    names = "".join(f"<Channel{n}Name>Ch{n}</Channel{n}Name>" for n in range(1, 13))
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><settings><Imaging><Magnification>{magnification:g}</Magnification>'
        f"<ChannelInUseIndicators_0_11>{flags} </ChannelInUseIndicators_0_11></Imaging>"
        f"<Display>{names}</Display></settings>"
    )


def write_cif(
    path: Path,
    events: Iterable[Stored],
    *,
    n_events: int,
    n_channels: int = 6,
    order: str = "<",
    gaps: Mapping[int, int] | None = None,
    description: str | None = None,
) -> list[int]:
    """Write a file; return where the directory of each event's image stands.

    Parameters
    ----------
    path
        The file to make.
    events
        Written in this order.
    n_events
        What the file says that they are.
    n_channels
        What it says of its channels.
    order
        ``<`` or ``>``.
    gaps
        Position of an event -> bytes left empty in front of it.
    description
        XML of the acquisition; a plain one where None.
    """
    places = []
    with path.open("wb") as stream:
        stream.write({"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8))
        text = (description or acquisition(n_channels)).encode()
        link = _write(
            stream,
            order,
            {256: (4, [1]), 257: (4, [1]), 33002: (3, [1]), 33018: (4, [n_events]), 33027: (2, text)}
            | {33064: (2, b"<x><CameraBitsPerPixel>12</CameraBitsPerPixel></x>"), 33066: (2, b"6.2.0.0\0")},
            [],
        )
        for position, event in enumerate(events):
            stream.seek((gaps or {}).get(position, 0), 1)
            places.append(stream.tell())
            height, width = event.shape
            common = {256: (4, [width]), 257: (4, [height])}
            tags = {258: (3, [16]), 259: (3, [event.compression]), 306: (2, b"5/2/2016 2:26:24 PM\0")}
            tags |= {33002: (3, [2]), 33003: (4, [event.number])}
            if event.background:
                tags[33052] = (12, list(event.background))
            step = -(-len(event.image) // event.n_strips)
            strips = [event.image[start : start + step] for start in range(0, len(event.image), step)]
            link = _write(stream, order, common | tags, strips, link)
            if event.mask is not None:
                tags = {258: (3, [8]), 259: (3, [BITMASK]), 33002: (3, [3])}
                link = _write(stream, order, common | tags, [event.mask], link)
    return places


def _write(
    stream: BinaryIO,
    order: str,
    tags: Mapping[int, tuple[int, bytes | list[int] | list[float]]],
    strips: Sequence[bytes],
    link: int | None = None,
) -> int:
    """Write a directory, and behind it its strips and long values; return where the offset of the next one goes.

    That offset is filled in at `link`, the place that an earlier call returned. Offsets are cut to 32 bits.
    """
    start = stream.tell()
    if link is not None:
        stream.seek(link)
        stream.write(struct.pack(f"{order}I", start % (1 << 32)))
    n_tags = len(tags) + (2 if strips else 0)
    behind = start + 2 + 12 * n_tags + 4
    offsets = [(behind + sum(map(len, strips[:n]))) % (1 << 32) for n in range(len(strips))]
    tags = dict(tags)
    if strips:
        tags |= {273: (4, offsets), 279: (4, [len(strip) for strip in strips])}
    entries, content = [], b"".join(strips)
    for tag, (kind, values) in sorted(tags.items()):
        form = f"{order}{len(values)}{_LETTERS[kind]}"
        packed = values if isinstance(values, bytes) else struct.pack(form, *values)
        place = packed.ljust(4, b"\0")
        if len(packed) > 4:
            place = struct.pack(f"{order}I", (behind + len(content)) % (1 << 32))
            content += packed
        entries.append(struct.pack(f"{order}HHI", tag, kind, len(values)) + place)
    stream.seek(start)
    stream.write(struct.pack(f"{order}H", n_tags) + b"".join(entries) + bytes(4) + content)
    return behind - 4


def write_daf(
    path: Path,
    *,
    features: Mapping[str, Sequence[float]],
    populations: str = "",
    regions: str = "",
    stated: Mapping[str, int] | None = None,
    images: Mapping[str, int] | None = None,
    numbers: Sequence[int] | None = None,
    places: Sequence[int] | None = None,
    n_channels: int = 6,
) -> None:
    """Write a file of objects.

    Parameters
    ----------
    path
        The file to make.
    features
        Name -> values (object,).
    populations, regions
        XML of their elements; the population ``All`` is there already.
    stated
        Population -> what the file says of the number of its objects.
    images
        Name -> channel of the instrument, from 1.
    numbers, places
        (object,) object numbers, and where the images stand in the ``.cif``.
    n_channels
        How many channels the records of the objects have.
    """
    n_objects = len(next(iter(features.values())))
    shown = "".join(
        f'<image name={quoteattr(name)} physicalChannel="{channel - 1}" xmin="50" xmax="750" baseimage="" />'
        for name, channel in (images or {}).items()
    )
    told = "".join(
        f'<PopStatistic feature="x" population={quoteattr(name)} count="{count}" />'
        for name, count in (stated or {}).items()
    )
    defined = "".join(f"<UDF name={quoteattr(name)} />" for name in features)
    head = (
        '<?xml version="1.0" encoding="utf-8"?><Assay date="today" IDEAS_version="6.2" binaryfeatures="True">'
        f'<SOD file="x.cif" objcount="{n_objects}"><ChannelPresets count="6" bits="12" /><Images>{shown}</Images>'
        f"<DefinedFeatures>{defined}</DefinedFeatures><Regions>{regions}</Regions>"
        f'<Pops><Pop name="All" type="B" base="" />{populations}</Pops>'
        f"<PopulationStatistics>{told}</PopulationStatistics></SOD></Assay>"
    )
    content = [head.encode(), b"\n\0\x1e", struct.pack("<III", 1, len(features), n_objects)]
    for position, values in enumerate(features.values()):
        content += [struct.pack("<I", position), np.asarray(values, "<f8").tobytes()]
    content.append(struct.pack("<I", n_objects))
    for number, place in zip(numbers or range(n_objects), places or [0] * n_objects, strict=True):
        content.append(struct.pack("<IQ", number, place).ljust(92 + 32 * n_channels, b"\0"))
    path.write_bytes(b"".join(content))
