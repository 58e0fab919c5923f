"""Read a zip archive entry by entry, holding none of its directory.

`zipfile` keeps some 600 bytes of every entry, and an archive of pictures has several for a cell. Here the directory
is gone through once, and a caller keeps what it needs. Written after the format's own description, PKWARE's
APPNOTE.TXT (pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT), of which stored and deflated entries are read, and
archives beyond 65,535 entries and 4 GB (Zip64). Whatever is damaged ends in a `ValueError` that says what.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

# Headers of an entry itself, of an entry in the directory, and of the end of the directory in its short and its long
# form: sections 4.3.7, 4.3.12, 4.3.16 and 4.3.14, without what is not needed.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_DIRECTORY_HEADER = struct.Struct("<4s4xHH4xLLLHHH8xL")
_END = struct.Struct("<4s8xLL2x")
_LONG_END = struct.Struct("<4s36xQQ")
_LONG_END_LOCATOR_BYTES = 20
_LONGEST_COMMENT = 0xFFFF
_STANDS_IN_EXTRA = 0xFFFFFFFF
_EXTRA_OF_LONG_NUMBERS = 1
_ENCRYPTED, _UTF8 = 1, 0x800
_STORED, _DEFLATED = 0, 8


class Entry(NamedTuple):
    """Where an entry lies, and what it must turn out to be."""

    offset: int
    """Of its own header in the archive, in bytes."""
    packed: int
    """Bytes in the archive."""
    size: int
    """Bytes when unfolded."""
    crc: int
    method: int
    encrypted: bool


def entries(stream: IO[bytes]) -> Iterator[tuple[str, Entry]]:
    """Yield name and place of each entry, in the order of the directory; leave the stream alone meanwhile.

    Raises
    ------
    ValueError
        If this is no zip archive, or its directory is damaged.
    """
    start, size, moved = _directory(stream)
    stream.seek(start)
    left = size
    while left > 0:
        header = stream.read(_DIRECTORY_HEADER.size)
        if len(header) < _DIRECTORY_HEADER.size or not header.startswith(b"PK\1\2"):
            raise ValueError("its directory is damaged")
        _, flags, method, crc, packed, unfolded, *lengths, offset = _DIRECTORY_HEADER.unpack(header)
        name, extra, _ = (stream.read(length) for length in lengths)
        unfolded, packed, offset = _long_numbers([unfolded, packed, offset], extra)
        if offset + moved >= start:
            raise ValueError("its directory is damaged")
        yield (
            name.decode("utf-8" if flags & _UTF8 else "cp437"),
            Entry(offset + moved, packed, unfolded, crc, method, bool(flags & _ENCRYPTED)),
        )
        left -= len(header) + sum(lengths)


def read(stream: IO[bytes], entry: Entry) -> bytes:
    """Return the bytes of an entry, its size and checksum verified; no more than it says is ever unfolded.

    Raises
    ------
    ValueError
        If it is damaged, encrypted, or compressed in an unusual way.
    """
    if entry.encrypted:
        raise ValueError("it is encrypted")
    if entry.method not in (_STORED, _DEFLATED):
        raise ValueError(f"it is compressed by method {entry.method}, not by the usual deflate")
    stream.seek(find_start(stream, entry.offset))
    # What does not shrink grows by a few bytes in 16 thousand at most.
    content = stream.read(min(entry.packed, 2 * entry.size + 64))
    if entry.method == _DEFLATED:
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, entry.size + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from error
    if len(content) != entry.size or zlib.crc32(content) != entry.crc:
        raise ValueError("its checksum is wrong")
    return content


def find_start(stream: IO[bytes], offset: int) -> int:
    """Return where the bytes of an entry begin: after its own header, which stands at `offset`.

    Raises
    ------
    ValueError
        If there is no such header.
    """
    stream.seek(offset)
    header = stream.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise ValueError("it does not lie where the archive says")
    _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    return offset + _LOCAL_HEADER.size + int(name_length) + int(extra_length)


def _directory(stream: IO[bytes]) -> tuple[int, int, int]:
    """Return where the directory begins, its bytes, and by how many bytes all lies behind where the archive says."""
    tail_start = max(0, stream.seek(0, io.SEEK_END) - _END.size - _LONGEST_COMMENT)
    stream.seek(tail_start)
    tail = stream.read()
    at = tail.rfind(b"PK\5\6")
    if not 0 <= at <= len(tail) - _END.size:
        raise ValueError("it has no directory")
    _, size, start = _END.unpack_from(tail, at)
    end = tail_start + at
    # Where these numbers are too short, an end with longer ones, and its locator, stand before this one.
    stream.seek(max(0, end - _LONG_END.size - _LONG_END_LOCATOR_BYTES))
    before = stream.read(_LONG_END.size + _LONG_END_LOCATOR_BYTES)
    if before.startswith(b"PK\6\6") and before.startswith(b"PK\6\7", _LONG_END.size):
        _, size, start = _LONG_END.unpack_from(before)
        end -= len(before)
    moved = end - size - start
    if moved < 0:
        raise ValueError("it lacks its beginning")
    return start + moved, size, moved


def _long_numbers(numbers: list[int], extra: bytes) -> list[int]:
    """Return numbers of a directory entry; those too long for it stand one after the other in its extra field."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == _EXTRA_OF_LONG_NUMBERS:
            content = extra[4 : 4 + length]
            long = iter(struct.unpack(f"<{len(content) // 8}Q", content[: len(content) // 8 * 8]))
            return [next(long, number) if number == _STANDS_IN_EXTRA else number for number in numbers]
        extra = extra[4 + length :]
    return numbers
