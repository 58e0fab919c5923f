"""How fast networks are trained, beside the arithmetic that the machine can do, and what each study costs.

A network is trained here once more for a few seconds: by the loop that trained it, with its recipe, on its own training
cells. What counts is the time of the steps alone: making the batch, with its augmentation, the way forward, the loss,
the way back, the optimiser.

Operations are those of convolutions and matrix products, as torch counts them in what it runs on both ways of a step; a
multiplication and an addition are two. What the machine can do is the rate of one large matrix product in float32, or
of one large convolution where that is higher, in the same run and with the same threads: torch has a library for each,
and on some CPUs one is twice as fast as the other. The share of it that training reaches is below 1 by all that is no
such product: normalisation, activation, pooling, optimiser, augmentation, and waiting for memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stainfree import training  # isort: skip - it sets how torch takes memory, before torch is imported

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stainfree import attempts, checkpoints, costs, files, loop, models, provenance
from stainfree.deadline import RESERVE_SECONDS, Deadline
from stainfree.errors import OutOfTimeError
from stainfree.networks import build_module
from stainfree.plans import Data, Plan
from stainfree.schemes import Scheme

logger = logging.getLogger(__name__)

SECONDS = 5.0
"""Each network is trained for about so long, and for one step at least, after a first step that does not count."""

TRAINING_COLUMNS = (
    *("experiment", "model", "family", "n_parameters", "batch", "cells_per_s", "mflop_per_cell", "gflop_per_s"),
    *(
        "matmul_gflop_per_s",
        "convolution_gflop_per_s",
        "share",
        "trainings",
        "trained_cells_per_s",
        "wall_min",
        "peak_mib",
    ),
)

# Rows and columns of the large matrices: a quarter of a second on one core, and enough to fill a GPU.
_SIDE = {"cpu": 2048, "cuda": 8192}
# Channels, and pixels across, of the large convolution of 3 x 3.
_CHANNELS, _PIXELS = 256, 16
# Large products of which the fastest counts, after one to warm up.
_REPETITIONS = 5
# More epochs than fit into the seconds.
_ENDLESS = 10**6


def _rate(product: Callable[[], Tensor], n_operations: int) -> float:
    shortest = math.inf
    for _ in range(_REPETITIONS + 1):
        began = time.perf_counter()
        product().flatten()[0].item()  # waits for a GPU
        shortest = min(shortest, time.perf_counter() - began)
    return n_operations / shortest


def matmul_rate(device: torch.device) -> float:
    """Return operations per second of a large matrix product in float32."""
    side = _SIDE[device.type]
    left, right = (torch.rand(side, side, device=device) for _ in range(2))
    return _rate(lambda: left @ right, 2 * side**3)


def convolution_rate(device: torch.device) -> float:
    """Return operations per second of a large convolution of 3 x 3 in float32."""
    cells = _SIDE[device.type] // 32
    maps = torch.rand(cells, _CHANNELS, _PIXELS, _PIXELS, device=device).to(memory_format=torch.channels_last)
    kernel = torch.rand(_CHANNELS, _CHANNELS, 3, 3, device=device).to(memory_format=torch.channels_last)
    return _rate(lambda: F.conv2d(maps, kernel, padding=1), 2 * cells * _PIXELS**2 * 9 * _CHANNELS**2)


def operations(module: nn.Module, batch: Tensor) -> int:
    """Count the operations of convolutions and matrix products in one training step on `batch` (n, channel, y, x)."""
    module.train()
    with FlopCounterMode(display=False) as counter:
        logits = module(batch.contiguous(memory_format=torch.channels_last))
        F.cross_entropy(logits, torch.zeros(len(batch), dtype=torch.int64, device=batch.device)).backward()
    return int(counter.get_total_flops())


def endless_plan(told: Mapping[str, Any], *, threads: int, device: str) -> Plan:
    """Return the plan behind a ``model.json``, as its first part was trained, but without an end."""
    (height, width), first = told["image_size"], told["parts"][0]
    entry = models.ModelEntry(
        told["model"],
        told["family"],
        told["params"],
        models.recipe_from(told["recipe"]),
        image_size=height if height == width else None,
        crop=told["crop"],
    )
    entry = models.with_settings(entry, first.get("tuned", {}))
    assert entry.recipe is not None
    recipe = dataclasses.replace(entry.recipe, epochs=_ENDLESS, patience=None)
    return Plan(
        dataset=told["dataset"],
        experiment=told["experiment"],
        variant=told["variant"],
        model=dataclasses.replace(entry, recipe=recipe),
        loss=told["loss"],
        channels=tuple(told["channels"]),
        scheme=Scheme(told["scheme"]["name"], told["scheme"]["classes"]),
        fit=told["fit"],
        seeds=(first["seed"],),
        threads=threads,
        device=device,
    )


def train_until(data: Data, plan: Plan, *, fold: int, at: float) -> tuple[float, int, float]:
    """Train one part anew until the time `at` (seconds since the epoch), for one step at least, and forget it.

    Parameters
    ----------
    data, plan, fold
        As for `stainfree.loop.train_part`; the plan must not end by itself before.

    Returns
    -------
    tuple
        Steps made, cells of an epoch, and seconds of the steps alone.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.suppress(OutOfTimeError):
            loop.train_part(data, plan, fold=fold, seed=plan.seeds[0], folder=folder, deadline=Deadline(at))
        left = checkpoints.load(folder / "checkpoint.safetensors")
    assert left is not None
    tensors, values = left
    return values["step"], len(tensors["order"]), values["seconds"]


