"""Training that starts from another's weights: they are really there, and none that have seen a test cell are taken."""

from __future__ import annotations

import copy
import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from conftest import copy_project, snakemake
from safetensors.torch import load_file
from test_training import FIVE, plan_of

from stainfree import files, models, splits, training, transfer
from stainfree.errors import DataError
from stainfree.plans import Plan
from stainfree.schemes import STAGES, Scheme

TWO = Scheme("two", {"G2": ("G2",), "not G2": tuple(stage for stage in STAGES if stage != "G2")})
KFOLD = {"kind": "kfold", "folds": 2, "validation": 0.25}
# No batch norm, so that a step of no length leaves the network as it was.
STANDING = {"nn": {"hidden": [8, 6], "recipe": {"optimizer": "sgd", "learning_rate": 1e-30, "epochs": 1}}}
LEARNING = {"nn": {"hidden": [8, 6], "recipe": {"learning_rate": 1e-3, "epochs": 2}}}


@dataclasses.dataclass
class Source:
    """A finished training to start from, and the cells of both."""

    cells: Path
    split: Path
    folder: Path
    work: Path

    def plan(self, head: str = "new", **changes: Any) -> Plan:
        """Plan a training that starts from it, and learns nothing."""
        said = {"folder": str(self.folder), "split": str(self.split), "head": head}
        return plan_of(models.entry(STANDING), loss="unweighted", init_from=said, **changes)

    def train(self, out: Path, plan: Plan, *, split: Path | None = None) -> dict[str, torch.Tensor]:
        """Train, and return the weights of fold 0, seed 0."""
        training.train(self.cells, split or self.split, out, plan=plan, work=self.work)
        return load_file(out / "weights" / "fold0-seed0.safetensors")


def draw(path: Path, cells: Path, *, scheme: Scheme = FIVE, seed: int = 0, **changes: Any) -> Path:
    splits.make(cells, path, spec={**KFOLD, **changes}, scheme=scheme, sources=None, seed=seed)
    return path


@pytest.fixture
def source(make_cells: Callable[..., Path], tmp_path: Path) -> Source:
    cells = make_cells(dict.fromkeys(STAGES, 8), side=12)
    split = draw(tmp_path / "split.parquet", cells)
    source = Source(cells, split, tmp_path / "source", tmp_path / "work")
    source.train(source.folder, plan_of(models.entry(LEARNING), loss="unweighted"))
    return source


def test_all_weights_are_kept_for_the_same_classes(source: Source, tmp_path: Path) -> None:
    started = source.train(tmp_path / "out", source.plan("keep"))
    theirs = load_file(source.folder / "weights" / "fold0-seed0.safetensors")
    assert started.keys() == theirs.keys()
    assert all(torch.equal(started[name], theirs[name]) for name in theirs)
    # The other fold starts from that of the other fold.
    other = load_file(tmp_path / "out" / "weights" / "fold1-seed0.safetensors")
    theirs = load_file(source.folder / "weights" / "fold1-seed0.safetensors")
    assert all(torch.equal(other[name], theirs[name]) for name in theirs)
    told = files.read_json(tmp_path / "out" / "model.json")
    assert told["init_from"] == {"folder": str(source.folder), "split": str(source.split), "head": "keep"}


def test_a_new_head_is_drawn_as_without_a_start(source: Source, tmp_path: Path) -> None:
    split = draw(tmp_path / "two.parquet", source.cells, scheme=TWO)
    started = source.train(tmp_path / "out", source.plan(scheme=TWO), split=split)
    drawn = source.train(
        tmp_path / "drawn", plan_of(models.entry(STANDING), loss="unweighted", scheme=TWO), split=split
    )
    theirs = load_file(source.folder / "weights" / "fold0-seed0.safetensors")
    assert started["head.weight"].shape == (2, 6)
    for name in theirs:
        expected, other = (drawn, theirs) if name.startswith("head.") else (theirs, drawn)
        assert torch.equal(started[name], expected[name])
        assert not torch.equal(started[name], other[name]) or other[name].shape != started[name].shape


