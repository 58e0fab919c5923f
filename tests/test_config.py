"""The configuration: the shipped one is valid, and every mistake is told in one line that helps."""

from __future__ import annotations

import copy
import re
from typing import Any, ClassVar

import pytest
import yaml
from conftest import ROOT
from jsonschema import Draft202012Validator

from stainfree import config as configuration
from stainfree.errors import ConfigError

WORKFLOW = ROOT / "workflow"
SCHEMA = yaml.safe_load((WORKFLOW / "schemas" / "config.schema.yaml").read_text())


MODELS, HOLDOUT = "experiments/espinosa/models", "experiments/espinosa/variants/holdout"
SPLIT = {"split": {"kind": "holdout", "validation": 0.1, "test": 0.2}}
REST = ["fc", "simple_vit"]
"""Of espinosa's models, those but the one that its figures show."""


@pytest.fixture
def config() -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load((ROOT / "config.yaml").read_text()))


def put(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split("/")
    place = config
    for key in parents:
        place = place[key]
    place[last] = copy.deepcopy(value)
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
        ("experiments/espinosa/fit", "stretch", "'stretch' is not one of pad, crop, centre, resize"),
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
        # What variants say of models, and of how images are prepared.
        (HOLDOUT, {**SPLIT, "models": ["fcc"]}, "`fcc` is not one of the experiment's models; did you mean `fc`?"),
        (
            HOLDOUT,
            {**SPLIT, "augment": {"flipp": True}},
            "unknown key `experiments.espinosa.variants.holdout.augment.fl",
        ),
        (HOLDOUT, {**SPLIT, "augment": {"rotate": "half"}}, "'half' is not one of none, quarter, any"),
        (HOLDOUT, {**SPLIT, "augment": {"gain": 1}}, "holdout.augment.gain`: 1 is greater than or equal to"),
        (HOLDOUT, {**SPLIT, "balance": "up"}, "holdout.balance`: 'up' is not one of none, upsample, balanced"),
        (HOLDOUT, {"split": {**SPLIT["split"], "seed": -1}}, "holdout.split.seed`: -1 is less than the minimum"),
        ("experiments/espinosa/main", "hold", "main`: unknown variant `hold`; did you mean `holdout`?"),
        ("experiments/espinosa/main", "kfold", "main`: kfold is built with `full: true` alone; choose another variant"),
        # What an entry says beside its settings.
        (MODELS, [*REST, {"cnn3": {"folds": 0}}], "models.2.cnn3.folds`: 0 is less than the minimum of 1"),
        (MODELS, [*REST, {"cnn3": {"full": "maybe"}}], "models.2.cnn3.full`: 'maybe' is not of type boolean"),
        (MODELS, [*REST, {"cnn3": {"full": True}}], "explain.judge`: `cnn3` is built with `full: true` alone"),
        (MODELS, [*REST, {"cnn3": {"image_size": 60}}], "`crop` 64 needs an `image_size` of at least 64"),
        (MODELS, [*REST, {"cnn3": {"recipe": {"views": 4}}}], "views `4` is not one of 1, 8"),
        (MODELS, [*REST, {"cnn3": {"recipe": {"decay_epochs": [2]}}}], "`schedule: step` and `decay_epochs` need each"),
        (
            MODELS,
            [*REST, "cnn3", "majority", {"majority2": {"family": "majority", "recipe": {"epochs": 2}}}],
            "majority is not trained by steps and has no recipe; remove `recipe`",
        ),
        (MODELS, [*REST, "cnn3", "pi_threshold"], "model pi_threshold reads the channel PI, which `channels`"),
        # Tables and figures of a study.
        ("experiments/espinosa/tables", {"class_score": {}}, "'class_score' is not one of accuracy_by_variant"),
        (
            "experiments/espinosa/tables",
            {"class_scores": {"models": ["fd"]}},
            "tables.class_scores`: `fd` is not one of",
        ),
        ("experiments/espinosa/figures", {"bar": {}}, "figures`: `bar` does not start with a kind of figure: aug"),
        ("experiments/espinosa/figures", {"bars_x": {"variant": "hold"}}, "did you mean `holdout`?"),
        ("experiments/espinosa/tables", {"over_seeds": {}}, "tables.over_seeds` lacks the key `variants`"),
        ("experiments/espinosa/tables", {"transfer": {"models": ["fc"]}}, "none of them has `init_from`; name one"),
        ("experiments/billard/figures", {"confusion_x": {"subset": "train"}}, "no train cell gets a prediction"),
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


def test_the_data_set_is_checked_for_what_is_asked_for(config: dict[str, Any]) -> None:
    put(config, "datasets", {"nuclei": {"kind": "folder", "path": "x", "channels": ["PI"], "bit_depth": 12}})
    put(config, "dataset", "nuclei")
    with pytest.raises(ConfigError, match=r"experiments.espinosa.channels`: data set nuclei has no channel BF"):
        configuration.check(config, workflow=WORKFLOW)
    with pytest.raises(ConfigError, match=r"experiments.duque.channels`: data set nuclei has no channel BF, DF"):
        configuration.check(config, workflow=WORKFLOW, targets=["--cores", "all", "duque"])
    asked = configuration.check(config, workflow=WORKFLOW, targets=["billard", "--cores", "all"]).asked
    assert asked == ("billard",)
    assert configuration.check(config, workflow=WORKFLOW, targets=None).asked == ()  # a job of a run that was checked


def test_options_of_a_data_set_are_numbers_where_they_read_as_numbers(config: dict[str, Any]) -> None:
    put(config, "datasets", {"simulated": {"n_cells": "300"}, "jurkat_montage": {"layout": "{source}/{x}.tif"}})
    told = configuration.check(config, workflow=WORKFLOW).datasets
    assert told["simulated"]["n_cells"] == 300
    assert told["jurkat_montage"]["layout"] == "{source}/{x}.tif"


def test_merging_changes_neither_side() -> None:
    base = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert configuration.merge(base, {"a": {"b": 3}}) == {"a": {"b": 3, "c": [1]}, "d": 2}
    assert base == {"a": {"b": 1, "c": [1]}, "d": 2}


class TestStart:
    """Weights to start from, as far as the config tells."""

    START: ClassVar[dict[str, str]] = {
        "experiment": "espinosa",
        "variant": "holdout",
        "model": "cnn3",
        "loss": "unweighted",
    }

    @pytest.fixture
    def config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Espinosa, and an experiment whose model starts from its cnn3."""
        espinosa = config["experiments"]["espinosa"]
        other = copy.deepcopy({key: value for key, value in espinosa.items() if key not in ("study", "explain")})
        other["models"] = [{"cnn3": {"init_from": {**self.START}}}]
        other["losses"] = ["unweighted"]
        config["experiments"] = {"espinosa": espinosa, "other": other}
        config["build"] = ["espinosa"]
        return config

    def test_it_is_read(self, config: dict[str, Any]) -> None:
        settings = configuration.check(config, workflow=WORKFLOW)
        said = settings.experiments["other"].options["cnn3"].init_from
        assert said == configuration.Start(**self.START, head="keep")
        assert settings.experiments["espinosa"].options["cnn3"].init_from is None

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            ("experiment", "espinoza", "init_from: unknown experiment `espinoza`; did you mean `espinosa`?"),
            (
                "variant",
                "holdoutt",
                "espinosa trains no holdoutt/cnn3/unweighted; did you mean `holdout/cnn3/unweighted`?",
            ),
            ("variant", "kfold", "espinosa trains no kfold/cnn3/unweighted"),  # only with `full: true`
            ("model", "cnn", "espinosa trains no holdout/cnn/unweighted; did you mean `holdout/cnn3/unweighted`?"),
            ("loss", "weighted", "espinosa trains no holdout/cnn3/weighted; did you mean"),
            ("model", "fc", "fc is another network; give both the same family, parameters and sizes"),
            ("head", "none", "init_from.head`: 'none' is not one of keep, new"),
            ("heads", "new", "unknown key `experiments.other.models.0.cnn3.init_from.heads`; did you mean `head`?"),
        ],
    )
    def test_what_it_names_is_there(self, config: dict[str, Any], path: str, value: str, message: str) -> None:
        put(config, "experiments/other/models", [{"cnn3": {"init_from": {**self.START, path: value}}}])
        self.refuse(config, message)

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            ("channels", ["DF"], "espinosa sees BF, and other DF; start from an experiment with the same `channels`"),
            (
                "scheme",
                "four",
                "the classes of espinosa are Interphase, .*, others than those of other; set `head: new`",
            ),
            ("seeds", [0, 7], "espinosa is not trained with seed 7; add it to its `seeds`"),
            (
                "variants",
                {"folds": {"split": {"kind": "kfold", "folds": 5, "validation": 0.1}}},
                "holdout/cnn3/unweighted has 1 of the 5 folds of folds; set `folds` of the model, or train the others",
            ),
        ],
    )
    def test_it_fits(self, config: dict[str, Any], path: str, value: Any, message: str) -> None:
        self.refuse(put(config, f"experiments/other/{path}", value), message)

    def test_other_classes_take_a_new_head(self, config: dict[str, Any]) -> None:
        put(config, "experiments/other/scheme", "four")
        put(config, "experiments/other/models", [{"cnn3": {"init_from": {**self.START, "head": "new"}}}])
        configuration.check(config, workflow=WORKFLOW)

    def test_a_model_with_fewer_folds_starts_from_as_many(self, config: dict[str, Any]) -> None:
        put(
            config, "experiments/other/variants", {"folds": {"split": {"kind": "kfold", "folds": 5, "validation": 0.1}}}
        )
        put(config, "experiments/other/models", [{"cnn3": {"folds": 1, "init_from": self.START}}])
        configuration.check(config, workflow=WORKFLOW)
        # With `full: true` all folds are trained.
        self.refuse(put(config, "full", True), "has 1 of the 5 folds of folds")

    def test_a_model_that_fits_itself_starts_from_nothing(self, config: dict[str, Any]) -> None:
        put(config, "experiments/other/models", [{"majority": {"init_from": self.START}}])
        self.refuse(config, "majority is no network, and starts from no weights; remove it")

    def test_it_may_not_lead_back(self, config: dict[str, Any]) -> None:
        back = {**self.START, "experiment": "other"}
        put(config, MODELS, [*REST, {"cnn3": {"init_from": back}}])
        with pytest.raises(ConfigError, match="init_from: leads back to cnn3 itself; let the first of the trainings"):
            configuration.check(config, workflow=WORKFLOW)

    @staticmethod
    def refuse(config: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            configuration.check(config, workflow=WORKFLOW)
        (line,) = str(caught.value).split("\n")
        assert re.search(message if ".*" in message else re.escape(message), line), line


class TestFolds:
    def test_the_first_ones_unless_full(self, config: dict[str, Any]) -> None:
        folds = {"split": {"kind": "kfold", "folds": 5, "validation": 0.1}}
        put(config, "experiments/espinosa/variants", {"holdout": SPLIT, "folds": folds})
        put(config, MODELS, [*REST, {"cnn3": {"folds": 2}}])
        espinosa = configuration.check(config, workflow=WORKFLOW).experiments["espinosa"]
        found = {model: espinosa.folds_of("folds", model) for model in ("fc", "cnn3")}
        assert found == {"fc": 5, "cnn3": 2}
        assert espinosa.folds_of("holdout", "cnn3") == 1
        espinosa = configuration.check(put(config, "full", True), workflow=WORKFLOW).experiments["espinosa"]
        assert espinosa.folds_of("folds", "cnn3") == 5

    def test_models_and_variants_of_full_alone(self, config: dict[str, Any]) -> None:
        put(config, MODELS, [*REST, "cnn3", {"deepflow": {"full": True}}])
        espinosa = configuration.check(config, workflow=WORKFLOW).experiments["espinosa"]
        assert [model.name for model in espinosa.models] == ["fc", "simple_vit", "cnn3"]
        assert {variant for variant, _, _ in espinosa.pairs()} == {"holdout"}
        espinosa = configuration.check(put(config, "full", True), workflow=WORKFLOW).experiments["espinosa"]
        assert ("kfold", "deepflow", "unweighted") in espinosa.pairs()


class TestVariants:
    def test_they_say_which_models_are_trained(self, config: dict[str, Any]) -> None:
        put(config, "experiments/espinosa/variants", {"holdout": SPLIT, "few": {**SPLIT, "models": ["fc"]}})
        espinosa = configuration.check(config, workflow=WORKFLOW).experiments["espinosa"]
        assert [model for variant, model, _ in espinosa.pairs() if variant == "few"] == ["fc"] * 3
        assert espinosa.main == "holdout"
        put(config, "experiments/espinosa/variants/holdout/models", ["fc", "simple_vit"])
        with pytest.raises(ConfigError, match=r"judge`: `cnn3` is not trained in holdout, the variant that"):
            configuration.check(config, workflow=WORKFLOW)

    def test_another_than_the_main_one_may_be_explained(self, config: dict[str, Any]) -> None:
        put(config, "experiments/espinosa/variants", {"holdout": {**SPLIT, "models": ["fc"]}, "whole": SPLIT})
        put(config, "experiments/espinosa/explain/variant", "whole")
        espinosa = configuration.check(config, workflow=WORKFLOW).experiments["espinosa"]
        assert (espinosa.main, espinosa.explained) == ("holdout", "whole")
        put(config, "experiments/espinosa/explain/variant", "hole")
        with pytest.raises(ConfigError, match=r"explain.variant`: unknown variant `hole`; did you mean `whole`"):
            configuration.check(config, workflow=WORKFLOW)

    def test_they_replace_how_images_are_augmented_and_classes_balanced(self, config: dict[str, Any]) -> None:
        told = {"rotate": "any", "gain": 0.2}
        variants = {
            "holdout": SPLIT,
            "raw": {**SPLIT, "augment": {}},
            "turned": {**SPLIT, "augment": told, "balance": "upsample"},
        }
        put(config, "experiments/espinosa/variants", variants)
        put(config, MODELS, [*REST, {"cnn3": {"recipe": {"blur": 1.0, "balance": "balanced"}}}, "majority"])
        espinosa = configuration.check(config, workflow=WORKFLOW).experiments["espinosa"]
        keys = ("flip", "rotate", "blur", "gain", "offset", "balance")
        found = {}
        for variant in variants:
            recipe = espinosa.trained_model(variant, "cnn3").recipe
            found[variant] = tuple(getattr(recipe, key) for key in keys)
        assert found == {
            "holdout": (True, "none", 1.0, 0.0, 0.0, "balanced"),
            "raw": (False, "none", 0.0, 0.0, 0.0, "balanced"),
            "turned": (False, "any", 0.0, 0.2, 0.0, "upsample"),
        }
        # All else is the model's own, and what has no recipe stays as it is.
        assert espinosa.trained_model("turned", "cnn3").recipe.learning_rate == 1e-2
        assert espinosa.trained_model("turned", "majority") == espinosa.model("majority")
