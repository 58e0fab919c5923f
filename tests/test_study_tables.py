"""The tables of single studies: every number in its place, beside the published one, with the folds behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from stainfree import config, evaluation, layout, study_tables
from stainfree.errors import ConfigError, DataError
from stainfree.footnotes import Notes
from stainfree.study_tables import Scores, Source

ROOT = Path(__file__).parent.parent
STUDIES = sorted((ROOT / "workflow" / "studies").glob("*.yaml"))
CLASSES = ("G1", "S", "M")
OVERALL = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "weighted_precision")
# Every value tells its place: a hundred per variant, ten per model, and one tenth per class and score.
VARIANTS, MODELS = ("D1", "D2", "D3"), ("trivial", "logreg", "nagao6", "deep")
N_CELLS = {"G1": 60, "S": 30, "M": 10}


def value_of(variant: str, model: str, metric: str, class_name: str = "all") -> float:
    """Return the value that the made-up table has in a place."""
    scores = ("precision", "recall", "f1")
    inner = OVERALL.index(metric) if class_name == "all" else 5 + 3 * CLASSES.index(class_name) + scores.index(metric)
    return 100 * VARIANTS.index(variant) + 10 * MODELS.index(model) + inner / 10


def scored(pairs: dict[tuple[str, str], int]) -> pd.DataFrame:
    """Make a table of scores of (variant, model) on so many folds."""
    rows = []
    for (variant, model), n_folds in pairs.items():
        numbers = [(metric, "all") for metric in OVERALL]
        numbers += [(metric, name) for name in CLASSES for metric in ("precision", "recall", "f1")]
        for fold in [*map(str, range(n_folds)), "pooled"]:
            for metric, name in numbers:
                value = value_of(variant, model, metric, name) if fold == "pooled" else -1.0
                n_cells = n_folds * (100 if name == "all" else N_CELLS[name])
                rows.append({
                    "dataset": "cells", "experiment": "e", "variant": variant, "protocol": "honest",
                    "balancing": "none", "channels": "PI", "scheme": "three", "model": model,
                    "loss": "none" if model == "trivial" else "unweighted", "fold": fold, "seed": "0",
                    "subset": "test", "class": name, "metric": metric, "value": value, "ci_low": value - 0.02,
                    "ci_high": value + 0.03, "n_cells": n_cells,
                })  # fmt: skip
    return pd.DataFrame(rows)


ALL = {(variant, model): 5 for variant in VARIANTS for model in ("trivial", "logreg", "nagao6")} | {("D2", "deep"): 1}


def source(study: dict[str, Any] | None = None, **changes: Any) -> Source:
    """Return what tables are made from."""
    about = [
        {"variant": variant, "model": model, "loss": "unweighted", "n_parameters": 7, "params": params}
        for variant, model in ALL
        for params in [{"depth": 8 if model == "logreg" else 14, "block": "plain" if model == "deep" else "residual"}]
        if model != "trivial"
    ]
    told = {
        "scores": Scores.of(scored(ALL), dict.fromkeys(VARIANTS, 5)),
        "classes": CLASSES,
        "models": about,
        "study": study or {},
        "main": "D3",
    }
    return Source(**{**told, **changes})


def at(table: pd.DataFrame, **where: Any) -> pd.Series[Any]:
    """Return the one row that has these values."""
    for key, value in where.items():
        table = table[table[key] == value]
    assert len(table) == 1, where
    return table.iloc[0]


class TestAccuracyByVariant:
    """Billard's table II."""

    STUDY: dict[str, Any] = {  # noqa: RUF012
        "accuracy_by_variant": {"nagao6": {"D1": 0.7, "recall": {"M": 1.0}, "macro_f1": 0.71}}
    }

    def test_numbers_stand_in_their_places(self) -> None:
        table = study_tables.accuracy_by_variant(source(self.STUDY), variants=list(VARIANTS))
        assert table["row"].unique().tolist() == ["logreg", "nagao6", "trivial"]
        columns = [*(f"accuracy {v}" for v in VARIANTS), *(f"recall {c}" for c in CLASSES), "macro F1 D3"]
        assert table["column"].unique().tolist() == columns
        found = at(table, row="logreg", column="accuracy D2")
        assert found["value"] == value_of("D2", "logreg", "accuracy")
        assert (found["ci_low"], found["ci_high"]) == pytest.approx((found["value"] - 0.02, found["value"] + 0.03))
        assert at(table, row="nagao6", column="macro F1 D3")["value"] == value_of("D3", "nagao6", "macro_f1")

    def test_recalls_are_means_over_the_variants(self) -> None:
        table = study_tables.accuracy_by_variant(source(), variants=list(VARIANTS))
        found = at(table, row="nagao6", column="recall S")
        values = [value_of(variant, "nagao6", "recall", "S") for variant in VARIANTS]
        assert found["value"] == pytest.approx(sum(values) / 3)
        assert found["ci_high"] == pytest.approx(sum(values) / 3 + 0.03)
        assert (found["n_cells"], found["variant"]) == (150, "D1+D2+D3")

    def test_published_numbers_stand_beside_ours(self) -> None:
        table = study_tables.accuracy_by_variant(source(self.STUDY), variants=list(VARIANTS))
        published = table[table["published"].notna()].set_index(["row", "column"])["published"]
        assert published.to_dict() == {
            ("nagao6", "accuracy D1"): 0.7, ("nagao6", "recall M"): 1.0, ("nagao6", "macro F1 D3"): 0.71,
        }  # fmt: skip

    def test_a_model_that_one_variant_lacks_has_gaps(self) -> None:
        table = study_tables.accuracy_by_variant(source(), variants=["D1", "D2"], models=["deep"])
        assert table["row"].unique().tolist() == ["deep", "trivial"]
        assert pd.isna(at(table, row="deep", column="accuracy D1")["value"])
        assert pd.isna(at(table, row="deep", column="recall S")["value"])
        assert at(table, row="deep", column="accuracy D2")["value"] == value_of("D2", "deep", "accuracy")


