"""Read ``.cif`` and ``.rif`` files: the images and masks of an imaging flow cytometer, event by event.

The first directory of such a TIFF describes the sample. Two follow for each event: its image, with the channels side by
side, and its mask in the same layout; a raw file may lack the masks. Events are read and decoded some hundred at a
time, so memory does not grow with the file.

Who measured and where is in these files too; it is never read.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from stainfree.cytometer import codecs
from stainfree.cytometer.tiff import Directory, TiffFile

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _STRIP_OFFSETS, _STRIP_SIZES, _DATE = 256, 257, 258, 259, 273, 279, 306
# The vendor's own: sort of directory, number of the object, events in the file, XML, and means of the background.
_SORT, _OBJECT, _EVENTS, _ACQUISITION, _BACKGROUND = 33002, 33003, 33018, 33027, 33052
_INSTRUMENT, _SOFTWARE = 33064, 33066
_IMAGE, _MASK = 2, 3
_UNCOMPRESSED, _GREYSCALE, _BITMASK = 1, 30817, 30818
_LARGEST_SIDE = 2048
# Even noise is coded in fewer bytes.
_MOST_BYTES_PER_PIXEL = 8
# µm times magnification: pixels are 1 µm at 20x, 0.5 at 40x and a third at 60x.
_PIXEL_UM = 20.0
# Decoded at a time: enough for long vectors, and some tens of MB.
_BATCH_EVENTS = 256
_BATCH_PIXELS = 1 << 22


@dataclass(frozen=True)
class CifInfo:
    """What a file says about all of its events."""

    n_events: int
    channels: tuple[str, ...]
    """Names of the channels in use, such as Ch1, in the order of the images."""
    channel_numbers: tuple[int, ...]
    """Which channels of the instrument they are, from 1."""
    magnification: float | None
    pixel_size_um: float | None
    """Side of a pixel in µm, from the magnification."""
    camera_bits: int | None
    """Bits of the camera; compensated pixels may go beyond."""
    software: str
    """Version of the software that wrote the file."""
    date: str
    """When it was written, as that software put it."""


@dataclass(frozen=True)
class Event:
    """One event."""

    object_number: int
    image: npt.NDArray[Any]
    """(channel, y, x), camera counts, uint16 as a rule."""
    mask: npt.NDArray[np.uint8] | None
    """(channel, y, x): 0 background, 1 object, 2 and 3 object cut by the frame; None where the file has none."""
    background: npt.NDArray[np.float64] | None
    """(channel,) mean counts of the background, as the file tells them; None where it does not."""
    offset: int
    """Where its directory stands, in bytes from the start of the file: a ``.daf`` knows its events by it."""


class _Picture(NamedTuple):
    """The pixels of an image or a mask, as they are in the file."""

    coded: bytes
    shape: codecs.Shape
    compression: int
    bits: int
    byte_order: str

    @property
    def n_pixels(self) -> int:
        return self.shape[0] * self.shape[1]


class _Coded(NamedTuple):
    """An event, as it is in the file."""

    object_number: int
    offset: int
    image: _Picture
    mask: _Picture | None
    background: tuple[float, ...]


def read_info(path: Path) -> CifInfo:
    """Read what a file says about all of its events.

    Raises
    ------
    DataError
        If it is no ``.cif`` or ``.rif`` file, or damaged at its start.
    """
    with TiffFile(path) as tiff:
        directories = tiff.directories()
        sample = next(directories, None)
        if sample is None or _EVENTS not in sample.entries or _ACQUISITION not in sample.entries:
            tiff.refuse("does not describe a sample as .cif and .rif files of an imaging flow cytometer do")
        first = next(directories, None)
        try:
            acquisition = ET.fromstring(tiff.text(sample, _ACQUISITION))
        except ET.ParseError as error:
            tiff.refuse(f"its description of the acquisition is damaged ({error})")
        magnification = _positive(acquisition.findtext("Imaging/Magnification"))
        camera = re.search(r"<CameraBitsPerPixel>([0-9]{1,2})<", tiff.text(sample, _INSTRUMENT))
        numbers, names = _channels(acquisition)
        if not numbers:
            tiff.refuse("names no channel in use")
        return CifInfo(
            n_events=tiff.number(sample, _EVENTS, 0),
            channels=names,
            channel_numbers=numbers,
            magnification=magnification,
            pixel_size_um=None if magnification is None else _PIXEL_UM / magnification,
            camera_bits=None if camera is None else int(camera[1]),
            software=tiff.text(sample, _SOFTWARE),
            date="" if first is None else tiff.text(first, _DATE),
        )


def _channels(acquisition: ET.Element) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return numbers and names of the channels in use."""
    imaging = acquisition.find("Imaging")
    told = [] if imaging is None else [child for child in imaging if child.tag.startswith("ChannelInUseIndicators")]
    in_use = (told[0].text or "").split() if told else []
    numbers = tuple(number for number, flag in enumerate(in_use, start=1) if flag == "1")
    names = tuple(acquisition.findtext(f"Display/Channel{number}Name") or f"Ch{number}" for number in numbers)
    return numbers, names if len(set(names)) == len(names) else tuple(f"Ch{number}" for number in numbers)


