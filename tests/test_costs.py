"""Costs per rule, against numbers written by hand into benchmark files and records, and against Slurm's own words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stainfree import accounting, costs
from stainfree.errors import DataError

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
# What `sacct` of Slurm 22.05.8 answered for jobs of a cluster with a GPU node: job 1 was preempted while it computed,
# put back, and cancelled; 2 was preempted and then ended well; 3 was over its memory; 5 was over its time; 9 waited.
SACCT = """\
1|1795269025|14|00:06.254|
1.batch|1795269025|14|00:00.004|10692K
1.0|1795269025|14|00:06.249|74668K
2|1795269025|14|00:00.002|
2.batch|1795269025|14|00:00.002|3212K
3|1795269025|1|00:00.001|
3.batch|1795269025|1|00:00.001|322232K
5|1795269028|64|00:00.001|
5.batch|1795269028|64|00:00.001|3128K
1|1795269045|6|00:03.944|
1.batch|1795269045|6|00:00.004|10784K
1.0|1795269045|6|00:03.940|74840K
2|1795269045|30|00:00.002|
2.batch|1795269045|30|00:00.002|3096K
9|Unknown|0|00:00:00|
"""


def attempt(began: float, *, failed: bool | None = False, slurm: dict[str, str] | None = None, **cost: float) -> str:
    """Return the record of an attempt; of one that was killed if `failed` is None."""
    lines: list[dict[str, Any]] = [{"attempt": f"{began}", "began": began, "commit": "c", "slurm": slurm or {}}]
    if failed is not None:
        told = {"wall_s": 0, "cpu_s": 0, "gpus": 0, "start_up_s": 0, "work_s": 0, "peak_rss_mib": 0, **cost}
        lines.append({"attempt": f"{began}", "ended": began + 1, "failed": failed, "outputs": [], "cost": told})
    return "".join(json.dumps(line) + "\n" for line in lines)


def job(logs: Path, name: str, *, wall: str, rss: str, cpu: str, record: str = "") -> None:
    """Leave a job's benchmark, and the record of its attempts where one is given."""
    path = logs / f"{name}.benchmark.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEADER}{wall}\t0:00:01\t{rss}\t1\t1\t1\t0\t0\t50\t{cpu}\n")
    if record:
        path.with_name(path.name.replace(".benchmark.tsv", ".attempts.jsonl")).write_text(record)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Write the logs of one data set, two experiments and another data set."""
    first = attempt(0, peak_rss_mib=900.5, start_up_s=2, work_s=8)
    job(tmp_path, "train/cells/espinosa/holdout/fc/unweighted", wall="11.5", rss="700", cpu="20.0", record=first)
    again = attempt(0, failed=True, wall_s=100, cpu_s=50, gpus=1, peak_rss_mib=1)
    again += attempt(200, peak_rss_mib=400, start_up_s=3, work_s=7, gpus=2)
    job(tmp_path, "train/cells/espinosa/holdout/cnn3/unweighted", wall="10.5", rss="300", cpu="12.5", record=again)
    job(tmp_path, "train/cells/billard/base/nn/unweighted", wall="5", rss="1", cpu="1")
    job(tmp_path, "convert/cells", wall="0.4", rss="NA", cpu="-")
    job(tmp_path, "convert/other", wall="7", rss="55", cpu="6", record='{"attempt": "torn off')
    return tmp_path


def test_adds_up_the_jobs_of_one_experiment(logs: Path) -> None:
    jobs = costs.of_experiment(costs.read_jobs(logs), dataset="cells", experiment="espinosa")
    table = costs.per_rule(jobs, order=["download", "train"]).set_index("rule")
    assert list(table.index) == ["train", "convert"]
    train = table.loc["train"]
    # The failed attempt's 100 s of wall time, 50 s of CPU and 100 s of a GPU count; the good one held two GPUs.
    assert (train["jobs"], train["wall_s"], train["cpu_s"], train["gpu_s"]) == (2, 122.0, 82.5, 121.0)
    assert (train["stopped"], train["untold"]) == (1, 0)
    # The process's own peak, not the one Snakemake sampled; 5 of 20 seconds were start-up.
    assert train["peak_rss_mib"] == 900.5
    assert train["start_up_share"] == pytest.approx(0.25)
    assert table.loc["convert", "wall_s"] == 0.4
    assert table.loc["convert", ["peak_rss_mib", "start_up_share"]].isna().all()


def test_takes_the_sampled_memory_where_the_step_said_nothing(logs: Path) -> None:
    jobs = costs.read_jobs(logs).set_index(["rule", "job"])
    assert jobs.loc[("convert", "other"), "peak_rss_mib"] == 55
    assert jobs.loc[("convert", "cells"), "wall_s"] == 0.4


def test_an_empty_folder_gives_an_empty_table(tmp_path: Path) -> None:
    jobs = costs.read_jobs(tmp_path)
    assert {"rule", "jobs", "wall_s", "peak_rss_mib", "start_up_share"} <= set(costs.per_rule(jobs).columns)
    assert costs.per_rule(costs.of_experiment(jobs, dataset="a", experiment="b")).empty


def test_refuses_what_is_no_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "train" / "x.benchmark.tsv"
    path.parent.mkdir()
    path.write_text("hello\n")
    with pytest.raises(DataError, match=r"x\.benchmark\.tsv: not a benchmark of Snakemake"):
        costs.read_jobs(tmp_path)


class TestKilledAttempts:
    """An attempt that was killed left no word of its own; Slurm's accounting has the rest, where there is one."""

    @pytest.fixture
    def killed(self, tmp_path: Path) -> Path:
        """A job that ran in Slurm job 1, twice, was killed both times and ended well in job 4."""
        held = {"job": "1", "gpus": "1"}
        record = attempt(1795269026.4, failed=None, slurm=held) + attempt(1795269046.2, failed=None, slurm=held)
        record += attempt(1795269100, slurm={"job": "4", "gpus": "1"}, peak_rss_mib=60, gpus=1)
        job(tmp_path / "logs", "train/cells/espinosa/x", wall="40", rss="50", cpu="30", record=record)
        return tmp_path / "logs"

    @staticmethod
    def put_sacct(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Put a command of that name first on the path; return the file to which it writes how it was called."""
        folder.mkdir()
        calls = folder / "calls"
        (folder / "sacct").write_text(f'#!/bin/sh\necho "$SLURM_TIME_FORMAT" "$@" >> {calls}\n{script}\n')
        (folder / "sacct").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return calls

    def test_are_added_from_slurms_accounts(
        self, killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = self.put_sacct(tmp_path / "bin", f"cat <<'END'\n{SACCT}END", monkeypatch)
        one = costs.read_jobs(killed).iloc[0]
        # Each attempt is found by the time at which it began: 14 and 6 seconds on one GPU, beside the last 40.
        assert (one["wall_s"], one["gpu_s"]) == (60.0, 60.0)
        assert one["cpu_s"] == pytest.approx(30 + 6.254 + 3.944)
        assert one["peak_rss_mib"] == pytest.approx(74840 / 1024)
        assert (one["stopped"], one["untold"]) == (2, 0)
        # One question for all, in seconds since 1970, for runs before a requeue too.
        (call,) = calls.read_text().splitlines()
        assert call.startswith("%s ")
        assert {"--duplicates", "--jobs=1"} <= set(call.split())

    def test_are_said_to_be_missing_where_slurm_keeps_no_accounts(
        self, killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.put_sacct(tmp_path / "bin", "echo Slurm accounting storage is disabled >&2; exit 1", monkeypatch)
        one = costs.read_jobs(killed).iloc[0]
        assert (one["wall_s"], one["stopped"], one["untold"]) == (40.0, 2, 2)

    def test_are_said_to_be_missing_outside_of_slurm(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = self.put_sacct(tmp_path / "bin", "exit 1", monkeypatch)
        job(tmp_path, "train/cells/x", wall="4", rss="5", cpu="3", record=attempt(0, failed=None) + attempt(9))
        one = costs.read_jobs(tmp_path).iloc[0]
        assert (one["stopped"], one["untold"]) == (1, 1)
        assert not calls.exists()


def test_times_of_slurm_are_read_in_every_length() -> None:
    lines = [f"{number}|0|1|{text}|" for number, text in enumerate(("03:04.567", "02:03:04", "1-02:03:04", ""))]
    runs = accounting.parse("\n".join(lines))
    assert [run.cpu_s for run in runs] == [184.567, 7384.0, 93784.0, 0.0]


def test_memory_of_slurm_is_read_in_every_unit() -> None:
    lines = ["1|0|1|00:00|", *(f"1.{step}|0|1|00:00|{text}" for step, text in enumerate(("", "0", "2048K")))]
    assert accounting.parse("\n".join(lines))[0].peak_rss_mib == 2
    assert accounting.parse("\n".join([*lines, "1.9|0|1|00:00|1.5G"]))[0].peak_rss_mib == 1536
