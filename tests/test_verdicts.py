"""What fails for good is done once, is told again at once, and stands in front of the user."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import ROOT, snakemake

from stainfree import verdicts
from stainfree.datasets.download import UnreachableError
from stainfree.errors import DataError, OutOfMemoryError, OutOfTimeError, StainfreeError, TakenOverError
from stainfree.files import UnwritableError
from stainfree.verdicts import Verdict

SPLIT = "results/simulated/espinosa/holdout/split.parquet"
MODEL = "results/simulated/espinosa/holdout/cnn3/inv_weighted/model.json"
REASON = r"results/\S+/split\.parquet: cell other-\S+ is not in data/simulated\.h5; draw the split again"


@pytest.fixture
def small(project: Path) -> Path:
    """A project of one training of two steps; whoever loads the training's library leaves a mark in `loaded`."""
    config = yaml.safe_load((project / "config.yaml").read_text())
    config["datasets"] = {"simulated": {"n_cells": 420}}
    espinosa = config["experiments"]["espinosa"]
    del espinosa["study"], espinosa["explain"]
    espinosa["models"] = [{"cnn3": {"recipe": {"epochs": 2, "batches_per_epoch": 1}}}]
    espinosa["losses"] = ["inv_weighted"]
    (project / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    module = project / "src/stainfree/training.py"
    mark = 'with open("loaded", "a") as stream:\n    stream.write("x")\n'
    module.write_text(module.read_text().replace("import pandas as pd\n", f"{mark}import pandas as pd\n", 1))
    return project


class TestThroughSnakemake:
    def test_bad_data_is_tried_once_and_told_at_the_end(self, small: Path) -> None:
        snakemake(small, SPLIT)
        drawn = pd.read_parquet(small / SPLIT)
        drawn.assign(cell_id="other-" + drawn["cell_id"]).to_parquet(small / SPLIT)

        run = snakemake(small, MODEL, "--retries", "2", check=False)
        assert run.returncode != 0
        said = re.findall(r"^\[train\] (.*)$", run.stdout, re.MULTILINE)
        assert len(said) == 3
        assert re.fullmatch(rf"Error: {REASON}", said[0])
        assert [line.removeprefix(said[0]) for line in said[1:]] == [
            " (said again: attempt 2 is the same work)",
            " (said again: attempt 3 is the same work)",
        ]
        # Done once, and told again before anything heavy is loaded.
        assert (small / "loaded").read_text() == "x"
        # Among the last lines, and in the log.
        reason = f"train: {said[0]} (log: logs/train/simulated/espinosa/holdout/cnn3/inv_weighted.log)"
        assert reason in run.stdout.splitlines()[-6:]
        (told,) = (small / "logs/train/simulated/espinosa/holdout/cnn3/inv_weighted.log").read_text().splitlines()
        assert told.endswith(f" ERROR error: {said[2]}")

        # Mended, the job ends well in the next run and leaves no verdict.
        drawn.to_parquet(small / SPLIT)
        snakemake(small, MODEL)
        assert (small / MODEL).is_file()
        assert (small / "loaded").read_text() == "xx"
        assert not list((small / "work").rglob("*.json"))

    def test_the_end_of_the_time_is_no_verdict(self, small: Path) -> None:
        # As in a Slurm job whose end is near: each attempt makes one step.
        near = {"SLURM_JOB_ID": "1", "SLURM_JOB_END_TIME": str(int(time.time()))}
        run = snakemake(small, MODEL, "--retries", "2", environment=near)
        assert re.findall(r"the job's time ends: stopped at step (\d+) of at most 2, saved", run.stdout) == ["1", "2"]
        assert re.findall(r"going on at step (\d+)", run.stdout) == ["1", "2"]
        assert "said again" not in run.stdout
        assert not list((small / "work").rglob("*.json"))


def test_every_rule_tells_its_scripts_which_attempt_it_is() -> None:
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        for rule in re.findall(r"^ *rule \w+:.*?script:", path.read_text(), re.DOTALL | re.MULTILINE):
            name = rule.split(":")[0].split()[1]
            assert "attempt=get_attempt," in rule, f"{path.name}: rule {name}"
            assert "mem_mb=get_memory(" in rule, f"{path.name}: rule {name}"
            assert "runtime=get_runtime(" in rule, f"{path.name}: rule {name}"


class TestVerdict:
    @pytest.fixture(autouse=True)
    def in_a_folder_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "cells").write_text("cells")

    @staticmethod
    def verdict(**changes: object) -> Verdict:
        given = {"rule": "split", "log": "logs/split/a/b.log", "inputs": ["cells"], "params": [{"folds": 5}, None]}
        return Verdict(**(given | changes))  # type: ignore[arg-type]

    def test_it_holds_for_the_same_inputs_and_parameters(self) -> None:
        assert self.verdict().recall() is None
        self.verdict().record(DataError("bad"), "Error: bad")
        assert self.verdict().recall() == "Error: bad"
        assert self.verdict(params=[{"folds": 4}, None]).recall() is None
        assert self.verdict(log="logs/split/a/c.log").recall() is None
        Path("cells").write_text("mended cells")
        assert self.verdict().recall() is None

    def test_a_mend_of_the_same_size_counts(self) -> None:
        self.verdict().record(DataError("bad"), "Error: bad")
        os.utime("cells", ns=(0, 0))
        assert self.verdict().recall() is None

    @pytest.mark.parametrize(
        "error",
        [
            OutOfTimeError("late"),
            OutOfMemoryError("more"),
            UnwritableError("disk is full"),
            UnreachableError("no answer"),
            MemoryError(),
            KeyError("x"),
        ],
    )
    def test_what_another_attempt_may_mend_is_told_but_not_repeated(self, error: Exception) -> None:
        self.verdict().record(error, "Error: said")
        assert self.verdict().recall() is None
        assert verdicts.summary() == ["What failed, and why:", "split: Error: said (log: logs/split/a/b.log)"]

    def test_who_was_taken_over_is_silent(self) -> None:
        self.verdict().record(TakenOverError("by another"), "Error: by another")
        assert verdicts.summary() == []

    def test_a_verdict_is_forgotten(self) -> None:
        for log in ("logs/split/a.log", "logs/train/b.log"):
            self.verdict(log=log).record(StainfreeError("bad"), "Error: bad")
        self.verdict(log="logs/split/a.log").forget()
        assert verdicts.summary() == ["What failed, and why:", "split: Error: bad (log: logs/train/b.log)"]
        verdicts.forget_all()
        verdicts.forget_all()
        assert verdicts.summary() == []

    def test_where_it_cannot_be_written_down_the_job_fails_all_the_same(self) -> None:
        Path("work").write_text("no folder")
        self.verdict().record(DataError("bad"), "Error: bad")
        assert self.verdict().recall() is None

    def test_half_a_verdict_is_none(self) -> None:
        self.verdict().record(DataError("bad"), "Error: bad")
        self.verdict().path.write_text('{"rule": ')
        assert self.verdict().recall() is None
        assert verdicts.summary() == []
