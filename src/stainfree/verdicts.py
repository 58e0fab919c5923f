"""What failed steps said, so that none does in vain what has failed for good, and the user reads why.

A workflow tries a failed job again, whatever the reason: on a cluster more time or memory may mend it. Where it cannot
(bad data, an impossible setting), the next attempt finds the verdict of the first one, repeats it and ends at once. A
verdict holds for the same input files and parameters only, and for one run of the workflow: the first attempt of the
next run works anew. At the end of a run that failed, all verdicts are shown together.

This module costs no heavy import: a repeated verdict takes a moment.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stainfree import files
from stainfree.errors import StainfreeError, TakenOverError

FOLDER = Path("work/verdicts")


def _state(path: str) -> list[Any]:
    """Return what tells another version of a file from this one: name, size, time of change."""
    try:
        status = os.stat(path)  # noqa: PTH116 - no Path for each of thousands of inputs
    except OSError:
        return [path]
    return [path, status.st_size, status.st_mtime_ns]


@dataclass(frozen=True)
class Verdict:
    """The place of one job's verdict, and what it would hold for."""

    rule: str
    log: str
    """The job's log file, ``logs/{rule}/{job}.log``: it names the job."""
    inputs: Sequence[str]
    params: Sequence[Any]
    """JSON-able, or printed alike in every process."""

    @property
    def path(self) -> Path:
        """Where the verdict is written down."""
        return FOLDER.joinpath(*Path(self.log).with_suffix(".json").parts[1:])

    def _holds_for(self) -> str:
        return files.digest(json.dumps([self.params, [_state(path) for path in self.inputs]], default=str))

    def record(self, error: BaseException, line: str) -> None:
        """Write down how the job ended; who was taken over is silent, since the job goes on elsewhere."""
        if isinstance(error, TakenOverError):
            return
        lasting = isinstance(error, StainfreeError) and error.lasting
        told = {"rule": self.rule, "log": self.log, "message": line, "lasting": lasting, "holds_for": self._holds_for()}
        with suppress(OSError, StainfreeError):  # the line is on the terminal and in the log
            files.write_json(self.path, told)

    def recall(self) -> str | None:
        """Return the message of an earlier attempt that this one would only repeat; None where there is none."""
        told = _read(self.path)
        if told and told["lasting"] and told["holds_for"] == self._holds_for():
            return told["message"]
        return None

    def forget(self) -> None:
        """The job works anew, or has ended well."""
        self.path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return files.read_json(path)
    except (OSError, ValueError):
        return None


def forget_all() -> None:
    """A run of the workflow begins."""
    shutil.rmtree(FOLDER, ignore_errors=True)


def summary() -> list[str]:
    """Return what the failed steps of the run said, a line each below a heading; nothing where none said anything."""
    told = filter(None, map(_read, sorted(FOLDER.rglob("*.json"))))
    lines = [f"{step['rule']}: {step['message']} (log: {step['log']})" for step in told]
    return ["What failed, and why:", *lines] if lines else []
