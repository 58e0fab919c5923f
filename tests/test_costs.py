"""Costs per rule, against numbers written by hand into benchmark files and logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from stainfree import costs
from stainfree.errors import DataError

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def job(logs: Path, name: str, *, wall: str, rss: str, cpu: str, log: str | None = None) -> None:
    """Leave a job's benchmark, and its log where one is given."""
    path = logs / f"{name}.benchmark.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEADER}{wall}\t0:00:01\t{rss}\t1\t1\t1\t0\t0\t50\t{cpu}\n")
    if log is not None:
        path.with_name(path.name.replace(".benchmark.tsv", ".log")).write_text(log)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Write the logs of one data set, two experiments and another data set."""
    first = "step 1\ncost: peak_rss_mib=900.5 start_up_s=2.0 work_s=8.0\n"
    job(tmp_path, "train/cells/espinosa/holdout/fc/unweighted", wall="11.5", rss="700", cpu="20.0", log=first)
    again = "cost: peak_rss_mib=1 start_up_s=99 work_s=1\nretried\ncost: peak_rss_mib=400 start_up_s=3.0 work_s=7.0\n"
    job(tmp_path, "train/cells/espinosa/holdout/cnn3/unweighted", wall="10.5", rss="300", cpu="12.5", log=again)
    job(tmp_path, "train/cells/billard/base/nn/unweighted", wall="5", rss="1", cpu="1")
    job(tmp_path, "convert/cells", wall="0.4", rss="NA", cpu="-", log="no such line\n")
    job(tmp_path, "convert/other", wall="7", rss="55", cpu="6")
    return tmp_path


def test_adds_up_the_jobs_of_one_experiment(logs: Path) -> None:
    jobs = costs.of_experiment(costs.read_jobs(logs), dataset="cells", experiment="espinosa")
    table = costs.per_rule(jobs, order=["download", "train"]).set_index("rule")
    assert list(table.index) == ["train", "convert"]
    train = table.loc["train"]
    assert (train["jobs"], train["wall_s"], train["cpu_s"]) == (2, 22.0, 32.5)
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
    assert list(costs.per_rule(jobs).columns) == ["rule", "jobs", "wall_s", "cpu_s", "peak_rss_mib", "start_up_share"]
    assert costs.per_rule(costs.of_experiment(jobs, dataset="a", experiment="b")).empty


def test_refuses_what_is_no_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "train" / "x.benchmark.tsv"
    path.parent.mkdir()
    path.write_text("hello\n")
    with pytest.raises(DataError, match=r"x\.benchmark\.tsv: not a benchmark of Snakemake"):
        costs.read_jobs(tmp_path)
