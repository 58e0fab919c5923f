"""Masks on real and drawn cells; saliency against gradients that are known without automatic differentiation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from scipy import ndimage

from stainfree import cells, files, predictions, trained
from stainfree.errors import DataError
from stainfree.explain import marked_pairs, saliency
from stainfree.explain.masks import acquired, cell_mask, nucleus_mask, otsu


def drawn_cell(rng: np.random.Generator, *, radius: float = 10, centre: tuple[float, float] = (20, 20)) -> Any:
    """Return a (40, 40) uint16 frame with a granular disc, and the disc."""
    y, x = np.mgrid[:40, :40]
    disc = np.hypot(y - centre[0], x - centre[1]) <= radius
    light = 680 + rng.normal(0, 6, (40, 40)) + disc * rng.choice([-90, 120], (40, 40))
    return light.round().astype(np.uint16), disc


def overlap(one: Any, other: Any) -> float:
    """Return the Jaccard index of two masks."""
    return float((one & other).sum() / (one | other).sum())


class TestMasks:
    def test_finds_a_drawn_cell(self) -> None:
        image, disc = drawn_cell(np.random.default_rng(1))
        assert overlap(cell_mask(image[None])[0], disc) > 0.8

    def test_is_not_confused_by_padding(self) -> None:
        # The cell touches the frame, so that padding by edge values draws it out into stripes.
        image, _ = drawn_cell(np.random.default_rng(2), centre=(4, 20))
        padded = np.pad(image, 13, mode="edge")
        assert acquired(padded) == (slice(13, 53), slice(13, 53))
        mask = cell_mask(padded[None])[0]
        np.testing.assert_array_equal(mask[13:53, 13:53], cell_mask(image[None])[0])
        mask[13:53, 13:53] = False
        assert not mask.any()

    def test_an_empty_frame_has_no_cell(self) -> None:
        noise = np.random.default_rng(3).normal(680, 6, (40, 40))
        assert cell_mask(noise[None]).mean() < 0.01
        assert not cell_mask(np.full((1, 8, 8), 7, dtype=np.uint8)).any()
        assert cell_mask(np.zeros((0, 8, 8), dtype=np.uint8)).shape == (0, 8, 8)

    def test_keeps_both_daughters_and_drops_debris(self) -> None:
        rng = np.random.default_rng(4)
        image, one = drawn_cell(rng, radius=7, centre=(11, 20))
        second, other = drawn_cell(rng, radius=7, centre=(30, 20))
        crumb, dirt = drawn_cell(rng, radius=2.5, centre=(36, 36))
        image = np.where(other, second, np.where(dirt, crumb, image))
        mask = cell_mask(image[None])[0]
        assert mask[one].mean() > 0.9
        assert mask[other].mean() > 0.9
        assert not mask[dirt].any()

    def test_otsu_parts_two_heaps(self) -> None:
        rng = np.random.default_rng(5)
        heaps = np.concatenate([rng.normal(0, 1, 900), rng.normal(10, 1, 300)])
        # An independent search over all cuts for the least variance within the two parts.
        cuts = np.linspace(-2, 12, 400)
        inner = [
            (heaps <= c).mean() * heaps[heaps <= c].var() + (heaps > c).mean() * heaps[heaps > c].var() for c in cuts
        ]
        cut = otsu(heaps)
        np.testing.assert_array_equal(heaps <= cut, heaps <= cuts[int(np.argmin(inner))])

    @staticmethod
    def real_cells(mirror: Path, stage: str, channel: str) -> Any:
        """Return 60 images (60, 40, 40) of real cells."""
        folder = mirror / "jurkat-montage" / "Experiment_1" / stage
        montage = tifffile.imread(next(folder.glob(f"{channel}_*.tif")))
        grid = montage.reshape(30, 40, 30, 40).swapaxes(1, 2).reshape(900, 40, 40)
        tiles, copies = np.unique(grid, axis=0, return_counts=True)
        return tiles[copies < 3][:60]  # the repeated tile is padding of the montage, not a cell of this stage

    @pytest.mark.parametrize(
        ("stage", "least", "most"), [("G1", 0.15, 0.6), ("G2", 0.2, 0.75), ("Telophase", 0.4, 0.8)]
    )
    def test_covers_real_cells(self, mirror: Path, stage: str, least: float, most: float) -> None:
        tiles = self.real_cells(mirror, stage, "Ch3")
        masks = cell_mask(tiles)
        share = masks.mean(axis=(1, 2))
        assert share.min() > least
        assert share.max() < most
        # What lies outside is even background: its spread is that of the noise, far below the cell's.
        spread = np.array([tile[mask].std() / tile[~mask].std() for tile, mask in zip(tiles, masks, strict=True)])
        assert np.median(spread) > 3

    def test_finds_a_drawn_nucleus_in_its_haze(self) -> None:
        rng = np.random.default_rng(6)
        y, x = np.mgrid[:40, :40]
        distance = np.hypot(y - 20, x - 20)
        haze = 900 * np.exp(-((distance / 12) ** 2))
        light = 30 + rng.normal(0, 3, (40, 40)) + haze + 2500 * (distance <= 8)
        assert overlap(nucleus_mask(light[None])[0], distance <= 8) > 0.85
        # The same frame to bright-field rules is a cell as wide as its haze.
        assert cell_mask(light[None]).sum() > 1.5 * nucleus_mask(light[None]).sum()

    def test_an_empty_frame_has_no_nucleus(self) -> None:
        noise = np.random.default_rng(3).normal(30, 3, (4, 40, 40))
        assert not nucleus_mask(noise).any()
        assert not nucleus_mask(np.zeros((1, 8, 8), dtype=np.uint8)).any()

    @pytest.mark.parametrize(("stage", "n_nuclei"), [("G1", 1), ("Metaphase", 1), ("Telophase", 2)])
    def test_finds_real_nuclei(self, mirror: Path, stage: str, n_nuclei: int) -> None:
        tiles = self.real_cells(mirror, stage, "Ch4")
        masks = nucleus_mask(tiles)
        assert np.median([ndimage.label(mask)[1] for mask in masks]) == n_nuclei
        # Most of the light is inside, though the nucleus covers a small part of the frame.
        rise = tiles - np.median(tiles, axis=(1, 2), keepdims=True)
        inside = np.array([one[mask].sum() / one.sum() for one, mask in zip(rise, masks, strict=True)])
        assert np.median(inside) > 0.6
        assert 0.04 < np.median(masks.mean(axis=(1, 2))) < 0.35


class TestGradient:
    def test_of_a_linear_model_is_its_weights(self) -> None:
        torch.manual_seed(0)
        linear = torch.nn.Linear(2 * 5 * 6, 3)
        target = torch.tensor([2, 0, 1, 2])
        x = torch.randn(4, 2, 5, 6)
        expected = linear.weight.detach().reshape(3, 2, 5, 6).abs().amax(dim=1)[target].numpy()
        module = torch.nn.Sequential(torch.nn.Flatten(), linear)
        np.testing.assert_allclose(saliency.gradient(module, x, target), expected, rtol=1e-6)
        np.testing.assert_allclose(saliency.smoothgrad(module, x, target, n_samples=3), expected, rtol=1e-5)

    def test_leaves_weights_and_images_without_gradient(self) -> None:
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        x = torch.randn(1, 1, 2, 2)
        saliency.gradient(module, x, torch.tensor([1]))
        assert x.grad is None
        assert all(p.grad is None for p in module.parameters())


class TestSmoothgrad:
    @staticmethod
    def energy(x: torch.Tensor) -> torch.Tensor:
        return (x**2).flatten(1).sum(dim=1, keepdim=True)

    def test_averages_over_noise_in_proportion_to_each_range(self) -> None:
        x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        target = torch.zeros(3, dtype=torch.int64)
        small = saliency.smoothgrad(self.energy, x, target, n_samples=200, noise=0.1, seed=4)
        # The gradient 2x averaged over 200 noisy copies: standard error 2 * 0.1 / sqrt(200) = 0.014.
        np.testing.assert_allclose(small, 2 * x[:, 0].numpy(), atol=0.07)
        assert np.abs(small - 2 * x[:, 0].numpy()).max() > 1e-3
        scale = torch.tensor([1.0, 10.0, 100.0])[:, None, None, None]
        large = saliency.smoothgrad(self.energy, x * scale, target, n_samples=200, noise=0.1, seed=4)
        np.testing.assert_allclose(large, small * scale[:, 0].numpy(), rtol=1e-3, atol=1e-4)

    def test_is_seeded_and_leaves_the_generator_alone(self) -> None:
        x, target = torch.rand(2, 1, 6, 6), torch.zeros(2, dtype=torch.int64)
        torch.manual_seed(5)
        before = torch.random.get_rng_state()
        first = saliency.smoothgrad(self.energy, x, target, seed=1)
        assert torch.equal(torch.random.get_rng_state(), before)
        np.testing.assert_array_equal(saliency.smoothgrad(self.energy, x, target, seed=1), first)
        assert np.abs(saliency.smoothgrad(self.energy, x, target, seed=2) - first).max() > 0


class TestEffort:
    def network(self) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 6 * 6, 5)
        )

    def test_counts_operations_and_what_the_gradient_needs(self) -> None:
        effort = saliency.Effort.of(self.network(), torch.randn(1, 2, 6, 6))
        # By hand: 9 x 2 multiply-adds for each of 4 x 6 x 6 values, and 144 for each of 5 scores; 2 for each.
        assert effort.operations == 2 * (4 * 36 * 18 + 5 * 144)
        # Kept: the input of the convolution (2 x 6 x 6) and what the ReLU lets through (4 x 6 x 6), float32.
        assert effort.held == 4 * (2 * 36 + 4 * 36)

    def test_measuring_leaves_no_gradient(self) -> None:
        network, x = self.network(), torch.randn(1, 2, 6, 6)
        saliency.Effort.of(network, x)
        assert x.grad is None
        assert not x.requires_grad
        assert all(p.grad is None for p in network.parameters())

    def test_shares_out_cells_and_batches(self) -> None:
        effort = saliency.Effort(operations=10**9, held=2**25)
        assert effort.cells(26) == int(saliency.MOST_OPERATIONS / 26e9)
        assert effort.batch(1) == saliency.BATCH
        assert effort.batch(8) == 4
        assert effort.batch(1000) == 1


class TestMeasures:
    def test_share_inside(self) -> None:
        found = np.ones((4, 4), dtype=np.float32)
        found[0] = np.nan
        mask = np.zeros((4, 4), dtype=bool)
        mask[:2] = True
        assert saliency.share_inside(found, mask, total=16.0) == pytest.approx(4 / 16)
        assert np.isnan(saliency.share_inside(found, mask, total=0.0))

    @pytest.mark.parametrize("n_spots", [0, 1, 2, 3])
    def test_counts_separated_peaks(self, n_spots: int) -> None:
        found = np.zeros((40, 40), dtype=np.float32)
        for place in range(n_spots):
            found[6 + 13 * place, 20] = 1
        found = ndimage.gaussian_filter(found, 1.5)
        assert saliency.count_peaks(found, np.ones((40, 40), dtype=bool)) == n_spots
        found[38, 38] = 100  # far brighter, and beside the cell
        mask = np.ones((40, 40), dtype=bool)
        mask[30:, 30:] = False
        assert saliency.count_peaks(found, mask) == n_spots


def judged_cells() -> pd.DataFrame:
    """Return 100 Interphase cells (10 wrong), 6 Telophase (2 wrong) and 4 Prophase (all wrong), of two folds."""
    truth = ["Interphase"] * 100 + ["Telophase"] * 6 + ["Prophase"] * 4
    said = ["Prophase"] * 10 + ["Interphase"] * 90 + ["Interphase"] * 2 + ["Telophase"] * 4 + ["Telophase"] * 4
    ids = [f"c{i:03d}" for i in range(110)]
    return pd.DataFrame({"cell_id": ids, "fold": np.arange(110) % 2, "seed": 0, "class": truth, "predicted": said})


class TestPickCells:
    def test_figures_first_then_dealt_out_evenly(self) -> None:
        picked = saliency.pick_cells(judged_cells(), classes=["Interphase", "Telophase"], max_cells=40, seed=3)
        assert len(picked) == 40
        figure = picked[picked["figure"] != ""]
        assert figure["figure"].iloc[0] == "saliency_interphase_wrong"
        assert figure["figure"].iloc[-1] == "saliency_telophase_right"
        kinds = list(figure[["class", "right"]].itertuples(index=False, name=None))
        expected = [("Interphase", False), ("Interphase", True), ("Telophase", False), ("Telophase", True)]
        assert kinds == [expected[0]] * 3 + [expected[1]] * 3 + [expected[2]] * 2 + [expected[3]] * 3
        assert list(figure["index"]) == list(range(11))
        # Every cell of the rare kinds is there, and Interphase fills what is left.
        assert picked["class"].value_counts().to_dict() == {"Interphase": 30, "Telophase": 6, "Prophase": 4}

    def test_figures_are_named_as_files_may_be(self) -> None:
        cells_ = judged_cells().replace("Telophase", "G2/M")
        picked = saliency.pick_cells(cells_, classes=["G2/M"])
        assert set(picked["figure"]) == {"", "saliency_g2_m_wrong", "saliency_g2_m_right"}

    def test_is_seeded_and_takes_a_cell_once(self) -> None:
        cells_ = pd.concat([judged_cells(), judged_cells().assign(seed=1)])
        first = saliency.pick_cells(cells_, classes=["Telophase"], seed=1)
        pd.testing.assert_frame_equal(saliency.pick_cells(cells_, classes=["Telophase"], seed=1), first)
        assert first["cell_id"].is_unique
        assert set(first["seed"]) == {0}
        other = saliency.pick_cells(cells_, classes=["Telophase"], seed=2)
        assert list(other["cell_id"]) != list(first["cell_id"])


class FakePart:
    """A linear model that crops one pixel off a padded frame; its weights tell its fold."""

    channels = ("BF",)
    classes = ("Interphase", "Telophase", "Prophase")

    def __init__(self, fold: int) -> None:
        self.weights = torch.ones(3, 1, 42, 42) * (1 + fold)

    def module(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nchw,kchw->nk", x, self.weights)

    def prepare(self, images: Any) -> torch.Tensor:
        padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
        return torch.tensor(padded[:, :, 1:-1, 1:-1].astype(np.float32) / 1000)

    def to_source(self, maps: Any, *, shape: tuple[int, int]) -> Any:
        assert shape == (40, 40)
        return maps[:, 1:-1, 1:-1]


@pytest.fixture
def trained_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Path]]:
    """Write cells and the files of two trained models; their weights come from `FakePart`."""
    rng = np.random.default_rng(9)
    table = judged_cells()
    images = np.stack([drawn_cell(rng)[0] for _ in range(len(table))])[:, None]
    path = tmp_path / "cells.h5"
    with cells.CellsWriter(path, cells.CellsInfo(("BF",), 12), image_shape=(40, 40), dtype=np.uint16) as writer:
        order = rng.permutation(len(table))
        stage = table["class"].replace("Interphase", "G1").iloc[order].tolist()
        writer.append(
            images[order], stage=stage, cell_id=table["cell_id"].iloc[order].tolist(), source=["x"] * len(table)
        )
    rows = table.drop(columns=["predicted", "seed"]).assign(
        source="x", group="", origin="real", stage="", subset="test"
    )
    models = []
    # fc is right about every cell under the loss that the study picked, and like the judge under its chosen one.
    for name, loss, said in (
        ("cnn3", "inv", table["predicted"]),
        ("fc", "sqrt", table["class"]),
        ("fc", "inv", table["predicted"]),
        ("fc", "plain", table["predicted"]),
    ):
        chances = pd.get_dummies(pd.Categorical(said, FakePart.classes)).to_numpy() * 0.7 + 0.1
        folder = tmp_path / name / loss
        predictions.write(
            folder / "predictions.parquet", predictions.table(rows, chances, classes=FakePart.classes, seed=0)
        )
        about = {"variant": "holdout", "model": name, "kind": "network", "loss": loss, "channels": ["BF"], "fit": "pad"}
        files.write_json(folder / "model.json", about)
        models.append(folder / "model.json")
    monkeypatch.setattr(trained, "load", lambda folder, *, fold, seed, device: FakePart(fold))
    choose(tmp_path)
    return path, models


def choose(folder: Path, *, published: str | None = "sqrt") -> Path:
    """Write which losses were chosen on validation, and which the study picked for fc."""
    rows = [("holdout", name, loss, loss == "inv", (name, loss) == ("fc", published))
            for name, loss in (("cnn3", "inv"), ("fc", "sqrt"), ("fc", "inv"), ("fc", "plain"))]  # fmt: skip
    path = folder / "chosen.csv"
    pd.DataFrame(rows, columns=["variant", "model", "loss", "chosen", "published"]).to_csv(path, index=False)
    return path


class TestExplain:
    def run(self, path: Path, models: list[Path], out: Path, **options: Any) -> tuple[Path, pd.DataFrame, pd.DataFrame]:
        named: dict[str, Any] = {"maps": out / "maps.h5", "picked": out / "cells.csv", "shares": out / "shares.csv"}
        given: dict[str, Any] = {
            "judge": "cnn3",
            "classes": ["Interphase", "Telophase"],
            "max_cells": 20,
            "n_samples": 2,
            **options,
        }
        saliency.explain(path, models, path.with_name("chosen.csv"), **named, **given)
        return named["maps"], pd.read_csv(named["picked"]), pd.read_csv(named["shares"])

    def test_writes_maps_cells_and_shares(self, trained_models: tuple[Path, list[Path]], tmp_path: Path) -> None:
        path, models = trained_models
        maps, picked, shares = self.run(path, models, tmp_path)
        assert len(picked) == 20
        assert len(shares) == 20 * 2 * 3
        assert list(shares.columns) == list(saliency.SHARE_COLUMNS)
        wrong = picked[~picked["right"]]
        np.testing.assert_allclose(wrong["probability_cnn3"], 0.1, atol=1e-6)
        ids = cells.read_table(path)["cell_id"]
        with h5py.File(maps) as file:
            images, masks = file["images"][:], file["masks"][:]
            assert len(images) == picked["figure"].notna().sum() == 11
            for index, cell in picked[picked["figure"].notna()].iterrows():
                row = np.flatnonzero(ids == cell["cell_id"])
                np.testing.assert_array_equal(images[index], cells.read_images(path, rows=row)[0, 0])
                # A linear model's map is its weight, and that tells which fold's weights were taken.
                assert np.nanmax(file["gradient/fc"][index]) == pytest.approx(1 + cell["fold"])
            assert file["smoothgrad/fc"].attrs["loss"] == "inv"
            np.testing.assert_array_equal(masks, cell_mask(images))
        # A map without preference lies inside by the mask's share of the frame that the model saw: 42 by 42 pixels.
        np.testing.assert_allclose(shares["share_inside"], shares["mask_fraction"], rtol=1e-4)
        first = shares[shares["cell_id"] == picked["cell_id"][0]]["mask_fraction"]
        np.testing.assert_allclose(first, masks[0].sum() / 42**2)

    def test_shares_are_of_the_chosen_and_of_the_studys_loss_each_with_its_own_verdict(
        self, trained_models: tuple[Path, list[Path]], tmp_path: Path
    ) -> None:
        path, models = trained_models
        _, picked, shares = self.run(path, models, tmp_path)
        pairs = list(shares[["model", "loss"]].drop_duplicates().itertuples(index=False, name=None))
        assert pairs == [("cnn3", "inv"), ("fc", "sqrt"), ("fc", "inv")]
        right = shares[shares["method"] == "gradient"].pivot(index="cell_id", columns=["model", "loss"])["model_right"]
        judge = picked.set_index("cell_id")["right"].loc[right.index]
        np.testing.assert_array_equal(right["cnn3", "inv"], judge)
        assert right["fc", "sqrt"].all()
        # What stands on the figures is what the chosen loss says.
        np.testing.assert_array_equal(picked["predicted_fc"], picked["predicted_cnn3"])
        assert not right["fc", "inv"].all()

    def test_without_a_study_only_the_chosen_loss_is_explained(
        self, trained_models: tuple[Path, list[Path]], tmp_path: Path
    ) -> None:
        path, models = trained_models
        choose(tmp_path, published=None)
        _, _, shares = self.run(path, models, tmp_path)
        assert set(shares["loss"]) == {"inv"}

    def test_models_that_are_no_networks_are_left_out(
        self, trained_models: tuple[Path, list[Path]], tmp_path: Path
    ) -> None:
        path, models = trained_models
        files.write_json(models[2], files.read_json(models[2]) | {"kind": "estimator"})
        _, picked, shares = self.run(path, models, tmp_path)
        assert set(shares[["model", "loss"]].itertuples(index=False, name=None)) == {("cnn3", "inv"), ("fc", "sqrt")}
        assert "predicted_fc" not in picked.columns

    def test_cells_are_of_parts_that_every_network_predicted(
        self, trained_models: tuple[Path, list[Path]], tmp_path: Path
    ) -> None:
        path, models = trained_models
        written = models[2].with_name("predictions.parquet")
        predictions.write(written, predictions.read(written).query("fold == 1"))
        maps, picked, shares = self.run(path, models, tmp_path)
        assert set(picked["fold"]) == set(shares["fold"]) == {1}
        with h5py.File(maps) as file:
            assert (file.attrs["n_parts"], file.attrs["n_parts_of_judge"]) == (1, 2)
        predictions.write(written, predictions.read(written).assign(fold=7))
        with pytest.raises(DataError, match=r"no part \(fold, seed\) has test predictions of all of cnn3, fc"):
            self.run(path, models, tmp_path)

    def test_a_heavy_network_explains_fewer_cells_and_those_of_the_figures_always(
        self, trained_models: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, models = trained_models
        whole, picked, shares = self.run(path, models, tmp_path / "all")
        n_drawn = int(picked["figure"].notna().sum())
        # A pass of the linear model: 3 scores of 42 x 42 pixels, a multiply-add each; 1 + 2 passes per cell.
        monkeypatch.setattr(saliency, "MOST_OPERATIONS", 15.5 * 3 * 2 * 3 * 42 * 42)
        few, picked_again, fewer = self.run(path, models, tmp_path / "few")
        pd.testing.assert_frame_equal(picked_again, picked)
        assert len(fewer) == 15 * 2 * 3
        pd.testing.assert_frame_equal(fewer.merge(shares)[fewer.columns], fewer)
        monkeypatch.setattr(saliency, "MOST_OPERATIONS", 0)
        assert len(self.run(path, models, tmp_path / "none")[2]) == n_drawn * 2 * 3
        with h5py.File(whole) as one, h5py.File(few) as other:
            np.testing.assert_array_equal(one["smoothgrad/fc"][:], other["smoothgrad/fc"][:])

    @pytest.mark.parametrize(
        ("channels", "outlined"), [(("PI", "BF"), "cell"), (("PI",), "nucleus"), (("DF",), "cell")]
    )
    def test_what_is_outlined(self, channels: tuple[str, ...], outlined: str) -> None:
        images = np.stack([drawn_cell(np.random.default_rng(k))[0] for k in range(len(channels))])[None]
        shown, masks, said = saliency._outline(images, channels)
        at = channels.index("BF") if "BF" in channels else 0
        np.testing.assert_array_equal(shown, images[:, at])
        of = cell_mask if "BF" in channels else nucleus_mask
        np.testing.assert_array_equal(masks, of(images[:, at]))
        assert said == outlined

    def test_is_the_same_twice(self, trained_models: tuple[Path, list[Path]], tmp_path: Path) -> None:
        path, models = trained_models
        first = self.run(path, models, tmp_path / "a")
        second = self.run(path, models, tmp_path / "b")
        pd.testing.assert_frame_equal(first[1], second[1])
        pd.testing.assert_frame_equal(first[2], second[2])

    def test_refuses_an_unknown_judge(self, trained_models: tuple[Path, list[Path]], tmp_path: Path) -> None:
        path, models = trained_models
        with pytest.raises(DataError, match="judge resnet is not one of the explained models cnn3, fc"):
            self.run(path, models, tmp_path, judge="resnet")

    def test_names_a_cell_that_a_model_did_not_predict(
        self, trained_models: tuple[Path, list[Path]], tmp_path: Path
    ) -> None:
        path, models = trained_models
        written = models[2].with_name("predictions.parquet")
        predictions.write(written, predictions.read(written).query("cell_id != 'c104'"))
        with pytest.raises(DataError, match="no test prediction of cell c104"):
            self.run(path, models, tmp_path)
        assert not (tmp_path / "maps.h5").exists()


def test_a_table_of_chosen_losses_without_its_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chosen.csv").write_text("variant,model,loss,chosen\n")
    with pytest.raises(DataError, match=r"chosen\.csv: lacks the column published; run the evaluation again"):
        marked_pairs(tmp_path / "chosen.csv", "chosen")
