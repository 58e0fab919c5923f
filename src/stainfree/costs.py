"""What a run cost: time and memory per rule, from what its jobs left behind and from Slurm's records.

Snakemake writes ``logs/{rule}/{job}.benchmark.tsv`` for each job that ended well. It samples memory and so misses short
peaks; the step itself therefore records its process's own maximum (see `stainfree.attempts`), and also the attempts
that failed, which Snakemake leaves out. What an attempt took that was killed, only Slurm's accounting knows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stainfree import accounting, attempts
from stainfree.errors import DataError

BENCHMARK = ".benchmark.tsv"
JOB_COLUMNS = (
    *("rule", "job", "wall_s", "cpu_s", "gpu_s", "peak_rss_mib", "start_up_s", "work_s"),
    *("stopped", "untold"),
)
NAN = float("nan")


def _number(value: object) -> float:
    """Return a benchmark's value; NaN for Snakemake's ``NA`` and ``-``, which very short jobs have."""
    return float(str(value)) if re.fullmatch(r"[-+.\deE]*\d[-+.\deE]*", str(value)) else NAN


def _benchmark(path: Path) -> dict[str, float]:
    """Return the time and the sampled memory that Snakemake measured."""
    table = pd.read_csv(path, sep="\t", keep_default_na=False, dtype=str)
    if table.empty or not {"s", "max_rss", "cpu_time"} <= set(table.columns):
        raise DataError(f"{path}: not a benchmark of Snakemake; delete it and run the step again")
    last = table.iloc[-1]
    return {"wall_s": _number(last["s"]), "cpu_s": _number(last["cpu_time"]), "peak_rss_mib": _number(last["max_rss"])}


def _lost(attempt: Mapping[str, Any], runs: Sequence[accounting.SlurmRun]) -> dict[str, float] | None:
    """Return what an attempt took that came to nothing; None where nobody knows."""
    if "cost" in attempt:
        cost = dict(attempt["cost"])
        return {**cost, "gpu_s": cost["wall_s"] * cost["gpus"]}
    run = accounting.run_of(attempt, runs)
    if run is None:
        return None
    gpus = int(attempt["slurm"].get("gpus", 0))
    return {"wall_s": run.wall_s, "cpu_s": run.cpu_s, "gpu_s": run.wall_s * gpus, "peak_rss_mib": run.peak_rss_mib}


def read_jobs(logs: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the cost of every job under a log folder, that of its failed and killed attempts included.

    Parameters
    ----------
    logs
        Folder with one folder per rule.

    Returns
    -------
    DataFrame
        rule, job (path below the rule's folder, without suffix), wall_s, cpu_s, gpu_s (seconds times GPUs held),
        peak_rss_mib, start_up_s, work_s (of the attempt that ended well), stopped (attempts that did not), untold
        (those of them whose cost nobody knows); one row per benchmark file, sorted by rule and job. NaN where a job was
        too short to sample or left no record.

    Raises
    ------
    DataError
        If a benchmark file is not one of Snakemake's.
    """
    logs = Path(logs)
    records = {
        path: attempts.read(attempts.record_of(_log_of(path))) for path in sorted(logs.glob(f"*/**/*{BENCHMARK}"))
    }
    killed = [one for record in records.values() for one in record if "ended" not in one]
    runs = accounting.ask(one["slurm"]["job"] for one in killed if one["slurm"])
    rows = []
    for path, record in records.items():
        rule, *job = _log_of(path).relative_to(logs).with_suffix("").parts
        rows.append({"rule": rule, "job": "/".join(job), **_job_cost(_benchmark(path), record, runs)})
    return pd.DataFrame(rows, columns=list(JOB_COLUMNS))


def _log_of(benchmark: Path) -> Path:
    """Return the log of the job that a benchmark file is of."""
    return benchmark.with_name(benchmark.name.removesuffix(BENCHMARK) + ".log")


def _job_cost(
    measured: Mapping[str, float], record: Sequence[Mapping[str, Any]], runs: Sequence[accounting.SlurmRun]
) -> dict[str, float]:
    """Add the attempts of a job up; its last one that ended well is the one that Snakemake measured."""
    good = attempts.last_good(record)
    said = good["cost"] if good else {}
    lost = [_lost(one, runs) for one in record if one is not good]
    known = [cost for cost in lost if cost is not None]
    peaks = [said.get("peak_rss_mib", measured["peak_rss_mib"]), *(cost["peak_rss_mib"] for cost in known)]
    known_peaks = [peak for peak in peaks if peak == peak]
    own = {"wall_s": measured["wall_s"], "cpu_s": measured["cpu_s"], "gpu_s": measured["wall_s"] * said.get("gpus", 0)}
    return {
        **{name: value + sum(cost[name] for cost in known) for name, value in own.items()},
        "peak_rss_mib": max(known_peaks, default=NAN),
        "start_up_s": said.get("start_up_s", NAN),
        "work_s": said.get("work_s", NAN),
        "stopped": len(lost),
        "untold": len(lost) - len(known),
    }


def of_experiment(jobs: pd.DataFrame, *, dataset: str, experiment: str) -> pd.DataFrame:
    """Keep the jobs that one experiment on one data set needed, its data set's own steps among them.

    A job's path below its rule names the data set first and then, where it belongs to one, the experiment.
    """

    def wanted(job: str) -> bool:
        first, *rest = job.split("/")
        return first == dataset and (not rest or rest[0] == experiment)

    return jobs[jobs["job"].map(wanted).astype(bool)].reset_index(drop=True)


def per_rule(jobs: pd.DataFrame, *, order: Sequence[str] = ()) -> pd.DataFrame:
    """Add up the jobs of each rule.

    Parameters
    ----------
    jobs
        As from `read_jobs`.
    order
        Rules to list first, in this order; the others follow by name.

    Returns
    -------
    DataFrame
        rule, jobs, wall_s, cpu_s, gpu_s, stopped and untold (sums), peak_rss_mib (largest of a job), start_up_share
        (seconds before the work began over all seconds of the steps; NaN where no step told).
    """
    groups = jobs.groupby("rule")
    sums = {name: (name, "sum") for name in ("wall_s", "cpu_s", "gpu_s", "stopped", "untold")}
    table = groups.agg(jobs=("job", "size"), **sums, peak_rss_mib=("peak_rss_mib", "max"))
    spent = groups[["start_up_s", "work_s"]].sum(min_count=1)
    table["start_up_share"] = spent["start_up_s"] / spent.sum(axis=1, min_count=2)
    known = [rule for rule in order if rule in table.index]
    return table.loc[[*known, *table.index.difference(known)]].reset_index()
