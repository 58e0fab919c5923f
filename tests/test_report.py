"""The report and the front page: what they say of made-up results, and that the page stands on its own."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml

from stainfree import files, front_page, headline, notebook, pages, report
from stainfree.errors import StainfreeError

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "report.ipynb"
CLASSES = ("Interphase", "Anaphase")
# (model, loss) -> balanced accuracy on validation and on test; the best on test is not the best on validation.
SCORES = {
    ("cnn3", "inv_weighted"): (0.71, 0.625),
    ("fc", "inv_weighted"): (0.64, 0.9),
    ("fc", "unweighted"): (0.6, 0.8),
    ("trivial", "none"): (0.5, 0.5),
}


def metric_rows(model: str, loss: str, validation: float, test: float) -> list[dict[str, Any]]:
    """Return the rows of a metrics table for one pair."""
    base = {"variant": "holdout", "protocol": "", "model": model, "loss": loss, "fold": "pooled", "seed": "0"}
    base |= {"dataset": "cells", "experiment": "espinosa", "balancing": "none", "channels": "BF", "scheme": "two"}
    rows = []
    for subset, value, n_cells in (("validation", validation, 100), ("test", test, 204)):
        scored = {"metric": "balanced_accuracy", "class": "all", "value": value, "n_cells": n_cells}
        rows.append({**base, "subset": subset, **scored, "ci_low": value - 0.1, "ci_high": value + 0.1})
    for name, value, n_cells in (("Interphase", 1.0, 200), ("Anaphase", 2 * test - 1, 4)):
        scored = {"metric": "recall", "class": name, "value": value, "n_cells": n_cells}
        rows.append({**base, "subset": "test", **scored, "ci_low": 0.25, "ci_high": 1.0})
    return rows


@pytest.fixture
def project(tmp_path: Path) -> dict[str, Any]:
    """Write the results of one experiment; return the parameters of its report."""
    folder = tmp_path / "results" / "cells" / "espinosa"
    rows = [row for pair, scores in SCORES.items() for row in metric_rows(*pair, *scores)]
    files.write_csv(folder / "metrics.csv", pd.DataFrame(rows))
    choice = [("holdout", model, loss, 0.7, True, model == "cnn3") for model, loss in SCORES if model != "trivial"]
    columns = ["variant", "model", "loss", "validation_balanced_accuracy", "chosen", "published"]
    files.write_csv(folder / "tables" / "chosen_losses.csv", pd.DataFrame(choice, columns=columns))
    about = {
        "variant": "holdout",
        "model": "cnn3",
        "loss": "inv_weighted",
        "n_parameters": 14181,
        "channels": ["BF"],
        "image_size": [66, 66],
        "crop": 64,
        "scheme": {"name": "two", "classes": {"Interphase": ["G1"], "Anaphase": ["Anaphase"]}},
        "recipe": {"learning_rate": 0.01},
        "parts": [{"fold": 0, "seed": 0, "sha256": "feed"}],
    }
    files.write_json(folder / "holdout" / "cnn3" / "inv_weighted" / "model.json", about)
    claims = {
        "id": "never",
        "claim": "fc never predicts Anaphase",
        "where": "5.2",
        "measure": "cells",
        "value": 3.0,
        "ci_low": 1.0,
    }
    claims |= {"ci_high": 6.0, "n_cells": 204, "verdict": "does not hold", "note": "it does for <3> cells"}
    files.write_csv(folder / "claims.csv", pd.DataFrame([claims]))
    figure, axes = plt.subplots(figsize=(2, 1))
    axes.plot([0, 1])
    (folder / "figures").mkdir()
    figure.savefig(folder / "figures" / "curves.svg", metadata={"Date": None})
    plt.close(figure)
    (folder / "embedding").mkdir()
    (folder / "embedding" / "cnn3.html").write_text("<p>turn me</p>")
    data = {
        "kind": "montage", "n_cells": 304, "image_shape": [40, 40], "bit_depth": 12, "pixel_size_um": None,
        "channels": ["BF", "PI"], "stages": {"G1": 298, "Anaphase": 6},
        "counts": {"Experiment_1": {"G1": 98, "Anaphase": 6}, "Experiment_2": {"G1": 200}},
        "padding_tiles": {"a": 5, "b": 7}, "duplicates_kept": [],
        "duplicates_dropped": [
            {"cell_id": "x:17", "stage": "Anaphase", "of": "x:3", "of_stage": "Anaphase", "match": "exact"}
        ],
        "licence": "BSD-3-Clause", "citation": "Blasi 2016", "source_checksums": {"f": "abc"}, "content_sha256": "d",
    }  # fmt: skip
    files.write_json(tmp_path / "data" / "cells.json", data)
    study: dict[str, Any] = {"title": "A study", "balanced_accuracy": {"cnn3": {"test": 0.4827}}}
    study["figures"] = {"curves": {"paper": "Figure 3", "caption": "Loss against step."}}
    files.write_text(tmp_path / "study.yaml", yaml.safe_dump(study))
    return {
        "dataset": "cells",
        "experiment": "espinosa",
        "results": str(tmp_path / "results"),
        "data_report": str(tmp_path / "data" / "cells.json"),
        "study": str(tmp_path / "study.yaml"),
        "logs": str(tmp_path / "logs"),
        "provenance": json.dumps({"commit": "c0ffee"}),
        "config": json.dumps({"fit": "pad"}),
    }


class TestWords:
    @pytest.mark.parametrize(("seconds", "text"), [(4.24, "4.2 s"), (104, "1 min 44 s"), (7260, "2 h 1 min")])
    def test_duration(self, seconds: float, text: str) -> None:
        assert pages.duration(seconds) == text

    def test_missing(self) -> None:
        assert pages.is_missing(float("nan"))
        assert pages.is_missing(None)
        assert not pages.is_missing(0.0)

    @pytest.mark.parametrize(("value", "text"), [(1583, "1583"), (0.98123, "0.981"), (7.0, "7")])
    def test_short(self, value: float, text: str) -> None:
        assert pages.short(value) == text


class TestMetrics:
    def test_prefers_the_mean_over_seeds_and_pooled_folds(self, tmp_path: Path) -> None:
        rows = metric_rows("cnn3", "inv_weighted", 0.6, 0.6)
        mean = [{**row, "seed": "mean", "value": 0.7} for row in rows]
        single = [{**row, "fold": "0", "value": 0.1} for row in rows]
        files.write_csv(tmp_path / "metrics.csv", pd.DataFrame([*single, *rows, *mean]))
        metrics = headline.read_metrics(tmp_path / "metrics.csv")
        assert len(metrics) == len(rows)
        assert set(metrics["value"]) == {0.7}

    def test_the_best_pair_is_the_best_on_validation(self, project: dict[str, Any]) -> None:
        metrics = headline.read_metrics(Path(project["results"]) / "cells" / "espinosa" / "metrics.csv")
        best = headline.best_pair(metrics, variant="holdout", published={"cnn3": 0.4827})
        assert best is not None
        assert (best.model, best.test["value"], best.published) == ("cnn3", 0.625, 0.4827)
        assert headline.best_pair(metrics[metrics["model"] == "trivial"], variant="holdout") is None

    def test_a_model_of_fewer_folds_is_not_the_headline(self, project: dict[str, Any]) -> None:
        metrics = headline.read_metrics(Path(project["results"]) / "cells" / "espinosa" / "metrics.csv")
        metrics.loc[metrics["model"] == "cnn3", "n_cells"] -= 1
        best = headline.best_pair(metrics, variant="holdout")
        assert best is not None
        assert (best.model, best.loss) == ("fc", "inv_weighted")

    def test_names_what_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(StainfreeError, match=r"metrics\.csv: no such file; run the evaluation first"):
            headline.read_metrics(tmp_path / "metrics.csv")
        files.write_csv(tmp_path / "metrics.csv", pd.DataFrame({"fold": ["pooled"], "value": [1]}))
        with pytest.raises(StainfreeError, match="lacks the columns dataset, experiment"):
            headline.read_metrics(tmp_path / "metrics.csv")


class TestSections:
    def test_the_headline_stands_beside_the_trivial_answer(self, project: dict[str, Any]) -> None:
        text = report.Report(**project).headline()
        assert "62.5 %" in text
        assert "52.5–72.5 %" in text
        assert "204 test cells" in text
        assert "48.3 %" in text
        assert "lies above the trivial answer" in text

    @pytest.mark.parametrize(
        ("low", "high", "verdict"), [(0.4, 0.6, "holds the trivial answer"), (0.3, 0.45, "below the trivial")]
    )
    def test_says_when_it_is_no_better(self, project: dict[str, Any], low: float, high: float, verdict: str) -> None:
        path = Path(project["results"]) / "cells" / "espinosa" / "metrics.csv"
        metrics = pd.read_csv(path)
        row = (metrics["model"] == "cnn3") & (metrics["metric"] == "balanced_accuracy") & (metrics["subset"] == "test")
        metrics.loc[row, ["ci_low", "ci_high"]] = [low, high]
        files.write_csv(path, metrics)
        assert verdict in report.Report(**project).headline()

    def test_every_score_has_its_interval_and_cells(self, project: dict[str, Any]) -> None:
        text = report.Report(**project).pairs()
        assert "study 48.3 %" in text
        for model, (validation, test) in (("cnn3", (0.71, 0.625)), ("trivial answer", (0.5, 0.5))):
            assert model in text
            assert f"{100 * validation:.1f} %<small>{100 * validation - 10:.1f}–" in text
            assert f"{100 * test:.1f} %<small>{100 * test - 10:.1f}–{100 * test + 10:.1f} %, 204 cells" in text

    def test_the_title_says_how_many_of_the_cells_are_used(self, project: dict[str, Any]) -> None:
        assert ": 304 cells" in report.Report(**project).title()
        split = pd.DataFrame({"fold": [0] * 200 + [1] * 200, "class": "Interphase", "subset": "test"})
        files.write_parquet(Path(project["results"]) / "cells" / "espinosa" / "holdout" / "split.parquet", split)
        assert ": 200 of its 304 cells" in report.Report(**project).title()

    @pytest.mark.parametrize("n_sources", [1, 2])
    def test_scores_by_source_stand_where_there_are_several(self, project: dict[str, Any], n_sources: int) -> None:
        columns = ["model", "loss", "chosen", "source", "balanced_accuracy", "n_cells", "absent_classes"]
        rows = [
            ("trivial", "none", False, "all", 0.5, 204, None),
            ("trivial", "none", False, "Experiment_1", 0.5, 60, None),
            ("fc", "sqrt_weighted", False, "all", 0.31, 204, None),
            ("fc", "sqrt_weighted", False, "Experiment_1", 0.32, 60, None),
            ("cnn3", "inv_weighted", True, "all", 0.625, 204, None),
            ("cnn3", "inv_weighted", True, "Experiment_1", 0.581, 60, "Anaphase"),
        ]  # fmt: skip
        table = pd.DataFrame(rows, columns=columns).assign(variant="holdout", published_pair=False)
        table = table.assign(ci_low=table["balanced_accuracy"] - 0.1, ci_high=table["balanced_accuracy"] + 0.1)
        path = Path(project["results"]) / "cells" / "espinosa" / "tables" / "balanced_accuracy_by_source.csv"
        files.write_csv(path, table if n_sources == 2 else table[table["source"] == "all"])
        text = report.Report(**project).chosen()
        assert ("The same test cells, source by source" in text) is (n_sources == 2)
        assert ("58.1 %<small>48.1–68.1 %, 60 cells</small><small>without Anaphase" in text) is (n_sources == 2)
        # Losses that were not chosen are in the file alone, and the trivial answer comes last.
        assert "31.0 %" not in text
        assert text.rindex("trivial answer") > text.rindex("cnn3")
        told = report.Report(**project, files=["metrics.csv"]).chosen()
        assert "source by source" not in told

    def test_one_loss_each_is_shown_once_and_without_losses(self, project: dict[str, Any]) -> None:
        path = Path(project["results"]) / "cells" / "espinosa" / "metrics.csv"
        metrics = pd.read_csv(path)
        files.write_csv(path, metrics[(metrics["model"] != "fc") | (metrics["loss"] == "inv_weighted")])
        page = report.Report(**project)
        assert page.pairs() == ""
        assert "Each model has one loss." in page.chosen()
        assert "inv weighted" not in page.chosen()
        assert "inv weighted" not in page.headline()

    def test_the_main_variant_stands_open_before_the_others(self, project: dict[str, Any]) -> None:
        path = Path(project["results"]) / "cells" / "espinosa" / "metrics.csv"
        metrics = pd.read_csv(path)
        changed = metrics.assign(variant="D3", value=metrics["value"] / 2, ci_low=0.0)
        files.write_csv(path, pd.concat([metrics, changed]))
        text = report.Report(**project, main="D3").pairs()
        assert text.index("Variant D3") < text.index("<details><summary>Variant holdout")
        assert "<details><summary>Variant D3" not in text
        assert "31.2 %" in report.Report(**project, main="D3").headline()
        assert "62.5 %" in report.Report(**project).headline()

    def test_a_model_of_fewer_folds_says_so(self, project: dict[str, Any]) -> None:
        folder = Path(project["results"]) / "cells" / "espinosa"
        metrics = pd.read_csv(folder / "metrics.csv")
        single = [metrics[(metrics["model"] != "fc") | (fold == 0)].assign(fold=str(fold)) for fold in range(3)]
        files.write_csv(folder / "metrics.csv", pd.concat([metrics, *single]))
        cells = pd.DataFrame({"fold": range(3), "class": "Interphase", "subset": "test"})
        cells.to_parquet(folder / "holdout" / "split.parquet")
        about = files.read_json(folder / "holdout" / "cnn3" / "inv_weighted" / "model.json")
        for loss in ("inv_weighted", "unweighted"):
            files.write_json(folder / "holdout" / "fc" / loss / "model.json", {**about, "model": "fc", "loss": loss})
        page = report.Report(**project)
        few = '<small class="few">1 of 3 folds</small>'
        assert page.pairs().count(few) == 2
        assert f"<td>fc{few}" in page.method()
        assert f"<td>cnn3{few}" not in page.method()
        assert "Not all models ran on all folds: fc (1 of 3 folds)." in page.limits()

    def test_footnotes_stand_at_their_numbers_and_below_the_table(self, project: dict[str, Any]) -> None:
        study = yaml.safe_load(Path(project["study"]).read_text(encoding="utf-8"))
        study["footnotes"] = {
            "one": "It says another thing in its introduction.",
            "two": "On other cells.",
            "three": "3.",
        }
        placed = [{"id": "one", "at": {"model": "cnn3", "subset": "test", "published": True}}, "two"]
        study["tables"] = {"balanced_accuracy": {"paper": "Table 2", "footnotes": placed}}
        study["claims"] = [{"id": "never", "footnotes": ["three"]}]
        study["figures"]["curves"]["footnotes"] = ["one"]
        study["rivals"] = [{"name": "Jin", "accuracy": 0.821, "where": "section 1", "footnote": "three"}]
        files.write_text(project["study"], yaml.safe_dump(study))
        page = report.Report(**project)
        text = page.chosen()
        assert "<strong>Table 2 of the study.</strong>" in text
        assert "<sup>a</sup></span></caption>" in text
        assert "study 48.3 %<sup>b</sup>" in text
        assert "Jin at 82.1 % accuracy<sup>c</sup> (section 1)" in text
        below = text[text.index("</table>") :]
        assert below.index("<sup>a</sup> On other cells.") < below.index("<sup>b</sup> It says another thing")
        assert "<sup>c</sup> 3." in below
        assert "Anaphase<sup>a</sup><small>5.2" in page.claims()
        assert "Loss against step.<sup>a</sup>" in page.figures()
        for section in (page.chosen(), page.claims(), page.figures()):
            assert '<ol class="footnotes">' in section

    def test_tables_of_a_study(self, project: dict[str, Any]) -> None:
        row = {
            "panel": "", "row": "trivial", "column": "accuracy", "variant": "holdout", "model": "trivial",
            "loss": "none", "class": "all", "metric": "accuracy", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6,
            "n_cells": 10, "n_folds": 1, "n_folds_of_split": 5, "published": None,
        }  # fmt: skip
        rows = [{**row, "row": "cnn3", "model": "cnn3", "value": 0.61, "published": 0.7}, row]
        path = Path(project["results"]) / "cells" / "espinosa" / "tables" / "by_parameter.csv"
        files.write_csv(path, pd.DataFrame(rows))
        text = report.Report(**project).tables()
        assert "Tables of the study" in text
        assert '61.0 %<small>40.0–60.0 %<span class="comma">, </span><span class="cells">10 cells</span>' in text
        assert '<small class="few">1 of 5 folds</small><small class="study">study 70 %</small>' in text
        assert '<tr class="trivial"><td>trivial answer</td>' in text
        assert report.Report(**project, files=["metrics.csv"]).tables() == ""

    def test_the_studys_own_number_stands_beside_ours(self, project: dict[str, Any]) -> None:
        path = Path(project["results"]) / "cells" / "espinosa" / "metrics.csv"
        metrics = pd.read_csv(path)
        test = metrics[(metrics["metric"] == "balanced_accuracy") & (metrics["subset"] == "test")]
        files.write_csv(path, pd.concat([metrics, test.assign(metric="macro_f1")]))
        study = yaml.safe_load(Path(project["study"]).read_text(encoding="utf-8"))
        study["headline"] = {"model": "fc", "variant": "holdout", "metrics": {"macro_f1": 0.71}, "where": "table II"}
        files.write_text(project["study"], yaml.safe_dump(study))
        text = report.Report(**project).headline()
        assert "macro F1 of fc in variant holdout (table II)" in text
        assert "<td>macro F1</td>" in text
        assert '<small class="study">study 0.71</small>' in text

    def test_the_mean_over_drawings_stands_first(self, project: dict[str, Any]) -> None:
        rows = [
            {"panel": panel, "row": "cnn3", "column": "balanced accuracy", "model": "cnn3", "loss": "inv_weighted",
             "metric": "balanced_accuracy", "value": value, "ci_low": 0.5, "ci_high": 0.7, "n_cells": 204}
            for panel, value in (("mean over a, b", 0.601), ("a", 0.55))
        ]  # fmt: skip
        path = Path(project["results"]) / "cells" / "espinosa" / "tables" / "over_seeds.csv"
        files.write_csv(path, pd.DataFrame(rows))
        text = report.Report(**project).headline()
        assert "cnn3, mean over a, b" in text
        assert "60.1 %" in text

    @pytest.mark.parametrize(("channels", "stained"), [(["PI"], True), (["BF", "DF"], False)])
    def test_a_stain_is_told(self, project: dict[str, Any], channels: list[str], stained: bool) -> None:
        path = Path(project["results"]) / "cells" / "espinosa" / "holdout" / "cnn3" / "inv_weighted" / "model.json"
        files.write_json(path, {**files.read_json(path), "channels": channels})
        page = report.Report(**project)
        assert ("The scores must not be compared with stain-free ones" in page.question()) is stained
        assert ("must not be compared with stain-free ones" in page.limits()) is stained
        assert ("The models see no stain" in page.question()) is not stained

    def test_variants_and_recipes_are_told(self, project: dict[str, Any]) -> None:
        variants = [
            {"name": "holdout", "split": {"kind": "kfold", "folds": 5}, "augment": {"flip": True, "blur": 1.0},
             "balance": "upsample", "models": ["cnn3"]},
            {"name": "other", "split": {"kind": "kfold", "folds": 5}, "augment": {}, "balance": None, "models": None},
        ]  # fmt: skip
        path = Path(project["results"]) / "cells" / "espinosa" / "metrics.csv"
        metrics = pd.read_csv(path)
        files.write_csv(path, pd.concat([metrics, metrics.assign(variant="other")]))
        text = report.Report(**{**project, "config": json.dumps({"experiment": {"variants": variants}})}).method()
        assert "<td>kind kfold, folds 5</td><td>flip, blur 1.0</td><td>upsample</td>" in text
        assert "<td>none</td><td>as in the recipe</td>" in text
        assert "learning rate 0.01" in text

    def test_a_search_tells_what_was_tried_and_found(self, project: dict[str, Any]) -> None:
        assert str(report.Report(**project).searches()).strip() == ""
        folder = Path(project["results"]) / "cells" / "espinosa" / "holdout" / "cnn3" / "inv_weighted"
        about = files.read_json(folder / "model.json") | {"params": {"kernels": [16, 64]}}
        settings = {"learning_rate": 0.000427, "kernels": [32, 32]}
        about["parts"][0]["tuned"] = settings
        files.write_json(folder / "model.json", about)
        space = {"learning_rate": {"low": 1e-4, "high": 3e-3, "log": True}, "kernels": [[16, 64], [32, 32]]}
        told = {"trials": 2, "folds": 3, "space": space, "metric": "macro_f1", "epochs": 6}
        found = {"fold": 0, "settings": settings, "score": 0.52727, "trials": 2}
        files.write_json(folder / "tuning" / "best.json", {"folds": [found], "search": told})
        trials = [
            (0, 1, "diverged", {"learning_rate": 0.003, "kernels": [16, 64]}, 0.0),
            (0, 2, "finished", settings, 0.52727),
        ]
        columns = ["fold", "number", "state", "settings", "mean"]
        table = pd.DataFrame([(*row[:3], json.dumps(row[3]), row[4]) for row in trials], columns=columns)
        files.write_csv(folder / "tuning" / "trials.csv", table)
        said = str(report.Report(**project).searches())
        assert "inside its training part alone" in said
        assert "mean macro F1 over 3 inner folds, after 6 epochs" in said
        for cells in (
            ["tried", "0.0001 to 0.003", "16-64, 32-32"],
            ["without search", "0.01", "16-64"],
            ["found for fold 0", "0.000427", "32-32"],
        ):
            assert "".join(f"<td>{cell}</td>" for cell in cells) in said
        # Best first.
        assert said.index("0.527</td><td></td>") < said.index("0.000</td><td>diverged</td>")

    def test_counts_cells_and_tells_what_was_left_out(self, project: dict[str, Any]) -> None:
        text = report.Report(**project).cells()
        assert "12 tiles of 2 montages" in text
        assert "x:17 (Anaphase) was left out: it is an exact copy of x:3." in text
        assert "BSD-3-Clause" in text

    def test_claims_carry_their_verdict_and_are_escaped(self, project: dict[str, Any]) -> None:
        text = report.Report(**project).claims()
        assert '<span class="badge fails">does not hold</span>' in text
        assert "it does for &lt;3&gt; cells" in text

    def test_every_result_has_the_job_that_made_it(self, project: dict[str, Any]) -> None:
        made_by = {"commit": "x", "python": "3.12.1", "packages": {"torch": "2.15.0"}, "cpu": "EPYC", "node": "n7"}
        slurm = {"job": "4711", "partition": "gpu", "node": "n7"}
        gpu = {"gpus": ["NVIDIA H200"], "gpu_driver": "550.54", "slurm": slurm}
        pair = "cells/espinosa/holdout/cnn3/inv_weighted"
        # The last two are leftovers: of other settings, and of the page as it was made before.
        left = (("train/cells/espinosa/old/fc/none", {}), ("report/cells/espinosa", {}))
        for name, told in ((f"train/{pair}", gpu), ("convert/cells", {}), *left):
            log = Path(project["logs"]) / f"{name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.with_suffix(".benchmark.tsv").write_text("s\tmax_rss\tcpu_time\n8\t9\t5\n")
            begun = {"attempt": "a", "began": 1.0, "commit": f"{'c0ffee' * 6}1234+changes", "slurm": told.get("slurm")}
            cost = {"wall_s": 8, "gpus": len(told.get("gpus", [])), "start_up_s": 1, "work_s": 7, "peak_rss_mib": 9}
            ended = {"attempt": "a", "ended": 9.0, "failed": False, "outputs": [f"{name}/out.csv"], "cost": cost}
            lines = [begun, {**ended, "made_by": {**made_by, **told}}]
            log.with_suffix(".attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        text = report.Report(**project).origin()
        assert f"<code>train/{pair}/out.csv</code>" in text
        for expected in ("n7<small>EPYC", "NVIDIA H200<small>driver 550.54", "4711<small>gpu", "torch 2.15.0"):
            assert expected in text
        assert "<td>c0ffeec0ff+changes</td>" in text
        assert "convert/cells/out.csv" in text
        assert "old/fc" not in text
        assert "report/cells" not in text
        told = report.Report(**project).costs()
        assert "held GPUs for 8.0 s" in told
        assert "stopped or failed" not in told

    def test_limits_are_computed(self, project: dict[str, Any]) -> None:
        text = report.Report(**project).limits()
        # 4 test cells: a quarter of the recall, an eighth of the mean over two classes, 12.5 written as 12.
        assert "Anaphase has 4 test cells: one cell more or less moves its recall by 25 points" in text
        assert "20 points wide" in text
        assert "The 200 cells of Experiment_2 are all G1" in text
        assert "simulated" not in text

    def test_simulated_cells_are_never_evidence(self, project: dict[str, Any]) -> None:
        data = files.read_json(project["data_report"])
        files.write_json(project["data_report"], {**data, "kind": "simulated"})
        simulated = report.Report(**project)
        assert "These cells are simulated" in simulated.title()
        assert "evidence about real cells" in simulated.limits()

    def test_an_experiment_without_a_study_still_reports(self, project: dict[str, Any]) -> None:
        bare = report.Report(**{**project, "study": "", "data_report": "", "provenance": "{}", "config": {}})
        sections = (bare.title, bare.question, bare.headline, bare.cells, bare.method, bare.chosen, bare.figures)
        assert all(len(section()) > 0 for section in (*sections, bare.costs, bare.origin, bare.limits))
        assert "study 48.3 %" not in bare.pairs()


class TestCaptions:
    """What stands below a figure that no study names."""

    TOLD: dict[str, Any] = {"saliency_s_wrong": {"paper": "Figure 5", "caption": "Wrong S cells."}}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("name", "caption"),
        [
            ("saliency_s_wrong", "Wrong S cells."),
            (
                "saliency_g1_right",
                "Where the models look in test cells that the judging model got right, or wrong: g1 right.",
            ),
            ("embedding_nagao6", "Three-dimensional UMAP of the embeddings of test cells: nagao6."),
            ("curves", "Loss and balanced accuracy on training and validation cells."),
            ("something_else", "Something else."),
        ],
    )
    def test_caption(self, name: str, caption: str) -> None:
        assert report._about_figure(name, self.TOLD)["caption"] == caption


class Loads(HTMLParser):
    """Collect what a page would load by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name == "src"]
        self.loads += [tag for name, _ in attrs if tag in ("script", "link", "iframe") and name in ("src", "href")]


