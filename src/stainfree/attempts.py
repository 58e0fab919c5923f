"""The record that every run of a step leaves beside its log: what made its results, and what it cost.

``logs/{rule}/{job}.attempts.jsonl`` holds the attempts behind the results that stand: one line when an attempt begins
and one when it ends, well or not. An attempt without its second line was killed. The first attempt after one that ended
well begins the file anew.

Results themselves hold nothing of this, so that they are the same wherever they are made.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stainfree import provenance

SUFFIX = ".attempts.jsonl"
# Packages whose modules have another name.
MODULES = {"PIL": "pillow", "sklearn": "scikit-learn", "umap": "umap-learn", "yaml": "pyyaml"}


def record_of(log: str | os.PathLike[str]) -> Path:
    """Return where the attempts of the job with this log file are recorded."""
    return Path(log).with_suffix(SUFFIX)


def _append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line; what finds no room on a full disk is lost, like a line of a log."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError:
        return


def begin(log: str | os.PathLike[str]) -> str:
    """Record that an attempt begins; return its id."""
    path = record_of(log)
    attempt = uuid.uuid4().hex
    if any(earlier.get("ended") and not earlier["failed"] for earlier in read(path)):
        path.unlink(missing_ok=True)
    line = {"attempt": attempt, "began": time.time(), "commit": provenance.git_commit(), "node": platform.node()}
    _append(path, {**line, "slurm": provenance.slurm_job()})
    return attempt


def end(
    log: str | os.PathLike[str], attempt: str, *, failed: bool, outputs: Iterable[str], cost: Mapping[str, float]
) -> None:
    """Record how an attempt ended.

    Parameters
    ----------
    log
        The job's log file.
    attempt
        What `begin` returned.
    failed
        Whether it ended with an error.
    outputs
        The files it made.
    cost
        wall_s, cpu_s, start_up_s and work_s (seconds) and peak_rss_mib (MiB) of the process.
    """
    line = {"attempt": attempt, "ended": time.time(), "failed": failed, "outputs": list(outputs)}
    told = {"cost": {**cost, "gpus": provenance.gpus_held()}, "made_by": provenance.collect(_loaded_packages())}
    _append(record_of(log), {**line, **told})


def _loaded_packages() -> list[str]:
    """Return the packages that this process has loaded modules of."""
    found = []
    for module in {name.partition(".")[0] for name in list(sys.modules)} - set(sys.stdlib_module_names):
        package = MODULES.get(module, module)
        try:
            version(package)
        except (PackageNotFoundError, ValueError):
            continue
        found.append(package)
    return sorted(set(found) - {"stainfree"})


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a record.

    Returns
    -------
    list of dict
        One per attempt, in the order in which they began: attempt, began, commit, node, slurm; and, unless it was
        killed, ended, failed, outputs, cost and made_by. Empty where there is no record.
    """
    path = Path(path)
    attempts: dict[str, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            told = json.loads(line)
        except ValueError:  # its writer was killed, or the disk was full
            continue
        attempts.setdefault(told["attempt"], {}).update(told)
    return [attempt for attempt in attempts.values() if "began" in attempt]


def last_good(attempts: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the attempt whose results stand: the last one that ended well, None where there is none."""
    return next((attempt for attempt in reversed([*attempts]) if attempt.get("failed") is False), None)


def made_by(attempt: Mapping[str, Any]) -> dict[str, Any]:
    """Return what made the results of an attempt that ended: its provenance, by the code with which it began."""
    return {**attempt["made_by"], "commit": attempt["commit"]}
