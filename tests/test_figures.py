"""Figures: what stands on them, that equal numbers give equal bytes, and that nothing missing goes unsaid."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from stainfree import cells, figures, files, predictions
from stainfree.errors import DataError
from stainfree.figures import architecture, confusion, curves, embedding, examples, saliency, style
from stainfree.schemes import STAGES

CLASSES = ("Interphase", "Prophase", "Metaphase", "Anaphase", "Telophase")
PNG_START = b"\x89PNG\r\n\x1a\n"


def texts(fig: Figure) -> list[str]:
    """Return all texts of a figure, line breaks as spaces."""
    found = [text.get_text().replace("\n", " ").replace("\u00a0", " ") for text in fig.findobj(Text)]
    return [text for text in found if text]


def said(fig: Figure) -> str:
    """Return all that a figure says."""
    return " | ".join(texts(fig))


def images(fig: Figure) -> list[Any]:
    """Return the pictures in a figure."""
    return list(fig.findobj(AxesImage))


def xs(line: Line2D) -> Any:
    """Return where a line's points lie along x."""
    return np.asarray(line.get_xdata(), dtype=float)


def ys(line: Line2D) -> Any:
    """Return where a line's points lie along y."""
    return np.asarray(line.get_ydata(), dtype=float)


def paths(folder: Path, name: str = "figure") -> Any:
    """Return where to write a figure."""
    return {"svg": folder / f"{name}.svg", "png": folder / f"{name}.png"}


def assert_written(folder: Path, name: str = "figure") -> None:
    assert b"<svg" in (folder / f"{name}.svg").read_bytes()
    assert (folder / f"{name}.png").read_bytes().startswith(PNG_START)
    assert not list(folder.glob(".*"))


class TestStyle:
    def draw(self) -> Figure:
        with style.applied():
            fig = style.figure(2, width=3)
            fig.subplots().scatter([0, 1], [1, 0])
            style.note(fig, "two cells")
        return fig

    def test_equal_figures_give_equal_bytes(self, tmp_path: Path) -> None:
        style.save(self.draw(), **paths(tmp_path, "one"))
        with mpl.rc_context({"font.size": 20, "svg.hashsalt": "other"}):  # a user's own settings change nothing
            style.save(self.draw(), **paths(tmp_path, "two"))
        for suffix in (".svg", ".png"):
            assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
        assert b"<dc:date>" not in (tmp_path / "one.svg").read_bytes()
        assert_written(tmp_path, "one")

    def test_settings_do_not_leak(self) -> None:
        before = dict(mpl.rcParams)
        self.draw()
        assert dict(mpl.rcParams) == before

    def test_png_has_200_dots_per_inch(self, tmp_path: Path) -> None:
        style.save(self.draw(), **paths(tmp_path))
        header = (tmp_path / "figure.png").read_bytes()[16:24]
        assert (int.from_bytes(header[:4]), int.from_bytes(header[4:])) == (600, 400)

    @pytest.mark.parametrize("classes", [CLASSES, STAGES, ("G1", "S", "G2", "M"), ("G2", "not G2"), ("a", "b", "c")])
    def test_classes_have_colours_of_their_own(self, classes: Sequence[str]) -> None:
        colours = style.class_colours(classes)
        assert list(colours) == list(classes)
        assert len(set(colours.values())) == len(classes)
        assert set(colours.values()) <= set(style.OKABE_ITO)

    def test_a_class_keeps_its_colour(self) -> None:
        assert style.class_colours(CLASSES)["Prophase"] == style.class_colours(STAGES)["Prophase"]

    @pytest.mark.parametrize(
        ("text", "lines"),
        [
            ("fc", ["fc"]),
            ("resnet20_residual", ["resnet20_", "residual"]),
            ("fc, a *", ["fc, a *"]),
            ("a" * 20, ["a" * 20]),
        ],
    )
    def test_labels_are_broken_where_they_can_be(self, text: str, lines: list[str]) -> None:
        assert style.broken(text, 12).split("\n") == lines

    def test_words_of(self) -> None:
        assert style.words_of(cell=7916) == "7,916 cells"
        assert style.words_of(fold=1, seed=2) == "1 fold, 2 seeds"


class TestPairs:
    def table(self, folder: Path, **changed: Any) -> Path:
        rows = {
            "variant": "holdout",
            "model": "fc",
            "loss": ["unweighted", "inv_weighted"],
            "chosen": [True, False],
            "published": [False, True],
        }
        pd.DataFrame(rows | changed).to_csv(folder / "chosen_losses.csv", index=False)
        return folder / "chosen_losses.csv"

    def test_keeps_the_order_asked_for(self, tmp_path: Path) -> None:
        wanted = [("holdout", "fc", "inv_weighted"), ("holdout", "fc", "unweighted")]
        found = figures.read_pairs(self.table(tmp_path), wanted)
        assert [pair.label for pair in found] == ["fc, inv_weighted †", "fc, unweighted *"]

    def test_a_model_of_one_loss_is_called_by_its_name_alone(self, tmp_path: Path) -> None:
        path = self.table(tmp_path, model=["fc", "cnn3"])
        found = figures.read_pairs(path, [("holdout", "fc", "unweighted"), ("holdout", "cnn3", "inv_weighted")])
        assert [(pair.label, pair.words) for pair in found] == [("fc", "fc"), ("cnn3", "cnn3")]
        assert figures.marks(found) == ""
        both = figures.read_pairs(self.table(tmp_path), [("holdout", "fc", "unweighted")])
        assert both[0].words == "fc under unweighted"
        assert figures.marks([*found, *both]).startswith("*")

    def test_an_empty_mark_is_no_mark(self, tmp_path: Path) -> None:
        path = self.table(tmp_path, published=[None, None])
        assert not figures.read_pairs(path, [("holdout", "fc", "inv_weighted")])[0].published

    def test_unknown_pair(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"chosen_losses\.csv: has no row holdout, cnn3, unweighted"):
            figures.read_pairs(self.table(tmp_path), [("holdout", "cnn3", "unweighted")])

    def test_missing_column(self, tmp_path: Path) -> None:
        (tmp_path / "chosen_losses.csv").write_text("variant,model,loss,published\n")
        with pytest.raises(DataError, match="lacks the column chosen"):
            figures.read_pairs(tmp_path / "chosen_losses.csv", [])


