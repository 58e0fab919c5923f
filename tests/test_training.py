"""Training: it learns, repeats itself to the last digit, and goes on where it was stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stainfree import checkpoints, files, models, predictions, splits, trained, training
from stainfree.errors import DataError
from stainfree.schemes import STAGES, Scheme

FIVE = Scheme("five", {"Interphase": ("G1", "S", "G2"), **{stage: (stage,) for stage in STAGES[3:]}})


def plan_of(model: str | models.ModelEntry = "fc", **changes: object) -> training.Plan:
    entry = models.entry({model: {"recipe": {"epochs": 4}}}) if isinstance(model, str) else model
    plan = training.Plan(
        dataset="made", experiment="test", variant="base", model=entry, loss="inv_weighted", channels=("BF",),
        scheme=FIVE, fit="pad", subsets=predictions.SUBSETS, code="0", device="cpu",
    )  # fmt: skip
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]


@pytest.fixture
def made(make_cells: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """A cells file and its split."""
    path = make_cells(dict.fromkeys(STAGES, 30))
    split = tmp_path / "split.parquet"
    spec = {"kind": "holdout", "validation": 0.2, "test": 0.2}
    splits.make(path, split, spec=spec, scheme=FIVE, sources=None, seed=0)
    return path, split


def outputs(out: Path) -> dict[str, bytes]:
    """Return what must be the same in every run: the files, and the history but for its times."""
    paths = [out / "predictions.parquet", out / "embeddings.parquet", *sorted((out / "weights").iterdir())]
    history = pd.read_csv(out / "history.csv").drop(columns="seconds")
    return {path.name: path.read_bytes() for path in paths} | {"history": history.to_csv().encode()}


def run(made: tuple[Path, Path], out: Path, plan: training.Plan) -> dict[str, bytes]:
    """Train and return what must be the same in every run."""
    training.train(*made, out, plan=plan, work=out.parent / "work")
    return outputs(out)


@pytest.mark.parametrize("model", ["fc", "cnn3", "simple_vit"])
def test_the_same_plan_gives_the_same_bytes(made: tuple[Path, Path], tmp_path: Path, model: str) -> None:
    first, second = (run(made, tmp_path / name, plan_of(model)) for name in ("a", "b"))
    assert first == second


def test_another_seed_gives_other_weights(made: tuple[Path, Path], tmp_path: Path) -> None:
    weights = []
    for seed in (0, 1):
        training.train(*made, tmp_path / "out", plan=plan_of(seeds=(seed,)), work=tmp_path / "work")
        weights.append((tmp_path / "out" / "weights" / f"fold0-seed{seed}.safetensors").read_bytes())
    assert weights[0] != weights[1]


def test_it_learns_what_brightness_tells(made: tuple[Path, Path], tmp_path: Path) -> None:
    entry = models.entry({"fc": {"recipe": {"epochs": 20}}})
    run(made, tmp_path / "out", dataclasses.replace(plan_of(), model=entry))
    told = predictions.read(tmp_path / "out" / "predictions.parquet")
    test = told[told["subset"] == "test"]
    assert (test["class"] == test["predicted"]).mean() > 0.8


def test_the_contract_is_kept(made: tuple[Path, Path], tmp_path: Path) -> None:
    run(made, tmp_path / "out", plan_of("cnn3"))
    told = predictions.read(tmp_path / "out" / "predictions.parquet")
    assert predictions.classes_of(told) == FIVE.classes
    assert told.groupby("subset").size().to_dict() == {"train": 126, "validation": 42, "test": 42}
    np.testing.assert_allclose(told[[f"p_{c}" for c in FIVE.classes]].sum(axis=1), 1, atol=1e-5)
    embeddings = pd.read_parquet(tmp_path / "out" / "embeddings.parquet")
    assert set(embeddings["subset"]) == {"test"}
    assert "e63" in embeddings.columns
    about = files.read_json(tmp_path / "out" / "model.json")
    assert about["n_parameters"] == 14_181
    part = about["parts"][0]
    assert part["class_counts"] == {"Interphase": 54, "Prophase": 18, "Metaphase": 18, "Anaphase": 18, "Telophase": 18}
    assert part["class_weights"]["Prophase"] == pytest.approx(1 / 18)
    assert not (tmp_path / "work").exists() or not list((tmp_path / "work").iterdir())


def test_the_best_step_on_validation_is_kept(made: tuple[Path, Path], tmp_path: Path) -> None:
    run(made, tmp_path / "out", plan_of("cnn3"))
    history = pd.read_csv(tmp_path / "out" / "history.csv")
    part = files.read_json(tmp_path / "out" / "model.json")["parts"][0]
    assert part["best_step"] == history["step"][history["validation_balanced_accuracy"].idxmax()]
    told = predictions.read(tmp_path / "out" / "predictions.parquet")
    validation = told[told["subset"] == "validation"]
    recalls = (validation["class"] == validation["predicted"]).groupby(validation["class"]).mean()
    assert recalls.mean() == pytest.approx(history["validation_balanced_accuracy"].max(), abs=1e-6)


def test_normalisation_and_weights_come_from_training_cells_alone(made: tuple[Path, Path], tmp_path: Path) -> None:
    cells_path, split_path = made
    data = training.load(cells_path, split_path, channels=["BF"], size=66, fit="pad", device=torch.device("cpu"))
    _, rows = data.select(0, "train")
    run(made, tmp_path / "out", plan_of())
    part = files.read_json(tmp_path / "out" / "model.json")["parts"][0]
    assert part["normalisation"]["mean"][0] == pytest.approx(data.images[rows].double().mean().item())
    counts = data.split[data.split["subset"] == "train"].groupby("class").size().to_dict()
    assert part["class_counts"] == counts
    assert part["class_weights"] == pytest.approx({name: 1 / n for name, n in counts.items()})


@pytest.mark.parametrize("model", ["fc", "cnn3"])
@pytest.mark.parametrize("stop_at", [1, 7, 13])
def test_a_training_that_is_cut_off_ends_as_if_it_had_not_been(
    made: tuple[Path, Path], tmp_path: Path, model: str, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(model, checkpoint_seconds=0.0)
    undisturbed = run(made, tmp_path / "a" / "out", plan)
    saved = checkpoints.save
    count = 0

    def save_then_die(*arguments: object) -> None:
        nonlocal count
        saved(*arguments)  # type: ignore[arg-type]
        count += 1
        if count == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path / "b" / "out", plan)
    monkeypatch.setattr(checkpoints, "save", saved)
    assert not (tmp_path / "b" / "out").exists()
    assert run(made, tmp_path / "b" / "out", plan) == undisturbed


def test_a_corrupt_checkpoint_is_set_aside(
    made: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"not a checkpoint")
    assert checkpoints.load(path) is None
    assert "set aside as checkpoint.safetensors.corrupt" in caplog.text
    assert path.with_name("checkpoint.safetensors.corrupt").is_file()


def test_the_order_of_classes_is_part_of_the_plan() -> None:
    turned = Scheme("five", dict(reversed(FIVE.members.items())))
    said = {"cells_sha256": "c", "split_sha256": "s"}
    assert plan_of(scheme=turned).digest(**said) != plan_of().digest(**said)


@pytest.mark.parametrize("change", [{"code": "1"}, {"loss": "unweighted"}, {"seeds": (1,)}, {"threads": 2}])
def test_a_plan_that_differs_never_shares_a_checkpoint(change: dict) -> None:
    def digest(plan: training.Plan) -> str:
        return plan.digest(cells_sha256="c", split_sha256="s")

    assert digest(plan_of()) != digest(plan_of(**change))
    assert digest(plan_of()) == digest(plan_of(checkpoint_seconds=1.0))


def test_folds_are_trained_and_joined(make_cells: Callable[..., Path], tmp_path: Path) -> None:
    path = make_cells(dict.fromkeys(STAGES, 12))
    splits.make(
        path, tmp_path / "split.parquet", spec={"kind": "kfold", "folds": 3, "validation": 0.25}, scheme=FIVE,
        sources=None, seed=0,
    )  # fmt: skip
    training.train(
        path, tmp_path / "split.parquet", tmp_path / "out", plan=plan_of(seeds=(0, 1)), work=tmp_path / "work"
    )
    told = predictions.read(tmp_path / "out" / "predictions.parquet")
    tested = told[told["subset"] == "test"]
    assert tested.groupby("seed")["cell_id"].nunique().to_dict() == {0: 84, 1: 84}
    assert len(list((tmp_path / "out" / "weights").iterdir())) == 6


def test_of_some_folds_the_first_are_trained_and_joined(make_cells: Callable[..., Path], tmp_path: Path) -> None:
    made = make_cells(dict.fromkeys(STAGES, 12)), tmp_path / "split.parquet"
    splits.make(*made, spec={"kind": "kfold", "folds": 3, "validation": 0.25}, scheme=FIVE, sources=None, seed=0)
    few, all_of_them = (run(made, tmp_path / str(folds), plan_of(folds=folds)) for folds in (2, None))
    weights = [f"fold{fold}-seed0.safetensors" for fold in range(3)]
    assert [name for name in few if name.endswith(".safetensors")] == weights[:2]
    # What a fold gives does not depend on how many there are.
    assert [few[name] for name in weights[:2]] == [all_of_them[name] for name in weights[:2]]
    told = predictions.read(tmp_path / "2" / "predictions.parquet")
    split = splits.read(made[1])
    assert len(told) == (split["fold"] < 2).sum()
    for name in ("history.csv", "embeddings.parquet"):
        read = pd.read_csv if name.endswith("csv") else pd.read_parquet
        assert sorted(read(tmp_path / "2" / name)["fold"].unique()) == [0, 1]
    assert [part["fold"] for part in files.read_json(tmp_path / "2" / "model.json")["parts"]] == [0, 1]


def test_folds_that_are_done_count_for_more_folds() -> None:
    said = {"cells_sha256": "c", "split_sha256": "s"}
    assert plan_of(folds=1).digest(**said) == plan_of(folds=None).digest(**said)


class TestEstimators:
    """Models that fit themselves leave the files of the contract, by one job or by a job for each part."""

    @pytest.fixture
    def stained(self, make_cells: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
        path = make_cells(dict.fromkeys(STAGES, 12), side=48, channels=("BF", "PI"))
        splits.make(
            path, tmp_path / "split.parquet", spec={"kind": "kfold", "folds": 2, "validation": 0.25}, scheme=FIVE,
            sources=None, seed=0,
        )  # fmt: skip
        return path, tmp_path / "split.parquet"

    @pytest.mark.parametrize("family", [name for name in models.family_names() if models.family(name).recipe is None])
    def test_the_contract_is_kept(self, stained: tuple[Path, Path], tmp_path: Path, family: str) -> None:
        entry = models.entry(family)
        plan = plan_of(entry, loss=models.NO_LOSS, channels=("BF", "PI"), seeds=(0, 4))
        one = run(stained, tmp_path / "one", plan)
        assert one == run(stained, tmp_path / "again", plan)
        told = predictions.read(tmp_path / "one" / "predictions.parquet")
        assert predictions.classes_of(told) == FIVE.classes
        assert told.groupby(["fold", "seed"]).size().tolist() == [84] * 4
        np.testing.assert_allclose(told[[f"p_{c}" for c in FIVE.classes]].sum(axis=1), 1, atol=1e-5)
        # What was never measured: no steps, and no vectors.
        assert pd.read_csv(tmp_path / "one" / "history.csv").empty
        assert pd.read_parquet(tmp_path / "one" / "embeddings.parquet").empty
        about = files.read_json(tmp_path / "one" / "model.json")
        assert (about["kind"], about["layers"], about["recipe"]) == ("estimator", [], None)
        assert about["n_parameters"] > 0
        assert [(part["fold"], part["seed"]) for part in about["parts"]] == [(0, 0), (0, 4), (1, 0), (1, 4)]
        with pytest.raises(DataError, match=f"{family} is no network; leave it out of what is explained"):
            trained.load(tmp_path / "one", fold=0, seed=0)

        parts = []
        for fold, seed in plan.parts(splits.read(stained[1])):
            parts.append(tmp_path / "parts" / f"{fold}-{seed}")
            training.make_part(*stained, parts[-1], plan=plan, fold=fold, seed=seed, work=tmp_path / "work")
        training.join_parts(*stained, parts, tmp_path / "many", plan=plan, work=tmp_path / "work")
        assert outputs(tmp_path / "many") == one

    def test_only_training_cells_are_counted(self, stained: tuple[Path, Path], tmp_path: Path) -> None:
        run(stained, tmp_path / "out", plan_of(models.entry("majority"), loss=models.NO_LOSS))
        split = splits.read(stained[1])
        told = predictions.read(tmp_path / "out" / "predictions.parquet")
        for fold, of_fold in told.groupby("fold"):
            counts = split[(split["fold"] == fold) & (split["subset"] == "train")]["class"].value_counts(normalize=True)
            for name in FIVE.classes:
                assert of_fold[f"p_{name}"].unique().tolist() == pytest.approx([counts[name]])


def test_a_trained_part_is_rebuilt_from_its_files(made: tuple[Path, Path], tmp_path: Path) -> None:
    from stainfree import cells

    run(made, tmp_path / "out", plan_of("cnn3"))
    model = trained.load(tmp_path / "out", fold=0, seed=0)
    told = predictions.read(tmp_path / "out" / "predictions.parquet").set_index("cell_id")
    ids = cells.read_table(made[0])["cell_id"]
    probabilities = model.predict(cells.read_images(made[0], channels=model.channels))
    np.testing.assert_allclose(probabilities, told.loc[ids, [f"p_{c}" for c in model.classes]].to_numpy(), atol=1e-5)
    with pytest.raises(DataError, match="no part of fold 3"):
        trained.load(tmp_path / "out", fold=3, seed=0)
    (tmp_path / "out" / "weights" / "fold0-seed0.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match=r"not what model\.json describes"):
        trained.load(tmp_path / "out", fold=0, seed=0)


def test_a_split_of_other_cells_is_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    split = pd.read_parquet(made[1]).assign(cell_id=lambda t: "other-" + t["cell_id"])
    split.to_parquet(made[1])
    with pytest.raises(DataError, match=r"is not in .*cells\.h5; draw the split again"):
        training.train(*made, tmp_path / "out", plan=plan_of(), work=tmp_path / "work")


def test_a_plan_survives_being_told_as_plain_values() -> None:
    plan = plan_of("cnn3")
    assert training.plan_from(dataclasses.asdict(plan)) == plan
