"""What a run of the whole workflow costs: time and memory of every step, on fresh files.

The workflow runs in a temporary copy of the project, so that nothing is reused and nothing is left. Data sets that are
downloaded come from STAINFREE_MIRROR where it is set. Nothing is asserted.

    python benchmarks/budgets.py [--dataset NAME] [--n-cells N ...] [--cores N] [--target NAME]

With several numbers of cells it also prints how each step grows from the fewest to the most.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from stainfree import cells, costs, files, provenance

ROOT = Path(__file__).resolve().parent.parent
# What a run needs; made files (data, results, work, logs) are not among it.
PROJECT = (
    "Snakefile", "config.yaml", "requirements.lock", "workflow", "envs", "scripts", "src", "notebooks", "profiles",
    "slurm",
)  # fmt: skip


def copy_project(to: Path) -> None:
    """Copy what a run needs, with the library's compiled files: a checkout in use has them too."""
    to.mkdir(exist_ok=True)
    for name in PROJECT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name)
        else:
            shutil.copy2(source, to / name)


def run_workflow(project: Path, *, dataset: str, n_cells: str | None, cores: int, target: str) -> tuple[float, int]:
    """Run the workflow; return wall seconds and snakemake's exit status."""
    settings: dict[str, Any] = {"dataset": dataset}
    if n_cells is not None:
        settings["datasets"] = {dataset: {"n_cells": int(n_cells) if n_cells.isdecimal() else n_cells}}
    # A file, not --config, whose nested values arrive as text.
    files.write_json(project / "budgets.json", settings)
    command = [sys.executable, "-m", "snakemake", target, "--cores", str(cores), "--configfile", "budgets.json"]
    # Bytecode is written once and read by every job, as in an installed environment.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=project, env=environment, stdout=sys.stderr, check=False)
    return time.perf_counter() - began, done.returncode


def tell(logs: Path, *, wall: float, cores: int) -> pd.DataFrame:
    """Print the cost of each rule and of the whole; return the table of rules."""
    jobs = costs.read_jobs(logs)
    table = costs.per_rule(jobs).sort_values("cpu_s", ascending=False)
    shown = table.assign(start_up_share=(100 * table["start_up_share"]).round(1)).rename(
        columns={"start_up_share": "start_up_%"}
    )
    print(shown.to_string(index=False, float_format="{:.1f}".format, na_rep="-"))
    cpu, start_up = jobs["cpu_s"].sum(), jobs["start_up_s"].sum()
    heaviest = jobs.sort_values("peak_rss_mib", na_position="first").iloc[-1]
    print(f"\nwall time of the whole   {wall:8.1f} s on {cores} cores")
    print(f"wall time of all jobs    {jobs['wall_s'].sum():8.1f} s in {len(jobs)} jobs")
    print(f"CPU time of all jobs     {cpu:8.1f} s")
    print(f"of it to start and import{start_up:8.1f} s ({100 * start_up / cpu:.0f} %)")
    print(f"largest peak memory      {heaviest['peak_rss_mib']:8.0f} MiB ({heaviest['rule']} {heaviest['job']})\n")
    return table


def tell_growth(few: pd.DataFrame, many: pd.DataFrame, *, factor: float) -> None:
    """Print how the cost of each rule grows where there are `factor` times as many cells."""
    both = few.set_index("rule").join(many.set_index("rule"), lsuffix="_few", rsuffix="_many").reindex(many["rule"])
    growth = pd.DataFrame(
        {
            "cpu_factor": both["cpu_s_many"] / both["cpu_s_few"],
            "memory_factor": both["peak_rss_mib_many"] / both["peak_rss_mib_few"],
        }
    )
    growth["cpu_exponent"] = growth["cpu_factor"].map(math.log) / math.log(factor)
    print(f"\ngrowth with {factor:.1f} times as many cells (an exponent of 1 is linear)")
    print(growth.reset_index().to_string(index=False, float_format="{:.2f}".format, na_rep="-"))


def main() -> None:
    """Run, and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="simulated", help="a data set of workflow/datasets.yaml")
    parser.add_argument(
        "--n-cells",
        nargs="+",
        default=[None],
        metavar="N",
        help="for simulated cells: numbers, or `published` for 32,266, one run for each; 7,916 without it",
    )
    parser.add_argument("--cores", type=int, default=2, help="cores that snakemake may use")
    parser.add_argument("--target", default="espinosa", help="what to build")
    options = parser.parse_args()
    print(f"{provenance.cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run")
    told = []
    for n_cells in options.n_cells:
        with tempfile.TemporaryDirectory(prefix="stainfree-budgets-") as folder:
            project = Path(folder)
            copy_project(project)
            wall, status = run_workflow(
                project, dataset=options.dataset, n_cells=n_cells, cores=options.cores, target=options.target
            )
            print(f"\n{options.target} on {options.dataset}" + (f", {n_cells} cells" if n_cells else ""))
            if next(project.glob("logs/**/*.benchmark.tsv"), None) is not None:
                table = tell(project / "logs", wall=wall, cores=options.cores)
            if status:
                sys.exit(f"the workflow ended with {status}: the figures above are of the jobs that were done")
            told.append((cells.read_info(project / f"data/{options.dataset}.h5").n_cells, table))
    if len(told) > 1:
        (few, first), (many, last) = min(told, key=lambda run: run[0]), max(told, key=lambda run: run[0])
        tell_growth(first, last, factor=many / few)


if __name__ == "__main__":
    main()