class TestExamples:
    def stacks(self) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        sizes = dict.fromkeys(STAGES, 4) | {"Anaphase": 2, "Telophase": 0}
        return {stage: rng.integers(0, 4096, (n, 2, 8, 8)).astype(np.uint16) for stage, n in sizes.items()}

    def test_a_row_per_stage_and_a_column_per_channel(self) -> None:
        stacks = self.stacks()
        n_training = dict.fromkeys(STAGES, 1500) | {"Anaphase": 2, "Telophase": 0}
        fig = examples.draw(stacks, channels=["BF", "PI"], n_training=n_training)
        assert len(images(fig)) == 14
        found = texts(fig)
        assert {"BF", "PI", "G1 1,500 cells", "Anaphase 2 cells", "Telophase 0 cells"} <= set(found)
        assert found.count("no training cell") == 2
        assert "pixel size is unknown" in said(fig)
        assert "µm" not in said(fig)

    def test_one_grey_range_per_channel(self) -> None:
        stacks = self.stacks()
        fig = examples.draw(stacks, channels=["BF", "PI"], n_training={})
        for column in (0, 1):
            pixels = np.concatenate([stack[:, column].ravel() for stack in stacks.values()])
            expected = tuple(np.percentile(pixels, (0.5, 99.5)))
            assert {image.get_clim() for image in images(fig)[column::2]} == {expected}
            assert f"{expected[0]:,.0f} to {expected[1]:,.0f}" in said(fig)

    def test_scale_bar_where_the_pixel_size_is_known(self) -> None:
        fig = examples.draw(self.stacks(), channels=["BF", "PI"], n_training={}, pixel_size_um=2.0)
        (bar,) = [line for axes in fig.axes for line in axes.lines]
        assert np.ptp(xs(bar)) == pytest.approx(5)  # 10 µm at 2 µm a pixel
        assert "10 µm" in texts(fig)

    @pytest.mark.parametrize("channels", [1, 3, 6])
    def test_names_of_stages_are_not_cut_off(self, channels: int) -> None:
        stacks = {stage: np.zeros((4, channels, 8, 8), dtype=np.uint16) for stage in STAGES}
        fig = examples.draw(
            stacks, channels=[f"ch{k}" for k in range(channels)], n_training=dict.fromkeys(STAGES, 9999)
        )
        fig.draw_without_rendering()
        left = [axes.yaxis.label.get_window_extent().x0 for axes in fig.axes if axes.get_ylabel()]
        assert len(left) == len(STAGES)
        assert min(left) > 0

    def test_strip_keeps_cells_apart(self) -> None:
        laid = examples.strip(np.ones((2, 3, 4)), n_cells=3)
        assert laid.shape == (3, 3 * 4 + 2 * examples.GAP)
        assert int(np.isfinite(laid).sum()) == 2 * 3 * 4

    def source(self, folder: Path) -> tuple[Path, Path]:
        rng = np.random.default_rng(1)
        stages = [stage for stage in STAGES for _ in range(6)]
        ids = [f"cell{k}" for k in range(len(stages))]
        info = cells.CellsInfo(channels=("BF", "DF"), bit_depth=12)
        with cells.CellsWriter(folder / "cells.h5", info, image_shape=(8, 8), dtype=np.uint16) as writer:
            pixels = rng.integers(0, 4096, (len(ids), 2, 8, 8)).astype(np.uint16)
            writer.append(pixels, stage=stages, cell_id=ids, source=["a"] * len(ids))
        subsets = ["train", "train", "train", "train", "train", "test"] * len(STAGES)
        split = pd.DataFrame({"fold": 0, "cell_id": ids, "stage": stages, "subset": subsets})
        split.to_parquet(folder / "split.parquet")
        return folder / "cells.h5", folder / "split.parquet"

    def test_pick_takes_training_cells_by_seed(self, tmp_path: Path) -> None:
        split = pd.read_parquet(self.source(tmp_path)[1])
        chosen = examples.pick(split, n_cells=4, seed=3)
        assert list(chosen) == list(STAGES)
        assert all(len(ids) == len(set(ids)) == 4 for ids in chosen.values())
        rows = split.set_index("cell_id").loc[[name for ids in chosen.values() for name in ids]]
        assert set(rows["subset"]) == {"train"}
        assert rows["stage"].tolist() == [stage for stage in STAGES for _ in range(4)]
        assert examples.pick(split.sample(frac=1, random_state=0), n_cells=4, seed=3) == chosen
        assert examples.pick(split, n_cells=4, seed=4) != chosen

    def test_plot(self, tmp_path: Path) -> None:
        source, split = self.source(tmp_path)
        examples.plot(source, split, **paths(tmp_path), channels=["DF"])
        assert_written(tmp_path)

    def test_foreign_split(self, tmp_path: Path) -> None:
        source, split = self.source(tmp_path)
        pd.read_parquet(split).assign(cell_id=lambda t: "x" + t["cell_id"]).to_parquet(split)
        with pytest.raises(DataError, match=r"split\.parquet: cell xcell\d+ is not in"):
            examples.plot(source, split, **paths(tmp_path))


