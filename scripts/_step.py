"""What every script does first: find the library, open the step's log, and tell errors in one line.

    from _step import Step

    step = Step(snakemake)  # before anything heavy is imported: import errors land in the log too

    from stainfree import ...

    with step:
        ...

The log's last line says what the step cost: its own peak memory (Snakemake's sampling misses short peaks), the CPU
seconds until the work began (interpreter and imports), and the seconds of work.
"""

import logging
import os
import resource
import sys
import time
from pathlib import Path

# The library of this checkout, also where the step's environment has not installed it.
_SOURCE = str(Path(__file__).resolve().parent.parent / "src")
sys.path.insert(0, _SOURCE)
# ... and for a notebook's kernel, which is a process of its own.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_SOURCE, os.environ.get("PYTHONPATH")]))


class Step:
    """One run of a script: Snakemake's named values, the log, and the account of the cost."""

    def __init__(self, snakemake):
        self.input = snakemake.input
        self.output = snakemake.output
        self.params = snakemake.params
        self.wildcards = snakemake.wildcards
        # For what changes no result, such as a mirror: a change of it makes nothing stale.
        self.config = snakemake.config
        self.rule = snakemake.rule
        # Arithmetic libraries read these when they load. Steps that use more threads set them by themselves, from
        # the config: a result must not depend on how many cores Snakemake found.
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ[variable] = "1"
        os.environ.setdefault("MPLBACKEND", "agg")
        self._open_log(Path(snakemake.log[0]))

    def _open_log(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A process that outlived its snakemake may still write to the old one.
        path.unlink(missing_ok=True)
        # A line that finds no room on a full disk is lost; the error that says so is told on the terminal.
        logging.raiseExceptions = False
        file = logging.FileHandler(path, mode="w", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        terminal = logging.StreamHandler()
        terminal.setFormatter(logging.Formatter(f"[{self.rule}] %(message)s"))
        terminal.addFilter(lambda record: record.name != "cost")
        logging.basicConfig(level=logging.INFO, handlers=[file, terminal], force=True)
        logging.captureWarnings(capture=True)
        logging.getLogger("py.warnings").addHandler(file)
        logging.getLogger("py.warnings").propagate = False
        sys.excepthook = self._tell

    def _tell(self, kind, error, traceback):
        from stainfree import files
        from stainfree.errors import StainfreeError

        line = str(error) if issubclass(kind, StainfreeError) else files.explain(error)
        if line is not None:
            logging.getLogger("error").error("Error: %s", " ".join(line.split("\n")))
        else:
            logging.getLogger("error").error("Unexpected error", exc_info=(kind, error, traceback))

    def __enter__(self):
        self._start_up = time.process_time()
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind, error, traceback):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if sys.platform == "darwin":  # bytes there, KiB elsewhere
            peak //= 1024
        logging.getLogger("cost").info(
            "cost: peak_rss_mib=%.0f start_up_s=%.2f work_s=%.2f",
            peak / 1024,
            self._start_up,
            time.perf_counter() - self._began,
        )
