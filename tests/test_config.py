"""The configuration: the shipped one is valid, and every mistake is told in one line that helps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from conftest import ROOT
from jsonschema import Draft202012Validator

from stainfree import config as configuration
from stainfree.errors import ConfigError

WORKFLOW = ROOT / "workflow"
SCHEMA = yaml.safe_load((WORKFLOW / "schemas" / "config.schema.yaml").read_text())


@pytest.fixture
def config() -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load((ROOT / "config.yaml").read_text()))


def put(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split("/")
    place = config
    for key in parents:
        place = place[key]
    place[last] = value
    return config


def test_the_schema_is_a_schema_and_explains_its_keys() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    experiment = SCHEMA["$defs"]["experiment"]["properties"]
    assert all("description" in rule for name, rule in experiment.items() if name != "explain")


def test_the_shipped_config_is_valid_and_names_the_study(config: dict[str, Any]) -> None:
    settings = configuration.check(config, workflow=WORKFLOW)
    espinosa = settings.experiments["espinosa"]
    assert len(espinosa.pairs()) == 9
    assert espinosa.scheme.classes == ("Interphase", "Prophase", "Metaphase", "Anaphase", "Telophase")


def test_full_brings_the_heavy_variants(config: dict[str, Any]) -> None:
    settings = configuration.check(put(config, "full", True), workflow=WORKFLOW)
    assert [variant.name for variant in settings.experiments["espinosa"].variants] == ["holdout", "kfold"]


def test_texts_from_the_command_line_become_what_the_schema_asks(config: dict[str, Any]) -> None:
    put(config, "seed", "3")
    put(config, "full", "true")
    put(config, "build", "[espinosa]")
    put(config, "training", {"threads": "2", "device": "cpu"})
    put(config, "experiments/espinosa/seeds", "[0, 1]")
    settings = configuration.check(config, workflow=WORKFLOW)
    assert (settings.seed, settings.threads) == (3, 2)
    assert settings.experiments["espinosa"].seeds == (0, 1)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("datset", "simulated", "unknown key `datset`; did you mean `dataset`?"),
        ("dataset", "jurkat", "unknown data set `jurkat`; did you mean `jurkat_montage`?"),
        ("seed", "many", "`seed`: 'many' is not of type integer"),
        ("training/device", "gpu", "`training.device`: 'gpu' is not one of auto, cpu, cuda"),
        ("training/thread", 1, "unknown key `training.thread`; did you mean `threads`?"),
        ("build", ["espinoza"], "`build`: unknown experiment `espinoza`; did you mean `espinosa`?"),
        ("experiments/espinosa/scheme", "fives", "unknown scheme `fives`; did you mean `five`?"),
        ("experiments/espinosa/study", "espinos", "unknown study `espinos`; did you mean `espinosa`?"),
        ("experiments/espinosa/channels", ["BFF"], "has no channel BFF; did you mean `BF`?"),
        ("experiments/espinosa/models", ["cnn33"], "unknown model family `cnn33`; did you mean `cnn3`?"),
        ("experiments/espinosa/models", ["fc", "cnn3", "fc"], "`fc` stands twice"),
        ("experiments/espinosa/losses", ["inv"], "unknown loss `inv`"),
        ("experiments/espinosa/fit", "stretch", "'stretch' is not one of pad, crop, resize"),
        ("experiments/espinosa/explain/judge", "cnn", "`cnn` is not one of the experiment's models"),
        ("experiments/espinosa/explain/classes", ["Telofase"], "did you mean `Telophase`?"),
        ("experiments/espinosa/subsets", ["test"], "must name validation"),
        (
            "experiments/espinosa/variants/holdout/split",
            {"kind": "holdout", "validation": 0.5, "test": 0.5},
            "leave nothing to train",
        ),
        ("experiments/espinosa/variants/holdout/split", {"kind": "holdout", "test": 0.2}, "lacks the key `validation`"),
        (
            "experiments/espinosa/variants/holdout/split",
            {"kind": "kfold", "folds": 5, "validation": 0.1, "test": 0.2},
            "split.test` means nothing for a split of kind kfold",
        ),
        ("experiments/espinosa/variants/holdout/split", {"kind": "kfold", "folds": 1, "validation": 0.1}, "folds"),
        (
            "experiments/espinosa/variants/figures",
            {"split": {"kind": "holdout", "validation": 0.1, "test": 0.2}},
            "a folder of the results has this name",
        ),
        ("schemes/five/Prophase", ["Prophase", "G1"], "stage G1 stands in two classes"),
        ("datasets", {"mine": {}}, "`datasets.mine`: no public data set has this name"),
        ("datasets", {"mine": {"kind": "folders"}}, "unknown kind `folders`"),
        ("datasets", {"mine": {"kind": "montage"}}, "`datasets.mine` lacks the key `bit_depth`"),
        ("datasets", {"simulated": {"n_cell": 3}}, "unknown key `datasets.simulated.n_cell`; did you mean `n_cells`?"),
        ("experiments/espinosa/sources", {"jurkat_montag": ["a"]}, "did you mean `jurkat_montage`?"),
        (
            "experiments/espinosa/variants/holdout/split",
            {"kind": "counts", "counts": {"Telofase": {"train": 1}}},
            "`Telofase` is not a class of scheme five; did you mean `Telophase`?",
        ),
        ("schemes/five", {True: ["G1"], "S": ["S"]}, "the key True is no text; put it in quotes"),
    ],
)
def test_a_mistake_is_told_in_one_line(config: dict[str, Any], path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration.check(put(config, path, value), workflow=WORKFLOW)
    lines = [line for line in str(caught.value).split("\n") if message in line]
    assert len(lines) == 1, str(caught.value)


def test_all_mistakes_are_told_at_once(config: dict[str, Any]) -> None:
    put(config, "dataset", "x")
    put(config, "experiments/espinosa/losses", ["y"])
    with pytest.raises(ConfigError) as caught:
        configuration.check(config, workflow=WORKFLOW)
    assert len(str(caught.value).split("\n")) == 2


def test_options_of_a_data_set_are_numbers_where_they_read_as_numbers(config: dict[str, Any]) -> None:
    put(config, "datasets", {"simulated": {"n_cells": "300"}, "jurkat_montage": {"layout": "{source}/{x}.tif"}})
    told = configuration.check(config, workflow=WORKFLOW).datasets
    assert told["simulated"]["n_cells"] == 300
    assert told["jurkat_montage"]["layout"] == "{source}/{x}.tif"


def test_merging_changes_neither_side() -> None:
    base = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert configuration.merge(base, {"a": {"b": 3}}) == {"a": {"b": 3, "c": [1]}, "d": 2}
    assert base == {"a": {"b": 1, "c": [1]}, "d": 2}
