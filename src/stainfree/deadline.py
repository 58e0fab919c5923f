"""The deadline of a job: work that knows it leaves in time, so that its next attempt goes on where it stopped.

A cluster kills a job that is over its time limit. Its warning signal does not reach the process that works (it ends at
the batch shell), so whoever works long asks, after each piece of work, whether there is time for another one.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

RESERVE_SECONDS = 20.0
"""Kept for what comes after the last piece of work: a first checkpoint, the end of the process and of its workflow."""


@dataclass
class Deadline:
    """When a process must have ended, and how long its pieces of work take."""

    at: float | None = None
    """Seconds since the epoch; None where nobody ends the work."""
    clock: Callable[[], float] = time.time
    _since: float = field(init=False)
    _longest: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A piece of work begins: what came before it was none."""
        self._since = self.clock()

    def is_near(self) -> bool:
        """Tell, after a piece of work, whether another one, as long as the longest so far, could end too late."""
        now = self.clock()
        self._longest = max(self._longest, now - self._since)
        self._since = now
        return self.at is not None and now + self._longest + RESERVE_SECONDS > self.at


def of_job(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return when Slurm ends the job that this process runs in.

    Returns
    -------
    float or None
        Seconds since the epoch; None outside of a job, for one without a limit, and, with a warning, where Slurm does
        not answer: a job that is killed at its limit goes on at its last checkpoint.
    """
    if "SLURM_JOB_ID" not in environment:
        return None
    if "SLURM_JOB_END_TIME" in environment:  # since Slurm 23.02
        return float(environment["SLURM_JOB_END_TIME"])
    job = environment["SLURM_JOB_ID"]
    if "SLURM_ARRAY_TASK_ID" in environment:
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    try:
        told = subprocess.run(
            ["squeue", "--noheader", f"--jobs={job}", "--format=%e"],
            env={**environment, "SLURM_TIME_FORMAT": "%s"},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("squeue does not tell when job %s ends (%s): it may be killed at its limit", job, error)
        return None
    return float(told) if told.isdigit() else None
