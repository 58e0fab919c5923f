"""Each part a job of its own: the same loop, the same files, and a killed part goes on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from conftest import copy_project, snakemake
from test_training import FIVE, outputs, plan_of

from stainfree import files, splits, training
from stainfree.errors import DataError
from stainfree.schemes import STAGES

TRAINING = Path("results/simulated/espinosa/folds/cnn3/inv_weighted")
MODEL = str(TRAINING / "model.json")
FAN_OUT = ("--config", "fan_out=true")


def described(out: Path) -> dict[str, Any]:
    """What model.json says, but for times and where it was made."""
    told = files.read_json(out / "model.json")
    told.pop("provenance", None)
    for part in told["parts"]:
        del part["seconds"], part["checkpoints"], part["steps"]["seconds"]
    return told


class TestLibrary:
    @pytest.fixture
    def folds(self, make_cells: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
        """A cells file and its split into two folds."""
        cells, split = make_cells(dict.fromkeys(STAGES, 12)), tmp_path / "split.parquet"
        spec = {"kind": "kfold", "folds": 2, "validation": 0.25}
        splits.make(cells, split, spec=spec, scheme=FIVE, sources=None, seed=0)
        return cells, split

    def test_parts_joined_are_what_one_job_makes(self, folds: tuple[Path, Path], tmp_path: Path) -> None:
        plan, work = plan_of("cnn3", seeds=(0, 7)), tmp_path / "work"
        training.train(*folds, tmp_path / "one", plan=plan, work=work)
        parts = []
        for fold, seed in [(0, 0), (0, 7), (1, 0), (1, 7)]:
            parts.append(tmp_path / "parts" / f"{fold}-{seed}")
            training.make_part(*folds, parts[-1], plan=plan, fold=fold, seed=seed, work=work)
        training.join_parts(*folds, parts, tmp_path / "many", plan=plan, work=work)
        assert len(outputs(tmp_path / "one")) == 7
        assert outputs(tmp_path / "many") == outputs(tmp_path / "one")
        assert described(tmp_path / "many") == described(tmp_path / "one")
        assert not list(work.iterdir())

        with pytest.raises(DataError, match=r"its parts \(fold, seed\) are .* those to join are \[\(0, 0\), \(1, 0\)"):
            training.join_parts(*folds, [parts[0], parts[2]], tmp_path / "few", plan=plan, work=work)
        assert not (tmp_path / "few").exists()

    def test_one_job_goes_on_where_parts_have_got(self, folds: tuple[Path, Path], tmp_path: Path) -> None:
        plan, work = plan_of("cnn3"), tmp_path / "work"
        training.make_part(*folds, tmp_path / "part", plan=plan, fold=1, seed=0, work=work)
        training.train(*folds, tmp_path / "out", plan=plan, work=work)
        (_, second) = files.read_json(tmp_path / "out" / "model.json")["parts"]
        assert second == files.read_json(tmp_path / "part" / "part.json")

    def test_a_fold_that_the_split_lacks_is_refused(self, folds: tuple[Path, Path], tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"split\.parquet: has no fold 2; delete it and draw the split again"):
            training.make_part(*folds, tmp_path / "part", plan=plan_of(), fold=2, seed=0, work=tmp_path / "work")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one training of two folds, made by one job."""
    project = copy_project(tmp_path_factory.mktemp("trained") / "project")
    config = yaml.safe_load((project / "config.yaml").read_text())
    config["datasets"] = {"simulated": {"n_cells": 420}}
    config["training"]["checkpoint_seconds"] = 0.1
    espinosa = config["experiments"]["espinosa"]
    del espinosa["study"], espinosa["explain"]
    espinosa["variants"] = {"folds": {"split": {"kind": "kfold", "folds": 2, "validation": 0.2}}}
    espinosa["models"] = [{"cnn3": {"recipe": {"epochs": 30, "patience": 1000}}}, "fc"]
    espinosa["losses"] = ["inv_weighted"]
    espinosa["seeds"] = [3]
    (project / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    snakemake(project, MODEL)
    return project


@pytest.fixture(scope="module")
def fanned_out(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which the same training is made anew by a job for each part, one of which is killed on its way."""
    project = tmp_path_factory.mktemp("fanned") / "project"
    shutil.copytree(trained, project, symlinks=True)
    shutil.rmtree(project / TRAINING)
    with (project / "run.log").open("w") as log:
        run = subprocess.Popen(
            [sys.executable, "-m", "snakemake", MODEL, "--retries", "1", *FAN_OUT],
            cwd=project, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 600
            while not list(project.glob("work/checkpoints/*/fold*/checkpoint.safetensors")):
                assert run.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            # Whichever part it was that wrote a checkpoint, and the other one with it.
            for part in parts_of(run.pid):
                part.kill()
            run.wait(timeout=600)
        finally:
            run.kill()
    assert run.returncode == 0, (project / "run.log").read_text()
    return project


def parts_of(snakemake_process: int) -> Iterator[psutil.Process]:
    """The scripts of parts that a snakemake runs."""
    for process in psutil.Process(snakemake_process).children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            if any(word.endswith(".train_part.py") for word in process.cmdline()[1:2]):
                yield process


def planned(project: Path, *arguments: str) -> list[str]:
    """The jobs that a dry run plans, each by what it says it does, but for where."""
    told = snakemake(project, "--dry-run", *arguments).stdout
    return sorted(re.findall(r"^Job \d+: (.*?)(?: \(simulated, espinosa/folds\))?$", told, re.MULTILINE))


class TestThroughSnakemake:
    def test_a_killed_part_goes_on_and_the_files_are_those_of_one_job(self, trained: Path, fanned_out: Path) -> None:
        told = (fanned_out / "run.log").read_text()
        assert "Trying to restart job" in told
        assert re.search(r"\[train_part\] cnn3/inv_weighted fold \d seed 3: going on at step \d+", told)
        assert outputs(fanned_out / TRAINING) == outputs(trained / TRAINING)
        assert described(fanned_out / TRAINING) == described(trained / TRAINING)
        # Nothing is kept twice.
        assert not [path for path in (fanned_out / "work").rglob("*") if path.is_file()]

    def test_every_part_of_every_training_is_a_job(self, trained: Path) -> None:
        assert planned(trained, str(TRAINING).replace("cnn3", "fc") + "/model.json", *FAN_OUT) == [
            "Join the parts of fc under inv_weighted",
            "Train fc under inv_weighted, fold 0, seed 3",
            "Train fc under inv_weighted, fold 1, seed 3",
        ]

    def test_finished_trainings_can_be_left_when_it_is_switched(self, trained: Path, fanned_out: Path) -> None:
        leave = ("--rerun-triggers", "mtime", "params")
        assert planned(trained, MODEL) == []
        assert planned(trained, MODEL, *leave, *FAN_OUT) == []
        assert planned(fanned_out, MODEL, *FAN_OUT) == []
        assert planned(fanned_out, MODEL, *leave) == []

    @pytest.mark.parametrize(
        ("file", "old", "new", "stale"),
        [
            ("src/stainfree/models/cnn3.py", "nn.Dropout(dropout)", "nn.Dropout(dropout / 2)", True),
            ("src/stainfree/losses/inv_weighted.py", "1.0 / counts", "2.0 / counts", True),
            ("scripts/train_part.py", "with step:", "print(1)\nwith step:", True),
            ("src/stainfree/models/fc.py", "0.25", "0.2", False),
        ],
    )
    def test_its_parts_are_stale_where_a_training_is(
        self, fanned_out: Path, file: str, old: str, new: str, stale: bool
    ) -> None:
        path = fanned_out / file
        text, changed = path.read_text(), path.stat().st_mtime_ns
        assert old in text
        try:
            path.write_text(text.replace(old, new, 1))
            jobs = planned(fanned_out, MODEL, *FAN_OUT)
        finally:
            path.write_text(text)
            os.utime(path, ns=(changed, changed))
        assert jobs == (
            [
                "Join the parts of cnn3 under inv_weighted",
                "Train cnn3 under inv_weighted, fold 0, seed 3",
                "Train cnn3 under inv_weighted, fold 1, seed 3",
            ]
            if stale
            else []
        )
