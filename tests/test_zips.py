"""Zip archives are read entry by entry as `zipfile` reads them, and what is damaged is refused."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Callable

import pytest

from stainfree.datasets import zips

CONTENTS = {
    "a.txt": b"",
    "folder/": b"",
    "folder/größe µ.bin": random.Random(0).randbytes(5000),
    "folder/b.txt": b"many equal letters " * 1000,
}


def pack(compression: int, *, before: bytes = b"", comment: bytes = b"", streamed: bool = False) -> bytes:
    class Pipe(io.BytesIO):
        """A file in which one cannot seek: sizes then stand behind the entries, and in the directory."""

        def seekable(self) -> bool:
            return not streamed

    out = Pipe()
    out.write(before)
    with zipfile.ZipFile(out, "a" if before else "w", compression) as packed:
        packed.comment = comment
        for name, content in CONTENTS.items():
            packed.writestr(name, content)
    return out.getvalue()


def unpack(content: bytes) -> dict[str, bytes]:
    stream = io.BytesIO(content)
    return {name: zips.read(stream, entry) for name, entry in list(zips.entries(stream))}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "options",
    [{}, {"before": b"a program that unpacks itself"}, {"comment": b"PK and more" * 50}, {"streamed": True}],
)
def test_whatever_zipfile_writes(compression: int, options: dict) -> None:
    assert unpack(pack(compression, **options)) == CONTENTS


def test_more_entries_than_a_short_end_can_count() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for number in range(0x10001):
            packed.writestr(zipfile.ZipInfo(f"{number}"), b"x" if number % 1000 == 0 else b"")
    stream = io.BytesIO(out.getvalue())
    found = list(zips.entries(stream))
    assert [name for name, _ in found] == [f"{number}" for number in range(0x10001)]
    assert zips.read(stream, found[65_000][1]) == b"x"


def test_numbers_too_long_for_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    # As zipfile writes them beyond 4 GB.
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    content = pack(zipfile.ZIP_DEFLATED)
    assert struct.pack("<L", 0xFFFFFFFF) in content
    assert unpack(content) == CONTENTS


def entry_of(content: bytes) -> tuple[io.BytesIO, zips.Entry]:
    stream = io.BytesIO(content)
    return stream, dict(zips.entries(stream))["folder/b.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry._replace(encrypted=True), "it is encrypted"),
        (lambda entry: entry._replace(method=zipfile.ZIP_LZMA), "method 14, not by the usual deflate"),
        (lambda entry: entry._replace(offset=entry.offset + 1), "does not lie where the archive says"),
        (lambda entry: entry._replace(crc=entry.crc ^ 1), "its checksum is wrong"),
        (lambda entry: entry._replace(size=entry.size - 1), "its checksum is wrong"),
        (lambda entry: entry._replace(packed=entry.packed - 9), "its checksum is wrong"),
        (lambda entry: entry._replace(method=zipfile.ZIP_STORED), "its checksum is wrong"),
    ],
)
def test_entries_that_are_not_what_the_directory_says(change: Callable[[zips.Entry], zips.Entry], message: str) -> None:
    stream, entry = entry_of(pack(zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match=message):
        zips.read(stream, change(entry))


def test_a_damaged_entry_is_refused() -> None:
    content = bytearray(pack(zipfile.ZIP_DEFLATED))
    stream, entry = entry_of(bytes(content))
    for place in range(zips.find_start(stream, entry.offset), zips.find_start(stream, entry.offset) + entry.packed):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        with pytest.raises(ValueError, match=r"checksum|invalid|incorrect|incomplete"):
            zips.read(io.BytesIO(damaged), entry)


def test_no_more_is_unfolded_than_the_directory_says() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("bomb", bytes(10_000_000))
    stream = io.BytesIO(out.getvalue())
    ((_, entry),) = zips.entries(stream)
    assert len(zips.read(stream, entry)) == 10_000_000
    with pytest.raises(ValueError, match="its checksum is wrong"):
        zips.read(stream, entry._replace(size=9))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "it has no directory"),
        (lambda content: content[:-1], "it has no directory"),
        (lambda content: b"no archive at all" * 100, "it has no directory"),
        (lambda content: content[1000:], "it lacks its beginning"),
        (lambda content: content.replace(b"PK\1\2", b"PK\1\3"), "its directory is damaged"),
    ],
)
def test_what_is_no_archive(damage: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack(damage(pack(zipfile.ZIP_STORED)))
