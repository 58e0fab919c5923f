"""The record of a step's attempts: what stands in it, and which attempts it keeps."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from stainfree import attempts, provenance

COST = {"wall_s": 1.0, "cpu_s": 1.0, "start_up_s": 0.5, "work_s": 0.5, "peak_rss_mib": 10.0}


def run(log: Path, *, failed: bool = False) -> None:
    attempts.end(log, attempts.begin(log), failed=failed, outputs=["out.csv"], cost=COST)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "cnn3.log"


def test_says_what_made_a_result_and_what_it_cost(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"JOB_ID": "7", "JOB_PARTITION": "gpu", "GPUS_ON_NODE": "2", "RESTART_COUNT": "1"}
    for name, value in given.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURMD_NODENAME", "node12")
    run(log)
    (attempt,) = attempts.read(attempts.record_of(log))
    slurm = {"job": "7", "partition": "gpu", "gpus": "2", "restarts": "1", "node": "node12"}
    assert attempt["slurm"] == attempt["made_by"]["slurm"] == slurm
    assert attempt["cost"] == {**COST, "gpus": 2}
    assert attempt["outputs"] == ["out.csv"]
    assert attempt["made_by"]["packages"]["pytest"] == pytest.__version__
    assert attempts.last_good([attempt]) == attempt


def test_keeps_the_attempts_behind_the_results_that_stand(log: Path) -> None:
    run(log, failed=True)
    attempts.begin(log)  # killed
    run(log)
    record = attempts.read(attempts.record_of(log))
    assert [attempt.get("failed") for attempt in record] == [True, None, False]
    run(log, failed=True)  # the step is done anew
    assert [attempt.get("failed") for attempt in attempts.read(attempts.record_of(log))] == [True]
    assert attempts.last_good(record[:2]) is None


def test_the_code_is_that_with_which_the_attempt_began(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "git_commit", lambda: "old")
    attempt = attempts.begin(log)
    monkeypatch.setattr(provenance, "git_commit", lambda: "new")
    attempts.end(log, attempt, failed=False, outputs=[], cost=COST)
    assert attempts.made_by(attempts.read(attempts.record_of(log))[0])["commit"] == "old"


def test_a_torn_line_and_a_full_disk_harm_nothing(log: Path) -> None:
    run(log)
    with attempts.record_of(log).open("a") as file:
        file.write('{"attempt": "torn')
    assert len(attempts.read(attempts.record_of(log))) == 1
    nowhere = log.parent / "missing" / "x.log"
    run(nowhere)
    assert attempts.read(attempts.record_of(nowhere)) == []


class TestHardware:
    def test_gpus_are_those_in_use_and_none_is_taken_hold_of_to_ask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def cuda(*, used: bool) -> SimpleNamespace:
            names = ["NVIDIA H200", "NVIDIA H200"]

            def count() -> int:
                assert used, "to count the GPUs of an idle torch takes hold of one"
                return len(names)

            return SimpleNamespace(is_initialized=lambda: used, device_count=count, get_device_name=names.__getitem__)

        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda(used=False)))
        assert (provenance.gpu_names(), provenance.gpus_held()) == ([], 0)
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda(used=True)))
        assert provenance.gpu_names() == ["NVIDIA H200"] * 2
        assert provenance.gpus_held() == 1  # a step uses the first
        assert provenance.collect()["gpus"] == ["NVIDIA H200"] * 2

    @pytest.mark.parametrize(
        "told",
        [
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12",
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (a@b)\nGCC version: 12",
        ],
    )
    def test_the_driver_is_read_from_its_own_words(
        self, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(provenance, "DRIVER", tmp_path / "version")
        assert provenance.gpu_driver() == ""
        (tmp_path / "version").write_text(told)
        assert provenance.gpu_driver() == "550.54.15"

    def test_outside_of_slurm_nothing_is_said_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
        assert provenance.slurm_job() == {}
        assert "slurm" not in provenance.collect()
