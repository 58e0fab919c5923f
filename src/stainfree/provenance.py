"""Where a result came from: versions, commit, hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).parent


def git_commit(folder: Path = LIBRARY) -> str:
    """Return the commit of the project, with ``+changes`` where tracked files differ; ``unknown`` without git."""
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return run.stdout.strip()


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def collect(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Return what made a result.

    Parameters
    ----------
    packages
        Names of distributions whose versions matter to the result.

    Returns
    -------
    dict
        stainfree and package versions, Python, git commit, system, node, processor and its number of cores.
    """
    return {
        "stainfree": importlib.import_module("stainfree").__version__,
        "commit": git_commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "system": platform.platform(),
        "node": platform.node(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
    }
