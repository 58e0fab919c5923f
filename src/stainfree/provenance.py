"""Where a result came from: versions, commit, hardware, and the Slurm job."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).parent
DRIVER = Path("/proc/driver/nvidia/version")


def git_commit(folder: Path = LIBRARY) -> str:
    """Return the commit of the project, with ``+changes`` where tracked files differ; ``unknown`` without git."""
    try:
        run = subprocess.run(
            [
                "git",
                "--no-optional-locks",
                "-C",
                str(folder),
                "describe",
                "--always",
                "--abbrev=40",
                "--dirty=+changes",
                "--exclude=*",
            ],
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


def gpu_names() -> list[str]:
    """Return the GPUs that this process has used, by name; none where it has not used torch on one."""
    # A question to a GPU that is not in use yet would take hold of it, and importing torch takes seconds.
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return []
    return [cuda.get_device_name(index) for index in range(cuda.device_count())]


def gpu_driver() -> str:
    """Return the version of NVIDIA's driver; an empty text where there is none."""
    try:
        told = DRIVER.read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", told)
    return found[1] if found else ""


# What is recorded -> the variable in which Slurm tells it to a job.
SLURM = {
    "job": "SLURM_JOB_ID",
    "array_task": "SLURM_ARRAY_TASK_ID",
    "restarts": "SLURM_RESTART_COUNT",
    "partition": "SLURM_JOB_PARTITION",
    "node": "SLURMD_NODENAME",
    "gpus": "SLURM_GPUS_ON_NODE",
}


def slurm_job() -> dict[str, str]:
    """Return what Slurm says of the job that this process runs in; nothing outside of one."""
    if "SLURM_JOB_ID" not in os.environ:
        return {}
    return {name: os.environ[variable] for name, variable in SLURM.items() if variable in os.environ}


def gpus_held() -> int:
    """Return how many GPUs this process keeps from others: those of its Slurm job, or else one that it uses."""
    slurm = slurm_job()
    return int(slurm.get("gpus", 0)) if slurm else len(gpu_names()[:1])


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # A step's own environment does not hold snakemake, which has brought its modules along.
        return str(getattr(sys.modules.get(package), "__version__", "not installed"))


def collect(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Return what made a result.

    Parameters
    ----------
    packages
        Names of distributions whose versions matter to the result.

    Returns
    -------
    dict
        stainfree and package versions, Python, git commit, system, node, processor and its number of cores; where there
        are such, the GPUs that this process has used, their driver and the Slurm job.
    """
    hardware = {"gpus": gpu_names(), "gpu_driver": gpu_driver(), "slurm": slurm_job()}
    return {
        "stainfree": importlib.import_module("stainfree").__version__,
        "commit": git_commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "system": platform.platform(),
        "node": platform.node(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        **{name: value for name, value in hardware.items() if value},
    }