def test_the_page_stands_on_its_own_and_is_the_same_twice(project: dict[str, Any], tmp_path: Path) -> None:
    out, copy = tmp_path / "report.html", tmp_path / "work" / "report.ipynb"
    made = []
    for _ in range(2):
        notebook.run(NOTEBOOK, parameters=project, out=out, failed_copy=copy)
        made.append(out.read_text(encoding="utf-8"))
    assert made[0] == made[1]
    assert not copy.exists()
    loads = Loads()
    loads.feed(made[0])
    assert len(loads.loads) == 1
    assert loads.loads[0].startswith("data:image/svg+xml;base64,")
    assert "url(" not in made[0]
    assert "<script" not in made[0]
    assert "from stainfree" not in made[0]
    for expected in ("Figure 3 of the study", "62.5 %", "c0ffee", "14,181", 'href="embedding/cnn3.html"'):
        assert expected in made[0]


def test_a_failed_report_leaves_its_executed_copy(project: dict[str, Any], tmp_path: Path) -> None:
    (Path(project["results"]) / "cells" / "espinosa" / "metrics.csv").unlink()
    out, copy = tmp_path / "report.html", tmp_path / "work" / "report.ipynb"
    with pytest.raises(
        StainfreeError, match=r"failed with StainfreeError: .*metrics\.csv: no such file.*report\.ipynb"
    ):
        notebook.run(NOTEBOOK, parameters=project, out=out, failed_copy=copy)
    assert not out.exists()
    outputs = [
        output for cell in json.loads(copy.read_text(encoding="utf-8"))["cells"] for output in cell.get("outputs", [])
    ]
    assert any(output["output_type"] == "error" for output in outputs)


