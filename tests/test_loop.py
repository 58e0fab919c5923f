"""The loop, field by field of a recipe: against hand calculations, and the same bytes wherever it is cut off."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_training import FIVE, plan_of

from stainfree import cells, checkpoints, files, loop, losses, models, plans, predictions, splits, trained, training
from stainfree.augment import Normalisation, centre_batch
from stainfree.errors import ConfigError, DivergedError
from stainfree.models import Recipe
from stainfree.networks import build_module, shift_of
from stainfree.schemes import STAGES

STEPS = 12
"""Steps of a training here: 3 epochs of 4."""


def recipe_of(**changes: Any) -> dict[str, Any]:
    return {"learning_rate": 1e-2, "batches_per_epoch": 4, "epochs": 3, "validate": "step", "patience": None, **changes}


@pytest.fixture
def made(make_cells: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """A small cells file, in which classes are of different size, and its split."""
    path = make_cells({stage: 12 + 2 * k for k, stage in enumerate(STAGES)}, side=40)
    split = tmp_path / "split.parquet"
    spec = {"kind": "holdout", "validation": 0.2, "test": 0.2}
    splits.make(path, split, spec=spec, scheme=FIVE, sources=None, seed=0)
    return path, split


@pytest.fixture
def data(made: tuple[Path, Path]) -> plans.Data:
    return training.prepare(*made, small())


def small(**changes: Any) -> plans.Plan:
    """Plan a network with batch norm, for the images of `made`, with a recipe of these changes."""
    entry = models.entry({"small_cnn": {"width": 2, "recipe": recipe_of(**changes)}})
    return plan_of(entry, loss="unweighted")


def made_by(folder: Path) -> dict[str, str]:
    """Return what must be the same in every run of a part: digests of its files, the history but for its times."""
    history = pd.read_csv(folder / "history.csv").drop(columns="seconds")
    names = ("weights.safetensors", "predictions.parquet", "embeddings.parquet")
    return {"history": history.to_csv()} | {name: files.sha256(folder / name) for name in names}


def train(data: plans.Data, plan: plans.Plan, folder: Path) -> dict[str, str]:
    loop.train_part(data, plan, fold=0, seed=0, folder=folder)
    return made_by(folder)


class TestLearningRate:
    """4 steps an epoch, 5 epochs: 20 steps."""

    @staticmethod
    def rates(**changes: Any) -> list[float]:
        recipe = Recipe(learning_rate=0.4, batch_size=1, epochs=5, **changes)
        return [loop.learning_rate(recipe, step, batches=4) for step in range(20)]

    def test_constant(self) -> None:
        assert self.rates() == [0.4] * 20

    def test_step_falls_where_the_epochs_begin(self) -> None:
        # Epochs count from 1: 2 of them at the first rate, 2 at half of it, the last at a quarter.
        rates = self.rates(schedule="step", decay_epochs=(3, 5), decay=0.5)
        assert rates == pytest.approx([0.4] * 8 + [0.2] * 8 + [0.1] * 4)

    def test_cosine_falls_to_nothing(self) -> None:
        rates = self.rates(schedule="cosine")
        # cos(0), cos(pi / 4), cos(pi / 2), cos(3 pi / 4): one and the half root of two.
        root = math.sqrt(2)
        assert [rates[k] for k in (0, 5, 10, 15)] == pytest.approx([0.4, 0.2 + 0.1 * root, 0.2, 0.2 - 0.1 * root])
        assert rates[19] == pytest.approx(0.2 * (1 - math.cos(math.pi / 20)))
        assert (np.diff(rates) < 0).all()

    def test_one_cycle_rises_in_a_fifth_of_the_steps_and_falls_to_nothing(self) -> None:
        rates = self.rates(schedule="one_cycle")
        assert rates[:5] == pytest.approx([0.04, 0.13, 0.22, 0.31, 0.4])
        # Half way down, after 8 of the 16 steps that are left.
        assert rates[12] == pytest.approx(0.2)
        assert rates[19] == pytest.approx(0.2 * (1 - math.cos(math.pi / 16)))
        assert (np.diff(rates[4:]) < 0).all()

    @pytest.mark.parametrize("schedule", ["step", "cosine", "one_cycle"])
    def test_it_is_what_the_optimiser_takes(self, data: plans.Data, tmp_path: Path, schedule: str) -> None:
        more = {"decay_epochs": [2]} if schedule == "step" else {}
        plan = small(schedule=schedule, **more)
        train(data, plan, tmp_path)
        assert plan.model.recipe is not None
        expected = [loop.learning_rate(plan.model.recipe, step, batches=4) for step in range(STEPS)]
        assert pd.read_csv(tmp_path / "history.csv")["learning_rate"].tolist() == pytest.approx(expected)
        assert len(set(expected)) > 1


class TestDrawEpoch:
    @staticmethod
    def drawn(counts: list[int], balance: str, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the positions of cells, their classes, and an epoch drawn of them."""
        target = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        generator = torch.Generator().manual_seed(seed)
        mixed = torch.randperm(len(target), generator=generator)
        rows, target = mixed + 1000, target[mixed]
        wanted = loop.cells_per_class(torch.tensor(counts), balance)
        return rows, target, loop.draw_epoch(rows, target, wanted, generator=generator)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 9))
    def test_without_balance_every_cell_comes_once(self, counts: list[int], seed: int) -> None:
        rows, _, order = self.drawn(counts, "none", seed)
        assert sorted(order.tolist()) == sorted(rows.tolist())

    @settings(max_examples=120, deadline=None)
    @given(
        st.lists(st.integers(1, 40), min_size=1, max_size=6),
        st.sampled_from(["upsample", "balanced"]),
        st.integers(0, 9),
    )
    def test_classes_are_equal_and_no_cell_comes_twice_more_than_another(
        self, counts: list[int], balance: str, seed: int
    ) -> None:
        rows, target, order = self.drawn(counts, balance, seed)
        # As many of each class as of the largest; or as many in all as there are, rounded up.
        share = max(counts) if balance == "upsample" else math.ceil(sum(counts) / len(counts))
        class_of = dict(zip(rows.tolist(), target.tolist(), strict=True))
        assert np.bincount([class_of[row] for row in order.tolist()]).tolist() == [share] * len(counts)
        for number in range(len(counts)):
            times = [order.tolist().count(row) for row in rows[target == number].tolist()]
            assert max(times) - min(times) <= 1

    def test_square_roots_of_sizes(self) -> None:
        assert loop.cells_per_class(torch.tensor([900, 100, 1]), "sqrt").tolist() == [732, 244, 24]  # type: ignore[union-attr]

    def test_an_epoch_is_in_random_order_and_another_draws_others(self) -> None:
        counts = [3, 50]
        target = torch.repeat_interleave(torch.arange(2), torch.tensor(counts))
        wanted = loop.cells_per_class(torch.tensor(counts), "balanced")
        generator = torch.Generator().manual_seed(0)
        first, second = (loop.draw_epoch(torch.arange(53), target, wanted, generator=generator) for _ in range(2))
        assert len(first) == 54
        # 27 of the 50: not the same ones twice, and the classes are mixed.
        assert set(first.tolist()) != set(second.tolist())
        assert 5 < int((target[first].diff() != 0).sum()) < 54

    @pytest.mark.parametrize(("balance", "n_cells"), [("none", 75), ("upsample", 5 * 25), ("balanced", 5 * 15)])
    def test_a_training_sees_so_many_cells(self, data: plans.Data, tmp_path: Path, balance: str, n_cells: int) -> None:
        counts = data.split[data.split["subset"] == "train"]["class"].value_counts()
        assert (len(data.select(0, "train")[0]), counts.max(), math.ceil(counts.sum() / 5)) == (75, 25, 15)
        train(data, small(balance=balance, batches_per_epoch=None, batch_size=10), tmp_path)
        told = files.read_json(tmp_path / "part.json")
        assert told["steps"]["cells"] == 3 * n_cells
        assert told["last_step"] == 3 * math.ceil(n_cells / 10)
        # Loss weights and what is told are of the cells that there are.
        assert told["class_counts"] == counts.loc[list(FIVE.classes)].to_dict()


