"""How far simulated cells are from real ones: the measures on data of which the answer is known, and the workflow."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import snakemake

from stainfree import cells, predictions, realism
from stainfree.errors import DataError
from stainfree.figures import realism as figures
from stainfree.schemes import STAGES

RNG_SEED = 0


def write_side(path: Path, counts: dict[str, int], *, side: int, source: str, seed: int, bits: int = 12) -> Path:
    """Write cells of three channels; the id of a cell stands in its middle pixel."""
    stages = [stage for stage, n in counts.items() for _ in range(n)]
    images = np.random.default_rng(seed).integers(20, 60, (len(stages), 3, side, side)).astype(np.uint16)
    images[:, :, side // 2, side // 2] = 100 + np.arange(len(stages))[:, None]
    info = cells.CellsInfo(channels=realism.CHANNELS, bit_depth=bits)
    with cells.CellsWriter(path, info, image_shape=(side, side), dtype=np.uint16) as writer:
        ids = [f"{source}-{k:03d}" for k in range(len(stages))]
        writer.append(images, stage=stages, cell_id=ids, source=[source] * len(stages))
    return path


def predicted(stages: list[str], classes: tuple[str, ...], true: list[str], probabilities: np.ndarray) -> pd.DataFrame:
    about = {"cell_id": [f"c{k}" for k in range(len(true))], "source": "x", "group": "x", "origin": "real"}
    split = pd.DataFrame({**about, "fold": 0, "subset": "test", "stage": stages, "class": true})
    return predictions.table(split, probabilities, classes=classes, seed=0)


class TestSample:
    COUNTS = dict.fromkeys(STAGES, 8)

    def draw(self, tmp_path: Path, **options: object) -> pd.DataFrame:
        real = write_side(tmp_path / "real.h5", {**self.COUNTS, "G1": 30}, side=40, source="a", seed=1)
        simulated = write_side(tmp_path / "sim.h5", {**self.COUNTS, "S": 6, "G1": 12}, side=66, source="s", seed=2)
        splits = {task: tmp_path / f"{task}.parquet" for task in realism.TASKS}
        settings = {"sources": ["a"], "most": 10, "seed": 0} | options
        realism.sample(real, simulated, out=tmp_path / "out.h5", split_paths=splits, **settings)
        return cells.read_table(tmp_path / "out.h5")

    def test_as_many_cells_of_each_stage_on_either_side(self, tmp_path: Path) -> None:
        table = self.draw(tmp_path)
        counts = table.groupby(["stage", "source"]).size().unstack("source")
        assert (counts["real"] == counts["simulated"]).all()
        assert counts.loc[["G1", "S", "G2"], "real"].tolist() == [10, 6, 8]

    def test_the_centre_of_the_larger_images(self, tmp_path: Path) -> None:
        table = self.draw(tmp_path)
        images = cells.read_images(tmp_path / "out.h5")
        assert images.shape[1:] == (3, 40, 40)
        number = table["cell_id"].str[-3:].astype(int).to_numpy()
        assert (images[:, :, 20, 20] == 100 + number[:, None]).all()

    @pytest.mark.parametrize("task", ["five_real", "seven_simulated"])
    def test_a_side_is_cross_validated_by_itself(self, tmp_path: Path, task: str) -> None:
        table = self.draw(tmp_path)
        split = pd.read_parquet(tmp_path / f"{task}.parquet")
        side = task.split("_")[1]
        assert set(split["source"]) == {side}
        tested = split[split["subset"] == "test"]
        assert sorted(tested["cell_id"]) == sorted(table.loc[table["source"] == side, "cell_id"])

    def test_a_transfer_trains_on_simulated_cells_and_tests_all_real_ones(self, tmp_path: Path) -> None:
        table = self.draw(tmp_path)
        split = pd.read_parquet(tmp_path / "seven_transfer.parquet")
        assert set(split.loc[split["subset"] != "test", "source"]) == {"simulated"}
        tested = split[split["subset"] == "test"]
        assert sorted(tested["cell_id"]) == sorted(table.loc[table["source"] == "real", "cell_id"])
        assert (tested["class"] == tested["stage"]).all()

    def test_to_tell_the_sides_apart_a_fold_holds_both_evenly(self, tmp_path: Path) -> None:
        self.draw(tmp_path)
        split = pd.read_parquet(tmp_path / "apart_PI.parquet")
        assert (split["class"] == split["source"]).all()
        tested = split[split["subset"] == "test"]
        shares = tested.groupby(["fold", "class"]).size().unstack()
        assert (shares["real"] - shares["simulated"]).abs().max() <= 1

    def test_refuses_other_depths_and_too_few_cells(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="the real data set has 0 cells of G1, fewer than the 5 folds"):
            self.draw(tmp_path, sources=["b"])
        real = write_side(tmp_path / "real8.h5", self.COUNTS, side=40, source="a", seed=1, bits=8)
        with pytest.raises(DataError, match="12 bits, but 8 in"):
            realism.sample(
                real, tmp_path / "sim.h5", out=tmp_path / "x.h5", split_paths={}, sources=["a"], most=9, seed=0
            )
        assert not (tmp_path / "x.h5").exists()


class TestMeasures:
    def test_integrated_pi_is_the_sum_above_the_border(self) -> None:
        images = np.full((2, 9, 9), 42, dtype=np.uint16)
        images[1, 3:6, 3:6] += 100
        assert realism.integrate(images).tolist() == [0, 900]

    def test_weights_give_every_stage_its_published_share(self) -> None:
        stages = np.array(["G1"] * 10 + ["S"] * 30, dtype=object)
        weights = realism.weigh(stages)
        assert weights.sum() == pytest.approx(1)
        assert weights[:10].sum() / weights[10:].sum() == pytest.approx(14_333 / 8_616)

    def test_pi_measures_of_a_known_mixture(self) -> None:
        rng = np.random.default_rng(RNG_SEED)
        n = 20_000
        parts = {"G1": rng.normal(100, 5, n), "S": rng.uniform(100, 200, n), "G2": rng.normal(200, 8, n)}
        found = realism.pi_measures(np.concatenate(list(parts.values())), np.repeat(list(parts), n).astype(object))
        assert found["g2_over_g1"] == pytest.approx(2, rel=0.01)
        assert found["g1_cv"] == pytest.approx(0.05, rel=0.05)
        assert found["g2_cv"] == pytest.approx(0.04, rel=0.05)
        assert found["s_between_peaks"] == pytest.approx(1, abs=0.02)
        # Between the peaks stand S cells alone: 8,616 spread over 100; around G1 its 95.4 % within 10, and S above it.
        at_g1 = (14_333 * 0.9545 + 8_616 * 0.1) / 20
        assert found["plateau"] == pytest.approx(8_616 / 100 / at_g1, rel=0.05)

    def test_scores_are_recalls_and_their_mean(self) -> None:
        task = realism.TASKS["five_real"]
        classes = task.scheme.classes
        true = [name for name in classes for _ in range(4)]
        probabilities = np.eye(5)[np.repeat(np.arange(5), 4)]
        probabilities[0] = np.eye(5)[1]  # one Interphase cell of four is called Prophase
        table = predicted(["G1"] * 20, classes, true, probabilities)
        rows = pd.DataFrame(realism.score(table, task, rng=np.random.default_rng(0))).set_index(["metric", "class"])
        assert rows.loc[("balanced_accuracy", "all"), "value"] == pytest.approx(0.95)
        assert rows.loc[("recall", "Interphase"), "value"] == pytest.approx(0.75)
        assert (rows["ci_low"] <= rows["value"]).all()
        assert (rows["value"] <= rows["ci_high"]).all()
        assert rows["n_cells"].tolist() == [20, 4, 4, 4, 4, 4]

    def test_the_auc_of_equal_and_of_parted_sides(self) -> None:
        rng = np.random.default_rng(RNG_SEED)
        n = 200
        stages = [stage for _ in realism.SIDES for stage in STAGES for _ in range(n)]
        true = [side for side in realism.SIDES for _ in range(7 * n)]
        shift = np.where((np.array(true) == "simulated") & (np.array(stages) == "S"), 1.0, 0.0)
        score = np.clip(rng.uniform(0, 0.4, len(true)) + 0.5 * shift, 0, 1)
        table = predicted(stages, realism.SIDES, true, np.stack([1 - score, score], axis=1))
        rows = pd.DataFrame(realism.tell_apart(table, rng=rng, n_bootstrap=50)).set_index("stage")
        assert rows.loc["S", "auc"] == 1
        others = rows.loc[[stage for stage in STAGES if stage != "S"]]
        assert others["auc"].between(0.4, 0.6).all()
        assert ((others["ci_low"] < 0.55) & (others["ci_high"] > 0.45)).all()
        assert rows.loc["G1", ["n_real", "n_simulated"]].tolist() == [n, n]

    def test_checks_see_what_is_too_easy(self) -> None:
        tables, rows = {}, []
        for name, wrong in (("five_real", 2), ("five_simulated", 0), ("seven_real", 1), ("seven_simulated", 1)):
            task = realism.TASKS[name]
            classes = task.scheme.classes
            true = [one for one in classes for _ in range(4)]
            probabilities = np.eye(len(classes))[np.repeat(np.arange(len(classes)), 4)]
            for k in range(len(classes)):
                probabilities[4 * k : 4 * k + wrong] = np.eye(len(classes))[(k + 1) % len(classes)]
            tables[name] = predicted(["G1"] * len(true), classes, true, probabilities)
            rows += realism.score(tables[name], task, rng=np.random.default_rng(0))
        checks = realism.check(tables, pd.DataFrame(rows), rng=np.random.default_rng(0))
        assert checks["value"].tolist() == pytest.approx([0.5, 5, 0, 0])
        assert checks["holds"].tolist() == [False, False, True, True]


class TestFigures:
    def test_panel_has_both_sides_of_every_stage_and_channel(self) -> None:
        rng = np.random.default_rng(0)
        images = {
            side: {stage: rng.integers(0, 99, (3, 3, 40, 40)) for stage in STAGES} for side in ("real", "simulated")
        }
        fig = figures.draw_panel(images, channels=["BF", "PI", "DF"], n_cells=3)
        assert len(fig.axes) == 21
        assert fig.axes[0].images[0].get_array().shape == (82, 3 * 40 + 4)
        assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["real", "simulated"]

    def test_histogram_bars_add_up_to_the_weights(self) -> None:
        rng = np.random.default_rng(0)
        stages = np.array([stage for stage in STAGES for _ in range(30)], dtype=object)
        side = pd.DataFrame({"stage": stages, "integrated_pi": rng.uniform(1e5, 3e5, 210), "weight": 1 / 210})
        table = pd.concat([side.assign(source="real"), side.assign(source="simulated")])
        fig = figures.draw_integrated_pi(table)
        heights = [sum(patch.get_height() for patch in axes.patches) for axes in fig.axes[:2]]
        assert heights == pytest.approx([90 / 210] * 2, abs=2 / 210)

    def test_recalls_show_three_kinds_of_every_class(self) -> None:
        rows = [
            {"scheme": "five", "channels": "BF", "trained_on": a, "tested_on": b, "class": c, "value": v}
            for a, b, v in (("real", "real", 0.5), ("simulated", "simulated", 0.6), ("simulated", "real", 0.3))
            for c in ("all", "Interphase")
        ]
        fig = figures.draw_recalls(pd.DataFrame(rows).assign(ci_low=0.1, ci_high=0.9))
        points = [container.lines[0].get_ydata().tolist() for container in fig.axes[0].containers]
        assert points == [[0.5, 0.5], [0.6, 0.6], [0.3, 0.3]]


def test_the_target_needs_both_data_sets_and_asks_every_question(project: Path) -> None:
    run = snakemake(project, "--dry-run", "realism")
    jobs = re.findall(r"^Job \d+: (.*)$", run.stdout, re.MULTILINE)
    assert {"Convert simulated to HDF5", "Convert jurkat_montage to HDF5"} <= set(jobs)
    asked = {job.rpartition(" ")[2] for job in jobs if job.startswith("Train the reference network")}
    assert asked == set(realism.TASKS)
