"""Writing files so that nothing half-written is ever seen under its final name."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stainfree.errors import StainfreeError

if TYPE_CHECKING:
    import pandas as pd

_MENDS = {
    errno.ENOSPC: "no space is left on the disk{free}; free some and run again",
    errno.EDQUOT: "your disk quota is used up{free}; free some space and run again",
    errno.EROFS: "the file system is read-only; run where you may write, or have it mounted for writing",
    errno.EACCES: "permission denied; give yourself the right to it (chmod, chown), or run elsewhere",
    errno.EPERM: "not permitted; give yourself the right to it (chmod, chown), or run elsewhere",
}
"""Troubles with files that a user can mend: error number -> what is wrong and the mend."""

_guard: ContextVar[Callable[[], None] | None] = ContextVar("guard", default=None)


class UnwritableError(StainfreeError):
    """A file cannot be written, for a reason outside the project: a full disk, a folder that is not ours."""

    lasting = False  # space may be free again at the next attempt


@contextmanager
def guarded(check: Callable[[], None]) -> Iterator[None]:
    """Ask `check` before any file of the block gets its final name; where it raises, the file is not written.

    A block inside a block asks both.
    """
    outer = _guard.get()

    def both() -> None:
        if outer is not None:
            outer()
        check()

    token = _guard.set(both)
    try:
        yield
    finally:
        _guard.reset(token)


def check_guard() -> None:
    """Ask the check of `guarded` now: work that writes nothing for long finds out sooner."""
    if (check := _guard.get()) is not None:
        check()


def temporary_name(path: Path) -> Path:
    """Return the name under which this process writes `path` before it is whole.

    It holds the host and the process, so that two that share a disk never share the name, and what a killed process
    left can be told. The suffix is that of `path`, since some writers choose their format by it.
    """
    return path.with_name(f".{path.stem}.{platform.node()}-{os.getpid()}.part{path.suffix}")


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` when the block ends well.

    When the block raises, the temporary file is removed and `path` is left as it was. What killed processes of this
    machine left in the folder is removed too.

    Raises
    ------
    UnwritableError
        If the disk is full or the folder is not writable: the file and the mend in one line.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent)
            yield temporary
            check_guard()
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what keeps `path` from being written in the block into an `UnwritableError`; pass on any other error."""
    try:
        yield
    except StainfreeError:
        raise
    except Exception as error:
        # Not OSError alone: safetensors and HDF5 have errors of their own for a full disk.
        # A file that was to be read, and may not, names itself.
        named = isinstance(error, PermissionError) and error.filename is not None
        if (line := explain(error, path=None if named else Path(path))) is None:
            raise
        raise UnwritableError(line) from error


def check_writable(*folders: str | os.PathLike[str]) -> None:
    """Refuse folders in which no file can be made; of one that is not there yet, the nearest that is.

    Raises
    ------
    UnwritableError
        The first such folder, why, and the mend.
    """
    for folder in map(Path, folders):
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            # The folder as the caller knows it, not the name of the file that was tried.
            named = folder if folder.is_dir() else there
            raise UnwritableError(explain(error, path=named) or f"{named}: {error.strerror}") from error


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes of this machine that are no more."""
    for path in folder.glob(".*.part*"):
        match = _temporary_pattern().fullmatch(path.name)
        if match and not is_running(int(match["pid"])):
            with suppress(OSError):  # removed by another process, or another user's
                path.unlink()


def _temporary_pattern() -> re.Pattern[str]:
    """Return what the temporary names of this machine's processes look like."""
    return re.compile(rf"\.(?P<stem>.+)\.{re.escape(platform.node())}-(?P<pid>\d+)\.part(?P<suffix>\.[^.]+)?")


def is_running(pid: int) -> bool:
    """Tell whether a process of this machine is running; true also where that cannot be found out."""
    if os.name != "posix":  # elsewhere signal 0 ends the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def explain(error: BaseException, *, path: Path | None = None) -> str | None:
    """Tell in one line which file cannot be written, why, and the mend; None for any other error.

    Parameters
    ----------
    error
        What was raised. The number of the system's error is its ``errno``, or stands in its text, as HDF5, Arrow and
        safetensors put it.
    path
        The file that was to be written; that of the error where None.
    """
    number = getattr(error, "errno", None)
    if number is None and (told := re.search(r"(?:errno = |errno |os error )(\d+)", str(error))):
        number = int(told[1])
    if number not in _MENDS:
        return None
    if path is None:
        named = re.search(r"name = '([^']+)'", str(error))
        name = getattr(error, "filename2", None) or getattr(error, "filename", None) or (named[1] if named else None)
        path = None if name is None else Path(os.fsdecode(name))
    where, free = "a file", ""
    if path is not None:
        if meant := _temporary_pattern().fullmatch(path.name):
            path = path.with_name(meant["stem"] + (meant["suffix"] or ""))
        where = str(path)
        free = _free_space(path.parent)
    return f"{where}: {_MENDS[number].format(free=free)}"


def _free_space(folder: Path) -> str:
    try:
        return f" ({shutil.disk_usage(folder).free / 1e6:.1f} MB free in {folder})"
    except OSError:
        return ""


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any] | list[Any]) -> None:
    """Write indented JSON atomically, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_csv(path: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Write a table as CSV, without its index, atomically."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def write_parquet(path: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Write a table as Parquet, without its index, atomically."""
    with atomic(path) as temporary:
        table.to_parquet(temporary, index=False)


def digest(value: Any) -> str:
    """Return the hexadecimal SHA-256 of a JSON-able value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
