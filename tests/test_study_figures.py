"""Figures of the studies: what is drawn is what was measured, and names keep off each other."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, snakemake
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from stainfree import cells, evaluation, files, metrics
from stainfree import config as configuration
from stainfree.augment import Augmentation, Normalisation
from stainfree.errors import ConfigError, DataError
from stainfree.figures import augmentations, bars, class_counts, labels, parameters, scores, style
from stainfree.schemes import STAGES

CLASSES = ("G1", "S", "G2", "M")
LOSSES = {"nn": "unweighted", "nagao6": "unweighted", "resnet14": "unweighted", "pi_threshold": "none"}
STUDY = {
    "headline": {"variant": "D3"},
    "accuracy_by_variant": {"nagao6": {"D2": 0.68, "D3": 0.74, "recall": {"G1": 0.785}, "macro_f1": 0.71}},
}


def texts(fig: Figure) -> list[str]:
    """Return all texts of a figure, line breaks as spaces."""
    found = [text.get_text().replace("\n", " ").replace("\u00a0", " ") for text in fig.findobj(Text)]
    return [text for text in found if text]


def said(fig: Figure) -> str:
    """Return all that a figure says."""
    return " | ".join(texts(fig))


def paths(folder: Path) -> dict[str, Any]:
    """Return where to write a figure."""
    return {"svg": folder / "figure.svg", "png": folder / "figure.png"}


def row(variant: str, model: str, metric: str, name: str, value: float, *, loss: str, n: int) -> dict[str, Any]:
    """Return one row of a table of metrics, with an interval of 0.04."""
    told = {"variant": variant, "model": model, "loss": loss, "metric": metric, "class": name, "value": value}
    ends = {"ci_low": value - 0.02, "ci_high": value + 0.02, "n_cells": n}
    return dict.fromkeys(evaluation.COLUMNS, "x") | {"fold": "pooled", "seed": "0", "subset": "test"} | told | ends


@pytest.fixture
def scored(tmp_path: Path) -> dict[str, Any]:
    """Write metrics of four models in two variants, one of them on a fifth of the cells and not in D3, and a study."""
    rows = []
    rng = np.random.default_rng(0)
    for variant, (model, loss) in itertools.product(("D2", "D3"), (*LOSSES.items(), ("trivial", "none"))):
        if (variant, model) == ("D3", "resnet14"):
            continue
        n = 20 if model == "resnet14" else 100
        where: Any = {"loss": loss, "n": n}
        for metric in ("accuracy", "macro_f1"):
            value = 0.25 if model == "trivial" else rng.uniform(0.5, 0.9)
            rows.append(row(variant, model, metric, "all", value, **where))
        for name in CLASSES:
            value = float(name == "G1") if model == "trivial" else rng.uniform(0.3, 0.9)
            rows.append(row(variant, model, "recall", name, value, loss=loss, n=n // 4))
    # What must not be drawn: another loss, another subset, a single fold.
    rows.append(row("D2", "nn", "accuracy", "all", 0.01, loss="inv_weighted", n=100))
    rows.append(row("D2", "nn", "accuracy", "all", 0.02, loss="unweighted", n=100) | {"subset": "validation"})
    rows.append(row("D2", "nn", "accuracy", "all", 0.03, loss="unweighted", n=100) | {"fold": "0"})
    pd.DataFrame(rows).to_csv(tmp_path / "metrics.csv", index=False)
    pairs = [(variant, model, loss, True, False) for variant in ("D2", "D3") for model, loss in LOSSES.items()]
    pairs.append(("D2", "nn", "inv_weighted", False, False))
    columns = ["variant", "model", "loss", "chosen", "published"]
    pd.DataFrame(pairs, columns=columns).to_csv(tmp_path / "chosen.csv", index=False)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return {"path": tmp_path / "metrics.csv", "chosen_losses": tmp_path / "chosen.csv"}


class TestScores:
    def test_rows_are_those_asked_for_in_their_order(self, scored: dict[str, Any]) -> None:
        table = scores.read(
            **scored, variants=["D3", "D2"], models=["nn", "nagao6"], metrics=["recall", "accuracy"], study=STUDY
        )
        assert list(dict.fromkeys(table["variant"])) == ["D3", "D2"]
        of_d2 = table[table["variant"] == "D2"]
        assert list(dict.fromkeys(of_d2["model"])) == ["nn", "nagao6", "trivial"]
        assert set(of_d2.loc[of_d2["model"] == "nn", "class"]) == {*CLASSES, "all"}
        accuracy = of_d2[(of_d2["model"] == "nn") & (of_d2["metric"] == "accuracy")]
        assert len(accuracy) == 1
        assert accuracy["value"].iloc[0] >= 0.5  # neither the other loss, nor validation, nor one fold

    @pytest.mark.parametrize(
        ("variant", "model", "metric", "name", "value"),
        [
            ("D2", "nagao6", "accuracy", "all", 0.68),
            ("D3", "nagao6", "macro_f1", "all", 0.71),
            ("D2", "nagao6", "macro_f1", "all", None),  # printed once, for the variant of the headline
            ("D2", "nagao6", "recall", "G1", 0.785),
            ("D2", "nagao6", "recall", "S", None),
            ("D2", "nn", "accuracy", "all", None),
        ],
    )
    def test_published(self, variant: str, model: str, metric: str, name: str, value: float | None) -> None:
        found = scores.published(STUDY, variant, model, metric, name)
        assert found == pytest.approx(float("nan") if value is None else value, nan_ok=True)

    def test_published_scores_of_classes(self) -> None:
        study = {"headline": {"variant": "v"}, "class_scores": {"cnn": {"G1": {"f1": 0.88}, "weighted": {"f1": 0.8}}}}
        assert scores.published(study, "v", "cnn", "f1", "G1") == 0.88
        assert np.isnan(scores.published(study, "w", "cnn", "f1", "G1"))

    def test_config_names_every_metric_that_there_is(self) -> None:
        schema = yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text())
        named = schema["$defs"]["figure"]["properties"]["metrics"]["items"]["enum"]
        assert named == [*metrics.OVERALL, *metrics.PER_CLASS]

    def test_refusals(self, scored: dict[str, Any]) -> None:
        with pytest.raises(DataError, match="unknown metric `f1_macro`; did you mean `macro_f1`"):
            scores.read(**scored, variants=["D2"], models=["nn"], metrics=["f1_macro"])
        with pytest.raises(DataError, match=r"metrics\.csv: has no test scores of model fc"):
            scores.read(**scored, variants=["D2"], models=["nn", "fc"], metrics=["accuracy"])


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("figures", {"bars": {"metric": ["accuracy"]}}, "unknown key `experiments.billard.figures.bars.metric`"),
        ("figures", {"bars": {"metrics": ["f1_macro"]}}, "did you mean `macro_f1`?"),
        ("figures", {"bars": {"by": "fold"}}, "'fold' is not one of model, variant, class"),
        ("figures", {"confusion_test": {}}, "every experiment has a figure `confusion_test`; choose another name"),
        ("figures", {"barchart": {}}, "`barchart` does not start with a kind of figure"),
        ("explain", {"judge": "resnet14", "classes": ["S"], "embedding": ["nn"]}, "`resnet14` is not trained in D3"),
    ],
)
def test_config_refuses_figures_that_cannot_be_drawn(where: str, value: Any, message: str) -> None:
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["experiments"]["billard"][where] = value
    with pytest.raises(ConfigError, match=re.escape(message)):
        configuration.check(config, workflow=ROOT / "workflow")


class TestBars:
    def draw(self, scored: dict[str, Any], *, by: str, **asked: Any) -> tuple[pd.DataFrame, Figure]:
        table = scores.read(**scored, study=STUDY, **asked)
        return table, bars.draw(table, by=by)

    def heights(self, fig: Figure) -> list[list[float]]:
        """Return the heights of the bars of each panel, from left to right."""
        found = []
        for axes in fig.axes:
            boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
            found.append([box.get_height() for box in sorted(boxes, key=lambda box: box.get_x())])
        return found

    def test_groups_by_class_hold_a_bar_for_each_model(self, scored: dict[str, Any]) -> None:
        asked = {"variants": ["D3"], "models": ["nn", "nagao6"], "metrics": ["accuracy", "recall"]}
        table, fig = self.draw(scored, by="class", **asked)
        (drawn,) = self.heights(fig)
        kept = table[table["model"] != "trivial"].set_index(["class", "model"])["value"]
        expected = [kept[name, model] for name in ("all", *CLASSES) for model in ("nn", "nagao6")]
        np.testing.assert_allclose(drawn, expected)
        found = texts(fig)
        assert {"accuracy", "G1", "M", "n = 100", "n = 25", "nn", "nagao6", "as published, other cells"} <= set(found)
        assert "Variant D3. Test cells: 100." in found

    def test_intervals_trivial_answer_and_published_numbers_stand_where_they_were_measured(
        self, scored: dict[str, Any]
    ) -> None:
        table, fig = self.draw(scored, by="model", variants=["D3"], models=["nn", "nagao6"], metrics=["accuracy"])
        lines: list[Any] = [line.get_xydata() for line in fig.axes[0].lines]
        shapes = {len(line): [other for other in lines if len(other) == len(line)] for line in lines}
        values = table.loc[table["model"] != "trivial", "value"].to_numpy()
        upright = sorted((line[0, 0], line[0, 1], line[1, 1]) for line in shapes[2] if line[0, 0] == line[1, 0])
        np.testing.assert_allclose([line[1:] for line in upright], np.stack([values - 0.02, values + 0.02], axis=1))
        level = [line for line in shapes[2] if line[0, 1] == line[1, 1]]
        assert [line[0, 1] for line in level] == [0.25, 0.25]
        ((at, published),) = shapes[1][0]
        assert published == 0.74
        assert at == pytest.approx(upright[1][0])  # on the bar of nagao6, the second

    def test_two_of_the_three_beside_the_groups_have_panels(self, scored: dict[str, Any]) -> None:
        asked = {"variants": ["D2", "D3"], "models": ["nn", "nagao6"], "metrics": ["accuracy", "macro_f1"]}
        table, fig = self.draw(scored, by="model", **asked)
        assert [axes.get_title() for axes in fig.axes] == ["accuracy", "macro F1"]
        kept = table[table["model"] != "trivial"].set_index(["metric", "model", "variant"])["value"]
        expected = [kept["macro_f1", model, variant] for model in ("nn", "nagao6") for variant in ("D2", "D3")]
        np.testing.assert_allclose(self.heights(fig)[1], expected)

    def test_a_model_of_fewer_cells_is_named(self, scored: dict[str, Any]) -> None:
        asked = {"variants": ["D2", "D3"], "models": ["nn", "resnet14"], "metrics": ["accuracy"]}
        _, fig = self.draw(scored, by="model", **asked)
        assert "Test cells: 100, but 20 of resnet14 (D2)." in texts(fig)
        assert len(self.heights(fig)[0]) == 3  # resnet14 is not trained in D3

    def test_many_models_have_looks_of_their_own(self) -> None:
        looks = bars._series_colours([f"m{k}" for k in range(12)], of="model")
        assert len(set(looks.values())) == 12
        assert bars._series_colours(CLASSES, of="measure")["G1"][0] == style.CLASS_COLOURS["G1"]

    @pytest.mark.parametrize(
        ("models", "variants", "metrics", "group"),
        [
            (["nagao6"], ["D2", "D3"], ["accuracy"], "D2"),
            (["nagao6", "nn"], ["D2", "D3"], ["accuracy"], "nagao6"),
            (["nagao6", "nn"], ["D2"], ["accuracy", "recall"], "G2"),
        ],
    )
    def test_plot_chooses_the_groups(
        self,
        scored: dict[str, Any],
        tmp_path: Path,
        models: list[str],
        variants: list[str],
        metrics: list[str],
        group: str,
    ) -> None:
        bars.plot(
            scored["path"],
            scored["chosen_losses"],
            models=models,
            variants=variants,
            metrics=metrics,
            study=tmp_path / "study.yaml",
            **paths(tmp_path),
        )
        drawn = (tmp_path / "figure.svg").read_text()
        assert f"<!-- {group} -->" in drawn
        assert "<!-- as published, other cells -->" in drawn

    def test_refuses_groups_by_something_else(self, scored: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(DataError, match="`by` is 'fold', and must be one of model, variant, class"):
            bars.plot(
                scored["path"], scored["chosen_losses"], variants=["D2"], models=["nn"], by="fold", **paths(tmp_path)
            )


class TestLabels:
    @pytest.mark.parametrize("seed", range(6))
    def test_no_name_lies_on_another_or_on_a_point_or_outside(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        # A crowd like that of the networks of a study: fourteen points in a third of the page.
        points = rng.uniform([200, 60], [420, 200], (14, 2))
        sizes = np.stack([rng.uniform(15, 75, 14), np.full(14, 9.0)], axis=1)
        page = [0.0, 0.0, 600.0, 240.0]
        boxes = labels.place(points, sizes, obstacles=[], within=page)
        np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], sizes)
        for one, other in itertools.combinations(boxes, 2):
            assert labels._overlap(one[None], other)[0] == 0
        for point in points:
            assert (labels._distance(boxes, point) >= 4).all()
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= page[2:]).all()

    def test_a_lonely_name_stands_beside_its_point(self) -> None:
        ((left, bottom, right, top),) = labels.place(
            np.array([[50.0, 50.0]]), np.array([[30.0, 8.0]]), obstacles=[], within=[0, 0, 100, 100]
        )
        assert left == pytest.approx(55)
        assert (bottom + top) / 2 == pytest.approx(50)
        assert right == pytest.approx(85)

    def test_keeps_off_obstacles(self) -> None:
        wall = [52.0, 0.0, 90.0, 100.0]
        ((_, _, right, _),) = labels.place(
            np.array([[50.0, 50.0]]), np.array([[30.0, 8.0]]), obstacles=[wall], within=[0, 0, 100, 100]
        )
        assert right <= 52

    def test_a_name_is_nearer_to_its_own_point_than_to_another(self) -> None:
        points = np.array([[50.0, 50.0], [66.0, 50.0]])
        boxes = labels.place(points, np.array([[30.0, 8.0], [30.0, 8.0]]), obstacles=[], within=[0, 0, 200, 100])
        for number, box in enumerate(boxes):
            distances = [labels._distance(box[None], point)[0] for point in points]
            assert int(np.argmin(distances)) == number

    def test_lines_that_cross(self) -> None:
        start, ends = np.array([0.0, 0.0]), np.array([[10.0, 10.0], [10.0, -10.0], [2.0, 2.0]])
        other = (np.array([0.0, 8.0]), np.array([8.0, 0.0]))
        assert labels._lines_cross(start, ends, other).tolist() == [True, False, False]


N_PARAMETERS = {"nn": 213_444, "nagao6": 115_236, "pi_threshold": 0}


class TestParameters:
    def trainings(self, folder: Path) -> list[Path]:
        for model, n in N_PARAMETERS.items():
            files.write_json(folder / f"{model}.json", {"model": model, "family": model, "n_parameters": n})
        return [folder / f"{model}.json" for model in N_PARAMETERS]

    def test_points_stand_at_their_parameters_and_scores(self, scored: dict[str, Any]) -> None:
        table = scores.read(
            **scored, variants=["D3"], models=list(N_PARAMETERS), metrics=["accuracy", "macro_f1"], study=STUDY
        )
        counts = table["model"].map(N_PARAMETERS).fillna(0)
        fig = parameters.draw(table.assign(n_parameters=counts, family=table["model"]), variant="D3")
        assert [axes.get_ylabel() for axes in fig.axes] == ["accuracy (%)", "macro F1 (%)"]
        for axes, metric in zip(fig.axes, ("accuracy", "macro_f1"), strict=True):
            assert axes.get_xscale() == "log"
            drawn: list[Any] = [line.get_xydata() for line in axes.lines if line.get_marker() == "o"]
            dots = {tuple(points[0]) for points in drawn}
            rows = table[(table["metric"] == metric) & table["model"].isin(["nn", "nagao6"])]
            assert dots == {(N_PARAMETERS[r["model"]], r["value"]) for r in rows.to_dict("records")}
            names = {text.get_text() for text in axes.texts}
            assert {"nn", "nagao6"} <= names
            assert "↓ always the largest class: 25%" in names
        assert "Without parameters: pi_threshold (accuracy" in said(fig)

    def test_names_of_many_models_do_not_overlap_on_the_figure(self) -> None:
        rng = np.random.default_rng(3)
        names = [f"resnet{8 + 6 * (k // 2)}{'_residual' * (k % 2)}" for k in range(10)] + ["nn", "nagao6", "logreg"]
        value = rng.uniform(0.6, 0.85, len(names))
        table = pd.DataFrame(
            {"model": names, "family": "f", "variant": "v", "metric": "accuracy", "class": "all", "value": value,
             "ci_low": value - 0.03, "ci_high": value + 0.03, "n_cells": 9, "published": np.nan,
             "n_parameters": np.repeat([74_000, 171_000, 269_000, 366_000, 464_000, 115_000, 6_404], [2] * 5 + [2, 1])}
        )  # fmt: skip
        fig = parameters.draw(table, variant="v")
        fig.draw_without_rendering()
        shown = [text.get_window_extent() for text in fig.axes[0].texts if text.get_text() in names]
        assert len(shown) == len(names)
        assert not any(one.overlaps(other) for one, other in itertools.combinations(shown, 2))

    def test_plot(self, scored: dict[str, Any], tmp_path: Path) -> None:
        trainings = self.trainings(tmp_path)
        asked: Any = {"models": list(N_PARAMETERS), "study": tmp_path / "study.yaml", **paths(tmp_path)}
        parameters.plot(scored["path"], scored["chosen_losses"], trainings, variants=["D3"], **asked)
        first = (tmp_path / "figure.svg").read_bytes()
        parameters.plot(scored["path"], scored["chosen_losses"], trainings, variants=["D3"], **asked)
        assert (tmp_path / "figure.svg").read_bytes() == first
        with pytest.raises(DataError, match="shows one variant, not D2, D3"):
            parameters.plot(scored["path"], scored["chosen_losses"], trainings, variants=["D2", "D3"], **asked)
        with pytest.raises(DataError, match="shows scores of all classes, and recall is of one"):
            parameters.plot(
                scored["path"], scored["chosen_losses"], trainings, variants=["D3"], metrics=["recall"], **asked
            )


class TestClassCounts:
    def split(self, folds: int) -> pd.DataFrame:
        stages = ["G1"] * 20 + ["S"] * 10 + ["Telophase"]
        table = pd.DataFrame({"cell_id": [f"c{k}" for k in range(31)], "stage": stages, "subset": "train"})
        tables = []
        for fold in range(folds):
            subset = np.where(np.arange(31) % max(folds, 3) == fold, "test", "train")
            tables.append(table.assign(fold=fold, subset=subset))
        return pd.concat(tables)

    def test_cells_count_once(self) -> None:
        counts, subsets = class_counts.count(self.split(3))
        assert counts == {"G1": 20, "S": 10, "Telophase": 1}
        assert subsets == {"training": "20 to 21", "test": "10 to 11"}

    def test_bars_and_numbers(self) -> None:
        counts, subsets = class_counts.count(self.split(1))
        fig = class_counts.draw(counts, subsets=subsets, n_folds=1)
        (axes,) = fig.axes
        assert axes.get_yscale() == "log"
        boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        assert [box.get_height() for box in boxes] == [20, 10, 1]
        assert axes.get_ylim()[0] < 1  # the bar of one cell can be seen
        assert {"20 64.5%", "10 32.3%", "1 3.2%", "G1", "S", "Telophase"} <= set(texts(fig))
        assert (
            "31 cells: the number of each stage, and its share of all; of them 20 for training, 11 for test."
            in said(fig)
        )

    def test_plot(self, tmp_path: Path) -> None:
        self.split(2).to_parquet(tmp_path / "split.parquet")
        class_counts.plot(tmp_path / "split.parquet", **paths(tmp_path))
        assert "in each fold" in (tmp_path / "figure.svg").read_text()
        self.split(2).head(0).to_parquet(tmp_path / "split.parquet")
        with pytest.raises(DataError, match=r"split\.parquet: has no cell; draw the split again"):
            class_counts.plot(tmp_path / "split.parquet", **paths(tmp_path))


ALL_OF_THEM = {"flip": True, "rotate": "any", "blur": 1.0, "gain": 0.2, "offset": 0.1}
VARIANTS: dict[str, dict[str, Any]] = {"D1": {}, "D2": ALL_OF_THEM, "D3": ALL_OF_THEM, "flips": {"flip": True}}


class TestAugmentations:
    def test_variants_that_do_the_same_share_a_column(self) -> None:
        found = augmentations.distinct(VARIANTS)
        assert list(found) == ["D2, D3", "flips"]
        assert augmentations.words(found["flips"]) == "flips"
        told = augmentations.words(found["D2, D3"]).split("\n")
        assert told == ["any angle", "flips", "blur to 1 px", "gain ± 20%", "offset ± 0.1 SD"]

    def test_images_are_those_that_the_library_makes_each_in_its_place(self) -> None:
        images = np.random.default_rng(0).integers(100, 900, (9, 1, 12, 12)).astype(np.uint16)
        flips = augmentations.augmented(
            images, {"flips": Augmentation(flip=True)}, normalisation=Normalisation((500.0,), (200.0,)), seed=2
        )["flips"]
        ways = np.stack([images, images[:, :, ::-1], images[..., ::-1], images[:, :, ::-1, ::-1]])
        # Each image is its own, flipped one way or not at all, in camera counts again.
        near = np.abs(ways - flips).max(axis=(2, 3, 4)).argmin(axis=0)
        np.testing.assert_allclose(ways[near, np.arange(9)], flips, atol=0.05)
        assert len(set(near.tolist())) > 1

    def source(self, make_cells: Callable[..., Path], folder: Path) -> tuple[Path, Path]:
        path = make_cells(dict.fromkeys(STAGES, 4), side=20, channels=("PI", "BF"))
        table = cells.read_table(path)[["cell_id", "stage"]]
        classes = table["stage"].where(table["stage"].isin(["G1", "S", "G2"]), "M")
        subset = np.where(np.arange(len(table)) % 4 == 0, "test", "train")
        table.assign(fold=0, subset=subset, **{"class": classes}).to_parquet(folder / "split.parquet")
        return path, folder / "split.parquet"

    def test_cells_are_of_training_one_of_each_class(self, make_cells: Callable[..., Path], tmp_path: Path) -> None:
        _, split = self.source(make_cells, tmp_path)
        table = pd.read_parquet(split)
        chosen = augmentations.pick(table, ["M", "G1", "S", "G2", "absent"], seed=4)
        assert list(chosen) == ["M", "G1", "S", "G2"]
        rows = table.set_index("cell_id").loc[list(chosen.values())]
        assert rows["class"].tolist() == list(chosen)
        assert set(rows["subset"]) == {"train"}

    def test_plot(self, make_cells: Callable[..., Path], tmp_path: Path) -> None:
        path, split = self.source(make_cells, tmp_path)
        asked: dict[str, Any] = {"channels": ["PI", "BF"], "classes": list(CLASSES), **paths(tmp_path)}
        augmentations.plot(path, split, variants=VARIANTS, **asked)
        drawn = (tmp_path / "figure.svg").read_text()
        assert drawn.count("<image") == 4 * 3
        assert all(f"<!-- {words} -->" in drawn for words in ("raw", "D2, D3", "flips", *CLASSES))
        assert "in channel PI" in drawn
        with pytest.raises(DataError, match="none of the variants D1 augments"):
            augmentations.plot(path, split, variants={"D1": {}}, **asked)
        pd.read_parquet(split).assign(cell_id=lambda t: "x" + t["cell_id"]).to_parquet(split)
        with pytest.raises(DataError, match=r"split\.parquet: has training cells that are not in"):
            augmentations.plot(path, split, variants=VARIANTS, **asked)


def test_the_workflow_plans_every_figure_of_the_studies(project: Path) -> None:
    """A dry run of both studies: figures that config names, a map of each model, and none twice under two names."""
    told = snakemake(project, "billard", "duque", "--dry-run").stdout
    planned = set(re.findall(r"results/simulated/(\w+)/(?:figures|embedding)/(\w+\.(?:svg|html))", told))
    config = yaml.safe_load((project / "config.yaml").read_text())["experiments"]
    for name in ("billard", "duque"):
        explain, study = config[name]["explain"], {f"{figure}.svg" for figure in config[name]["figures"]}
        expected = study | {f"embedding_{model}.svg" for model in explain["embedding"]}
        expected |= {f"{model}.html" for model in explain["embedding"]}
        expected |= {f"saliency_{c.lower()}_{o}.svg" for c in explain["classes"] for o in ("right", "wrong")}
        expected |= {f"{figure}.svg" for figure in ("examples", "architecture", "curves", "confusion_test")}
        expected |= {"confusion_train.svg"} if "train" in config[name]["subsets"] else set()
        # No model has a choice of losses: a figure of all losses would be that of the chosen ones.
        assert {file for experiment, file in planned if experiment == name} == expected
