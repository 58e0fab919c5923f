"""Clear what a snakemake that was killed hard left behind, when that is safe.

    python -m stainfree.restart        in the project's folder, before the next snakemake

A snakemake that ends, however badly, removes its lock; one that is killed (SIGKILL, power) leaves it, and the next one
refuses to start. The lock says nothing of who holds it. So it is cleared here only where it can be no living one's:

- it is this user's: what another user's processes do cannot be seen;
- it was taken on this machine, as the log of the run says that took it: a folder may be shared with other machines;
- no snakemake of this user works in this folder.

Jobs that the killed run left in Slurm are cancelled first: they would go on beside those of the next run, and whoever
ends last removes or replaces the other's files.

Incomplete files are made again by snakemake itself (``rerun-incomplete`` in the default profile), and training scripts
that outlived their snakemake stop by themselves (see `stainfree.checkpoints`).
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path, PurePath

import psutil  # type: ignore[import-untyped]

from stainfree.errors import StainfreeError

SECONDS_TO_END = 120.0
"""How long cancelled jobs may take to be gone."""


class LockedError(StainfreeError):
    """The folder is locked, and it is not certain that nobody holds the lock."""


def is_snakemake(command: Sequence[str]) -> bool:
    """Tell whether a command line runs snakemake, by its own name or as a module of Python."""
    names = [PurePath(word).name for word in command[:5]]
    if not names or not names[0].lower().startswith(("python", "snakemake")):
        return False
    return "snakemake" in names


def find_running(folder: Path) -> list[int]:
    """Return the processes that run snakemake in `folder`, as far as this user may see them.

    Those that it starts within a job of a cluster are none of them.
    """
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            within_job = ("--mode", "remote") in pairwise(command)
            if is_snakemake(command) and not within_job and Path(process.cwd()).resolve() == folder.resolve():
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return sorted(found)


def find_locks(folder: Path) -> list[Path]:
    """Return the files by which snakemake locks `folder`."""
    return sorted((folder / ".snakemake" / "locks").glob("*.lock"))


def log_of(lock: Path) -> str:
    """Return what the run said that took a lock; nothing where no log tells.

    Snakemake names its log by the time it started, and writes its machine there before it takes the lock: it is the
    newest log begun before the lock was.
    """
    logs = sorted((lock.parent.parent / "log").glob("*.snakemake.log"), reverse=True)
    taken = lock.stat().st_mtime
    for log in logs:
        text = log.read_text(encoding="utf-8", errors="replace")
        if _told("[Hh]ost", text) and _begun(log) <= taken:
            return text
    return ""


def _told(name: str, log: str) -> str | None:
    found = re.search(rf"^ *{name}: (.+)$", log, re.MULTILINE)
    return found[1].strip() if found else None


def _begun(log: Path) -> float:
    return datetime.strptime(log.name.removesuffix(".snakemake.log"), "%Y-%m-%dT%H%M%S.%f").timestamp()


def cancel_jobs(run: str) -> int:
    """Cancel the Slurm jobs of a run of snakemake that is no more, and wait until they are gone; return how many.

    Parameters
    ----------
    run
        The name of all its jobs, which its log calls the run ID.
    """
    still_there = ["squeue", "--noheader", "--array", "--format=%i", f"--name={run}"]
    if not (jobs := _ask(still_there).split()):
        return 0
    _ask(["scancel", f"--name={run}"])
    end = time.monotonic() + SECONDS_TO_END
    while left := _ask(still_there).split():
        if time.monotonic() > end:
            raise LockedError(f"Slurm does not end the jobs of the killed run ({', '.join(left)}); try again later")
        time.sleep(0.5)
    return len(jobs)


def _ask(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        raise LockedError(
            f"jobs of the killed run may still be in Slurm, which does not answer ({' '.join(reason.split())}); "
            "run this again when it does"
        ) from error


def clear(folder: Path) -> int | None:
    """Remove a stale lock of `folder`, and what the run that took it left in Slurm.

    Returns
    -------
    int or None
        How many jobs were still in Slurm; None where there was no lock.

    Raises
    ------
    LockedError
        If the lock may be a living snakemake's.
    """
    locks = find_locks(folder)
    if not locks:
        return None
    if running := find_running(folder):
        raise LockedError(
            f"{folder}: snakemake is running here (process {', '.join(map(str, running))}); wait for it, or stop it"
        )
    runs = {run for lock in locks if (run := _told("SLURM run ID", log_of(lock)))}
    commands = [*(f"scancel --name={run}" for run in sorted(runs)), "snakemake --unlock"]
    by_hand = f"make sure that no snakemake runs here any more, then run: {'; '.join(commands)}"
    for lock in locks:
        if hasattr(os, "getuid") and lock.stat().st_uid != os.getuid():
            raise LockedError(f"{lock}: the lock of another user ({_user(lock)}); {by_hand}")
        host = _told("[Hh]ost", log_of(lock))
        if host not in (None, platform.node()):
            raise LockedError(f"{lock}: the lock was taken on another machine ({host}); there, {by_hand}")
    cancelled = sum(cancel_jobs(run) for run in runs)
    for lock in locks:
        lock.unlink(missing_ok=True)
    return cancelled


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
    if cleared is not None:
        print("An earlier run was killed: its lock is cleared, and what it left half-done is made again.")
    if cleared:
        print(f"Jobs of it that were still in Slurm and are cancelled: {cleared}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