class TestByParameter:
    """Billard's table III."""

    def test_rows_are_named_by_their_parameters_and_folds_are_told(self) -> None:
        study = {
            "by_parameter": [
                {"depth": 14, "block": "plain", "accuracy": 0.63, "macro_f1": 0.42},
                {"depth": 14, "block": "residual", "accuracy": 0.68},
            ]
        }
        table = study_tables.by_parameter(
            source(study), models=["deep", "logreg"], parameters=["depth", "block"], variant="D2"
        )
        assert table["row"].unique().tolist() == ["depth 14, plain", "depth 8, residual", "trivial"]
        deep = at(table, row="depth 14, plain", column="accuracy")
        assert (deep["n_folds"], deep["n_folds_of_split"], deep["n_cells"]) == (1, 5, 100)
        assert (deep["published"], deep["depth"], deep["block"], deep["n_parameters"]) == (0.63, 14, "plain", 7)
        assert at(table, row="depth 14, plain", column="macro F1")["published"] == 0.42
        assert table.loc[table["row"] != "depth 14, plain", "published"].isna().all()
        assert at(table, row="depth 8, residual", column="accuracy")["n_folds"] == 5

    def test_models_that_the_parameters_do_not_tell_apart_are_refused(self) -> None:
        options = {"models": ["logreg", "nagao6"], "parameters": ["block"], "variant": "D2"}
        with pytest.raises(ConfigError, match=r"tables.by_parameter: two numbers stand in one place \(residual, acc"):
            study_tables.make("by_parameter", source(), options)


