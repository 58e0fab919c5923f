"""The measure of training: operations against hand counts, the cost of studies, and a table that is whole."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import snakemake
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stainfree import costs, models, speed, splits, training
from stainfree.networks import build_module
from stainfree.schemes import STAGES, Scheme

SEVEN = Scheme("seven", {stage: (stage,) for stage in STAGES})
HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def convolution(channels: int, width: int, kernel: int, side: int) -> int:
    """Operations of a convolution on one image, on one way."""
    return 2 * channels * width * kernel**2 * side**2


class TestOperations:
    """The weights' gradient takes as many operations as the way forward; so does that of the input, but for images."""

    def test_of_a_linear_layer(self) -> None:
        net = nn.Sequential(nn.Flatten(), nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 4))
        assert speed.operations(net, torch.zeros(3, 2, 5, 5)) == 3 * (2 * (2 * 50 * 20) + 3 * (2 * 20 * 4))

    def test_of_a_convolution(self) -> None:
        net = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 6, 3),
            nn.Flatten(),
            nn.Linear(24, 4),
        )
        of_convolutions = 2 * convolution(2, 8, 3, 8) + 3 * convolution(8, 6, 3, 2)
        assert speed.operations(net, torch.zeros(5, 2, 8, 8)) == 5 * (of_convolutions + 3 * (2 * 24 * 4))

    def test_of_layers_that_are_computed_at_once(self) -> None:
        net = build_module(models.entry("cnn3"), channels=1, image_size=64, n_classes=5)
        by_hand = 2 * convolution(1, 8, 7, 64) + 3 * convolution(8, 16, 5, 16) + 3 * convolution(16, 64, 3, 4)
        assert speed.operations(net, torch.zeros(4, 1, 64, 64)) == 4 * (by_hand + 3 * (2 * 64 * 5))


def test_the_rates_of_the_machine_count_operations_as_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def count(product: Callable[[], torch.Tensor], n_operations: int) -> float:
        with FlopCounterMode(display=False) as counter:
            product()
        counted.append(counter.get_total_flops())
        return float(n_operations)

    monkeypatch.setitem(speed._SIDE, "cpu", 64)
    assert all(rate(torch.device("cpu")) > 0 for rate in (speed.matmul_rate, speed.convolution_rate))
    monkeypatch.setattr(speed, "_rate", count)
    told = [rate(torch.device("cpu")) for rate in (speed.matmul_rate, speed.convolution_rate)]
    assert told == counted == [2 * 64**3, 2 * convolution(256, 256, 3, 16)]


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [([], 0), ([(0, 5), (10, 12)], 7), ([(10, 12), (0, 11), (3, 4)], 12), ([(0, 5), (5, 6), (0, 5)], 6)],
)
def test_what_runs_at_the_same_time_counts_once(spans: list[tuple[float, float]], seconds: float) -> None:
    assert speed.joint_seconds(spans) == seconds


