"""What every script does first: find the library, open the step's log, and tell errors in one line.

    from _step import Step

    step = Step(snakemake)  # before anything heavy is imported: import errors land in the log too

    from stainfree import ...

    with step:
        ...

A job that failed for good is not tried again in earnest: a further attempt repeats what the first one said and ends
here, before the work and its imports (see stainfree.verdicts).

The log's last line says what the step cost: its own peak memory (Snakemake's sampling misses short peaks), the CPU
seconds until the work began (interpreter and imports), and the seconds of work. The same, and what made the step's
results, stands in a record beside the log (see stainfree.attempts).
"""

import logging
import os
import platform
import resource
import sys
import sysconfig
import time
from pathlib import Path

# Snakemake lets a step find the packages of the Python that snakemake runs in. In an environment of its own (its
# packages are then found once, not twice), a step must miss what it lacks rather than take it from there.
if "snakemake" in sys.modules and sys.path.count(sysconfig.get_path("purelib")) == 1:
    del sys.path[sys.path.index(str(Path(sys.modules["snakemake"].__file__).parents[1])) :]
# The library of this checkout, also where the step's environment has not installed it.
_SOURCE = str(Path(__file__).resolve().parent.parent / "src")
sys.path.insert(0, _SOURCE)
# ... and for a notebook's kernel, which is a process of its own.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_SOURCE, os.environ.get("PYTHONPATH")]))

from stainfree import attempts, files
from stainfree.errors import StainfreeError, TakenOverError
from stainfree.verdicts import Verdict


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
        attempt = snakemake.resources.get("attempt", 1)
        self._verdict = Verdict(self.rule, log=snakemake.log[0], inputs=list(self.input), params=list(self.params))
        repeated = self._verdict.recall() if attempt > 1 else None
        self._log = snakemake.log[0]
        self._open_log(Path(self._log))
        if repeated is not None:
            logging.getLogger("error").error("%s (said again: attempt %s is the same work)", repeated, attempt)
            sys.exit(1)
        self._verdict.forget()
        # Snakemake shows the cluster's own log of a killed job only where the step's log is not empty.
        job = os.environ.get("SLURM_JOB_ID")
        where = f"process {os.getpid()} on {platform.node()}" + (f", Slurm job {job}" if job else "")
        logging.getLogger("begun").info("begun: attempt %s, %s", attempt, where)

    def _open_log(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A process that outlived its snakemake may still write to the old one.
        path.unlink(missing_ok=True)
        # A line that finds no room on a full disk is lost; the error that says so is told on the terminal.
        logging.raiseExceptions = False
        file = logging.FileHandler(path, mode="w", encoding="utf-8")
        self._own_log = os.fstat(file.stream.fileno())
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        terminal = logging.StreamHandler()
        terminal.setFormatter(logging.Formatter(f"[{self.rule}] %(message)s"))
        terminal.addFilter(lambda record: record.name not in ("begun", "cost"))
        logging.basicConfig(level=logging.INFO, handlers=[file, terminal], force=True)
        logging.captureWarnings(capture=True)
        logging.getLogger("py.warnings").addHandler(file)
        logging.getLogger("py.warnings").propagate = False
        sys.excepthook = self._tell

    def _tell(self, kind, error, traceback):
        line = str(error) if issubclass(kind, StainfreeError) else files.explain(error)
        if line is not None:
            line = f"Error: {' '.join(line.splitlines())}"
            logging.getLogger("error").error(line)
        else:
            line = f"Unexpected error: {kind.__name__}: {' '.join(str(error).splitlines())}"
            logging.getLogger("error").error("Unexpected error", exc_info=(kind, error, traceback))
        if issubclass(kind, Exception):  # not Ctrl-C
            self._verdict.record(error, line)

    def _check_newest(self):
        """Refuse to write once a newer run does this job, as it does where this process outlived its snakemake.

        The first that a run does is to put a log of its own in the place of the old one.
        """
        log = Path(self._log)
        if log.exists() and not os.path.samestat(log.stat(), self._own_log):
            raise TakenOverError(f"{self._log}: a newer run does this job; this process stops and writes no more")

    def __enter__(self):
        self._guard = files.guarded(self._check_newest)
        self._guard.__enter__()
        self._attempt = attempts.begin(self._log)
        self._start_up = time.process_time()
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind, error, traceback):
        self._guard.__exit__(None, None, None)
        if kind is None:
            self._verdict.forget()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if sys.platform == "darwin":  # bytes there, KiB elsewhere
            peak //= 1024
        work_s = time.perf_counter() - self._began
        logging.getLogger("cost").info(
            "cost: peak_rss_mib=%.0f start_up_s=%.2f work_s=%.2f", peak / 1024, self._start_up, work_s
        )
        cost = {
            "wall_s": self._start_up + work_s,
            "cpu_s": sum(os.times()[:4]),
            "start_up_s": self._start_up,
            "work_s": work_s,
            "peak_rss_mib": peak / 1024,
        }
        attempts.end(self._log, self._attempt, failed=kind is not None, outputs=list(self.output), cost=cost)