def conv(channels: int, out: int, side: int) -> list[architecture.Layer]:
    shape = (out, side, side)
    return [
        architecture.Layer("Conv2d", shape, channels * out * 9),
        architecture.Layer("BatchNorm2d", shape, 2 * out),
        architecture.Layer("ReLU", shape, 0),
    ]


class TestArchitecture:
    def network(self, depth: int, *, extra: int = 0) -> architecture.Network:
        layers = conv(1, 8, 16)
        for _ in range(depth):
            layers += conv(8, 8, 16)
        layers += [architecture.Layer("MaxPool2d", (8, 4, 4), 0), architecture.Layer("Flatten", (128,), 0)]
        layers += [architecture.Layer("Dropout", (128,), 0), architecture.Layer("Linear", (5,), 645)]
        n = sum(layer.n_parameters for layer in layers) + extra
        return architecture.Network("net", n, ("BF",), (1, 16, 16), tuple(layers))

    def test_repeats_are_found_and_laid_out_again_give_the_layers(self) -> None:
        layers = self.network(40).layers
        parted = architecture.repeats(layers)
        assert [(len(stretch), times) for stretch, times in parted] == [(3, 1), (3, 40), (4, 1)]
        assert [layer for stretch, times in parted for layer in list(stretch) * times] == list(layers)

    def test_a_box_holds_the_layers_that_keep_its_shape(self) -> None:
        runs = architecture.arrange(self.network(2))
        found = [(run.times, [box.main.kind for box in run.boxes]) for run in runs]
        assert found == [(1, ["input: BF"]), (1, ["Conv2d"]), (2, ["Conv2d"]), (1, ["MaxPool2d", "Flatten", "Linear"])]
        label = [text for text, _ in runs[1].boxes[0].lines]
        assert label == ["Conv2d", "8 × 16 × 16", "72 param.", "+ BatchNorm2d (16)", "+ ReLU"]

    def test_a_layer_norm_stands_before_what_it_normalises(self) -> None:
        layers = [
            architecture.Layer("Linear", (16, 32), 10),
            architecture.Layer("LayerNorm", (16, 32), 64),
            architecture.Layer("Linear", (16, 64), 20),
        ]
        first, second = architecture.boxes(layers, before=(16, 8))
        assert [layer.kind for layer in first.layers] == ["Linear"]
        assert [text for text, _ in second.lines][:2] == ["LayerNorm (64) +", "Linear"]

    def test_every_kind_shape_and_count_is_on_the_figure(self) -> None:
        network = self.network(40)
        fig = architecture.draw([network, self.network(0)])
        found = texts(fig)
        assert found.count("× 40") == 1
        assert f"net: {network.n_parameters:,} parameters, {len(network.layers)} layers" in found
        assert {"input: BF", "1 × 16 × 16", "8 × 4 × 4", "128", "576 param.", "645 param.", "+ Dropout"} <= set(found)
        assert len([patch for patch in fig.findobj(FancyBboxPatch) if patch.get_zorder() == 0]) == 1

    def test_parameters_that_no_layer_has_are_said(self) -> None:
        assert "(+7 parameters shared or outside these layers)" in said(architecture.draw([self.network(1, extra=7)]))

    def test_a_long_network_goes_on_in_further_lines(self) -> None:
        layers = [layer for k in range(42) for layer in conv(k + 1, k + 2, 32)]
        long = architecture.Network("long", 1, ("BF",), (1, 32, 32), tuple(layers))
        fig = architecture.draw([long])
        assert texts(fig).count("Conv2d") == 42
        (axes,) = fig.axes
        width, height = axes.get_xlim()[1], axes.get_ylim()
        for text in axes.texts:
            x, y = text.get_position()
            assert 0 <= x <= width
            assert height[0] <= y <= height[1]

    def told(self, folder: Path, name: str, layers: list[dict[str, Any]]) -> Path:
        about = {"model": name, "n_parameters": 5, "channels": ["BF"], "image_size": [66, 66], "crop": 64}
        folder.mkdir()
        files.write_json(folder / "model.json", about | {"layers": layers})
        return folder / "model.json"

    def test_plot_draws_a_model_once(self, tmp_path: Path) -> None:
        layer = {"name": "head", "kind": "Linear", "output_shape": [5], "n_parameters": 5}
        models = [self.told(tmp_path / name, "fc", [layer]) for name in ("unweighted", "inv_weighted")]
        architecture.plot(models, **paths(tmp_path))
        assert_written(tmp_path)
        assert (tmp_path / "figure.svg").read_text().count("<!-- input: BF -->") == 1
        assert "<!-- 1 × 64 × 64 -->" in (tmp_path / "figure.svg").read_text()

    def test_without_a_network_the_figure_says_so(self, tmp_path: Path) -> None:
        architecture.plot([self.told(tmp_path / "forest", "forest", [])], **paths(tmp_path))
        assert "<!-- No model here is a network:" in (tmp_path / "figure.svg").read_text()

    def test_equal_networks_are_drawn_once_under_both_names(self, tmp_path: Path) -> None:
        layer = {"name": "head", "kind": "Linear", "output_shape": [5], "n_parameters": 5}
        skip = {"name": "skip", "kind": "Identity", "output_shape": [5], "n_parameters": 0}
        networks = {"plain": [layer], "transfer": [layer], "residual": [layer, skip]}
        models = [self.told(tmp_path / name, name, layers) for name, layers in networks.items()]
        architecture.plot(models, **paths(tmp_path))
        drawn = (tmp_path / "figure.svg").read_text()
        assert drawn.count("<!-- input: BF -->") == 2
        assert "<!-- plain, transfer: 5 parameters, 1 layer -->" in drawn
        assert "<!-- residual: 5 parameters, 2 layers -->" in drawn
        assert drawn.count("<!-- + skip -->") == 1

    def test_a_norm_that_changes_the_shape_joins_branches(self) -> None:
        shape = (8, 4, 4)
        branches = [architecture.Layer("Conv2d", shape, 9), architecture.Layer("Conv2d", shape, 9)]
        both = [*branches, architecture.Layer("BatchNorm2d", (16, 4, 4), 32)]
        last = architecture.boxes(both, before=shape)[-1]
        assert [text for text, _ in last.lines] == ["join +", "BatchNorm2d", "16 × 4 × 4", "32 param."]

    @pytest.mark.parametrize("n_networks", [1, 12])
    def test_the_caption_keeps_off_the_last_network(self, n_networks: int) -> None:
        fig = architecture.draw([self.network(3)] * n_networks)
        fig.draw_without_rendering()
        (axes,) = fig.axes
        lowest = min(text.get_window_extent().y0 for text in axes.texts)
        (note,) = [text for text in fig.findobj(Text) if text.get_text().startswith("Layers in order")]
        assert note.get_window_extent().y0 > 0
        assert note.get_window_extent().y1 < lowest - 3