class TestClassScores:
    """Duque's table 1."""

    STUDY: dict[str, Any] = {  # noqa: RUF012
        "published_variant": "D1",
        "class_scores": {
            "nagao6": {"S": {"precision": 0.69}, "weighted": {"recall": 0.81}},
            "Jin et al.": {"S": {"f1": 0.5}},
        },
    }

    def test_classes_are_rows_and_models_columns(self) -> None:
        table = study_tables.class_scores(source(self.STUDY), variants=["D1", "D2"], models=["nagao6"])
        assert table["panel"].unique().tolist() == [
            "D1: precision", "D1: recall", "D1: F1", "D2: precision", "D2: recall", "D2: F1",
        ]  # fmt: skip
        own = table[table["panel"] == "D2: recall"]
        assert own["row"].unique().tolist() == [*CLASSES, "weighted average"]
        assert own["column"].unique().tolist() == ["nagao6", "trivial"]
        assert at(own, row="S", column="nagao6")["value"] == value_of("D2", "nagao6", "recall", "S")

    @pytest.mark.parametrize(
        ("score", "overall"), [("precision", "weighted_precision"), ("recall", "accuracy"), ("F1", "weighted_f1")]
    )
    def test_the_average_is_weighted_by_cells(self, score: str, overall: str) -> None:
        table = study_tables.class_scores(source(), variants=["D1"])
        found = at(table, panel=f"D1: {score}", row="weighted average", column="nagao6")
        assert (found["value"], found["class"], found["metric"]) == (
            value_of("D1", "nagao6", overall), "weighted", score.lower(),
        )  # fmt: skip
        assert found["n_cells"] == 500

    def test_published_numbers_stand_in_the_variant_of_their_kind(self) -> None:
        table = study_tables.class_scores(source(self.STUDY), variants=["D1", "D2"], models=["nagao6"])
        published = table[table["published"].notna()].set_index(["panel", "row", "column"])
        assert published["published"].to_dict() == {
            ("D1: precision", "S", "nagao6"): 0.69,
            ("D1: recall", "weighted average", "nagao6"): 0.81,
            ("D1: F1", "S", "Jin et al. (as printed)"): 0.5,
        }
        others = table[table["column"] == "Jin et al. (as printed)"]
        assert len(others) == 3 * 4
        assert others["value"].isna().all()


class TestTransfer:
    """Weights of another task."""

    def source(self) -> Source:
        """Return tables' source in which nagao6 starts from D1 of another experiment."""
        told = source({"transfer": {"pretrained": {"accuracy": 0.93}}})
        about = [{**one, "init_from": {} if one["model"] != "nagao6" else {"folder": "x"}} for one in told.models]
        start = {"experiment": "two", "variant": "D1", "model": "logreg", "loss": "unweighted"}
        before = Scores.of(scored({("D1", "trivial"): 5, ("D1", "logreg"): 5}), {"D1": 5})
        return Source(told.scores, CLASSES, about, told.study, "D3", before, start)

    def test_roles(self) -> None:
        table = study_tables.transfer(self.source(), models=["logreg", "nagao6"])
        rows = table.drop_duplicates("row").set_index("row")["role"].to_dict()
        assert rows == {
            "logreg on two": "pretrained", "trivial on two": "trivial", "logreg": "without", "nagao6": "transferred",
            "trivial": "trivial",
        }  # fmt: skip
        pretrained = at(table, row="logreg on two", column="accuracy")
        assert (pretrained["value"], pretrained["published"]) == (value_of("D1", "logreg", "accuracy"), 0.93)
        assert at(table, row="nagao6", column="macro F1")["value"] == value_of("D3", "nagao6", "macro_f1")
        assert table["published"].notna().sum() == 1

    def test_without_a_start(self) -> None:
        with pytest.raises(ConfigError, match="none of logreg has `init_from`"):
            study_tables.transfer(source(), models=["logreg"])