def _positive(text: str | None) -> float | None:
    """Return a positive number; None for any other text."""
    return float(text) if text and re.fullmatch(r"[0-9]{1,4}(\.[0-9]+)?", text) and float(text) else None


def iterate_events(path: Path, *, threads: int = 1) -> Iterator[list[Event]]:
    """Yield the events in the order of the file, some hundred at a time.

    Parameters
    ----------
    path
        A ``.cif`` or ``.rif`` file.
    threads
        How many batches are decoded side by side, while the file is read on.

    Raises
    ------
    DataError
        If the file is damaged, cut off, or holds pixels in a coding that is not known.
    """
    info = read_info(path)
    n_events = 0
    with TiffFile(path) as tiff, ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[list[Event]]] = deque()
        for batch in _batches(_coded_events(tiff, len(info.channels))):
            n_events += len(batch)
            ahead.append(pool.submit(_decoded, batch, info, tiff))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
        if n_events != info.n_events:
            tiff.refuse(f"holds {n_events} events, where it says that they are {info.n_events}")


def _batches(events: Iterable[_Coded]) -> Iterator[list[_Coded]]:
    """Gather events that are decoded together: so many, or fewer where they are large."""
    batch: list[_Coded] = []
    n_pixels = 0
    for event in events:
        batch.append(event)
        n_pixels += event.image.n_pixels
        if len(batch) == _BATCH_EVENTS or n_pixels > _BATCH_PIXELS:
            yield batch
            batch, n_pixels = [], 0
    if batch:
        yield batch


def _coded_events(tiff: TiffFile, n_channels: int) -> Iterator[_Coded]:
    """Yield the events as they are in the file: an image, and the mask that follows it."""
    directories = tiff.directories()
    next(directories)
    waiting: _Coded | None = None
    n_images = 0
    for directory in directories:
        picture = _picture(tiff, directory, n_channels)
        sort = tiff.number(directory, _SORT, _MASK if picture.compression == _BITMASK else _IMAGE)
        if sort == _MASK:
            if waiting is None or waiting.image.shape != picture.shape:
                _refuse(tiff, directory, "is a mask that belongs to no image")
            yield waiting._replace(mask=picture)
            waiting = None
            continue
        if waiting is not None:
            yield waiting
        background = tiff.numbers(directory, _BACKGROUND)
        if background and len(background) != n_channels:
            _refuse(tiff, directory, f"has {len(background)} channels, not {n_channels}")
        waiting = _Coded(
            object_number=tiff.number(directory, _OBJECT, n_images),
            offset=directory.offset,
            image=picture,
            mask=None,
            background=background,
        )
        n_images += 1
    if waiting is not None:
        yield waiting