class TestValidation:
    def test_after_every_epoch_it_gives_one_row_with_the_mean_loss(self, data: plans.Data, tmp_path: Path) -> None:
        train(data, small(), tmp_path / "steps")
        train(data, small(validate="epoch"), tmp_path / "epochs")
        steps, epochs = (pd.read_csv(tmp_path / name / "history.csv") for name in ("steps", "epochs"))
        assert epochs[["epoch", "step"]].to_numpy().tolist() == [[1, 4], [2, 8], [3, 12]]
        assert steps["epoch"].tolist() == [1] * 4 + [2] * 4 + [3] * 4
        # Scoring draws nothing from chance: the steps are the same.
        assert epochs["train_loss"].tolist() == pytest.approx(steps.groupby("epoch")["train_loss"].mean().tolist())
        for column in ("validation_loss", "validation_balanced_accuracy"):
            assert epochs[column].tolist() == steps.loc[steps["step"] % 4 == 0, column].tolist()

    @pytest.mark.parametrize("validate", ["step", "epoch"])
    @pytest.mark.parametrize(
        ("monitor", "column", "best"),
        [("loss", "validation_loss", "idxmin"), ("balanced_accuracy", "validation_balanced_accuracy", "idxmax")],
    )
    def test_the_best_by_what_is_monitored_is_kept(
        self, data: plans.Data, tmp_path: Path, validate: str, monitor: str, column: str, best: str
    ) -> None:
        train(data, small(monitor=monitor, validate=validate, learning_rate=0.1), tmp_path)
        history = pd.read_csv(tmp_path / "history.csv")
        assert files.read_json(tmp_path / "part.json")["best_step"] == history["step"][getattr(history[column], best)()]

    def test_patience_counts_validations(self, data: plans.Data, tmp_path: Path) -> None:
        train(data, small(validate="epoch", monitor="loss", patience=2, epochs=30, learning_rate=0.3), tmp_path)
        told, history = files.read_json(tmp_path / "part.json"), pd.read_csv(tmp_path / "history.csv")
        assert told["stopped_early"]
        assert told["last_step"] == told["best_step"] + 2 * 4 == history["step"].max()

    def test_a_loss_that_is_no_number_ends_the_training_in_one_line(self, data: plans.Data, tmp_path: Path) -> None:
        with pytest.raises(DivergedError, match=r"^small_cnn/unweighted fold 0 seed 0: the loss is no number any more"):
            train(data, small(learning_rate=1e38, optimizer="sgd", validate="epoch"), tmp_path)
        assert not (tmp_path / "part.json").exists()