def test_it_learns_on_from_there(source: Source, tmp_path: Path) -> None:
    plan = dataclasses.replace(source.plan("keep"), model=models.entry(LEARNING))
    first = source.train(tmp_path / "out", plan)
    theirs = load_file(source.folder / "weights" / "fold0-seed0.safetensors")
    moved = max((first[name] - theirs[name]).abs().max().item() for name in theirs)
    # Adam moves a weight by about its learning rate, 1e-3, in each of 2 or fewer steps that count.
    assert 0 < moved < 0.05


class TestRefused:
    def refuse(self, source: Source, out: Path, plan: Plan, line: str, *, split: Path | None = None) -> None:
        with pytest.raises(DataError, match=line) as caught:
            source.train(out, plan, split=split)
        assert "\n" not in str(caught.value)
        assert not out.exists()

    def test_weights_that_learnt_from_a_test_cell(self, source: Source, tmp_path: Path) -> None:
        other = draw(tmp_path / "other.parquet", source.cells, seed=1)
        self.refuse(
            source, tmp_path / "out", source.plan("keep"), split=other,
            line=r"source: learnt from \d+ cells that test fold 0 here, such as c\d+; start from .* the same split",
        )  # fmt: skip

    @pytest.mark.parametrize("subset", ["train", "validation"])
    def test_or_were_chosen_by_one(self, source: Source, tmp_path: Path, subset: str) -> None:
        # One cell alone stands elsewhere: it tests fold 0 here.
        split = splits.read(source.split)
        row = split.index[(split["fold"] == 0) & (split["subset"] == subset)][0]
        split.loc[row, "subset"] = "test"
        split.to_parquet(tmp_path / "other.parquet")
        cell = split.loc[row, "cell_id"]
        line = f"learnt from 1 cells that test fold 0 here, such as {cell};"
        self.refuse(source, tmp_path / "out", source.plan("keep"), line, split=tmp_path / "other.parquet")

    def test_or_that_started_from_weights_that_did(self, source: Source, tmp_path: Path) -> None:
        # The second training leaves out a cell that the first learnt from, and that tests fold 0 of the third.
        split = splits.read(source.split)
        row = split.index[(split["fold"] == 0) & (split["subset"] == "train")][0]
        without = split.drop(index=row)
        without.to_parquet(tmp_path / "without.parquet")
        second = dataclasses.replace(source, split=tmp_path / "without.parquet", folder=tmp_path / "second")
        source.train(second.folder, source.plan("keep"), split=second.split)
        split.loc[row, "subset"] = "test"
        split.to_parquet(tmp_path / "other.parquet")
        line = f"source: learnt from 1 cells that test fold 0 here, such as {split.loc[row, 'cell_id']};"
        self.refuse(source, tmp_path / "out", second.plan("keep"), line, split=tmp_path / "other.parquet")
        (source.folder / "model.json").unlink()
        line = r"source/model\.json: is missing, so that nobody can tell"
        self.refuse(source, tmp_path / "out", second.plan("keep"), line, split=tmp_path / "other.parquet")

    def test_or_from_a_copy_of_one(self, source: Source, tmp_path: Path) -> None:
        # Another data set could hold a copy under another name: it is of the same group.
        split = splits.read(source.split)
        seen = split[(split["fold"] == 0) & (split["subset"] == "train")].iloc[0]
        tested = split.index[(split["fold"] == 0) & (split["subset"] == "test")][0]
        split.loc[tested, "group"] = seen["group"]
        split.to_parquet(tmp_path / "other.parquet")
        line = f"learnt from 1 cells that test fold 0 here, such as {split.loc[tested, 'cell_id']};"
        self.refuse(source, tmp_path / "out", source.plan("keep"), line, split=tmp_path / "other.parquet")

    def test_weights_of_test_cells_alone_are_fine(self, source: Source, tmp_path: Path) -> None:
        data = training.prepare(source.cells, source.split, source.plan("keep"))
        transfer.check_unseen(data, folder=source.folder, split=str(source.split), fold=0)
        # Fold 1 tests what trained fold 0.
        mixed = splits.read(source.split).replace({"fold": {0: 1, 1: 0}})
        mixed.to_parquet(tmp_path / "mixed.parquet")
        with pytest.raises(DataError, match="that test fold 0 here"):
            transfer.check_unseen(data, folder=source.folder, split=str(tmp_path / "mixed.parquet"), fold=0)

    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            ({"model": {"nn": {"hidden": [8, 7]}}}, "is a nn of other parameters or another size than nn; start from"),
            ({"model": {"fc": {"image_size": 12}}}, "is a nn of other parameters or another size than fc; start from"),
            ({"scheme": TWO}, "tells Interphase, Prophase, .* apart, and this experiment G2, not G2; set `head: new`"),
            ({"channels": ("DF",)}, "sees BF, and nn here DF; start from an experiment with the same channels"),
            ({"seeds": (3,)}, r"model\.json: has no part of fold 0 and seed 3 to start from; train it there"),
        ],
    )
    def test_what_does_not_fit(
        self, source: Source, tmp_path: Path, make_cells: Callable[..., Path], changes: dict[str, Any], line: str
    ) -> None:
        changes = dict(changes)
        if "model" in changes:
            changes["model"] = models.entry(changes["model"])
        if "channels" in changes:  # the same cells, seen otherwise
            make_cells(dict.fromkeys(STAGES, 8), side=12, channels=("BF", "DF"))
        split = draw(tmp_path / "here.parquet", source.cells, scheme=changes.get("scheme", FIVE))
        plan = dataclasses.replace(source.plan("keep"), **changes)
        self.refuse(source, tmp_path / "out", plan, line, split=split)

    def test_a_fold_that_was_not_trained_there_before_any_is_trained(
        self, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.rmtree(source.folder)
        source.train(source.folder, plan_of(models.entry(LEARNING), loss="unweighted", folds=1))
        monkeypatch.setattr(training, "fill_part", None)
        self.refuse(source, tmp_path / "out", source.plan("keep"), "has no part of fold 1 and seed 0 to start from")

    def test_images_of_another_size(self, source: Source, tmp_path: Path, make_cells: Callable[..., Path]) -> None:
        make_cells(dict.fromkeys(STAGES, 8), side=16)
        self.refuse(
            source, tmp_path / "out", source.plan("keep"), "its features.1.weight does not fit; start from a network of"
        )

    def test_weights_that_were_tampered_with(self, source: Source, tmp_path: Path) -> None:
        path = source.folder / "weights" / "fold0-seed0.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        line = r"fold0-seed0\.safetensors: is not what model\.json describes; train nn again"
        self.refuse(source, tmp_path / "out", source.plan("keep"), line)

    def test_a_split_that_is_not_theirs(self, source: Source, tmp_path: Path) -> None:
        ours = shutil.copy(source.split, tmp_path / "ours.parquet")
        draw(source.split, source.cells, seed=5)
        self.refuse(
            source, tmp_path / "out", source.plan("keep"), split=ours,
            line=r"split\.parquet: is not the split that .*source was trained on; train nn again",
        )  # fmt: skip


def test_a_plan_that_starts_from_other_weights_shares_no_checkpoint(source: Source, tmp_path: Path) -> None:
    def digest() -> str:
        return source.plan("keep").digest(cells_sha256="c", split_sha256="s")

    before = digest()
    assert digest() == before != source.plan("new").digest(cells_sha256="c", split_sha256="s")
    # The same path, and other weights in it.
    plan = plan_of(models.entry(LEARNING), loss="unweighted", seeds=(0, 1))
    source.train(source.folder, plan)
    assert digest() != before


TRAINED = ("after", "searched")
"""Models of the experiment `second`: one starts from weights of `first`, the settings of the other are searched."""


def path_of(model: str, name: str = "model.json", experiment: str = "second") -> str:
    return f"results/simulated/{experiment}/base/{model}/unweighted/{name}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with both trainings."""
    project = copy_project(tmp_path_factory.mktemp("transfer") / "project")
    experiment: dict[str, Any] = {
        "task": "classification",
        "channels": ["PI"],
        "fit": "pad",
        "variants": {"base": {"split": {"kind": "kfold", "folds": 2, "validation": 0.2}}},
        "losses": ["unweighted"],
        "seeds": [0],
        "subsets": ["validation", "test"],
    }
    network = {"family": "nn", "hidden": [4], "recipe": {"epochs": 1}}
    start = {"experiment": "first", "variant": "base", "model": "before", "loss": "unweighted", "head": "new"}
    search = {"trials": 2, "folds": 2, "space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}}
    config = yaml.safe_load((project / "config.yaml").read_text())
    config["datasets"] = {"simulated": {"n_cells": 420}}
    config["build"] = ["first"]
    after, searched = {**network, "init_from": start}, {**network, "folds": 1, "tune": search}
    config["experiments"] = {
        "first": {**copy.deepcopy(experiment), "scheme": "two", "models": [{"before": network}]},
        "second": {**experiment, "scheme": "four", "models": [{"after": after}, {"searched": searched}]},
    }
    (project / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run = snakemake(project, *map(path_of, TRAINED))
    (project / "run.log").write_text(run.stdout)
    return project


def planned(project: Path, *arguments: str) -> list[tuple[str, str]]:
    """The jobs that a dry run plans: what each says it does, and its experiment."""
    told = snakemake(project, *map(path_of, TRAINED), "--dry-run", *arguments).stdout
    assert "Job stats:" in told or "Nothing to be done" in told, told
    return sorted(re.findall(r"^Job \d+: (.*?) under unweighted.*? \(simulated, (\w+)/base\)$", told, re.MULTILINE))


def change(project: Path, *keys: str | int, to: Any) -> None:
    """Set what stands at `keys` below the experiments of config.yaml."""
    config = yaml.safe_load((project / "config.yaml").read_text())
    inner = config["experiments"]
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    (project / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


class TestThroughSnakemake:
    def test_one_starts_where_the_other_ended(self, built: Path) -> None:
        told = (built / "run.log").read_text()
        for fold in (0, 1):
            weights = f"results/simulated/first/base/before/unweighted/weights/fold{fold}-seed0.safetensors"
            assert f"[train] fold {fold} seed 0: starting from {weights}" in told
        assert files.read_json(built / path_of("after"))["init_from"]["head"] == "new"

    def test_settings_are_searched_and_taken(self, built: Path) -> None:
        (found,) = files.read_json(built / path_of("searched", "tuning/best.json"))["folds"]
        (part,) = files.read_json(built / path_of("searched"))["parts"]
        assert part["tuned"] == found["settings"]
        assert len(pd.read_csv(built / path_of("searched", "tuning/trials.csv"))) == found["trials"] == 2
        told = (built / "run.log").read_text()
        assert re.search(r"\[tune\] fold 0, trial 2 of 2: macro_f1 0\.\d+ with learning_rate", told)
        assert not list((built / "work/tuning").iterdir())

    def test_what_becomes_stale(self, built: Path, tmp_path: Path) -> None:
        assert planned(built) == []
        project = tmp_path / "project"
        shutil.copytree(built, project)
        code = project / "src/stainfree/tuning.py"
        code.write_text(code.read_text() + "\nUNUSED = 1\n")
        search = [("Search settings of searched", "second"), ("Train searched", "second")]
        assert planned(project) == search
        change(project, "first", "models", 0, "before", "recipe", "epochs", to=2)
        assert planned(project) == sorted([*search, ("Train after", "second"), ("Train before", "first")])
        # With a job for each part of a training, the search is still one.
        joined = [("Join the parts of searched", "second"), ("Join the parts of after", "second")]
        assert planned(project, "--config", "fan_out=true") == sorted(
            [
                *[*search, *joined, ("Join the parts of before", "first")],
                *[("Train after", "second"), ("Train before", "first")] * 2,
            ]
        )

    def test_weights_that_have_seen_test_cells_are_refused(self, built: Path, tmp_path: Path) -> None:
        project = tmp_path / "project"
        shutil.copytree(built, project)
        change(project, "second", "variants", "base", "split", "seed", to=7)
        run = snakemake(project, path_of("after"), check=False)
        assert run.returncode != 0
        lines = [line for line in run.stdout.splitlines() if "learnt from" in line]
        assert "results/simulated/first/base/before/unweighted: learnt from" in lines[0]
        assert "start from an experiment with the same split (kind, folds, seed, sources)" in lines[0]
        assert "Traceback" not in run.stdout
        assert not (project / path_of("after")).exists()