def leave_log(logs: Path, job: str, *, ended: float, wall: float, peak: float) -> None:
    """Leave what a job leaves that ended well."""
    path = logs / f"{job}.benchmark.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEADER}{wall}\t0:00:01\t{peak}\t1\t1\t1\t0\t0\t50\t1\n")
    cost = {"wall_s": wall - 5, "cpu_s": 1, "gpus": 0, "start_up_s": 1, "work_s": 1, "peak_rss_mib": peak}
    lines: list[dict[str, Any]] = [
        {"attempt": "a", "began": ended - wall, "commit": "c", "slurm": {}},
        {"attempt": "a", "ended": ended, "failed": False, "outputs": [], "cost": cost},
    ]
    (logs / f"{job}.attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_studies_are_held_against_their_budgets(tmp_path: Path) -> None:
    leave_log(tmp_path, "convert/made", ended=60, wall=60, peak=100)
    leave_log(tmp_path, "train/made/billard/D1/nn/unweighted", ended=180, wall=120, peak=900)
    leave_log(tmp_path, "train/made/billard/D1/logreg/unweighted", ended=210, wall=120, peak=800)
    leave_log(tmp_path, "train/made/duque/kfold/nn/unweighted", ended=4000, wall=3700, peak=700)
    leave_log(tmp_path, "measure_training/made/measures", ended=5000, wall=500, peak=600)
    jobs, budgets = costs.read_jobs(tmp_path), {"billard": [60, 20], "duque": [60, 20], "other": None}
    table = speed.measure_studies(jobs, tmp_path, dataset="made", budgets=budgets).set_index("experiment")
    assert table["jobs"].tolist() == [3, 2, 1]
    assert table["elapsed_min"].tolist() == pytest.approx([3.5, 1 + 3700 / 60, 1])
    assert table["wall_min"].tolist() == pytest.approx([5, 1 + 3700 / 60, 1])
    assert table["peak_mib"].tolist() == [900, 700, 100]
    assert table["within_budget"].tolist() == ["yes", "no", ""]


def test_a_study_costs_what_its_first_weights_cost(tmp_path: Path) -> None:
    leave_log(tmp_path, "convert/made", ended=60, wall=60, peak=100)
    leave_log(tmp_path, "train/made/billard/D1/nn/unweighted", ended=180, wall=120, peak=900)
    leave_log(tmp_path, "train/made/billard_two/base/nn/unweighted", ended=300, wall=60, peak=950)
    jobs, told = costs.read_jobs(tmp_path), {"dataset": "made", "budgets": {"billard": [60, 20]}}
    (row,) = speed.measure_studies(jobs, tmp_path, **told, starts={"billard": ["billard_two"]}).to_dict("records")
    assert (row["jobs"], row["wall_min"], row["elapsed_min"], row["peak_mib"]) == (3, 4, 4, 950)


def test_the_table_of_a_run_is_whole(
    make_cells: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(speed._SIDE, "cpu", 256)
    cells, split = make_cells(side=40), tmp_path / "split.parquet"
    spec = {"kind": "holdout", "validation": 0.2, "test": 0.2}
    splits.make(cells, split, spec=spec, scheme=SEVEN, sources=None, seed=0)
    trained = []
    entries: list[Any] = [
        "majority",
        {"nn": {"hidden": [6], "recipe": {"epochs": 1}}},
        {"cnn3": {"recipe": {"epochs": 1}}},
    ]
    for variant in ("main", "other"):
        for entry in map(models.entry, entries):
            plan = training.Plan(
                dataset="made", experiment="test", variant=variant, model=entry, loss="unweighted", channels=("BF",),
                scheme=SEVEN, fit="pad", device="cpu",
            )  # fmt: skip
            out = tmp_path / variant / entry.name
            training.train(cells, split, out, plan=plan, work=tmp_path / "work")
            job = f"train/made/test/{variant}/{entry.name}/unweighted"
            leave_log(tmp_path / "logs", job, ended=30, wall=12, peak=500 if variant == "main" else 600)
            trained.append(out / "model.json")
    outs = {f"{name}_out": tmp_path / f"{name}.csv" for name in ("training", "studies")}
    speed.measure(
        trained, cells_path=cells, logs=tmp_path / "logs", dataset="made", budgets={"test": [1, 0.1]}, starts={},
        threads=1, device="cpu", seconds=0.1, **outs,
    )  # fmt: skip
    table = pd.read_csv(outs["training_out"]).set_index("model")
    assert list(table.index) == ["majority", "nn", "cnn3"]
    assert table.loc["majority"].isna().sum() == 8
    networks = table.drop(index="majority")
    assert networks.notna().all(axis=None)
    assert (networks.drop(columns=["experiment", "family"]) > 0).all(axis=None)
    assert networks.loc["nn", "mflop_per_cell"] == pytest.approx((4 * 1600 * 6 + 6 * 6 * 7) / 1e6)
    n = (
        splits.read(split)["subset"] == "train"
    ).sum()  # in minibatches of 16 at most, and in five, all as equal as can be
    assert networks["batch"].tolist() == [math.ceil(n / math.ceil(n / 16)), math.ceil(n / 5)]
    rates = networks["cells_per_s"] * networks["mflop_per_cell"] / 1e3
    assert networks["gflop_per_s"].tolist() == pytest.approx(rates.tolist())
    machine = max(table["matmul_gflop_per_s"].max(), table["convolution_gflop_per_s"].max())
    assert networks["share"].tolist() == pytest.approx((rates / machine).tolist())
    assert table[["trainings", "wall_min", "peak_mib"]].to_numpy().tolist() == [[2, 0.4, 600]] * 3
    studies = pd.read_csv(outs["studies_out"])
    assert studies.loc[0, ["jobs", "elapsed_min", "within_budget"]].tolist() == [6, 0.2, "yes"]


def test_measures_are_a_target_that_follows_all_trainings_and_reports(project: Path) -> None:
    plan = snakemake(project, "measures", "--dry-run").stdout
    assert "Measure how fast networks are trained on simulated" in plan
    for model in ("fc", "cnn3", "simple_vit"):
        assert f"Train {model} under inv_weighted (simulated, espinosa/holdout)" in plan
    assert "Write the report of espinosa on simulated" in plan
