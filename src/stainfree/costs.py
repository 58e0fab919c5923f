"""What a run cost: time and memory per rule, from the benchmark files and logs that its jobs left.

Snakemake writes ``logs/{rule}/{job}.benchmark.tsv`` for each job. It samples memory and so misses short peaks; the
step itself therefore ends its log, ``logs/{rule}/{job}.log``, with the process's own maximum and with the seconds it
spent before its work began::

    cost: peak_rss_mib=612 start_up_s=1.9 work_s=34.2
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from stainfree.errors import DataError

BENCHMARK = ".benchmark.tsv"
COST_LINE = re.compile(r"cost: peak_rss_mib=(?P<peak>\S+) start_up_s=(?P<start_up>\S+) work_s=(?P<work>\S+)")
JOB_COLUMNS = ("rule", "job", "wall_s", "cpu_s", "peak_rss_mib", "start_up_s", "work_s")
NAN = float("nan")


def _number(value: object) -> float:
    """Return a benchmark's value; NaN for Snakemake's ``NA`` and ``-``, which very short jobs have."""
    return float(str(value)) if re.fullmatch(r"[-+.\deE]*\d[-+.\deE]*", str(value)) else NAN


def _step_cost(log: Path) -> dict[str, float]:
    """Return what the step said of itself in the last cost line of its log; NaN where it said nothing."""
    said = COST_LINE.findall(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else []
    return dict(zip(("peak", "start_up", "work"), map(_number, said[-1] if said else (NAN,) * 3), strict=True))


def read_jobs(logs: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the cost of every job under a log folder.

    Parameters
    ----------
    logs
        Folder with one folder per rule.

    Returns
    -------
    DataFrame
        rule, job (path below the rule's folder, without suffix), wall_s, cpu_s, peak_rss_mib, start_up_s, work_s; one
        row per benchmark file, sorted by rule and job. NaN where a job was too short to sample or left no cost line.

    Raises
    ------
    DataError
        If a benchmark file is not one of Snakemake's.
    """
    logs = Path(logs)
    rows = []
    for path in sorted(logs.glob(f"*/**/*{BENCHMARK}")):
        table = pd.read_csv(path, sep="\t", keep_default_na=False, dtype=str)
        if table.empty or not {"s", "max_rss", "cpu_time"} <= set(table.columns):
            raise DataError(f"{path}: not a benchmark of Snakemake; delete it and run the step again")
        last = table.iloc[-1]
        rule, *rest = path.relative_to(logs).parts
        said = _step_cost(path.with_name(path.name.removesuffix(BENCHMARK) + ".log"))
        peak = said["peak"] if said["peak"] == said["peak"] else _number(last["max_rss"])
        job = "/".join(rest).removesuffix(BENCHMARK)
        wall, cpu = _number(last["s"]), _number(last["cpu_time"])
        rows.append((rule, job, wall, cpu, peak, said["start_up"], said["work"]))
    return pd.DataFrame(rows, columns=list(JOB_COLUMNS))


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
        rule, jobs, wall_s (sum), cpu_s (sum), peak_rss_mib (largest of a job), start_up_share (seconds before the work
        began over all seconds of the steps; NaN where no step told).
    """
    groups = jobs.groupby("rule")
    table = groups.agg(
        jobs=("job", "size"), wall_s=("wall_s", "sum"), cpu_s=("cpu_s", "sum"), peak_rss_mib=("peak_rss_mib", "max")
    )
    spent = groups[["start_up_s", "work_s"]].sum(min_count=1)
    table["start_up_share"] = spent["start_up_s"] / spent.sum(axis=1, min_count=2)
    known = [rule for rule in order if rule in table.index]
    return table.loc[[*known, *table.index.difference(known)]].reset_index()
