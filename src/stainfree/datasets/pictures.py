"""What kinds of source that hold a picture per cell share: decoding, one frame for all cells, batches.

A decoded picture is an array (channel, y, x) in the dtype of the file. No picture is larger than `LARGEST_SIDE`
pixels a side, and no file than `LARGEST_FILE` bytes: a few bytes that unfold into gigabytes are refused before they are
decoded. For the same reason compressed TIFFs are decoded by libtiff, whose buffers are as large as the picture.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from stainfree.cells import CHUNK_CELLS
from stainfree.datasets import Batch, Dataset, Drops
from stainfree.errors import ConfigError, DataError
from stainfree.stain import integrate

LARGEST_FILE = 1 << 26
"""Bytes of the largest file that is taken for the picture of one cell."""

LARGEST_SIDE = 2048
"""Pixels along the longest side of the picture of one cell."""

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_BITS = 24  # position of the bits per sample in the first chunk of a PNG
_OPAQUE = 255


class Cell(NamedTuple):
    """One cell, as read from the source."""

    image: npt.NDArray[Any]
    """(channel, y, x)."""
    stage: str
    cell_id: str
    source: str


def decode(content: bytes, *, name: str, n_channels: int = 1) -> npt.NDArray[Any]:
    """Decode a PNG, JPEG or TIFF.

    Parameters
    ----------
    content
        The bytes of the file.
    name
        How messages call the file.
    n_channels
        Channels that it must hold: pages or samples of a TIFF, or the colours of a PNG or JPEG.

    Returns
    -------
    ndarray
        (channel, y, x), native byte order.

    Raises
    ------
    DataError
        If the file is damaged, too large, in colour where grey is expected, or has another number of channels.
    """
    try:
        samples = _tiff(content) if content.startswith(_TIFF_STARTS) else _png_or_jpeg(content)
    # Whatever a broken file makes the decoders stumble over.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{name}: not a readable PNG, JPEG or TIFF of a cell ({reason}); replace or remove it"
        ) from error
    return select_channels(samples, n_channels, name=name)


def select_channels(samples: npt.NDArray[Any], n_channels: int, *, name: str) -> npt.NDArray[Any]:
    """Return the samples (sample, y, x) as channels; three equal colours are one grey channel.

    Raises
    ------
    DataError
        If they are not `n_channels`.
    """
    if len(samples) == n_channels:
        return samples
    if n_channels == 1 and len(samples) == 3:
        if (samples == samples[:1]).all():
            return samples[:1]
        raise DataError(f"{name}: is a colour picture where grey is expected; save it as grey, one channel a file")
    raise DataError(
        f"{name}: holds {len(samples)} channels, not {n_channels}; correct `channels`, or give {{channel}} in `layout` "
        "where each channel has a file of its own"
    )


def _png_or_jpeg(content: bytes) -> npt.NDArray[Any]:
    """Return the samples (sample, y, x) of a PNG or JPEG."""
    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as opened:
        _refuse_large(opened.height, opened.width)
        opened.load()
        image: Image.Image = opened
        if image.format == "PNG":
            bits = content[_PNG_BITS]
            # Pillow cuts colours of 16 bits down to 8, and stretches grey of fewer, without a word.
            if (bits == 16) != image.mode.startswith("I;16") or (bits < 8 and image.mode != "P"):
                raise ValueError(f"{bits} bits a sample in mode {image.mode}: save it as grey of 8 or 16 bits")
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        return _samples(image)


def _samples(image: Image.Image) -> npt.NDArray[Any]:
    """Return the pixels of a loaded picture as (sample, y, x), without an alpha channel that hides nothing."""
    pixels = np.asarray(image)
    if image.mode in ("LA", "RGBA"):
        if (pixels[..., -1] != _OPAQUE).any():
            raise ValueError("it is transparent in places: save it without an alpha channel")
        pixels = pixels[..., :-1]
    elif image.mode not in ("L", "RGB", "I", "F") and not image.mode.startswith("I;16"):
        raise ValueError(f"colour mode {image.mode}: save it as grey")
    samples = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return samples.astype(samples.dtype.newbyteorder("="))


def _tiff(content: bytes) -> npt.NDArray[Any]:
    """Return the samples (sample, y, x) of all pages of a TIFF."""
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        # So many pages that all of them could be channels, and one more to see that there are too many.
        pages = [cast(tifffile.TiffPage, page) for page in islice(tiff.pages, 65)]
        if len(pages) > 64:
            raise ValueError("more than 64 pages")
        return np.concatenate([_page(page, number, content) for number, page in enumerate(pages)])


def _page(page: tifffile.TiffPage, number: int, content: bytes) -> npt.NDArray[Any]:
    """Return the samples (sample, y, x) of one page of a TIFF."""
    _refuse_large(page.imagelength, page.imagewidth)
    if page.imagedepth != 1 or not 1 <= page.samplesperpixel <= 64:
        raise ValueError(f"{page.samplesperpixel} samples in {page.imagedepth} planes a page")
    if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
        raise ValueError(f"pixels stored as {getattr(page.photometric, 'name', page.photometric)}: save it as grey")
    # tifffile fills strips beyond the end of a cut-off file with zeros, without a word.
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or max(ends) > len(content):
        raise ValueError("it is cut off")
    if page.compression != tifffile.COMPRESSION.NONE:
        with Image.open(io.BytesIO(content), formats=("TIFF",)) as image:
            image.seek(number)
            _refuse_large(image.height, image.width)
            image.load()
            return _samples(image)
    if sum(page.databytecounts) < page.nbytes:
        raise ValueError("it holds fewer pixels than it says")
    pixels = np.asarray(page.asarray())
    if pixels.dtype.kind not in "uif":
        raise ValueError(f"pixels of type {pixels.dtype}")
    samples = {"YX": pixels[None], "SYX": pixels, "YXS": np.moveaxis(pixels, -1, 0)}[page.axes]
    return samples.astype(samples.dtype.newbyteorder("="))


def _refuse_large(height: int, width: int) -> None:
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
        raise ValueError(f"{height} x {width} pixels, where {LARGEST_SIDE} a side is the most for one cell")


def image_size(dataset: Dataset) -> tuple[int, int] | None:
    """Return the option ``image_size`` of a data set: height and width in pixels; None where it has none.

    Raises
    ------
    ConfigError
        If it is no pair of positive whole numbers.
    """
    given = dataset.options.get("image_size")
    if given is None:
        return None
    sides = given if isinstance(given, list | tuple) else []
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in sides):
        raise ConfigError(
            f"data set {dataset.name}: image_size is {given!r}; give [height, width] in pixels, {LARGEST_SIDE} at most"
        )
    return sides[0], sides[1]


class Frame:
    """Sees that all cells of a data set have one size and one depth: those of the first, or the ``image_size`` given.

    Parameters
    ----------
    dataset
        Its option ``image_size`` ([height, width] in pixels) brings every image to that size: smaller ones are padded
        by their edge values, larger ones cropped, both about the middle.
    drops
        Counts the images that had to be changed.

    Raises
    ------
    ConfigError
        If ``image_size`` is no pair of positive whole numbers.
    """

    def __init__(self, dataset: Dataset, drops: Drops) -> None:
        self._name = dataset.name
        self._drops = drops
        self._first = ""
        self._dtype: np.dtype[Any] | None = None
        self._wanted = image_size(dataset)
        self._shape = self._wanted

    def __call__(self, image: npt.NDArray[Any], *, name: str) -> npt.NDArray[Any]:
        """Return an image (channel, y, x) in the data set's size.

        Raises
        ------
        DataError
            If size or dtype differ from those of the first image.
        """
        if self._wanted is not None and image.shape[1:] != self._wanted:
            image = refit(image, self._wanted)
            self._drops.refitted += 1
        if self._dtype is None or self._shape is None:
            self._dtype, self._shape, self._first = image.dtype, (image.shape[1], image.shape[2]), name
        if image.shape[1:] != self._shape:
            raise DataError(
                f"{name}: {image.shape[1]} x {image.shape[2]} pixels, where {self._first} has {self._shape[0]} x "
                f"{self._shape[1]}; set `image_size: [height, width]` of data set {self._name} to pad or crop all "
                "images to one size"
            )
        if image.dtype != self._dtype:
            raise DataError(
                f"{name}: pixels of {image.dtype}, where {self._first} has {self._dtype}; save all images of data set "
                f"{self._name} with the depth that its `bit_depth` says"
            )
        return image


def refit(image: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Pad an image (channel, y, x) by its edge values, or crop it, to `size` (height, width) about its middle."""
    pads: list[tuple[int, int]] = [(0, 0)]
    cuts: list[slice] = [slice(None)]
    for have, want in zip(image.shape[1:], size, strict=True):
        missing, beyond = max(0, want - have), max(0, have - want)
        pads.append((missing // 2, missing - missing // 2))
        cuts.append(slice(beyond // 2, have - (beyond - beyond // 2)))
    return np.pad(image[tuple(cuts)], pads, mode="edge")


def stack(planes: list[npt.NDArray[Any]], names: list[str]) -> npt.NDArray[Any]:
    """Join the pictures (1, y, x) of a cell's channels; refuse those that differ in size or dtype.

    Raises
    ------
    DataError
        Naming the file that differs from the first.
    """
    first = planes[0]
    for plane, name in zip(planes, names, strict=True):
        if plane.shape != first.shape or plane.dtype != first.dtype:
            raise DataError(
                f"{name}: {plane.shape[1]} x {plane.shape[2]} pixels of {plane.dtype}, where {names[0]} has "
                f"{first.shape[1]} x {first.shape[2]} of {first.dtype}; channels of a cell must be alike: replace one"
            )
    return np.concatenate(planes)


def batches(cells: Iterable[Cell], dataset: Dataset) -> Iterator[Batch]:
    """Gather cells into batches of `stainfree.cells.CHUNK_CELLS`, never holding more of them than one batch.

    With the option ``dna_channel`` the integrated counts of that channel are the cells' DNA content.

    Raises
    ------
    ConfigError
        If ``dna_channel`` is none of the data set's channels.
    """
    dna = dataset.options.get("dna_channel")
    if dna is not None and dna not in dataset.channels:
        raise ConfigError(f"data set {dataset.name}: dna_channel {dna} is none of its channels; correct it")
    left = iter(cells)
    for first in left:
        yield _batch(
            chain([first], islice(left, CHUNK_CELLS - 1)), None if dna is None else dataset.channels.index(dna)
        )


def _batch(cells: Iterable[Cell], dna: int | None) -> Batch:
    images, stages, ids, sources = zip(*cells, strict=True)
    stacked = np.stack(images)
    return Batch(
        images=stacked,
        stage=stages,
        cell_id=ids,
        source=sources,
        dna_content=None if dna is None else integrate(stacked[:, dna]),
    )


def layout_pattern(dataset: Dataset, layout: str, *, channels: bool) -> re.Pattern[str]:
    """Turn a layout such as ``{folder}/{id}_{channel}.png`` into a pattern with groups of these names.

    Parameters
    ----------
    dataset
        Its channel keys are what may stand for ``{channel}``.
    layout
        Holds ``{folder}`` (or ``{class}``, which means the same) and ``{id}``, and may hold ``{source}``.
    channels
        Whether ``{channel}`` must be there.

    Raises
    ------
    ConfigError
        If a field is missing, unknown, or stands twice.
    """
    layout = layout.replace("{class}", "{folder}")
    fields = re.findall(r"{(\w*)}", layout)
    needed = ["folder", "id", *(["channel"] if channels else [])]
    if missing := [field for field in needed if field not in fields]:
        raise ConfigError(f"data set {dataset.name}: layout {layout!r} lacks {{{missing[0]}}}; add it")
    if odd := [field for field in fields if field not in (*needed, "source", "channel") or fields.count(field) > 1]:
        raise ConfigError(
            f"data set {dataset.name}: layout {layout!r} must hold {{source}}, {{folder}}, {{id}} and {{channel}} once "
            f"at most, and nothing like {{{odd[0]}}}; correct it"
        )
    keys = "|".join(re.escape(key) for key in sorted(dataset.channel_keys.values(), key=len, reverse=True))
    pattern = re.escape(layout)
    for field in fields:
        inner = keys if field == "channel" else "[^/]+?" if field == "id" else "[^/]+"
        pattern = pattern.replace(re.escape(f"{{{field}}}"), f"(?P<{field}>{inner})", 1)
    return re.compile(pattern)


def natural(text: str) -> tuple[list[Any], str]:
    """Return a sorting key by which 2 comes before 10."""
    parts = re.split(r"([0-9]+)", text)
    # Texts and numbers take turns; a longer number is a larger one, once its leading zeros are gone.
    digits = [(len(part.lstrip("0")), part.lstrip("0")) for part in parts[1::2]]
    return [item for pair in zip(parts[::2], [*digits, (0, "")], strict=True) for item in pair], text