class TestAverage:
    def test_it_is_what_a_loop_by_hand_gives(
        self, data: plans.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[dict[str, torch.Tensor]] = []

        def watched(average: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], **more: Any) -> None:
            seen.append({name: value.clone() for name, value in weights.items()})
            blend(average, weights, **more)

        blend = loop._blend
        monkeypatch.setattr(loop, "_blend", watched)
        plan = small(average=0.6, monitor="loss")
        train(data, plan, tmp_path)
        torch.manual_seed(int(np.random.SeedSequence([0, 0]).generate_state(3)[0]))
        module = build_module(plan.model, channels=1, image_size=36, n_classes=5)
        average = {name: value.double() for name, value in module.state_dict().items()}
        best = files.read_json(tmp_path / "part.json")["best_step"]
        assert len(seen) == STEPS
        for step, weights in enumerate(seen[:best], start=1):
            # Of a young average less is kept: after 1 step a tenth, after 2 two elevenths ...
            keep = min(0.6, step / (step + 9))
            for name, value in weights.items():
                counts = name.endswith("num_batches_tracked")
                average[name] = value.double() if counts else keep * average[name] + (1 - keep) * value.double()
        kept = load_file(tmp_path / "weights.safetensors")
        assert kept.keys() == average.keys()
        for name, value in kept.items():
            torch.testing.assert_close(value.double(), average[name], rtol=1e-4, atol=1e-6)

    def test_what_is_scored_is_the_average(self, data: plans.Data, tmp_path: Path) -> None:
        train(data, small(), tmp_path / "plain")
        train(data, small(average=0.9), tmp_path / "average")
        plain, average = (pd.read_csv(tmp_path / name / "history.csv") for name in ("plain", "average"))
        # The steps themselves are the same.
        assert plain["train_loss"].tolist() == average["train_loss"].tolist()
        assert (plain["validation_loss"] != average["validation_loss"]).all()


class TestViews:
    def test_eight_views_are_the_mean_over_the_images_turned_and_mirrored(self, data: plans.Data) -> None:
        torch.manual_seed(3)
        module = build_module(small().model, channels=1, image_size=36, n_classes=5)
        _, rows = data.select(0, "test")
        normalisation = Normalisation.of(data.images, rows)
        found, vectors = loop.evaluate(module, data, rows, crop=36, normalisation=normalisation, n_views=8, embed=True)
        x = centre_batch(data.images, rows, crop=36, normalisation=normalisation).numpy()
        turned = [np.rot90(x, quarter, (2, 3)) for quarter in range(4)]
        turned += [np.swapaxes(image, 2, 3) for image in turned]
        module.eval()
        with torch.inference_mode():
            each = [module(torch.from_numpy(image.copy())).softmax(dim=1) for image in turned]
            one = module.embed(torch.from_numpy(x))
        assert len({image.tobytes() for image in turned}) == 8
        torch.testing.assert_close(found.exp(), torch.stack(each).mean(dim=0))
        torch.testing.assert_close(vectors, one)
        assert not torch.allclose(each[0], each[1], atol=1e-3)

    def test_a_shift_makes_rare_classes_likelier_by_their_shares(self, data: plans.Data) -> None:
        module = build_module(small().model, channels=1, image_size=36, n_classes=5)
        _, rows = data.select(0, "test")
        asked = {"crop": 36, "normalisation": Normalisation.of(data.images, rows)}
        counts = np.array([900, 80, 10, 5, 5])
        plain, _ = loop.evaluate(module, data, rows, **asked)
        shifted, _ = loop.evaluate(module, data, rows, **asked, shift=shift_of(counts, 0.5))
        odds = plain.exp().numpy() / np.sqrt(counts / 1000)
        np.testing.assert_allclose(shifted.exp().numpy(), odds / odds.sum(axis=1, keepdims=True), rtol=1e-4)
        assert shift_of(counts, 0.0) is None

    def test_a_part_is_rebuilt_with_its_views_and_shift(self, made: tuple[Path, Path], tmp_path: Path) -> None:
        training.train(*made, tmp_path / "out", plan=small(views=8, shift=0.4), work=tmp_path / "work")
        told = predictions.read(tmp_path / "out" / "predictions.parquet").set_index("cell_id")
        model = trained.load(tmp_path / "out", fold=0, seed=0)
        probabilities = model.predict(cells.read_images(made[0], channels=["BF"]))
        ids = cells.read_table(made[0])["cell_id"]
        np.testing.assert_allclose(probabilities, told.loc[ids, [f"p_{c}" for c in FIVE.classes]].to_numpy(), atol=1e-5)


