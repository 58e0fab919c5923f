"""The cytometer's images are decoded pixel for pixel, from sound files of every form, and from none other."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import missing
from cytometer_files import (
    GREYSCALE,
    UNCOMPRESSED,
    acquisition,
    encode_bitmask,
    encode_greyscale,
    store,
    write_cif,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stainfree.cytometer import codecs
from stainfree.cytometer.cif import Event, iterate_events, read_info
from stainfree.cytometer.frames import cut_out
from stainfree.cytometer.tiff import TiffFile
from stainfree.errors import DataError

# Tags of the operator, the instrument and the file that it was made from, which may hold names of people.
PERSONAL_TAGS = (33005, 33006, 33026)


@pytest.fixture
def example(mirror: Path) -> Path:
    """A real file of 111 events."""
    path = mirror.parent / "cytometer" / "imagestream-example.cif"
    if not path.is_file():
        missing(f"{path}: lay the real files of a cytometer beside the mirror (see README) to test on them")
    return path


def _events(path: Path, *, threads: int = 1) -> list[Event]:
    return [event for events in iterate_events(path, threads=threads) for event in events]


def _cells(n: int, *, n_channels: int = 6, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Make images and masks (channel, y, x) of differing size."""
    rng = np.random.default_rng(seed)
    cells = []
    for _ in range(n):
        shape = (n_channels, *rng.integers(20, 40, 2))
        image = (200 + 3 * rng.standard_normal(shape)).astype(np.uint16)
        mask = np.zeros(shape, np.uint8)
        mask[:, 5:15, 6:18] = 1
        image[mask > 0] += 500
        cells.append((image, mask))
    return cells


def _write(path: Path, cells: list[tuple[np.ndarray, np.ndarray]], **options: Any) -> Path:
    told = {key: options.pop(key) for key in ("compression", "n_strips") if key in options}
    stored = [store(k, *cell, order=options.get("order", "<"), **told) for k, cell in enumerate(cells)]
    write_cif(path, stored, **{"n_events": len(cells), "n_channels": len(cells[0][0])} | options)
    return path


# Real events


def test_real_events_are_those_of_an_independent_decoder(example: Path) -> None:
    events = _events(example)
    assert [event.object_number for event in events] == list(range(111))
    with np.load(example.with_name("imagestream-example.decoded.npz")) as decoded:
        for event in events:
            np.testing.assert_array_equal(event.image, decoded[f"image_{event.object_number:03d}"], strict=True)
            np.testing.assert_array_equal(event.mask, decoded[f"mask_{event.object_number:03d}"], strict=True)


def test_real_background_is_that_of_the_images(example: Path) -> None:
    for event in _events(example)[:20]:
        assert event.background is not None
        np.testing.assert_allclose(event.background, np.median(event.image, axis=(1, 2)), atol=12)


def test_real_description(example: Path) -> None:
    info = read_info(example)
    assert (info.n_events, info.magnification, info.pixel_size_um) == (111, 40, 0.5)
    assert info.channels == ("Ch1", "Ch2", "Ch3", "Ch4", "Ch5", "Ch6")
    assert info.channel_numbers == (1, 2, 3, 4, 5, 6)
    assert (info.software, info.date, info.camera_bits) == ("6.0.354.0", "5/2/2016 2:26:24 PM", 10)


def test_description_names_no_person(example: Path) -> None:
    with TiffFile(example) as tiff:
        sample = next(tiff.directories())
        names = [tiff.text(sample, tag) for tag in PERSONAL_TAGS]
    assert all(names)
    assert not any(name in repr(read_info(example)) for name in names)


def test_encoders_of_the_tests_make_the_instruments_own_bytes(example: Path) -> None:
    events = {event.offset: event for event in _events(example)}
    compared = 0
    with TiffFile(example) as tiff:
        for directory in tiff.directories():
            if directory.offset in events:
                event = events[directory.offset]
                (strip,), (size,) = tiff.offsets(directory, 273), tiff.numbers(directory, 279)
                side_by_side = np.ascontiguousarray(np.concatenate(list(event.image), axis=1))
                assert encode_greyscale(side_by_side) == tiff.read(strip, int(size))
                compared += 1
    assert compared == 111


# Codings


