"""Clear what a snakemake that was killed hard left behind, when that is safe.

    python -m stainfree.restart        in the project's folder, before the next snakemake

A snakemake that ends, however badly, removes its lock; one that is killed (SIGKILL, power) leaves it, and the next one
refuses to start. The lock says nothing of who holds it. So it is cleared here only where it can be no living one's:

- it is this user's: what another user's processes do cannot be seen;
- it was taken on this machine, as the log of the run says that took it: a folder may be shared with other machines;
- no snakemake of this user works in this folder.

Incomplete files are made again by snakemake itself (``rerun-incomplete`` in the default profile), and training scripts
that outlived their snakemake stop by themselves (see `stainfree.checkpoints`).
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path, PurePath

import psutil  # type: ignore[import-untyped]

from stainfree.errors import StainfreeError


class LockedError(StainfreeError):
    """The folder is locked, and it is not certain that nobody holds the lock."""


def is_snakemake(command: Sequence[str]) -> bool:
    """Tell whether a command line runs snakemake, by its own name or as a module of Python."""
    names = [PurePath(word).name for word in command[:5]]
    if not names or not names[0].lower().startswith(("python", "snakemake")):
        return False
    return "snakemake" in names


def find_running(folder: Path) -> list[int]:
    """Return the processes that run snakemake in `folder`, as far as this user may see them."""
    found = []
    for process in psutil.process_iter():
        try:
            if is_snakemake(process.cmdline()) and Path(process.cwd()).resolve() == folder.resolve():
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return sorted(found)


def find_locks(folder: Path) -> list[Path]:
    """Return the files by which snakemake locks `folder`."""
    return sorted((folder / ".snakemake" / "locks").glob("*.lock"))


def host_of(lock: Path) -> str | None:
    """Return the machine on which a lock was taken; None where no log tells.

    Snakemake names its log by the time it started, and writes its machine there before it takes the lock: it is the
    newest log begun before the lock was.
    """
    logs = sorted((lock.parent.parent / "log").glob("*.snakemake.log"), reverse=True)
    taken = lock.stat().st_mtime
    for log in logs:
        hosts = re.findall(r"^ *[Hh]ost: (.+)$", log.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        if hosts and _begun(log) <= taken:
            return hosts[0].strip()
    return None


def _begun(log: Path) -> float:
    return datetime.strptime(log.name.removesuffix(".snakemake.log"), "%Y-%m-%dT%H%M%S.%f").timestamp()


def clear(folder: Path) -> bool:
    """Remove a stale lock of `folder`.

    Returns
    -------
    bool
        Whether there was one.

    Raises
    ------
    LockedError
        If the lock may be a living snakemake's.
    """
    locks = find_locks(folder)
    if not locks:
        return False
    if running := find_running(folder):
        raise LockedError(
            f"{folder}: snakemake is running here (process {', '.join(map(str, running))}); wait for it, or stop it"
        )
    by_hand = "make sure that no snakemake runs here any more, then run: snakemake --unlock"
    for lock in locks:
        if hasattr(os, "getuid") and lock.stat().st_uid != os.getuid():
            raise LockedError(f"{lock}: the lock of another user ({_user(lock)}); {by_hand}")
        host = host_of(lock)
        if host not in (None, platform.node()):
            raise LockedError(f"{lock}: the lock was taken on another machine ({host}); there, {by_hand}")
    for lock in locks:
        lock.unlink(missing_ok=True)
    return True


def _user(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)


def main() -> int:
    """Clear the current folder; tell what was done in one line."""
    try:
        cleared = clear(Path.cwd())
    except StainfreeError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if cleared:
        print("An earlier run was killed: its lock is cleared, and what it left half-done is made again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