def test_the_front_page_links_what_is_there(project: dict[str, Any], tmp_path: Path) -> None:
    results = tmp_path / "results"
    (results / "cells" / "espinosa" / "report.html").write_text("x")
    (results / "cells" / "unfinished").mkdir()
    front_page.write(results, data=tmp_path / "data", out=results / "index.html")
    text = (results / "index.html").read_text(encoding="utf-8")
    targets = [part.split('"')[0] for part in text.split('href="')[1:]]
    assert "cells/espinosa/embedding/cnn3.html" in targets
    assert all((results / target).is_file() for target in targets)
    assert "62.5 %" in text
    assert "204 test cells" in text
    assert "Simulated" not in text


def test_the_front_page_shows_the_main_variant_and_warns_of_a_stain(project: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "results" / "cells" / "espinosa"
    metrics = pd.read_csv(folder / "metrics.csv")
    changed = metrics.assign(variant="D3", value=metrics["value"] / 2)
    files.write_csv(folder / "metrics.csv", pd.concat([metrics, changed]).assign(channels="PI"))
    (folder / "report.html").write_text("x")
    out = tmp_path / "results" / "index.html"
    for main, percent in (({}, "62.5 %"), ({"espinosa": "D3"}, "31.2 %"), ({"espinosa": "gone"}, "62.5 %")):
        front_page.write(tmp_path / "results", data=tmp_path / "data", out=out, main=main)
        text = out.read_text(encoding="utf-8")
        assert percent in text
        assert "not to be compared with stain-free scores" in text


def test_an_empty_front_page_says_so(tmp_path: Path) -> None:
    front_page.write(tmp_path, data=tmp_path, out=tmp_path / "index.html")
    assert "No report has been built yet" in (tmp_path / "index.html").read_text(encoding="utf-8")