@given(hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)))
@settings(max_examples=100, deadline=None)
def test_any_picture_survives_the_greyscale_coding(picture: np.ndarray) -> None:
    # A neighbour on either side: numbers must not run from one picture into the next.
    other = np.full((3, 7), 77, np.uint16)
    pictures = [other, picture, other]
    coded = [encode_greyscale(each) for each in pictures]
    decoded = codecs.decode_greyscale(coded, [(len(each), each.shape[1]) for each in pictures])
    for got, expected in zip(decoded, pictures, strict=True):
        np.testing.assert_array_equal(got, expected, strict=True)


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 3)))
@settings(max_examples=50, deadline=None)
def test_any_mask_survives_the_bitmask_coding(mask: np.ndarray) -> None:
    blank = np.zeros((30, 30), np.uint8)
    decoded = codecs.decode_bitmask([encode_bitmask(blank), encode_bitmask(mask)], [(30, 30), mask.shape])
    np.testing.assert_array_equal(decoded[0], blank, strict=True)
    np.testing.assert_array_equal(decoded[1], mask, strict=True)


def test_a_number_by_hand() -> None:
    # 1, then 100: three groups 4, 4, 1 with two bits that say there is more; then -2, and half a byte left over.
    assert codecs.decode_greyscale([bytes([0xC1, 0x1C, 0x06])], [(1, 3)])[0].tolist() == [[1, 101, 99]]


@pytest.mark.parametrize("filler", [0x0, 0x7, 0x8, 0xF])
def test_half_a_byte_left_over_means_nothing(filler: int) -> None:
    decoded = codecs.decode_greyscale([bytes([0x21, 0x03 | filler << 4]), b"\x12"], [(1, 3), (1, 2)])
    assert [picture.tolist() for picture in decoded] == [[[1, 3, 6]], [[2, 3]]]


@pytest.mark.parametrize(
    ("decode", "coded", "row"),
    [
        (codecs.decode_greyscale, [b"\x11", b"\x88"], 1),
        (codecs.decode_greyscale, [b"\x11", b"\x88" * 9 + b"\x08", b"\x11"], 1),
        (codecs.decode_bitmask, [b"\1\1", b"\1\0"], 1),
        (codecs.decode_bitmask, [b"\1\2", b"\1\1"], 0),
        (codecs.decode_bitmask, [b"\1\1\0", b"\1\1"], 0),
    ],
)
def test_damaged_pictures_are_told(decode: Callable[..., Any], coded: list[bytes], row: int) -> None:
    with pytest.raises(codecs.DamagedError) as error:
        decode(coded, [(1, 2)] * len(coded))
    assert error.value.row == row


# Forms of files


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [GREYSCALE, UNCOMPRESSED])
@pytest.mark.parametrize("n_strips", [1, 3])
def test_files_of_every_form(tmp_path: Path, order: str, compression: int, n_strips: int) -> None:
    cells = _cells(300, n_channels=2)
    events = _events(_write(tmp_path / "x.cif", cells, order=order, compression=compression, n_strips=n_strips))
    for number, (event, (image, mask)) in enumerate(zip(events, cells, strict=True)):
        assert event.object_number == number
        np.testing.assert_array_equal(event.image, image, strict=True)
        np.testing.assert_array_equal(event.mask, mask, strict=True)


def test_threads_keep_the_order(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.cif", _cells(20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stainfree.cytometer.cif._BATCH_EVENTS", 3)
        events = _events(path, threads=3)
    assert [event.object_number for event in events] == list(range(20))
    for event, alone in zip(events, _events(path), strict=True):
        np.testing.assert_array_equal(event.image, alone.image)


def test_raw_files_without_masks(tmp_path: Path) -> None:
    cells = _cells(3)
    stored = [store(7 + k, image, None, background=range(6)) for k, (image, _) in enumerate(cells)]
    write_cif(tmp_path / "x.rif", stored, n_events=3)
    events = _events(tmp_path / "x.rif")
    assert [event.object_number for event in events] == [7, 8, 9]
    assert [event.mask for event in events] == [None] * 3
    np.testing.assert_array_equal(events[2].image, cells[2][0])
    np.testing.assert_array_equal(events[2].background, range(6))


def test_offsets_beyond_4_gib(tmp_path: Path) -> None:
    # Mostly a hole, which takes no room on the disk.
    cells = _cells(4)
    gaps = {1: (1 << 32) - 5000, 2: 1 << 31, 3: (1 << 31) + 12_345}
    stored = [store(k, *cell) for k, cell in enumerate(cells)]
    places = write_cif(tmp_path / "x.cif", stored, n_events=4, gaps=gaps)
    assert places[-1] > 1 << 33
    events = _events(tmp_path / "x.cif")
    assert [event.offset for event in events] == places
    for event, (image, mask) in zip(events, cells, strict=True):
        np.testing.assert_array_equal(event.image, image)
        np.testing.assert_array_equal(event.mask, mask)