def measure_network(
    told: Mapping[str, Any], *, cells_path: str | os.PathLike[str], threads: int, device: str, seconds: float = SECONDS
) -> dict[str, Any]:
    """Measure the training of the network that a ``model.json`` tells of.

    Returns
    -------
    dict
        batch, cells_per_s, mflop_per_cell (operations in millions), gflop_per_s (of training), matmul_gflop_per_s and
        convolution_gflop_per_s (of the machine, just before).
    """
    plan, fold = endless_plan(told, threads=threads, device=device), told["parts"][0]["fold"]
    recipe, classes = plan.model.recipe, plan.scheme.classes
    assert recipe is not None
    data = training.prepare(cells_path, told["split"]["path"], plan)
    device_used = data.images.device
    rates = {"matmul": matmul_rate(device_used), "convolution": convolution_rate(device_used)}
    train_until(data, plan, fold=fold, at=0)  # one step, so that nothing is done for the first time in those that count
    steps, cells, spent = train_until(data, plan, fold=fold, at=time.time() + RESERVE_SECONDS + seconds)
    batches = recipe.batches_per_epoch or -(-cells // int(recipe.batch_size or 1))
    batch, cells_per_s = -(-cells // batches), steps / batches * cells / spent
    side, channels = plan.model.crop or data.images.shape[2], len(plan.channels)
    module = build_module(plan.model, channels=channels, image_size=side, n_classes=len(classes))
    example = torch.zeros(batch, channels, side, side, device=device_used)
    counted = operations(module.to(device_used), example) / batch
    return {
        "batch": batch,
        "cells_per_s": cells_per_s,
        "mflop_per_cell": counted / 1e6,
        "gflop_per_s": counted * cells_per_s / 1e9,
        **{f"{product}_gflop_per_s": rate / 1e9 for product, rate in rates.items()},
    }


def of_training(jobs: pd.DataFrame, told: Mapping[str, Any]) -> pd.DataFrame:
    """Keep the jobs (see `costs.read_jobs`) that trained a model of an experiment: all variants, losses and parts."""
    trained = f"{told['dataset']}/{told['experiment']}/[^/]+/{told['model']}/.+"
    return jobs[jobs["job"].str.fullmatch(trained).astype(bool)]


def joint_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of what spans (begin, end) cover together, in which each moment counts once."""
    total, covered = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, covered))
        covered = max(covered, end)
    return total


def elapsed_seconds(jobs: pd.DataFrame, logs: str | os.PathLike[str]) -> float:
    """Return for how long at least one of the jobs ran; what ran at the same time counts once, and pauses do not.

    Killed attempts, which did not tell their end, are left out.
    """
    spans = []
    for job in jobs.itertuples():
        for one in attempts.read(Path(logs) / str(job.rule) / f"{job.job}{attempts.SUFFIX}"):
            if "ended" in one:
                # Snakemake's own measure begins with the process, a step's with its imports done.
                wall_s = one["cost"]["wall_s"] if job.stopped else float(str(job.wall_s))
                spans.append((one["ended"] - wall_s, one["ended"]))
    return joint_seconds(spans)


def measure_studies(
    jobs: pd.DataFrame,
    logs: str | os.PathLike[str],
    *,
    dataset: str,
    budgets: Mapping[str, Sequence[float] | None],
    starts: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Hold what experiments cost against their budgets.

    Parameters
    ----------
    jobs
        As from `costs.read_jobs` of the folder `logs`.
    budgets
        Experiment -> minutes that it may take at most, and those that are aimed at; None where none are set.
    starts
        Experiment -> others whose weights its trainings start from: it costs what they cost, too.

    Returns
    -------
    DataFrame
        experiment, jobs, elapsed_min (see `elapsed_seconds`), wall_min (sum over all jobs), peak_mib (of any step),
        budget_min, aim_min, within_budget (yes, no, or nothing).
    """
    rows = []
    for experiment, minutes in budgets.items():
        needed = [experiment, *(starts or {}).get(experiment, [])]
        own = pd.concat([costs.of_experiment(jobs, dataset=dataset, experiment=name) for name in needed])
        own = own.drop_duplicates(["rule", "job"], ignore_index=True)
        elapsed = elapsed_seconds(own, logs) / 60
        most, aim = minutes or (math.nan, math.nan)
        rows.append(
            {
                "experiment": experiment,
                "jobs": len(own),
                "elapsed_min": elapsed,
                "wall_min": own["wall_s"].sum() / 60,
                "peak_mib": own["peak_rss_mib"].max(),
                "budget_min": most,
                "aim_min": aim,
                "within_budget": "" if minutes is None else "yes" if elapsed <= most else "no",
            }
        )
    return pd.DataFrame(rows)


def measure_training(
    model_paths: Sequence[str | os.PathLike[str]],
    *,
    cells_path: str | os.PathLike[str],
    jobs: pd.DataFrame,
    threads: int,
    device: str,
    seconds: float = SECONDS,
) -> pd.DataFrame:
    """Measure every model once, in the first of its trainings.

    Parameters
    ----------
    model_paths
        The ``model.json`` of all trainings, those of the main variants first.
    cells_path
        The cells that they were trained on.
    jobs
        As from `costs.read_jobs`.
    threads, device
        As the trainings used them.

    Returns
    -------
    DataFrame
        `TRAINING_COLUMNS`, a row per model of an experiment: what `measure_network` measures, and share, the rate of
        training over the best of the machine in any row (NaN for what is no network); trainings (their number),
        trained_cells_per_s (in the steps of all of them, when they were made), wall_min and peak_mib (sum and largest
        over their jobs).
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in model_paths:
        told = files.read_json(path)
        groups.setdefault((told["experiment"], told["model"]), []).append(told)
    rows = []
    for trainings in groups.values():
        told = trainings[0]
        row = {key: told[key] for key in ("experiment", "model", "family", "n_parameters")}
        if told["kind"] == "network":
            row |= measure_network(told, cells_path=cells_path, threads=threads, device=device, seconds=seconds)
            steps = [part["steps"] for one in trainings for part in one["parts"]]
            row["trained_cells_per_s"] = sum(s["cells"] for s in steps) / sum(s["seconds"] for s in steps)
        own = of_training(jobs, told)
        row |= {
            "trainings": len(trainings),
            "wall_min": own["wall_s"].sum() / 60,
            "peak_mib": own["peak_rss_mib"].max(),
        }
        rows.append(row)
        logger.info("%s, %s: measured", told["experiment"], told["model"])
    table = pd.DataFrame(rows, columns=list(TRAINING_COLUMNS)).astype({"batch": "Int64"})
    machine = max(table["matmul_gflop_per_s"].max(), table["convolution_gflop_per_s"].max())
    return table.assign(share=table["gflop_per_s"] / machine)


def measure(
    model_paths: Sequence[str | os.PathLike[str]],
    *,
    cells_path: str | os.PathLike[str],
    logs: str | os.PathLike[str],
    dataset: str,
    budgets: Mapping[str, Sequence[float] | None],
    starts: Mapping[str, Sequence[str]],
    threads: int,
    device: str,
    training_out: str | os.PathLike[str],
    studies_out: str | os.PathLike[str],
    seconds: float = SECONDS,
) -> None:
    """Measure all, tell it in aligned tables, and write these as CSV (see `measure_training`, `measure_studies`)."""
    jobs = costs.read_jobs(logs)
    trained = measure_training(
        model_paths, cells_path=cells_path, jobs=jobs, threads=threads, device=device, seconds=seconds
    )
    studies = measure_studies(jobs, logs, dataset=dataset, budgets=budgets, starts=starts)
    where = provenance.cpu_name() if training.choose_device(device).type == "cpu" else torch.cuda.get_device_name()
    logger.info(
        "training on %s, %s threads, load %.1f; operations: 2 per multiply-add, forward and backward",
        where, threads, os.getloadavg()[0],
    )  # fmt: skip
    for name, table, path in (("training", trained, training_out), ("studies", studies, studies_out)):
        files.write_csv(path, table)
        logger.info("%s\n%s", name, table.to_string(index=False, float_format="{:,.2f}".format, na_rep=""))