class TestLabelSmoothing:
    def test_a_share_of_the_label_is_spread_over_all_classes(self) -> None:
        loss, _ = loop.build_loss("unweighted", np.array([3, 2, 1]), label_smoothing=0.3)
        logits = torch.tensor([[2.0, 0.0, 0.0]])
        whole = math.log(math.exp(2) + 2)
        # 0.7 of it stays, and each of three classes gets 0.1: 0.8, 0.1, 0.1.
        expected = 0.8 * (whole - 2) + 0.1 * whole + 0.1 * whole
        assert loss(logits, torch.tensor([0])).item() == pytest.approx(expected, rel=1e-6)

    def test_a_training_takes_it(self, data: plans.Data, tmp_path: Path) -> None:
        train(data, small(), tmp_path / "plain")
        train(data, small(label_smoothing=0.2), tmp_path / "smooth")
        plain, smooth = (pd.read_csv(tmp_path / name / "history.csv") for name in ("plain", "smooth"))
        assert plain["train_loss"][0] != smooth["train_loss"][0]

    def test_a_loss_of_its_own_kind_smooths_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Own:
            @staticmethod
            def build(counts: object) -> torch.nn.Module:
                return torch.nn.CrossEntropyLoss()

        monkeypatch.setattr(losses, "module", lambda name: Own)
        assert loop.build_loss("own", np.array([1, 1]))[1] is None
        with pytest.raises(ConfigError, match="recipe: loss own smooths no labels; set `label_smoothing` to 0"):
            loop.build_loss("own", np.array([1, 1]), label_smoothing=0.1)


RECIPES = {
    "average": {"average": 0.7},
    "views": {"views": 8},
    "upsample": {"balance": "upsample"},
    "balanced": {"balance": "balanced", "batches_per_epoch": None, "batch_size": 20},
    "validate epoch": {"validate": "epoch"},
    "monitor loss, patience": {"monitor": "loss", "validate": "epoch", "patience": 1},
    "step": {"schedule": "step", "decay_epochs": [2], "optimizer": "sgd", "momentum": 0.9},
    "cosine": {"schedule": "cosine", "optimizer": "adamw", "weight_decay": 0.1},
    "one_cycle, smoothing": {"schedule": "one_cycle", "label_smoothing": 0.1},
    "augmentation": {"flip": True, "rotate": "any", "blur": 1.0, "gain": 0.2, "offset": 0.2},
    "all at once": {
        "average": 0.7, "views": 8, "balance": "balanced", "validate": "epoch", "monitor": "loss",
        "schedule": "one_cycle", "rotate": "quarter", "label_smoothing": 0.1, "optimizer": "adamw",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_cut_off_after_every_step_it_ends_as_if_it_had_not_been(
    data: plans.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plan = small(**RECIPES[name])
    undisturbed = train(data, plan, tmp_path / "a")
    saved = checkpoints.save

    def save_then_die(*arguments: Any) -> None:
        saved(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save_then_die)
    often = dataclasses.replace(plan, checkpoint_seconds=0.0)
    times = 0
    while not (tmp_path / "b" / "part.json").exists():
        try:
            train(data, often, tmp_path / "b")
        except KeyboardInterrupt:
            times += 1
    assert times == files.read_json(tmp_path / "a" / "part.json")["last_step"] >= 2
    assert made_by(tmp_path / "b") == undisturbed