@pytest.mark.parametrize(("magnification", "side"), [(20, 1.0), (40, 0.5), (60, 1 / 3)])
def test_pixel_size_by_magnification(tmp_path: Path, magnification: float, side: float) -> None:
    description = acquisition(2, magnification)
    info = read_info(_write(tmp_path / "x.cif", _cells(1, n_channels=2), description=description))
    assert info.pixel_size_um == pytest.approx(side)
    assert info.channels == ("Ch1", "Ch2")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    cells = _cells(20)
    for n in (600, 1800):
        stored = [store(k, *cell) for k, cell in enumerate(cells)]
        write_cif(tmp_path / "x.cif", (stored[k % len(stored)] for k in range(n)), n_events=n)
        tracemalloc.start()
        assert sum(len(events) for events in iterate_events(tmp_path / "x.cif")) == n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


# Bad input


def _patch(path: Path, place: int, form: str, *values: Any) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, place, *values)
    path.write_bytes(content)


def _entry(path: Path, number: int, tag: int) -> int:
    """Return where the entry of a tag stands, in the directory of that number."""
    with TiffFile(path) as tiff:
        directory = list(tiff.directories())[number]
    return directory.offset + 2 + 12 * sorted(directory.entries).index(tag)


def _place(path: Path, number: int) -> int:
    """Return where the directory of that number stands."""
    with TiffFile(path) as tiff:
        return list(tiff.directories())[number].offset


def _link(path: Path, number: int) -> int:
    """Return where the offset stands that follows the directory of that number."""
    with TiffFile(path) as tiff:
        directory = list(tiff.directories())[number]
    return directory.offset + 2 + 12 * len(directory.entries)


def _set(number: int, tag: int, form: str, value: int) -> Callable[[Path], None]:
    return lambda path: _patch(path, _entry(path, number, tag) + 8, form, value)


