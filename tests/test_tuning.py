"""Searches of settings: they find what is planted, see no test cell, and end the same however often stopped."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT
from test_deadline import attempts
from test_training import FIVE, plan_of

from stainfree import cells, checkpoints, files, models, search, splits, trained, training, tuning
from stainfree import config as configuration
from stainfree.deadline import Deadline
from stainfree.errors import ConfigError, DataError, DivergedError
from stainfree.schemes import STAGES
from stainfree.search import Search

KFOLD = {"kind": "kfold", "folds": 3, "validation": 0.25}
SMALL = models.entry({"nn": {"hidden": [8], "recipe": {"batches_per_epoch": 5}}})
# Only the first learning rate learns anything in so few steps.
PLANTED = Search(trials=4, folds=2, space={"learning_rate": [1e-3, 1e-12], "batch_size": [30, 60]}, epochs=3)
WIDE = Search(trials=4, folds=2, space={"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}, epochs=2)


@pytest.fixture
def made(make_cells: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """A cells file and its split into three folds."""
    path, split = make_cells(dict.fromkeys(STAGES, 12)), tmp_path / "split.parquet"
    splits.make(path, split, spec=KFOLD, scheme=FIVE, sources=None, seed=0)
    return path, split


def tune(
    made: tuple[Path, Path], out: Path, told: Search = PLANTED, *, deadline: Deadline | None = None, **changes: Any
) -> dict[str, str]:
    """Search for the first fold, and return what must be the same in every run."""
    plan = plan_of(**{"model": SMALL, "folds": 1, **changes})
    tuning.tune(*made, out, plan=plan, search=told, work=out.parent / "work", deadline=deadline)
    # What was unfinished is gone.
    assert not list((out.parent / "work").iterdir())
    trials = pd.read_csv(out / "trials.csv").drop(columns="seconds")
    return {"best": (out / "best.json").read_text(), "trials": trials.to_csv()}


def test_it_finds_a_setting_that_is_planted(made: tuple[Path, Path], tmp_path: Path) -> None:
    tune(made, tmp_path / "out", folds=2)
    told = files.read_json(tmp_path / "out" / "best.json")
    assert [one["fold"] for one in told["folds"]] == [0, 1]
    assert [one["settings"]["learning_rate"] for one in told["folds"]] == [1e-3, 1e-3]
    assert [one["trials"] for one in told["folds"]] == [4, 4]
    assert told["search"] == dataclasses.asdict(PLANTED)
    trials = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert list(trials.columns) == ["fold", "number", "state", "settings", "score_0", "score_1", "mean", "seconds"]
    assert trials["number"].tolist() == [1, 2, 3, 4] * 2
    np.testing.assert_allclose(trials["mean"], trials[["score_0", "score_1"]].mean(axis=1))
    for one in told["folds"]:
        of_fold = trials[trials["fold"] == one["fold"]]
        best = of_fold.loc[of_fold["mean"].idxmax()]
        assert (best["mean"], json.loads(best["settings"])) == (pytest.approx(one["score"]), one["settings"])
        # There are four sets of settings: who draws one again does not train it again.
        for _, same in of_fold.groupby("settings"):
            assert same["state"].tolist() == ["finished"] + ["repeated"] * (len(same) - 1)
            assert same["mean"].nunique() == 1


def test_the_test_cells_of_a_fold_are_not_even_read(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    def watched(data: training.Data, plan: training.Plan, **more: Any) -> None:
        assert len(data.images) == len(data.row)
        assert set(data.split["cell_id"]) == set(data.row.index)
        seen.append(set(data.row.index))
        fill_part(data, plan, **more)

    fill_part = training.fill_part
    monkeypatch.setattr(training, "fill_part", watched)
    tune(made, tmp_path / "out", WIDE, folds=2)
    split = splits.read(made[1])
    for fold, half in ((0, seen[: len(seen) // 2]), (1, seen[len(seen) // 2 :])):
        of_fold = split[split["fold"] == fold].set_index("cell_id")["subset"]
        assert len(half) == WIDE.trials * WIDE.folds
        assert all(ids == set(of_fold.index[of_fold != "test"]) for ids in half)


def test_inner_folds_are_dealt_like_the_split(make_cells: Callable[..., Path], tmp_path: Path) -> None:
    table = cells.read_table(make_cells({stage: 18 + 6 * k for k, stage in enumerate(STAGES)}))
    table["group"] = [f"pair {row // 2}" for row in range(len(table))]
    split = splits.draw(table, KFOLD, scheme=FIVE, seed=0)
    inner = tuning.inner_split(split, 1, folds=3, scheme=FIVE, seed=5)
    inside = split[(split["fold"] == 1) & (split["subset"] != "test")]
    assert sorted(inner["fold"].unique()) == [0, 1, 2]
    tested = inner[inner["subset"] == "test"]
    assert sorted(tested["cell_id"]) == sorted(inside["cell_id"])
    assert (inner.groupby(["fold", "group"])["subset"].nunique() == 1).all()
    counts = tested.groupby(["stage", "fold"]).size().unstack()
    assert (counts.max(axis=1) - counts.min(axis=1) <= 2).all(), counts
    validates = inner[inner["subset"] != "test"].groupby("fold")["subset"].agg(lambda s: (s == "validation").mean())
    assert validates.to_list() == pytest.approx([(inside["subset"] == "validation").mean()] * 3, abs=0.05)
    assert not inner.equals(tuning.inner_split(split, 1, folds=3, scheme=FIVE, seed=6))


class TestStopped:
    def test_stopped_anywhere_it_ends_the_same(
        self, made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        undisturbed = tune(made, tmp_path / "a" / "out", WIDE)
        written: list[str] = []

        def dying(write: Callable[..., None]) -> Callable[..., None]:
            """Die after every sixth checkpoint, every finished part and every finished trial."""

            def write_then_die(path: Path, *told: Any) -> None:
                write(path, *told)
                written.append(path.name)
                is_sixth = path.name == "checkpoint.safetensors" and written.count(path.name) % 6 == 0
                if is_sixth or path.name in ("part.json", "trial.json"):
                    raise KeyboardInterrupt

            return write_then_die

        kills = 0
        monkeypatch.setattr(checkpoints, "save", dying(checkpoints.save))
        monkeypatch.setattr(files, "write_json", dying(files.write_json))
        ended: dict[str, str] = {}
        while not ended:
            assert kills < 40
            try:
                ended = tune(made, tmp_path / "b" / "out", WIDE, checkpoint_seconds=0.0)
            except KeyboardInterrupt:
                kills += 1
        # No step was made twice: 4 trials of 2 trainings of 10 steps.
        assert written.count("checkpoint.safetensors") == 80
        assert kills == 80 // 6 + 4 * 2 + 4
        assert ended == undisturbed

    def test_it_leaves_before_its_job_ends(self, made: tuple[Path, Path], tmp_path: Path) -> None:
        told = dataclasses.replace(WIDE, trials=2, epochs=1)
        undisturbed = tune(made, tmp_path / "a" / "out", told)
        ended: list[dict[str, str]] = []

        def again(limit: Deadline) -> None:
            ended.append(tune(made, tmp_path / "b" / "out", told, deadline=limit))

        said = attempts(again, seconds=-1000)
        # An attempt ends after each of 5 steps of 4 trainings, and, but for the first, before a training begins.
        assert len(said) == 23
        assert said[7].startswith(
            "nn (fold 0, trial 1)/inv_weighted fold 1 seed 0: the job's time ends: stopped at step 2"
        )
        assert said[11] == (
            "nn (fold 0, trial 2) inner fold 0: the job's time ends: all before it is saved; "
            "the next attempt goes on there"
        )
        assert ended == [undisturbed]

    @pytest.mark.parametrize(
        "damage",
        [
            lambda text: text[: len(text) // 2],
            lambda text: "[]",
            lambda text: text.replace('"learning_rate": ', '"learning_rate": 1'),
        ],
    )
    def test_a_damaged_trial_is_made_anew(
        self,
        made: tuple[Path, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        damage: Callable[[str], str],
    ) -> None:
        told = dataclasses.replace(WIDE, trials=2, epochs=1)
        undisturbed = tune(made, tmp_path / "a" / "out", told)
        with monkeypatch.context() as patched:
            patched.setattr(tuning, "_table", lambda *told: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                tune(made, tmp_path / "b" / "out", told)
        (trial,) = (tmp_path / "b" / "work").glob("*/fold0/trial2/trial.json")
        trial.write_text(damage(trial.read_text()))
        assert tune(made, tmp_path / "b" / "out", told) == undisturbed
        assert "trial.json is not what was written there; set aside as trial.json.corrupt" in caplog.text


class TestWhatGoesWrong:
    def test_a_trial_that_diverges_is_the_worst(self, made: tuple[Path, Path], tmp_path: Path) -> None:
        told = Search(trials=5, folds=2, space={"learning_rate": [1e-3, 1e30]}, epochs=2)
        tune(made, tmp_path / "out", told)
        trials = pd.read_csv(tmp_path / "out" / "trials.csv")
        wild = trials["settings"] == '{"learning_rate": 1e+30}'
        assert trials.loc[wild, "state"].iloc[0] == "diverged"
        assert (trials.loc[wild, "mean"] == 0).all()
        assert trials.loc[wild, ["score_0", "score_1"]].isna().all(axis=None)
        assert trials.loc[~wild, "state"].iloc[0] == "finished"
        assert files.read_json(tmp_path / "out" / "best.json")["folds"][0]["settings"] == {"learning_rate": 1e-3}

    def test_where_all_diverge_one_line_says_what_to_change(self, made: tuple[Path, Path], tmp_path: Path) -> None:
        told = Search(trials=2, folds=2, space={"learning_rate": [1e30]}, epochs=2)
        with pytest.raises(DivergedError, match="nn/inv_weighted: all trials of fold 0 diverged; lower the learning"):
            tune(made, tmp_path / "out", told)
        assert not (tmp_path / "out" / "best.json").exists()

    def test_too_few_cells_for_the_inner_folds_are_refused_before_any_training(
        self, made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(training, "fill_part", None)
        with pytest.raises(DataError, match="fold 0: split: class Anaphase has 8 independent cells, fewer than"):
            tune(made, tmp_path / "out", dataclasses.replace(WIDE, folds=9))


def test_a_model_that_fits_itself_is_searched_too(make_cells: Callable[..., Path], tmp_path: Path) -> None:
    made = make_cells(dict.fromkeys(STAGES, 12), channels=("PI",), side=44), tmp_path / "split.parquet"
    splits.make(*made, spec=KFOLD, scheme=FIVE, sources=None, seed=0)
    told = Search(trials=3, folds=2, space={"criterion": ["accuracy", "balanced_accuracy"]}, metric="accuracy")
    entry = models.entry("pi_threshold")
    tune(made, tmp_path / "out", told, model=entry, loss="none", channels=("PI",))
    (found,) = files.read_json(tmp_path / "out" / "best.json")["folds"]
    assert found["settings"]["criterion"] in ("accuracy", "balanced_accuracy")
    assert 0.2 < found["score"] <= 1


def test_each_fold_is_trained_with_its_own_settings(made: tuple[Path, Path], tmp_path: Path) -> None:
    found = [
        {
            "fold": fold,
            "settings": {"hidden": [4 + fold], "learning_rate": 1e-3 * (1 + fold)},
            "score": 0.5,
            "trials": 1,
        }
        for fold in range(2)
    ]
    best = tmp_path / "best.json"
    files.write_json(best, {"folds": found, "search": {}})
    entry = models.entry({"nn": {"recipe": {"epochs": 1}}})
    plan = plan_of(model=entry, folds=2, tuned=str(best))
    training.train(*made, tmp_path / "out", plan=plan, work=tmp_path / "work")
    told = files.read_json(tmp_path / "out" / "model.json")
    assert [part["tuned"] for part in told["parts"]] == [one["settings"] for one in found]
    history = pd.read_csv(tmp_path / "out" / "history.csv")
    assert history.groupby("fold")["learning_rate"].first().tolist() == pytest.approx([1e-3, 2e-3])
    for fold in range(2):
        module = trained.load(tmp_path / "out", fold=fold, seed=0).module
        assert module.head.in_features == 4 + fold
    files.write_json(best, {"folds": found[:1], "search": {}})
    with pytest.raises(DataError, match=r"best\.json: has nothing for fold 1; delete it and search again"):
        training.train(*made, tmp_path / "other", plan=plan, work=tmp_path / "work")


class TestConfig:
    GOOD: ClassVar[dict[str, Any]] = {
        "trials": 3,
        "folds": 2,
        "space": {"learning_rate": {"low": "1e-4", "high": 1e-2, "log": True}, "batch_size": [8, "16"]},
    }

    def read(self, **said: Any) -> Search:
        """Check espinosa with cnn3 under these settings, and return its search."""
        config = yaml.safe_load((ROOT / "config.yaml").read_text())
        espinosa = {**config["experiments"]["espinosa"], "models": ["fc", "simple_vit", {"cnn3": said}]}
        config |= {"experiments": {"espinosa": espinosa}, "build": ["espinosa"]}
        found = configuration.check(config, workflow=ROOT / "workflow").experiments["espinosa"].options["cnn3"].tune
        assert found is not None
        return found

    def test_values_take_the_types_of_what_they_replace(self) -> None:
        space = {"learning_rate": {"low": 0.0001, "high": 0.01, "log": True}, "batch_size": [8, 16]}
        assert self.read(tune=self.GOOD) == Search(trials=3, folds=2, space=space)
        whole = self.read(tune={**self.GOOD, "space": {"batch_size": {"low": 8.0, "high": 32}, "decay_epochs": [[]]}})
        assert whole.space == {"batch_size": {"low": 8, "high": 32, "log": False}, "decay_epochs": [[]]}

    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            ({"trial": 3}, "cnn3.tune.trial`; did you mean `trials`?"),
            ({"trials": 0}, "cnn3.tune.trials`: 0 is less than the minimum of 1"),
            ({"metric": "f1"}, "cnn3.tune.metric`: 'f1' is not one of balanced_accuracy, macro_f1, accuracy"),
            ({"space": {"learning_rat": [1]}}, "tune.space: unknown key `learning_rat`; did you mean `learning_rate`?"),
            ({"space": {"dropout": 3}}, "cnn3.tune.space.dropout`: 3 is not of type array or object"),
            ({"space": {"dropout": []}}, "`dropout` has no value to choose from"),
            ({"space": {"dropout": {"low": 0.5}}}, "`dropout` lacks `high`"),
            ({"space": {"dropout": {"lov": 0, "high": 1}}}, "unknown key `dropout.lov`; did you mean `low`?"),
            ({"space": {"dropout": {"low": 0.5, "high": "0.5"}}}, "`dropout`: `low` 0.5 is not below `high` 0.5"),
            ({"space": {"dropout": {"low": 0, "high": 0.5, "log": True}}}, "and must be above 0 where `log` is true"),
            (
                {"space": {"dropout": {"low": 0, "high": 0.5, "log": 3}}},
                "`dropout.log` is 3, and must be true or false",
            ),
            ({"space": {"dropout": {"low": "a", "high": 1}}}, "`dropout.low` is 'a', and must be a number"),
            ({"space": {"learning_rate": [0]}}, "recipe: `learning_rate` must be above 0, not 0.0"),
            ({"space": {"batch_size": [8, "many"]}}, "`batch_size` is 'many', and must be of type int"),
            ({"space": {"optimizer": ["adam", "sdg"]}}, "optimizer `sdg` is not one of adam, adamw, sgd"),
            ({"space": {"epochs": [3]}, "epochs": 2}, "`epochs` and `space.epochs` are both given; remove one"),
            ({"space": {"batch_size": [8], "batches_per_epoch": [2]}}, "exclude each other; remove one"),
        ],
    )
    def test_a_mistake_is_told_in_one_line(self, changes: dict[str, Any], line: str) -> None:
        with pytest.raises(ConfigError) as caught:
            self.read(tune={**self.GOOD, **changes})
        assert line in str(caught.value)
        assert len(str(caught.value).split("\n")) == 1

    def test_values_in_steps_are_to_be_listed(self) -> None:
        with pytest.raises(ConfigError, match="`depth` is 9; it must be one of 8, 14, 20"):
            search.read({**self.GOOD, "space": {"depth": {"low": 8, "high": 20}}}, models.entry("resnet"))

    def test_a_model_that_fits_itself_has_no_epochs(self) -> None:
        told = {**self.GOOD, "space": {"criterion": ["accuracy"]}}
        assert search.read(told, models.entry("pi_threshold")).space == {"criterion": ["accuracy"]}
        with pytest.raises(ConfigError, match="`epochs` means nothing for a model that is not trained by steps"):
            search.read({**told, "epochs": 3}, models.entry("pi_threshold"))
        with pytest.raises(ConfigError, match=r"unknown key `learning_rate` \(valid: criterion\)"):
            search.read(self.GOOD, models.entry("pi_threshold"))

    def test_weights_that_have_seen_the_cells_are_not_compared_on_them(self) -> None:
        start = {"experiment": "espinosa", "variant": "holdout", "model": "fc", "loss": "unweighted"}
        with pytest.raises(ConfigError, match="model `cnn3`: `init_from` and `tune` exclude each other"):
            self.read(tune=self.GOOD, init_from=start)