class TestOverSeeds:
    """Means over drawings of the split."""

    def test_mean_first_and_then_each(self) -> None:
        table = study_tables.over_seeds(source(), variants=["D1", "D3"], models=["nagao6"])
        assert table["panel"].unique().tolist() == ["mean over D1, D3", "D1", "D3"]
        mean = at(table, panel="mean over D1, D3", row="nagao6", column="balanced accuracy")
        ends = [value_of(variant, "nagao6", "balanced_accuracy") for variant in ("D1", "D3")]
        assert mean["value"] == pytest.approx(sum(ends) / 2)
        assert (mean["ci_low"], mean["n_cells"]) == (pytest.approx(sum(ends) / 2 - 0.02), 500)
        assert at(table, panel="D3", row="nagao6", column="recall M")["value"] == value_of(
            "D3", "nagao6", "recall", "M"
        )


class TestMake:
    """Kinds and options by name."""

    def test_every_kind_of_the_config_is_there(self) -> None:
        assert set(study_tables.KINDS) == set(config.TABLE_OPTIONS)

    def test_unknown_option(self) -> None:
        with pytest.raises(ConfigError, match=r"tables.over_seeds: .*'variant'; correct its options"):
            study_tables.make("over_seeds", source(), {"variants": ["D1"], "variant": "D1"})

    def test_run_writes_one_row_per_number(self, tmp_path: Path) -> None:
        scored(ALL).to_csv(tmp_path / "metrics.csv", index=False)
        cells = pd.DataFrame({"fold": range(5), "cell_id": "c", "class": "S", "subset": "test"})
        cells = cells.assign(stage="S", source="a", group="c", origin="real")
        for variant in VARIANTS:
            cells.to_parquet(tmp_path / f"{variant}.parquet")
        (tmp_path / "model.json").write_text(json.dumps(source().models[-1]))
        study_tables.run(
            "by_parameter",
            options={"models": ["deep"], "parameters": ["depth"], "variant": "D2"},
            scored=tmp_path / "metrics.csv",
            split_paths={variant: tmp_path / f"{variant}.parquet" for variant in VARIANTS},
            models=[tmp_path / "model.json"],
            classes=CLASSES,
            main="D3",
            out=tmp_path / "out.csv",
        )
        table = pd.read_csv(tmp_path / "out.csv")
        assert table.columns.tolist() == [*study_tables.COLUMNS, "depth", "n_parameters"]
        assert table["row"].tolist() == ["depth 14", "depth 14", "trivial", "trivial"]
        assert table["n_folds"].tolist() == [1, 1, 5, 5]
        assert table["n_folds_of_split"].tolist() == [5] * 4


