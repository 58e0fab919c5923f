"""What Slurm's own records say of jobs that ended without a word of their own."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FIELDS = ("JobIDRaw", "Start", "ElapsedRaw", "TotalCPU", "MaxRSS")
UNITS = {"": 1 / 2**20, "K": 1 / 2**10, "M": 1.0, "G": 2.0**10, "T": 2.0**20}


@dataclass
class SlurmRun:
    """One run of a job; a job that Slurm put back into its queue has several."""

    job: str
    start: float
    """Seconds since 1970."""
    wall_s: float
    cpu_s: float
    peak_rss_mib: float = 0.0


def ask(jobs: Iterable[str]) -> list[SlurmRun]:
    """Ask ``sacct`` for the runs of jobs.

    Parameters
    ----------
    jobs
        Job ids, as in ``SLURM_JOB_ID``.

    Returns
    -------
    list of SlurmRun
        In the order of their start. Empty where Slurm is not there, keeps no accounts or does not know the jobs.
    """
    wanted = sorted(set(jobs))
    if not wanted:
        return []
    command = ["sacct", "--duplicates", "--noheader", "--parsable2", f"--format={','.join(FIELDS)}"]
    try:
        run = subprocess.run(
            [*command, f"--jobs={','.join(wanted)}"],
            env={**os.environ, "SLURM_TIME_FORMAT": "%s"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return parse(run.stdout)


def parse(text: str) -> list[SlurmRun]:
    """Read the answer of ``sacct``: a line for each run, followed by one for each step of it, which know its memory."""
    runs: list[SlurmRun] = []
    for line in text.splitlines():
        told = dict(zip(FIELDS, line.split("|"), strict=True))
        job, _, step = told["JobIDRaw"].partition(".")
        if step:
            runs[-1].peak_rss_mib = max(runs[-1].peak_rss_mib, _mebibytes(told["MaxRSS"]))
        elif told["Start"].isdecimal():  # others never started
            runs.append(SlurmRun(job, float(told["Start"]), float(told["ElapsedRaw"]), _seconds(told["TotalCPU"])))
    return sorted(runs, key=lambda run: run.start)


def _seconds(text: str) -> float:
    """Return the seconds of ``1-02:03:04``, ``02:03:04`` or ``03:04.567``."""
    days, _, clock = text.rpartition("-")
    seconds = 0.0
    for part in clock.split(":"):
        seconds = 60 * seconds + float(part or 0)
    return 86400 * int(days or 0) + seconds


def _mebibytes(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)([KMGT]?)", text)
    return float(found[1]) * UNITS[found[2]] if found else 0.0


def run_of(attempt: Mapping[str, Any], runs: Iterable[SlurmRun]) -> SlurmRun | None:
    """Return the run in which an attempt (see `stainfree.attempts`) began: the last of its job that started before."""
    # Slurm tells whole seconds.
    own = [run for run in runs if run.job == attempt["slurm"].get("job") and run.start <= attempt["began"] + 1]
    return own[-1] if own else None
