"""What benchmarks share: a process of its own for each measurement, since peak memory never falls again."""

from __future__ import annotations

import logging
import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def peak_mib() -> float:
    """Return the peak of this process's resident memory until now, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=fresh, initializer=logging.disable) as pool:
        return pool.submit(function, *arguments).result()