def _picture(tiff: TiffFile, directory: Directory, n_channels: int) -> _Picture:
    """Return the pixels that a directory describes; refuse what no event has, before anything is made of it."""
    height, width = tiff.number(directory, _HEIGHT, 0), tiff.number(directory, _WIDTH, 0)
    compression, bits = tiff.number(directory, _COMPRESSION, _UNCOMPRESSED), tiff.number(directory, _BITS, 16)
    if not (0 < height <= _LARGEST_SIDE and 0 < width <= n_channels * _LARGEST_SIDE) or width % n_channels:
        _refuse(tiff, directory, f"has {height} x {width} pixels, which is no row of {n_channels} channels")
    if compression not in (_UNCOMPRESSED, *codecs.PIXELS_PER_BYTE) or bits not in (8, 16):
        _refuse(tiff, directory, f"has pixels of {bits} bits in compression {compression}, which is not known")
    offsets, sizes = tiff.offsets(directory, _STRIP_OFFSETS), tiff.numbers(directory, _STRIP_SIZES)
    n_bytes, n_pixels = int(sum(sizes)), height * width
    if compression == _UNCOMPRESSED:
        fits = n_bytes == n_pixels * bits // 8
    else:
        fits = n_pixels <= n_bytes * codecs.PIXELS_PER_BYTE[compression] and n_bytes <= n_pixels * _MOST_BYTES_PER_PIXEL
    if not fits or len(offsets) != len(sizes):
        _refuse(tiff, directory, f"has {n_bytes:,} bytes for {height} x {width} pixels, which cannot be")
    coded = b"".join(tiff.read(offset, int(size)) for offset, size in zip(offsets, sizes, strict=True))
    return _Picture(coded, (height, width), compression, bits, tiff.order)


def _refuse(tiff: TiffFile, directory: Directory, reason: str) -> NoReturn:
    tiff.refuse(f"the picture at byte {directory.offset:,} {reason}")


def _decoded(events: Sequence[_Coded], info: CifInfo, tiff: TiffFile) -> list[Event]:
    """Decode events, all of a coding at once."""
    masked = [event for event in events if event.mask is not None]
    try:
        culprits: Sequence[_Coded] = events
        images = _pixels([event.image for event in events])
        culprits = masked
        masks = iter(_pixels([event.mask for event in masked if event.mask is not None]))
    except codecs.DamagedError as error:
        tiff.refuse(f"object {culprits[error.row].object_number} is damaged: {error}")
    n_channels = len(info.channels)
    return [
        Event(
            object_number=event.object_number,
            image=_by_channel(image, n_channels),
            mask=None if event.mask is None else _by_channel(next(masks), n_channels),
            background=_means(event.background),
            offset=event.offset,
        )
        for event, image in zip(events, images, strict=True)
    ]


def _means(told: tuple[float, ...]) -> npt.NDArray[np.float64] | None:
    """Return means of the background; None where they are no counts of a camera."""
    return np.array(told) if told and all(0 <= mean < 1 << 16 for mean in told) else None


def _pixels(pictures: Sequence[_Picture]) -> list[npt.NDArray[Any]]:
    """Return the pixels (y, x) of each picture."""
    pixels: list[Any] = [None] * len(pictures)
    for compression in {picture.compression for picture in pictures}:
        rows = [row for row, picture in enumerate(pictures) if picture.compression == compression]
        coded, shapes = [pictures[row].coded for row in rows], [pictures[row].shape for row in rows]
        try:
            if compression == _GREYSCALE:
                decoded: Sequence[Any] = codecs.decode_greyscale(coded, shapes)
            elif compression == _BITMASK:
                decoded = codecs.decode_bitmask(coded, shapes)
            else:
                decoded = [_uncompressed(pictures[row]) for row in rows]
        except codecs.DamagedError as error:
            raise codecs.DamagedError(rows[error.row], str(error)) from error
        for row, picture in zip(rows, decoded, strict=True):
            pixels[row] = picture
    return pixels


def _uncompressed(picture: _Picture) -> npt.NDArray[Any]:
    dtype = np.dtype(f"{picture.byte_order}u{picture.bits // 8}")
    return np.frombuffer(picture.coded, dtype).reshape(picture.shape).astype(dtype.newbyteorder("="))


def _by_channel(picture: npt.NDArray[Any], n_channels: int) -> npt.NDArray[Any]:
    """View a picture with its channels side by side as (channel, y, x)."""
    return picture.reshape(len(picture), n_channels, -1).swapaxes(0, 1)