class TestLayout:
    """A table of one row per number, laid out."""

    NOTES: dict[str, str] = {"first": "One.", "second": "Two.", "third": "Three."}  # noqa: RUF012

    def test_rows_columns_and_what_stands_behind_a_number(self, tmp_path: Path) -> None:
        study = {"by_parameter": [{"depth": 14, "accuracy": 0.63, "macro_f1": 0.5}]}
        made = study_tables.by_parameter(source(study), models=["deep"], parameters=["depth"], variant="D2")
        made.assign(value=0.5, ci_low=0.4, ci_high=0.625).to_csv(tmp_path / "t.csv", index=False)
        placed = [
            "third",
            {"id": "first", "at": {"depth": 14, "metric": "accuracy", "published": True}},
            {"id": "second", "at": {"model": "trivial"}},
        ]
        notes = Notes(self.NOTES, placed)
        assert notes.caption() == "a"
        (panel,) = layout.panels(pd.read_csv(tmp_path / "t.csv"), notes)
        assert panel["columns"] == ["accuracy", "macro F1"]
        deep, trivial = panel["rows"]
        assert (deep["label"], trivial["label"], trivial["is_trivial"]) == ("depth 14", "trivial answer", True)
        accuracy, macro_f1 = deep["numbers"]
        assert accuracy == {
            "value": "50.0 %", "interval": "40.0–62.5 %", "n_cells": 100, "folds": "1 of 5 folds", "marks": "",
            "published": "63 %", "published_marks": "b",
        }  # fmt: skip
        assert (macro_f1["value"], macro_f1["interval"], macro_f1["published"]) == ("0.500", "0.400–0.625", "0.5")
        assert (trivial["numbers"][0]["marks"], trivial["numbers"][0]["folds"]) == ("c", "")
        assert notes.listed() == [("a", "Three."), ("b", "One."), ("c", "Two.")]

    def test_published_fractions_keep_the_digits_of_their_table(self) -> None:
        study = {"published_variant": "D1", "class_scores": {"Jin": {"S": {"f1": 0.5}, "M": {"f1": 0.8241}}}}
        table = study_tables.class_scores(source(study), variants=["D1"])
        *_, panel = layout.panels(table, Notes({}), fractions=True)
        shown = {row["label"]: row["numbers"][-1]["published"] for row in panel["rows"]}
        assert shown == {"G1": "", "S": "0.5000", "M": "0.8241", "weighted average": ""}

    def test_panels_of_the_first_variant_are_told(self) -> None:
        table = study_tables.class_scores(source(), variants=["D1", "D2"])
        assert [panel["is_first"] for panel in layout.panels(table, Notes({}))] == [True] * 3 + [False] * 3

    def test_a_footnote_that_is_not_there(self) -> None:
        with pytest.raises(DataError, match="no footnote is called `forth`; there are first, second, third"):
            Notes(self.NOTES, ["forth"]).caption()


def in_study(path: Path) -> dict[str, Any]:
    """Read a study."""
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
class TestStudies:
    """The studies as data agree with themselves and with the config."""

    def test_every_footnote_has_a_place_and_every_place_a_footnote(self, path: Path) -> None:
        said = in_study(path)
        placed = [
            one for what in ("tables", "figures") for about in said[what].values() for one in about.get("footnotes", [])
        ]
        named = [one if isinstance(one, str) else one["id"] for one in placed]
        named += [name for claim in said["claims"] for name in claim.get("footnotes", [])]
        named += [one["footnote"] for one in said.get("rivals", []) if "footnote" in one]
        assert set(named) == set(said["footnotes"])

    def test_models_and_variants_are_those_of_the_experiment(self, path: Path) -> None:
        settings = config.check(yaml.safe_load((ROOT / "config.yaml").read_text()), workflow=ROOT / "workflow")
        experiment = settings.experiments[path.stem]
        said = in_study(path)
        places = [
            one["at"]
            for about in said["tables"].values()
            for one in about.get("footnotes", [])
            if isinstance(one, dict)
        ]
        named: dict[str, set[str]] = {"model": set(), "variant": set()}
        for options in (*(claim["options"] for claim in said["claims"]), *places, said.get("headline", {})):
            for what in named:
                named[what] |= {options[what]} if what in options else set()
                named[what] |= set(options.get(f"{what}s", []))
            named["model"] |= set(options.get("rivals", [])) | {
                name for pair in options.get("pairs", []) for name in pair
            }
        named["variant"] |= {said["published_variant"]} if "published_variant" in said else set()
        printed = {name for name in said.get("class_scores", {}) if " " in name}
        assert named["model"] <= {entry.name for entry in experiment.models} | printed
        assert named["variant"] <= {variant.name for variant in experiment.variants}
        # What a claim compares was trained.
        trained = {(variant, model) for variant, model, _ in experiment.pairs()}
        for claim in said["claims"]:
            options = claim["options"]
            variants = [options["variant"]] if "variant" in options else options.get("variants", [experiment.main])
            models = {name for pair in options.get("pairs", []) for name in pair} | set(options.get("rivals", []))
            models |= set(options.get("models", [])) | ({options["model"]} if "model" in options else set())
            assert {(variant, model) for variant in variants for model in models} <= trained, claim["id"]

    def test_tables_and_figures_are_those_of_the_experiment(self, path: Path) -> None:
        settings = config.check(yaml.safe_load((ROOT / "config.yaml").read_text()), workflow=ROOT / "workflow")
        experiment = settings.experiments[path.stem]
        said = in_study(path)
        common = {"class_counts", "balanced_accuracy", "balanced_accuracy_by_source", "scores"}
        assert set(said["tables"]) == common | set(experiment.tables)
        assert set(experiment.figures) <= set(said["figures"])