BAD = {
    "loop": (lambda path: _patch(path, _link(path, 6), "<I", _place(path, 1)), "no end"),
    "loop of one": (lambda path: _patch(path, _link(path, 1), "<I", _place(path, 1)), "no end"),
    "back to the start": (lambda path: _patch(path, _link(path, 4), "<I", 8), "no row of 6 channels"),
    "chain leads out": (lambda path: _patch(path, _link(path, 3), "<I", 4_000_000_000), "cut off"),
    "wide": (_set(3, 256, "<I", 4_000_000_000), "no row of 6 channels"),
    "odd width": (_set(3, 256, "<I", 7), "no row of 6 channels"),
    "flat": (_set(3, 257, "<I", 0), "no row of 6 channels"),
    "tall": (_set(3, 257, "<I", 2048), "which cannot be"),
    "strip beyond the end": (_set(3, 273, "<I", 4_000_000_000), "cut off"),
    "strip too large": (_set(3, 279, "<I", 4_000_000_000), "which cannot be"),
    "compression": (_set(3, 259, "<H", 5), "compression 5, which is not known"),
    "depth": (_set(3, 258, "<H", 12), "12 bits"),
    "mask of another size": (_set(4, 257, "<I", 9), "belongs to no image|cannot be"),
    "mask of no image": (_set(3, 33002, "<H", 3), "belongs to no image"),
    "other number of events": (_set(0, 33018, "<I", 5), "holds 4 events, where it says that they are 5"),
    "no entries": (lambda path: _patch(path, _link(path, 2) - 2 - 12 * 7, "<H", 0), "0 entries|damaged"),
    "no description": (lambda path: _patch(path, _entry(path, 0, 33018), "<H", 60000), "does not describe a sample"),
    "description cut": (lambda path: _patch(path, _entry(path, 0, 33027) + 4, "<I", 99), "acquisition is damaged"),
    "description beyond reason": (
        lambda path: _patch(path, _entry(path, 0, 33027) + 4, "<I", 4_000_000_000),
        "4,000,000,000 bytes",
    ),
    "type": (lambda path: _patch(path, _entry(path, 3, 257) + 2, "<H", 99), "no known type"),
    "no TIFF": (lambda path: path.write_bytes(b"PK\3\4" + path.read_bytes()[4:]), r"no \.cif or \.rif"),
    "BigTIFF": (lambda path: _patch(path, 2, "<H", 43), r"no \.cif or \.rif"),
    "empty": (lambda path: path.write_bytes(b""), r"no \.cif or \.rif"),
    "missing": (lambda path: path.unlink(), "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    damage, message = BAD[name]
    path = _write(tmp_path / "x.cif", _cells(4))
    damage(path)
    with pytest.raises(DataError, match=message) as error:
        _events(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.cif", _cells(3))
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 60).astype(int).tolist():
        path.write_bytes(whole[:size])
        with pytest.raises(DataError) as error:
            _events(path)
        assert "\n" not in str(error.value)


def test_channels_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    (image, mask), *_ = _cells(1)
    write_cif(tmp_path / "x.rif", [store(0, image, mask, background=range(12))], n_events=1)
    with pytest.raises(DataError, match="has 12 channels, not 6"):
        _events(tmp_path / "x.rif")


def test_real_bytes_changed_at_random_never_crash_it(example: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = example.read_bytes()
    with TiffFile(example) as tiff:
        directories = [directory.offset for directory in tiff.directories()]
    path = tmp_path / "x.cif"
    refused = 0
    for attempt in range(80):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            # Most changes hit a directory, where they do the most harm; late ones let much be read before them.
            place = directories[rng.integers(0, len(directories))] + rng.integers(0, 350)
            place = int(place if rng.random() < 0.8 else rng.integers(0, len(content)))
            content[place : place + 4] = rng.integers(0, 256, 4, dtype=np.uint8).tobytes()
        if attempt % 10 == 0:
            del content[int(rng.integers(8, len(content))) :]
        path.write_bytes(content)
        tracemalloc.start()
        try:
            _events(path)
        except DataError as error:
            assert "\n" not in str(error)
            refused += 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100 << 20
    assert refused > 30


# Cutting out


def _frame(height: int, width: int, box: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    image = np.full((2, height, width), 40, np.uint16)
    mask = np.zeros((2, height, width), np.uint8)
    image[:, *box] = 900
    mask[0, *box] = 1
    return image, mask


def test_the_cell_comes_to_the_middle() -> None:
    image, mask = _frame(30, 40, (slice(2, 8), slice(30, 38)))
    cut = cut_out(image, mask, np.array([41.4, 39.6]), size=(20, 20))
    assert (cut.padded, cut.cropped, cut.cell_cut) == (True, True, False)
    np.testing.assert_array_equal(cut.image[:, 7:13, 6:14], 900)
    assert (cut.image == 900).sum() == 2 * 6 * 8
    # Five rows above the frame and four columns beside it are background, of each channel its own.
    assert set(cut.image[0, :5].ravel()) == set(cut.image[0, :, 16:].ravel()) == {41}
    assert set(cut.image[1, :5].ravel()) == {40}


def test_a_speck_beside_the_cell_hardly_moves_it() -> None:
    image, mask = _frame(40, 40, (slice(10, 20), slice(10, 20)))
    mask[1, 10, 38] = 1
    cut = cut_out(image, mask, None, size=(20, 20))
    np.testing.assert_array_equal(cut.image[:, 5:15, 5:15], 900)
    assert cut.cell_cut
    mask[1, 10, 38] = 0
    assert not cut_out(image, mask, None, size=(20, 20)).cell_cut


@pytest.mark.parametrize("blank", [True, False])
def test_without_a_mask_the_middle_of_the_frame(blank: bool) -> None:
    image, mask = _frame(10, 14, (slice(4, 6), slice(6, 8)))
    cut = cut_out(image, np.zeros_like(mask) if blank else None, None, size=(6, 20))
    np.testing.assert_array_equal(cut.image[:, 2:4, 9:11], 900)
    assert (cut.padded, cut.cropped, cut.cell_cut) == (True, True, False)
    # The background is the median along the border.
    assert set(cut.image[:, :, :3].ravel()) == {40}


def test_a_cell_larger_than_the_size_is_told() -> None:
    image, mask = _frame(30, 30, (slice(2, 28), slice(10, 14)))
    cut = cut_out(image, mask, None, size=(20, 30))
    assert (cut.padded, cut.cropped, cut.cell_cut) == (True, True, True)
    assert cut.image.shape == (2, 20, 30)


def test_an_event_of_the_size_is_left_alone() -> None:
    image, mask = _frame(20, 20, (slice(8, 12), slice(8, 12)))
    cut = cut_out(image, mask, None, size=(20, 20))
    assert (cut.padded, cut.cropped, cut.cell_cut) == (False, False, False)
    np.testing.assert_array_equal(cut.image, image)