def history(*, folds: int = 1, steps: int = 12) -> pd.DataFrame:
    step = np.tile(np.arange(1, steps + 1), folds)
    fold = np.repeat(np.arange(folds), steps)
    return pd.DataFrame(
        {
            "fold": fold,
            "seed": 0,
            "step": step,
            "train_loss": 1 / step + fold,
            "validation_loss": 2 / step + fold,
            "train_balanced_accuracy": 1 - 1 / (step + 1),
            "validation_balanced_accuracy": np.where(step == 7, 0.9, 0.5),
        }
    )


def part(fold: int, *, early: bool = True) -> dict[str, Any]:
    return {"fold": fold, "seed": 0, "best_step": 7, "last_step": 12, "stopped_early": early}


def run(model: str, loss: str, *, chosen: bool, folds: int = 1, early: bool = True) -> curves.Run:
    pair = figures.Pair("holdout", model, loss, chosen, published=False)
    return curves.Run(pair, history(folds=folds), [part(fold, early=early) for fold in range(folds)])


N_CELLS = {"train": "5,541 cells", "validation": "792 cells"}


class TestCurves:
    def test_a_column_per_model_with_the_chosen_loss_strong(self) -> None:
        runs = [run(m, loss, chosen=loss == "b") for m in ("fc", "cnn3") for loss in ("a", "b", "c")]
        fig = curves.draw(runs, n_cells=N_CELLS, n_present=4)
        assert len(fig.axes) == 4
        solid = [line for line in fig.axes[0].lines if line.get_linestyle() == "-" and len(xs(line)) == 12]
        thin = [line for line in fig.axes[0].lines if line.get_linestyle() in curves.DASHES and len(xs(line)) == 12]
        assert (len(solid), len(thin)) == (2, 4)
        assert min(line.get_linewidth() for line in solid) > 1.5 * max(line.get_linewidth() for line in thin)
        assert "fc, b * best step 7, stopped early at 12" in texts(fig)
        assert "dashed: the model's other losses" in said(fig)
        assert all(words in said(fig) for words in ("5,541 cells", "792 cells", "always one class, 25%"))

    def test_the_curves_are_the_history(self) -> None:
        fig = curves.draw([run("fc", "a", chosen=True)], n_cells=N_CELLS, n_present=5)
        table = history()
        for axes, quantity in zip(fig.axes, ("loss", "balanced_accuracy"), strict=True):
            train, validation = [line for line in axes.lines if len(xs(line)) == 12]
            np.testing.assert_allclose(ys(train), table[f"train_{quantity}"])
            np.testing.assert_allclose(ys(validation), table[f"validation_{quantity}"])

    def test_a_training_that_was_validated_once_is_seen(self) -> None:
        pair = figures.Pair("v", "fc", "a", True, False)
        only = {"fold": 0, "seed": 0, "best_step": 1, "last_step": 1, "stopped_early": False}
        fig = curves.draw([curves.Run(pair, history(steps=1), [only])], n_cells=N_CELLS, n_present=5)
        dots = [line for line in fig.axes[0].lines if line.get_marker() == "."]
        assert [(xs(line)[0], ys(line)[0]) for line in dots] == [(1, 1.0), (1, 2.0)]

    def test_best_step_and_early_stop_are_marked(self) -> None:
        fig = curves.draw([run("fc", "a", chosen=True)], n_cells=N_CELLS, n_present=5)
        marks = {line.get_marker(): line for line in fig.axes[1].lines if len(xs(line)) == 1}
        assert (xs(marks["o"])[0], ys(marks["o"])[0]) == (7, 0.9)
        assert (xs(marks["X"])[0], ys(marks["X"])[0]) == (12, 0.5)
        full = curves.draw([run("fc", "a", chosen=True, early=False)], n_cells=N_CELLS, n_present=5)
        assert "X" not in {line.get_marker() for line in full.axes[1].lines}
        assert "best step 7, ran to 12" in said(full)

    @pytest.mark.parametrize(("n_models", "n_rows"), [(3, 1), (5, 2), (12, 3)])
    def test_many_models_go_on_in_further_rows(self, n_models: int, n_rows: int) -> None:
        runs = [run(f"resnet{k}_residual", "a", chosen=True, folds=5) for k in range(n_models)]
        fig = curves.draw(runs, n_cells=N_CELLS, n_present=4)
        fig.draw_without_rendering()
        shown = [axes for axes in fig.axes if axes.axison]
        assert len(shown) == 2 * n_models
        assert len({round(axes.get_position().y0, 3) for axes in shown}) == 2 * n_rows
        titles = [axes.title.get_window_extent() for axes in shown if axes.get_title()]
        assert len(titles) == n_models
        assert not any(one.overlaps(other) for one, other in itertools.combinations(titles, 2))
        assert "dashed" not in said(fig)

    def test_without_a_model_that_is_trained_by_steps_the_figure_says_so(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        history().head(0).to_csv(tmp_path / "history.csv", index=False)
        curves.plot(**source, **paths(tmp_path))
        assert "<!-- No model here is trained step by step:" in (tmp_path / "figure.svg").read_text()

    def test_a_line_for_every_part(self) -> None:
        fig = curves.draw([run("fc", "a", chosen=True, folds=5)], n_cells=N_CELLS, n_present=5)
        assert len([line for line in fig.axes[0].lines if len(xs(line)) == 12]) == 10
        assert "One line per fold and seed" in said(fig)

    def test_numbers_of_cells(self) -> None:
        split = pd.DataFrame(
            {
                "fold": [0] * 5 + [1] * 5,
                "subset": ["train"] * 3 + ["validation"] * 2 + ["train"] * 2 + ["validation"] * 3,
                "class": ["a", "b", "c", "a", "b", "a", "b", "a", "b", "c"],
            }
        )
        words, n_present = curves.count_cells(split)
        assert words == {"train": "2 to 3 cells in each fold", "validation": "2 to 3 cells in each fold"}
        assert n_present == 2
        assert curves.count_cells(split[split["fold"] == 0])[0]["train"] == "3 cells"

    def source(self, folder: Path) -> dict[str, Any]:
        history().to_csv(folder / "history.csv", index=False)
        files.write_json(folder / "model.json", {"parts": [part(0)]})
        chosen = {"variant": ["v"], "model": ["fc"], "loss": ["a"], "chosen": [True], "published": [True]}
        pd.DataFrame(chosen).to_csv(folder / "chosen.csv", index=False)
        split = pd.DataFrame({"fold": 0, "subset": ["train", "validation"], "class": ["a", "a"]})
        split.to_parquet(folder / "split.parquet")
        return {
            "histories": [folder / "history.csv"],
            "models": [folder / "model.json"],
            "chosen_losses": folder / "chosen.csv",
            "split": folder / "split.parquet",
            "pairs": [["v", "fc", "a"]],
        }

    def test_plot(self, tmp_path: Path) -> None:
        curves.plot(**self.source(tmp_path), **paths(tmp_path))
        assert_written(tmp_path)

    def test_missing_column(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        history().drop(columns="train_loss").to_csv(tmp_path / "history.csv", index=False)
        with pytest.raises(DataError, match=r"history\.csv: lacks the column train_loss"):
            curves.plot(**source, **paths(tmp_path))


def predicted(counts: Sequence[int], *, seed: int = 0, right: float = 3.0) -> pd.DataFrame:
    """Make test predictions of `counts` cells per class."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(5), counts)
    chances = rng.random((len(truth), 5)) + right * np.eye(5)[truth] * rng.random((len(truth), 1))
    names = [CLASSES[k] for k in truth]
    split = pd.DataFrame(
        {
            "cell_id": [f"cell{k}" for k in range(len(truth))],
            "source": "a",
            "group": "g",
            "origin": "real",
            "fold": 0,
            "subset": "test",
            "stage": names,
            "class": names,
        }
    )
    return predictions.table(split, chances / chances.sum(axis=1, keepdims=True), classes=CLASSES, seed=0)


class TestConfusion:
    def matrix(self, counts: Sequence[int]) -> tuple[pd.DataFrame, confusion.Matrix]:
        table = predicted(counts)
        return table, confusion.Matrix("cnn3, b *", confusion.count(table, CLASSES), len(table))

    @pytest.mark.parametrize("counts", [(1440, 121, 14, 3, 5), (50, 9, 4, 0, 2)])
    def test_agrees_with_scikit_learn(self, counts: Sequence[int]) -> None:
        table, matrix = self.matrix(counts)
        expected = confusion_matrix(table["class"], table["predicted"], labels=CLASSES)
        np.testing.assert_array_equal(matrix.counts, expected)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
            score = balanced_accuracy_score(table["class"], table["predicted"])
        assert matrix.balanced_accuracy == pytest.approx(score)

    def test_shares_counts_and_score_are_on_the_figure(self) -> None:
        _, matrix = self.matrix((1440, 121, 14, 3, 5))
        fig = confusion.draw([matrix] * 3, classes=CLASSES, subset="test")
        assert len(images(fig)) == 3
        found = texts(fig)
        assert {"Interphase n = 1,440", "Anaphase n = 3"} <= set(found)
        assert found.count(f"cnn3, b * balanced accuracy {matrix.balanced_accuracy:.1%}") == 3
        share = matrix.counts[0, 0] / 1440
        assert found.count(f"{share:.0%} {matrix.counts[0, 0]:,}") >= 3
        assert "Test cells, n = 1,583" in said(fig)
        shown = images(fig)[0].get_array()
        np.testing.assert_allclose(np.asarray(shown).sum(axis=1), 1)

    def test_each_title_says_how_many_cells_where_they_differ(self) -> None:
        matrices = [self.matrix(counts)[1] for counts in ((144, 12, 14, 3, 5), (50, 9, 4, 1, 2))]
        fig = confusion.draw(matrices, classes=CLASSES, subset="test")
        found = [text for text in texts(fig) if "balanced accuracy" in text]
        assert [text.rpartition(" n = ")[2] for text in found] == ["178", "66"]
        assert {"Interphase n = 144", "Interphase n = 50"} <= set(texts(fig))
        assert "Test cells. In each field" in said(fig)

    def test_an_absent_class_is_said(self) -> None:
        _, matrix = self.matrix((50, 9, 4, 0, 2))
        fig = confusion.draw([matrix], classes=CLASSES, subset="validation")
        assert "No cell of Anaphase here: balanced accuracy is over the 4 classes present." in said(fig)
        assert texts(fig).count("no cell") == 1
        assert np.isnan(np.ma.filled(images(fig)[0].get_array(), np.nan)[3]).all()

    @pytest.mark.parametrize(
        ("share", "words"), [(0, "0%"), (1, "100%"), (0.999, "99.9%"), (0.007, "0.7%"), (0.5, "50%")]
    )
    def test_percent(self, share: float, words: str) -> None:
        assert confusion._percent(share) == words

    def source(self, folder: Path) -> dict[str, Any]:
        pairs = [["v", "fc", "a"], ["v", "fc", "b"], ["v", "cnn3", "a"], ["v", "cnn3", "b"]]
        rows = [(*pair, pair[2] == "b", False) for pair in pairs]
        pd.DataFrame(rows, columns=list(figures.CHOSEN_COLUMNS)).to_csv(folder / "chosen.csv", index=False)
        for k in range(len(pairs)):
            predictions.write(folder / f"{k}.parquet", predicted((20, 9, 4, 3, 2), seed=k))
        return {
            "predicted": [folder / f"{k}.parquet" for k in range(len(pairs))],
            "chosen_losses": folder / "chosen.csv",
            "pairs": pairs,
        }

    @pytest.mark.parametrize(("all_losses", "n"), [(False, 2), (True, 4)])
    def test_plot_draws_the_chosen_or_all(self, tmp_path: Path, all_losses: bool, n: int) -> None:
        confusion.plot(**self.source(tmp_path), subset="test", all_losses=all_losses, **paths(tmp_path))
        assert_written(tmp_path)
        drawn = (tmp_path / "figure.svg").read_text()
        assert drawn.count("balanced accuracy") - drawn.count("best balanced accuracy") == n
        assert ("fc, a" in drawn) is all_losses

    def test_plot_names_variants_where_there_are_several(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        pairs = [["D2", "fc", "a"], ["D3", "fc", "a"]]
        rows = [(*pair, True, False) for pair in pairs]
        pd.DataFrame(rows, columns=list(figures.CHOSEN_COLUMNS)).to_csv(tmp_path / "chosen.csv", index=False)
        confusion.plot(
            **source | {"pairs": pairs, "predicted": source["predicted"][:2]}, subset="test", **paths(tmp_path)
        )
        drawn = (tmp_path / "figure.svg").read_text()
        assert "<!-- D2: fc -->" in drawn
        assert "<!-- D3: fc -->" in drawn
        assert "picked by the study" not in drawn  # one loss: nothing was picked

    def test_plot_gives_equal_bytes(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        for name in ("one", "two"):
            confusion.plot(**source, subset="test", **paths(tmp_path, name))
        assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()

    def test_subset_without_predictions(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="has no prediction of train cells"):
            confusion.plot(**self.source(tmp_path), subset="train", **paths(tmp_path))


class TestSaliency:
    models = ("fc", "cnn3")
    pairs = (figures.Pair("v", "fc", "b", True, False), figures.Pair("v", "cnn3", "a", True, True))
    trained = (("v", "fc", "a"), ("v", "fc", "b"), ("v", "cnn3", "a"))

    def source(self, folder: Path) -> tuple[Path, Path]:
        rng = np.random.default_rng(0)
        maps = rng.random((3, 16, 16)).astype(np.float32)
        maps[:, 0] = np.nan  # outside the crop
        masks = np.zeros((3, 16, 16), dtype=bool)
        masks[:, 4:12, 4:12] = True
        with h5py.File(folder / "maps.h5", "w") as file:
            file["images"] = rng.integers(0, 4096, (3, 16, 16)).astype(np.uint16)
            file["masks"] = masks
            file.attrs.update(outlined="nucleus", n_parts=1, n_parts_of_judge=5)
            for k, name in enumerate(f"{method}/{model}" for method in saliency.METHODS for model in self.models):
                file[name] = maps * (k + 1)
                file[name].attrs["loss"] = "b" if name.endswith("fc") else "a"
        table = pd.DataFrame(
            {
                "index": range(4),
                "cell_id": [f"cell{k}" for k in range(4)],
                "class": ["Telophase", "Telophase", "Interphase", "Interphase"],
                "right": [True, True, False, False],
                "figure": ["saliency_telophase_right"] * 2 + ["saliency_interphase_wrong", ""],
                "fold": 0,
                "seed": 0,
                "predicted_fc": ["Anaphase", "Telophase", "Interphase", "Interphase"],
                "probability_fc": [0.125, 0.75, 0.5, 0.5],
                "predicted_cnn3": ["Telophase", "Telophase", "Prophase", "Prophase"],
                "probability_cnn3": [0.875, 0.5, 0.25, 0.25],
            }
        )
        table.to_csv(folder / "cells.csv", index=False)
        rows = [("v", "fc", "a", False, True), ("v", "fc", "b", True, False), ("v", "cnn3", "a", True, True)]
        rows += [("v", "cnn3", "b", False, False)]
        pd.DataFrame(rows, columns=list(figures.CHOSEN_COLUMNS)).to_csv(folder / "chosen.csv", index=False)
        return folder / "maps.h5", folder / "cells.csv"

    def drawn(self, folder: Path, cell_class: str, outcome: str) -> str:
        maps, table = self.source(folder)
        told: dict[str, Any] = {"cell_class": cell_class, "outcome": outcome, "judge": "cnn3", "pairs": self.trained}
        saliency.plot(maps, table, folder / "chosen.csv", **told, **paths(folder))
        assert_written(folder)
        return (folder / "figure.svg").read_text()

    def test_a_cell_and_its_maps(self, tmp_path: Path) -> None:
        maps, table = self.source(tmp_path)
        rows = pd.read_csv(table).iloc[:2]
        shown = saliency.read_examples(maps, rows, pairs=self.pairs, path=table)
        fig = saliency.draw(shown, cell_class="Telophase", outcome="right", judge="cnn3", pairs=self.pairs)
        assert len(images(fig)) == 2 * (1 + 2 * 2)
        found = texts(fig)
        assert {"gradient", "SmoothGrad", "fc, b *", "cnn3, a * †", "cell0", "cell1"} <= set(found)
        assert "✗ Anaphase p = 0.12" in found
        assert "✓ Telophase p = 0.88" in found
        assert "2 cells of the test part that cnn3 under a got right" in said(fig)
        assert "* best balanced accuracy on validation, † picked by the study." in said(fig)

    def test_maps_stand_in_their_own_place(self, tmp_path: Path) -> None:
        maps, table = self.source(tmp_path)
        rows = pd.read_csv(table).iloc[[1]]
        shown = saliency.read_examples(maps, rows, pairs=self.pairs, path=table)
        fig = saliency.draw(shown, cell_class="Telophase", outcome="right", judge="cnn3", pairs=self.pairs)
        with h5py.File(maps) as file:
            order = ["images", "gradient/fc", "smoothgrad/fc", "gradient/cnn3", "smoothgrad/cnn3"]
            for image, name in zip(images(fig), order, strict=True):
                np.testing.assert_array_equal(np.ma.filled(image.get_array().astype(float), np.nan), file[name][1])

    @pytest.mark.parametrize(("n_models", "n_lines"), [(4, 1), (7, 2), (12, 2)])
    def test_many_models_stand_in_several_lines(self, n_models: int, n_lines: int) -> None:
        names = [f"resnet{k}_residual" for k in range(n_models)]
        pairs = [figures.Pair("v", name, "a", True, False, alone=True) for name in names]
        maps = {(method, name): np.ones((8, 8), dtype=np.float32) for method in saliency.METHODS for name in names}
        verdicts = {name: saliency.Verdict("Interphase", 0.5) for name in names}
        mask = np.eye(8, dtype=bool)
        example = saliency.Example("cell0", mask.astype(np.float32), mask, maps, verdicts)
        about = saliency.About("nucleus", "They are of 1 of 5 parts. ")
        fig = saliency.draw(
            [example], cell_class="Telophase", outcome="wrong", judge=names[0], pairs=pairs, about=about
        )
        fig.draw_without_rendering()
        of_maps = [axes for axes in fig.axes if axes.get_title() != "Telophase cell"]
        assert len(of_maps) == 2 * n_models
        assert len({round(axes.get_position().y0, 3) for axes in of_maps}) == 2 * n_lines
        words = [axes.title.get_window_extent() for axes in of_maps if axes.get_title()]
        words += [axes.xaxis.label.get_window_extent() for axes in of_maps if axes.get_xlabel()]
        assert len(words) == 2 * n_models
        assert not any(one.overlaps(other) for one, other in itertools.combinations(words, 2))
        assert "wrong. They are of 1 of 5 parts." in said(fig)
        assert "outline of the nucleus" in said(fig)

    def test_what_the_maps_say_of_themselves(self, tmp_path: Path) -> None:
        maps, _ = self.source(tmp_path)
        assert saliency.read_about(maps).outlined == "nucleus"
        assert "1 of 5 parts" in saliency.read_about(maps).parts
        with h5py.File(maps, "a") as file:
            file.attrs["n_parts"] = 5
        assert saliency.read_about(maps).parts == ""
        with h5py.File(maps, "a") as file:
            del file.attrs["outlined"]
        with pytest.raises(DataError, match=r"maps\.h5: does not say what is outlined; compute the saliency again"):
            saliency.read_about(maps)

    def test_plot_finds_the_figure_of_a_class_of_any_name(self, tmp_path: Path) -> None:
        maps, table = self.source(tmp_path)
        text = table.read_text().replace("saliency_telophase_right", "saliency_g2_m_right").replace("Telophase", "G2/M")
        table.write_text(text)
        told: dict[str, Any] = {"cell_class": "G2/M", "outcome": "right", "judge": "cnn3", "pairs": self.trained}
        saliency.plot(maps, table, tmp_path / "chosen.csv", **told, **paths(tmp_path))
        assert "<!-- cell0 -->" in (tmp_path / "figure.svg").read_text()

    def test_maps_of_another_loss_are_refused(self, tmp_path: Path) -> None:
        maps, table = self.source(tmp_path)
        other = [figures.Pair("v", "fc", "a", True, True)]
        with pytest.raises(DataError, match=r"maps\.h5: not of fc under a; compute the saliency again"):
            saliency.read_examples(maps, pd.read_csv(table), pairs=other, path=table)

    def test_plot_takes_the_cells_of_its_figure(self, tmp_path: Path) -> None:
        drawn = self.drawn(tmp_path, "Interphase", "wrong")
        assert "<!-- cell2 -->" in drawn
        assert "<!-- cell3 -->" not in drawn

    @pytest.mark.parametrize(
        ("cell_class", "outcome", "words"),
        [
            ("Telophase", "wrong", "cnn3 under a got no Telophase cell of the test part wrong"),
            ("Anaphase", "right", "The test part has no Anaphase cell"),
        ],
    )
    def test_no_such_cell_is_said_in_words(self, tmp_path: Path, cell_class: str, outcome: str, words: str) -> None:
        assert words in self.drawn(tmp_path, cell_class, outcome)

    def test_a_map_of_zeros_and_a_full_mask(self) -> None:
        flat = np.zeros((8, 8), dtype=np.float32)
        verdict = {"fc": saliency.Verdict("Interphase", 1.0)}
        maps = {(method, "fc"): flat for method in saliency.METHODS}
        example = saliency.Example("cell0", flat, flat == 0, maps, verdict)
        fig = saliency.draw([example], cell_class="Interphase", outcome="right", judge="fc", pairs=self.pairs[:1])
        assert {image.get_clim() for image in images(fig)} == {(0.0, 1.0)}

    def test_unknown_model(self, tmp_path: Path) -> None:
        maps, table = self.source(tmp_path)
        unknown = [figures.Pair("v", "simple_vit", "a", True, False)]
        with pytest.raises(DataError, match=r"nothing of simple_vit \(/gradient/simple_vit, /smoothgrad/simple_vit\)"):
            saliency.read_examples(maps, pd.read_csv(table), pairs=unknown, path=table)


class TestEmbedding:
    pair = figures.Pair("v", "cnn3", "b", True, False)
    trained = (("v", "cnn3", "a"), ("v", "cnn3", "b"))

    def coordinates(self) -> pd.DataFrame:
        rng = np.random.default_rng(0)
        names = np.repeat(["Interphase", "Prophase", "Telophase"], [40, 12, 3])
        table = pd.DataFrame(rng.normal(size=(len(names), 3)).astype(np.float32), columns=["u0", "u1", "u2"])
        table = table.assign(subset="test", model="cnn3", loss="b", fold=0, seed=1, drawn=True)
        table["class"], table["cell_id"] = names, [f"cell{k}" for k in range(len(names))]
        table.loc[10:39, "drawn"] = False
        return table

    def source(self, folder: Path) -> dict[str, Any]:
        self.coordinates().to_parquet(folder / "cnn3.parquet")
        rows = [("v", "cnn3", "a", False, True), ("v", "cnn3", "b", True, False)]
        pd.DataFrame(rows, columns=list(figures.CHOSEN_COLUMNS)).to_csv(folder / "chosen.csv", index=False)
        return {
            "coordinates": folder / "cnn3.parquet",
            "chosen_losses": folder / "chosen.csv",
            "pairs": self.trained,
            "classes": CLASSES,
        }

    def test_two_views_of_the_drawn_cells(self) -> None:
        fig = embedding.draw(self.coordinates(), classes=CLASSES, pair=self.pair)
        assert len(fig.axes) == 2
        for axes in fig.axes:
            shown = [dots for dots in axes.collections if isinstance(dots, PathCollection)]
            assert [len(np.asarray(dots.get_offsets())) for dots in shown] == [10, 12, 3]
            # Rare classes lie on top and are larger.
            assert [dots.get_zorder() for dots in shown] == sorted(dots.get_zorder() for dots in shown)
            assert shown[0].get_sizes()[0] < shown[-1].get_sizes()[0]
        found = texts(fig)
        assert {"Interphase: 40 cells, 10 drawn", "Prophase: 12 cells", "Telophase: 3 cells"} <= set(found)
        assert "55 cells of the test part, fold 0, seed 1" in said(fig)
        assert "No cell of Metaphase, Anaphase." in said(fig)
        assert "Embedding of cnn3, b *, from two sides" in found
        assert "* best balanced accuracy on validation" in said(fig)

    def test_plot_and_page(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        page = tmp_path / "page.html"
        embedding.plot(**source, **paths(tmp_path), html_page=page)
        assert_written(tmp_path)
        text = page.read_text()
        assert "<title>Embedding of cnn3, b * (UMAP)</title>" in text
        assert "plotly.js v" in text
        assert "<script src" not in text
        assert '"showSendToCloud": false' in text
        assert "<link" not in text
        assert '"cell0"' in text
        assert '"cell20"' not in text  # thinned away
        again = tmp_path / "again.html"
        embedding.plot(**source, **paths(tmp_path), html_page=again)
        assert again.read_bytes() == page.read_bytes()

    def test_not_a_map(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        self.coordinates().drop(columns="u2").to_parquet(source["coordinates"])
        with pytest.raises(DataError, match=r"cnn3\.parquet: lacks the column u2"):
            embedding.plot(**source, **paths(tmp_path))

    def test_map_of_no_training_of_the_experiment(self, tmp_path: Path) -> None:
        source = self.source(tmp_path) | {"pairs": self.trained[:1]}
        with pytest.raises(DataError, match=r"cnn3\.parquet: cnn3 under b is no training of the experiment"):
            embedding.plot(**source, **paths(tmp_path))