class TestBillard:
    """What the footnotes say of the printed numbers follows from them."""

    SAID = in_study(ROOT / "workflow/studies/billard.yaml")

    def test_counts(self) -> None:
        assert sum(one["all"] for one in self.SAID["class_counts"].values()) == 493

    def test_class_accuracies_do_not_fit_the_accuracies(self) -> None:
        counts = {name: one["all"] for name, one in self.SAID["class_counts"].items()}
        table = self.SAID["accuracy_by_variant"].values()
        weighted = [sum(counts[name] * one["recall"][name] for name in counts) / 493 for one in table]
        means = [(one["D1"] + one["D2"] + one["D3"]) / 3 for one in table]
        assert [round(100 * value) for value in weighted] == [59, 61, 61, 63]
        assert [round(100 * value) for value in means] == [64, 63, 64, 71]

    def test_no_precision_could_give_the_f1_of_resnet8(self) -> None:
        told = self.SAID["accuracy_by_variant"]["resnet8"]
        at_most = sum(2 * recall / (1 + recall) for recall in told["recall"].values()) / 4
        assert round(at_most, 3) == 0.597
        assert at_most < told["macro_f1"]


class TestDuque:
    """What the footnotes say of the printed numbers follows from them."""

    SAID = in_study(ROOT / "workflow/studies/duque.yaml")
    COUNTS: dict[str, int] = {  # noqa: RUF012
        "G1": 14333, "S": 8616, "G2": 8601, "Prophase": 606, "Metaphase": 68, "Anaphase": 15, "Telophase": 27,
    }  # fmt: skip

    def averages(self, model: str) -> list[float]:
        """Average precision, recall and F1 by the published cells per class."""
        table = self.SAID["class_scores"][model]
        return [
            round(sum(n * table[name][score] for name, n in self.COUNTS.items()) / 32266, 4)
            for score in ("precision", "recall", "f1")
        ]

    def test_the_averages_of_jin_do_not_follow_and_those_of_duque_do(self) -> None:
        assert sum(self.COUNTS.values()) == self.SAID["n_cells"]
        assert self.averages("Jin et al.") == [0.7914, 0.7939, 0.7927]
        printed = self.SAID["class_scores"]["duque_cnn"]["weighted"].values()
        assert self.averages("duque_cnn") == pytest.approx(list(printed), abs=0.0005)

    def test_f1_is_the_mean_of_precision_and_recall_but_in_one_place(self) -> None:
        wrong = [
            (model, name)
            for table in (self.SAID["class_scores"], self.SAID["class_scores_of_treatments"]["wgan_gp"])
            for model, classes in table.items()
            for name, one in classes.items()
            if name != "weighted" and one["f1"]
            if abs(2 * one["precision"] * one["recall"] / (one["precision"] + one["recall"]) - one["f1"]) > 0.0002
        ]
        assert wrong == [("Jin et al.", "G2")]

    def test_prophase_is_of_a_hold_out(self) -> None:
        told = self.SAID["class_scores"]["duque_cnn"]["Prophase"]
        assert (told["recall"], told["precision"]) == (round(69 / 121, 4), round(69 / 81, 4))
        assert round(606 * 0.2) == 121


def test_folds_are_counted_per_training() -> None:
    assert evaluation.count_folds(scored(ALL))["D2", "deep", "unweighted"] == 1
    assert evaluation.count_folds(scored(ALL))["D2", "trivial", "none"] == 5
