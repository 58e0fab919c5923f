"""A tolerant walk along the directories of a TIFF, as the cytometer writes them.

The cytometer's files have a directory per picture, hundreds of thousands of them, with types and counts that common
readers refuse. Only what the walk needs is understood here; the file is read once, in pieces, from front to back.

Offsets have 32 bits, and files grow beyond 4 GiB. Every directory there stands in front of its pixels and of the next
directory, so an offset in such a file is the first place behind the directory that has these last 32 bits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, NoReturn, Self

from stainfree.errors import DataError

# Type of a value -> how many numbers it is made of (a fraction of two), and what `struct` calls such a number.
_TYPES = {
    **{1: (1, "B"), 2: (1, "B"), 3: (1, "H"), 4: (1, "I"), 5: (2, "I"), 6: (1, "b"), 7: (1, "B"), 8: (1, "h")},
    **{9: (1, "i"), 10: (2, "i"), 11: (1, "f"), 12: (1, "d")},
}
# Type of a whole number that is not negative -> its bytes.
_WHOLE = {3: 2, 4: 4}
# The vendor's directories have some 35 entries.
_MOST_ENTRIES = 1000
# A real file holds 1.5 MB of XML in one value.
_LARGEST_VALUE = 1 << 26
# Bytes read at a time: some tens of events.
_PIECE = 1 << 18
_WRAP = 1 << 32


@dataclass(frozen=True, slots=True)
class Directory:
    """One directory: where it stands, and its entries as they are in the file."""

    offset: int
    """Bytes from the start of the file."""
    entries: dict[int, tuple[int, int, bytes]]
    """Tag -> type, count, and four bytes with the value or its offset."""


class TiffFile:
    """A file of which the directories are walked along; to be used in a ``with`` block.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    DataError
        If it is missing or no TIFF.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._stream = path.open("rb", buffering=0)
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); correct its name or the right to it"
            ) from error
        self.size = self._stream.seek(0, 2)
        self._piece, self._start = b"", 0
        head = self.read(0, min(8, self.size))
        if len(head) < 8 or head[:4] not in (b"II*\0", b"MM\0*"):
            self._stream.close()
            raise DataError(f"{path}: is no .cif or .rif file of an imaging flow cytometer; give another file")
        self.order = "<" if head.startswith(b"II") else ">"
        self._byte_order: Literal["little", "big"] = "little" if self.order == "<" else "big"
        (self._first,) = struct.unpack(f"{self.order}I", head[4:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()

    def refuse(self, reason: str) -> NoReturn:
        """Raise a `DataError` that names the file and the mend."""
        raise DataError(f"{self.path}: {reason}; replace it by a sound copy") from None

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the file; refuse what lies beyond its end."""
        begin = offset - self._start
        if begin < 0 or begin + size > len(self._piece):
            if offset + size > self.size:
                self.refuse(
                    f"ends at byte {self.size:,}, where something should stand at byte {offset:,}: it is cut off"
                )
            self._stream.seek(offset)
            self._piece, self._start, begin = self._read_piece(max(size, _PIECE)), offset, 0
        return self._piece[begin : begin + size]

    def _read_piece(self, size: int) -> bytes:
        """Return the next bytes of the stream: a single read may give fewer than asked for."""
        parts = []
        while size > 0 and (part := self._stream.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def directories(self) -> Iterator[Directory]:
        """Yield the directories in the order of their chain.

        Raises
        ------
        DataError
            If the chain leads out of the file or back into itself.
        """
        offset, n, anchor = self._first, 0, -1
        while offset:
            if offset == anchor:
                self.refuse(f"the chain of its directories leads back to byte {offset:,}: it has no end")
            # Brent's way to find a loop, without remembering all places.
            n += 1
            if n & (n - 1) == 0:
                anchor = offset
            directory, following = self._directory(offset)
            yield directory
            offset = following and self._behind(offset, following)

    def _directory(self, offset: int) -> tuple[Directory, int]:
        """Return the directory at an offset, and the offset of the next as it is written; 0 behind the last."""
        (n_entries,) = struct.unpack(f"{self.order}H", self.read(offset, 2))
        if not 0 < n_entries <= _MOST_ENTRIES:
            self.refuse(f"the directory at byte {offset:,} has {n_entries} entries: it is damaged")
        content = self.read(offset + 2, 12 * n_entries + 4)
        entries = {
            tag: (kind, count, value)
            for tag, kind, count, value in struct.iter_unpack(f"{self.order}HHI4s", content[:-4])
        }
        return Directory(offset, entries), struct.unpack(f"{self.order}I", content[-4:])[0]

    def _behind(self, place: int, offset: int) -> int:
        """Return an offset of 32 bits, written at `place`, as bytes from the start of the file."""
        return offset if self.size <= _WRAP else place + (offset - place) % _WRAP

    def numbers(self, directory: Directory, tag: int) -> tuple[float, ...]:
        """Return the numbers under a tag; none where the directory lacks it.

        Raises
        ------
        DataError
            If they are of an unknown type, absurdly many, or beyond the end of the file.
        """
        if tag not in directory.entries:
            return ()
        content = self._value(directory, tag)
        letter = _TYPES[directory.entries[tag][0]][1]
        return struct.unpack(f"{self.order}{len(content) // struct.calcsize(letter)}{letter}", content)

    def number(self, directory: Directory, tag: int, default: int) -> int:
        """Return the first number under a tag, whole; `default` where there is none."""
        kind, count, value = directory.entries.get(tag, (0, 0, b""))
        if count == 1 and kind in _WHOLE:  # as nearly always
            return int.from_bytes(value[: _WHOLE[kind]], self._byte_order)
        numbers = self.numbers(directory, tag)
        return int(numbers[0]) if numbers else default

    def text(self, directory: Directory, tag: int) -> str:
        """Return the text under a tag; an empty one where the directory lacks it.

        Raises
        ------
        DataError
            If it is absurdly long or beyond the end of the file.
        """
        if tag not in directory.entries:
            return ""
        return self._value(directory, tag).rstrip(b"\0").decode("utf-8", "replace")

    def offsets(self, directory: Directory, tag: int) -> list[int]:
        """Return the offsets under a tag, in bytes from the start of the file."""
        return [self._behind(directory.offset, int(offset)) for offset in self.numbers(directory, tag)]

    def _value(self, directory: Directory, tag: int) -> bytes:
        """Return the bytes of the value under a tag."""
        kind, count, value = directory.entries[tag]
        if kind not in _TYPES:
            self.refuse(f"tag {tag} of the directory at byte {directory.offset:,} is of no known type: it is damaged")
        parts, letter = _TYPES[kind]
        size = count * parts * struct.calcsize(letter)
        if size <= len(value):
            return value[:size]
        if size > _LARGEST_VALUE:
            self.refuse(f"tag {tag} of the directory at byte {directory.offset:,} has {size:,} bytes: it is damaged")
        (offset,) = struct.unpack(f"{self.order}I", value)
        return self.read(self._behind(directory.offset, offset), size)
