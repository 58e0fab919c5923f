"""Killed hard, ten times over: what follows ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from conftest import ROOT, snakemake
from test_training import FIVE, plan_of

from stainfree import checkpoints, files, loop, restart, splits, training
from stainfree.schemes import STAGES

METRICS = "results/simulated/espinosa/metrics.csv"
KILLS = 10
LONGEST_WAIT = 6.0
"""Seconds from the start of a training process to its death: from its imports to beyond its last file."""


@pytest.fixture
def small(project: Path) -> Path:
    """A project of one training of a few seconds, with a checkpoint ten times a second."""
    config = yaml.safe_load((project / "config.yaml").read_text())
    config["datasets"] = {"simulated": {"n_cells": 420}}
    config["evaluation"]["bootstrap"] = 50
    config["training"]["checkpoint_seconds"] = 0.1
    espinosa = config["experiments"]["espinosa"]
    del espinosa["study"], espinosa["explain"]
    espinosa["models"] = [{"cnn3": {"recipe": {"epochs": 40, "patience": 1000}}}]
    espinosa["losses"] = ["inv_weighted"]
    (project / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return project


def trainings(project: Path) -> Iterator[psutil.Process]:
    """The training scripts that run in the project, whoever started them."""
    for process in psutil.process_iter():
        try:
            script = any(word.endswith(".train.py") for word in process.cmdline()[1:2])
            if script and Path(process.cwd()) == project.resolve():
                yield process
        except psutil.Error:
            continue


class Chaos:
    """A snakemake that is started whenever none runs, and killed, or its training is."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.log = project / "killed.log"
        self.run: subprocess.Popen[bytes] | None = None
        self.seen: set[psutil.Process] = set()

    def start(self) -> None:
        subprocess.run([sys.executable, "-m", "stainfree.restart"], cwd=self.project, check=True)
        with self.log.open("ab") as log:
            self.run = subprocess.Popen(
                [sys.executable, "-m", "snakemake", METRICS, "--retries", str(KILLS)],
                cwd=self.project, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def new_training(self) -> psutil.Process:
        """Wait for a training process that has not been seen; work that is done is thrown away and begun again."""
        while True:
            if self.run is None or self.run.poll() is not None:
                if self.run is not None and self.run.returncode == 0:
                    shutil.rmtree((self.project / METRICS).parent)
                self.start()
            for process in trainings(self.project):
                if process not in self.seen:
                    self.seen.add(process)
                    return process
            time.sleep(0.05)

    def kill(self, victim: str, training: psutil.Process) -> bool:
        """Kill; tell whether there was still something to kill."""
        assert self.run is not None
        if self.run.poll() is not None or not training.is_running():
            return False
        if victim == "training":
            training.kill()
        else:
            self.run.kill()
            self.run.wait()
        return True


def test_ten_kills_at_random_moments_change_no_digit(small: Path) -> None:
    snakemake(small, METRICS)
    undisturbed = (small / METRICS).read_bytes()
    shutil.rmtree((small / METRICS).parent)

    rng = random.Random(0)
    chaos = Chaos(small)
    killed: list[str] = []
    while len(killed) < KILLS:
        training = chaos.new_training()
        time.sleep(rng.uniform(0, LONGEST_WAIT))
        victim = rng.choice(["training", "snakemake"])
        if chaos.kill(victim, training):
            killed.append(victim)
    if chaos.run is not None and chaos.run.poll() is None:
        chaos.run.kill()
        chaos.run.wait()
    assert set(killed) == {"training", "snakemake"}

    subprocess.run([sys.executable, "-m", "stainfree.restart"], cwd=small, check=True)
    run = snakemake(small, METRICS)
    assert (small / METRICS).read_bytes() == undisturbed
    told = chaos.log.read_text(errors="replace") + run.stdout
    assert "going on at step" in told
    assert "Unexpected error" not in told
    # Who outlived his snakemake has found out, and nothing half-written is left.
    for orphan in trainings(small):
        orphan.wait(timeout=30)
    assert (small / METRICS).read_bytes() == undisturbed
    assert not list((small / "work" / "checkpoints").iterdir())
    assert not [path for path in small.rglob(".*.part*") if ".snakemake" not in path.parts]
    assert "Nothing to be done" in snakemake(small, METRICS).stdout


TRAIN = """
import dataclasses, sys
from pathlib import Path
from test_training import plan_of
from stainfree import models, training

cells, split, out, epochs = sys.argv[1:]
plan = plan_of(checkpoint_seconds=0.0)
plan = dataclasses.replace(plan, model=models.entry({"fc": {"recipe": {"epochs": int(epochs), "patience": None}}}))
training.train(cells, split, out, plan=plan, work=Path(out).parent / "work")
"""


class TestOwnership:
    def test_who_is_taken_over_stops_and_writes_no_more(self, make_cells: Callable[..., Path], tmp_path: Path) -> None:
        cells, split = make_cells(dict.fromkeys(STAGES, 30)), tmp_path / "split.parquet"
        spec = {"kind": "holdout", "validation": 0.2, "test": 0.2}
        splits.make(cells, split, spec=spec, scheme=FIVE, sources=None, seed=0)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])}
        command = [sys.executable, "-c", TRAIN, str(cells), str(split), str(tmp_path / "out"), "100000"]
        first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            deadline = time.monotonic() + 60
            while not (found := list((tmp_path / "work").glob("*/fold0-seed0/checkpoint.safetensors"))):
                assert first.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            part = found[0].parent
            with checkpoints.owned(part) as check_owner:
                taken = (part / "owner.json").stat().st_mtime_ns
                _, told = first.communicate(timeout=60)
                check_owner()
        finally:
            first.kill()
        assert first.returncode == 1
        assert f"fold0-seed0: taken over by process {os.getpid()} of {platform.node()}" in told.splitlines()[-1]
        assert f"this one ({first.pid}) stops and writes no more" in told.splitlines()[-1]
        assert all(path.stat().st_mtime_ns <= taken for path in part.iterdir())
        assert {path.name for path in part.iterdir()} == {"owner.json", "checkpoint.safetensors"}
        assert not (tmp_path / "out").exists()

    def test_it_is_found_out_between_checkpoints_too(
        self, make_cells: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = []

        def taken_over_meanwhile(*told: Any, **more: Any) -> Any:
            steps.append(told)
            (path,) = (tmp_path / "work").glob("*/fold0-seed0/owner.json")
            path.write_text(json.dumps(files.read_json(path) | {"token": "other", "process": 7}))
            return augmented_batch(*told, **more)

        augmented_batch = loop.augmented_batch
        monkeypatch.setattr(loop, "augmented_batch", taken_over_meanwhile)
        monkeypatch.setattr(loop, "_SECONDS_BETWEEN_LINES", 0.0)
        cells, split = make_cells(dict.fromkeys(STAGES, 12)), tmp_path / "split.parquet"
        spec = {"kind": "holdout", "validation": 0.2, "test": 0.2}
        splits.make(cells, split, spec=spec, scheme=FIVE, sources=None, seed=0)
        plan = plan_of(checkpoint_seconds=3600.0)
        with pytest.raises(checkpoints.TakenOverError, match="taken over by process 7"):
            training.train(cells, split, tmp_path / "out", plan=plan, work=tmp_path / "work")
        assert len(steps) == 1
        assert not (tmp_path / "out").exists()

    def test_the_newer_owner_of_a_folder_wins(self, tmp_path: Path) -> None:
        with checkpoints.owned(tmp_path):
            files.write_text(tmp_path / "a", "first")
            with checkpoints.owned(tmp_path / "inside"):
                files.write_text(tmp_path / "inside" / "a", "first")
            # Another process would do just this.
            owner = files.read_json(tmp_path / "owner.json") | {"token": "other", "process": 7}
            (tmp_path / "owner.json").write_text(json.dumps(owner))
            with pytest.raises(checkpoints.TakenOverError, match=r"taken over by process 7 of .* stops and writes"):
                files.write_text(tmp_path / "a", "second")
            # ... and what lies inside is not taken back either.
            with (
                pytest.raises(checkpoints.TakenOverError, match="taken over by process 7"),
                checkpoints.owned(tmp_path / "inside"),
            ):
                pass
        assert (tmp_path / "a").read_text() == "first"
        assert not list(tmp_path.rglob(".*"))
        files.write_text(tmp_path / "a", "outside the block nobody asks")

    def test_work_that_was_removed_is_not_written_anew(self, tmp_path: Path) -> None:
        with checkpoints.owned(tmp_path / "work") as check_owner:
            shutil.rmtree(tmp_path / "work")
            with pytest.raises(checkpoints.TakenOverError, match="finished or removed by another process"):
                files.write_text(tmp_path / "out", "late")
            with pytest.raises(checkpoints.TakenOverError, match="finished or removed"):
                check_owner()
        assert not (tmp_path / "out").exists()


class TestRestart:
    @pytest.fixture
    def locked(self, tmp_path: Path) -> Path:
        """A folder as a killed snakemake leaves it."""
        for name in ("locks/0.input.lock", "locks/0.output.lock"):
            files.write_text(tmp_path / ".snakemake" / name, "data/simulated.h5\n")
        log = tmp_path / ".snakemake/log/2020-01-31T102049.837785.snakemake.log"
        files.write_text(log, f"SNAKEMAKE\n  Host: {platform.node()}\n  User: me\n")
        return tmp_path

    def test_a_stale_lock_is_cleared(self, locked: Path) -> None:
        told = subprocess.run(
            [sys.executable, "-m", "stainfree.restart"], cwd=locked, capture_output=True, text=True, check=True
        ).stdout
        assert told.startswith("An earlier run was killed: its lock is cleared")
        assert not list((locked / ".snakemake/locks").iterdir())
        assert restart.clear(locked) is None

    def test_a_running_snakemake_keeps_its_lock(self, locked: Path) -> None:
        # What counts is the command line and the folder; a folder beside it does not.
        command = [sys.executable, "-c", "import time; time.sleep(60)", "snakemake"]
        beside, here = (subprocess.Popen(command, cwd=folder) for folder in (locked.parent, locked))
        try:
            told = subprocess.run(
                [sys.executable, "-m", "stainfree.restart"], cwd=locked, capture_output=True, text=True, check=False
            )
            assert told.returncode == 1
            assert told.stderr == (
                f"Error: {locked.resolve()}: snakemake is running here (process {here.pid}); wait for it, or stop it\n"
            )
            assert len(restart.find_locks(locked)) == 2
            here.kill()
            here.wait()
            assert restart.clear(locked) == 0
        finally:
            for process in (beside, here):
                process.kill()
                process.wait()

    def test_what_it_left_in_slurm_is_cancelled(self, locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (log,) = (locked / ".snakemake/log").iterdir()
        log.write_text(log.read_text() + "SLURM run ID: 1b4e28ba\n")
        # As much of Slurm as a list of jobs that can be emptied.
        (locked / "jobs").write_text("7_1\n7_2\n8\n")
        for name, does in (("squeue", "cat"), ("scancel", ">")):
            command = locked / name
            command.write_text(f'#!/bin/sh\necho {name} "$@" >> {locked}/asked\n{does} {locked}/jobs\n')
            command.chmod(0o755)
        monkeypatch.setenv("PATH", str(locked), prepend=os.pathsep)
        assert restart.clear(locked) == 3
        asked = (locked / "asked").read_text().splitlines()
        assert [line.split()[0] for line in asked] == ["squeue", "scancel", "squeue"]
        assert all(line.endswith(" --name=1b4e28ba") for line in asked)
        assert not restart.find_locks(locked)

    def test_a_lock_stays_while_slurm_does_not_answer(self, locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (log,) = (locked / ".snakemake/log").iterdir()
        log.write_text(log.read_text() + "SLURM run ID: 1b4e28ba\n")
        (locked / "squeue").write_text("#!/bin/sh\necho squeue: error: no controller >&2\nexit 1\n")
        (locked / "squeue").chmod(0o755)
        monkeypatch.setenv("PATH", str(locked), prepend=os.pathsep)
        with pytest.raises(
            restart.LockedError, match=r"does not answer \(squeue: error: no controller\); run this again"
        ):
            restart.clear(locked)
        assert len(restart.find_locks(locked)) == 2

    def test_a_lock_of_another_machine_is_left(self, locked: Path) -> None:
        # Runs that began after the lock was taken say nothing of it.
        files.write_text(locked / ".snakemake/log/2020-02-01T000000.000001.snakemake.log", "  Host: login2\n")
        files.write_text(locked / ".snakemake/log/2999-01-01T000000.000001.snakemake.log", "  Host: login3\n")
        with pytest.raises(restart.LockedError, match=r"taken on another machine \(login2\); there, make sure"):
            restart.clear(locked)
        assert len(restart.find_locks(locked)) == 2

    def test_a_lock_of_another_user_is_left(self, locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        with pytest.raises(restart.LockedError, match=r"the lock of another user \(\w+\); make sure"):
            restart.clear(locked)

    @pytest.mark.parametrize(
        ("command", "runs"),
        [
            ("/opt/bin/python3.12 /opt/bin/snakemake --cores 2", True),
            ("python -u -m snakemake espinosa", True),
            ("snakemake", True),
            ("vim snakemake", False),
            ("python .snakemake/scripts/tmp1.train.py", False),
            ("python -m stainfree.restart", False),
            ("", False),
        ],
    )
    def test_snakemake_is_known_by_its_command_line(self, command: str, runs: bool) -> None:
        assert restart.is_snakemake(command.split()) is runs


def test_what_killed_processes_left_is_removed_by_the_next_write(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    node = platform.node()
    left = tmp_path / f".a.{node}-{gone.pid}.part.csv"
    kept = [tmp_path / f".a.{node}-{os.getppid()}.part.csv", tmp_path / f".a.other-{gone.pid}.part.csv"]
    for path in [left, *kept]:
        path.write_text("half")
    files.write_text(tmp_path / "b.txt", "whole")
    assert not left.exists()
    assert all(path.exists() for path in kept)
