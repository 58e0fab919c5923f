"""What the cluster costs: jobs through Slurm beside the same jobs without it, the plan of many jobs, checkpoints.

Everything runs in temporary copies of the project, and Slurm is the one-machine sandbox (slurm/sandbox.py). Nothing is
asserted.

    python benchmarks/cluster.py [overhead] [plan] [checkpoints] [--n-cells N] [--jobs N ...] [--seconds N]
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from budgets import ROOT, copy_project

from stainfree import attempts, costs, files, models, provenance, training
from stainfree.schemes import Scheme

sys.path.insert(0, str(ROOT / "slurm"))
from sandbox import Sandbox

MEASURES = ("overhead", "plan", "checkpoints")
EXPERIMENT = "espinosa"
MODELS = ("fc", "cnn3", "simple_vit")
STAMP = r"^\[(\w{3} \w{3} [ \d]\d [\d:]{8} \d{4})\]\n"


def configure(project: Path, changes: Mapping[str, Any], experiment: Mapping[str, Any]) -> None:
    """Lay changes over the project's config.yaml and over its experiment."""
    path = project / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["experiments"][EXPERIMENT] |= experiment
    files.write_text(path, yaml.safe_dump(config | dict(changes), sort_keys=False))


def snakemake(project: Path, *arguments: str, slurm: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Run snakemake; return wall seconds and what it said."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=project,
        env={**environment, **(slurm or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - began
    if run.returncode:
        sys.exit(f"snakemake {' '.join(arguments)} ended with {run.returncode}:\n{run.stdout[-4000:]}")
    return wall, run.stdout


def _second(text: str) -> float:
    return datetime.strptime(text, "%a %b %d %H:%M:%S %Y").timestamp()


def read_jobs(project: Path, said: str, slurm: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return where the time of each job of a run went, in seconds: a row per job, a column per stretch, in order.

    Parameters
    ----------
    project
        Where it ran: each step has left its attempts and its benchmark.
    said
        What snakemake said.
    slurm
        Environment of Slurm's commands, where it went through Slurm. Its times, like snakemake's, are whole seconds.
    """
    chosen = {job: _second(at) for at, job in re.findall(STAMP + r"(?:localrule .*\n)?Job (\d+): ", said, re.M)}
    seen = re.findall(STAMP + r"Finished jobid: (\d+) \(Rule: (\w+)\)", said, re.M)
    numbers = dict(re.findall(r"^Job (\d+) has been submitted with SLURM jobid (\d+) ", said, re.M))
    records = read_slurm(slurm) if slurm else {}
    left = {path: attempts.read(path)[-1] for path in project.glob(f"logs/**/*{attempts.SUFFIX}")}
    rows = []
    for at, job, rule in seen:
        own = [
            path
            for path, attempt in left.items()
            if path.relative_to(project).parts[1] == rule
            and attempt["slurm"].get("job") == numbers.get(job)
            and attempt["ended"] < _second(at) + 1
        ]
        if not own or (slurm and job not in numbers):  # a target, which does nothing, or a local rule
            continue
        # Without Slurm, jobs of a rule are told apart by their end.
        record = max(own, key=lambda path: left[path]["ended"])
        attempt = left.pop(record)
        process = pd.read_csv(str(record).removesuffix(attempts.SUFFIX) + costs.BENCHMARK, sep="\t")["s"].iloc[-1]
        work = attempt["ended"] - attempt["began"]
        whole = _second(at) - chosen[job]
        if slurm:
            submitted, started, ended = records[numbers[job]]
            stretches = {
                "handed to Slurm": submitted - chosen[job],
                "in Slurm's queue, until a core is free": started - submitted,
                "two snakemakes within the job": ended - started - process,
                "until snakemake sees that it has ended": _second(at) - ended,
            }
        else:
            stretches = {"snakemake": whole - process}
        rows.append(stretches | {"interpreter and imports of the step": process - work, "work of the step": work})
    return pd.DataFrame(rows)


def read_slurm(environment: Mapping[str, str]) -> dict[str, list[float]]:
    """Return when Slurm took, started and ended each job, in seconds since 1970."""
    told = subprocess.run(
        ["scontrol", "--oneliner", "show", "job"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    records = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in told.splitlines()]
    return {
        record["JobId"]: [
            datetime.fromisoformat(record[moment]).timestamp() for moment in ("SubmitTime", "StartTime", "EndTime")
        ]
        for record in records
    }


def tell_stretches(jobs: pd.DataFrame) -> None:
    """Print where the time of the jobs went: the mean of a job, the longest, and the share of all."""
    print(f"  {'seconds of a job':40s} {'mean':>6s} {'longest':>8s} {'share':>7s}")
    whole = jobs.sum(axis=1).sum()
    for name, seconds in jobs.items():
        print(f"  {name:40s} {seconds.mean():6.1f} {seconds.max():8.1f} {100 * seconds.sum() / whole:5.0f} %")
    print(f"  {'all':40s} {whole / len(jobs):6.1f}")


def measure_overhead(folder: Path, *, n_cells: int) -> None:
    """Run the experiment on fresh files without Slurm and through it."""
    wall = {}
    for way in ("local", "slurm"):
        project = folder / way
        copy_project(project)
        configure(project, {"datasets": {"simulated": {"n_cells": n_cells}}}, {})
    wall["local"], said = snakemake(folder / "local", EXPERIMENT, "--cores", str(os.cpu_count()))
    local = read_jobs(folder / "local", said)
    with Sandbox(folder / "sandbox") as slurm:
        profile = ("--profile", "slurm")
        wall["slurm"], said = snakemake(folder / "slurm", EXPERIMENT, *profile, slurm=slurm.environment)
        through = read_jobs(folder / "slurm", said, slurm.environment)
    print(f"\nOverhead: {EXPERIMENT} on {n_cells:,} simulated cells, {os.cpu_count()} cores")
    print(f"without Slurm: {wall['local']:.1f} s, {len(local)} jobs")
    tell_stretches(local)
    print(f"through Slurm: {wall['slurm']:.1f} s, {len(through)} of the jobs there")
    tell_stretches(through)
    print(f"ratio: {wall['slurm'] / wall['local']:.2f}")


def measure_plan(folder: Path, *, jobs: Sequence[int]) -> None:
    """Time a dry run with more and more training jobs, which are parts of one training or trainings of their own."""
    copy_project(folder / "plan")
    print(f"\nPlan: snakemake {EXPERIMENT} --dry-run")
    print(f"  {'training jobs':18s} {'wall s':>7s} {'CPU s':>6s} {'CPU s per 1,000 jobs more':>26s} {'exponent':>9s}")
    for kind in ("parts", "trainings"):
        before: tuple[int, float] | None = None
        for n in jobs:
            if kind == "parts":
                configure(
                    folder / "plan",
                    {"fan_out": True},
                    {"models": ["cnn3"], "losses": ["inv_weighted"], "seeds": list(range(n))},
                )
            else:
                entries = [{f"cnn3_{k}": {"family": "cnn3", "recipe": {"epochs": k}}} for k in range(1, n)]
                configure(folder / "plan", {"fan_out": False}, {"models": ["cnn3", *entries], "seeds": [0]})
            used = os.times()
            wall, said = snakemake(folder / "plan", EXPERIMENT, "--dry-run", "--quiet", "rules", "reason")
            cpu = sum(os.times()[2:4]) - sum(used[2:4])
            planned = dict(re.findall(r"^(\w+) +(\d+)$", said, re.M))
            assert int(planned["train_part" if kind == "parts" else "train"]) == n
            growth = ""
            if before is not None:
                more = 1000 * (cpu - before[1]) / (n - before[0])
                growth = f"{more:26.2f} {math.log(cpu / before[1]) / math.log(n / before[0]):9.2f}"
            print(f"  {f'{n:,} {kind}':18s} {wall:7.1f} {cpu:6.1f} {growth}")
            before = (n, cpu)


def measure_checkpoints(folder: Path, *, n_cells: int, seconds: float) -> None:
    """Train each model for about `seconds`, and print what its checkpoints took."""
    project = folder / "checkpoints"
    copy_project(project)
    configure(project, {"datasets": {"simulated": {"n_cells": n_cells}}}, {})
    split = project / f"results/simulated/{EXPERIMENT}/holdout/split.parquet"
    snakemake(project, str(split.relative_to(project)), "--cores", "1")
    config = yaml.safe_load((project / "config.yaml").read_text(encoding="utf-8"))
    scheme = config["experiments"][EXPERIMENT]["scheme"]
    shipped = float(config["training"]["checkpoint_seconds"])
    print(f"\nCheckpoints: trainings of about {seconds:g} s on {n_cells:,} simulated cells")
    print(f"  {'model':12s} {'every':>8s} {'written':>8s} {'MB each':>8s} {'MB a minute':>12s} {'share of time':>14s}")

    def train(model: str, epochs: int, every: float) -> dict[str, Any]:
        plan = training.Plan(
            dataset="simulated",
            experiment=EXPERIMENT,
            variant="holdout",
            model=models.entry({model: {"recipe": {"epochs": epochs, "patience": None}}}),
            loss="inv_weighted",
            channels=("BF",),
            scheme=Scheme(scheme, {name: tuple(stages) for name, stages in config["schemes"][scheme].items()}),
            fit="pad",
            checkpoint_seconds=every,
        )
        out = folder / "out"
        training.train(project / "data/simulated.h5", split, out, plan=plan, work=folder / "work")
        return files.read_json(out / "model.json")["parts"][0]

    for model in MODELS:
        epochs = max(1, round(2 * seconds / train(model, 2, 3600.0)["seconds"]))
        for every in (shipped, 0.1):
            part = train(model, epochs, every)
            written = part["checkpoints"]
            mean = written["bytes"] / written["written"] / 1e6 if written["written"] else float("nan")
            print(
                f"  {model:12s} {every:6g} s {written['written']:8d} {mean:8.1f}"
                f" {60e-6 * written['bytes'] / part['seconds']:12.1f}"
                f" {100 * written['seconds'] / part['seconds']:12.2f} %"
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", help=f"of {', '.join(MEASURES)}; all without it")
    parser.add_argument("--n-cells", type=int, default=1000, help="simulated cells of overhead and checkpoints")
    parser.add_argument("--jobs", type=int, nargs="+", default=[10, 100, 1000], help="training jobs of the plans")
    parser.add_argument("--seconds", type=float, default=150, help="length of a training of checkpoints")
    options = parser.parse_args()
    wanted = options.measures or MEASURES
    if unknown := set(wanted) - set(MEASURES):
        parser.error(f"unknown measure {', '.join(sorted(unknown))} (there are: {', '.join(MEASURES)})")
    print(f"{provenance.cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run")
    with tempfile.TemporaryDirectory(prefix="stainfree-cluster-") as name:
        folder = Path(name)
        if "overhead" in wanted:
            measure_overhead(folder, n_cells=options.n_cells)
        if "plan" in wanted:
            measure_plan(folder, jobs=options.jobs)
        if "checkpoints" in wanted:
            measure_checkpoints(folder, n_cells=options.n_cells, seconds=options.seconds)


if __name__ == "__main__":
    main()
