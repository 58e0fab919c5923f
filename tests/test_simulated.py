"""Simulated cells: counts, determinism, and that each channel shows what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from stainfree.cells import read_info, read_table
from stainfree.datasets import Dataset, convert
from stainfree.datasets.simulated import (
    CHANNELS,
    PUBLISHED_COUNTS,
    RAREST,
    SMALLEST,
    read,
    simulate,
    stage_counts,
)
from stainfree.errors import ConfigError, DataError
from stainfree.schemes import INTERPHASE, STAGES

PER_STAGE = 40


def dataset(channels: tuple[str, ...] = CHANNELS, **options: Any) -> Dataset:
    return Dataset(name="simulated", kind="simulated", channels=channels, bit_depth=12, options=options)


@pytest.fixture(scope="module")
def drawn() -> dict[str, tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]]:
    """Images and DNA content of 40 cells of each stage."""
    return {stage: simulate([stage] * PER_STAGE, seed=5, first=1000 * i) for i, stage in enumerate(STAGES)}


def integrated_pi(images: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
    """Sum of PI above the background, which is the median of the image's border."""
    pi = images[:, CHANNELS.index("PI")].astype(np.float64)
    border = np.concatenate([pi[:, 0], pi[:, -1], pi[:, :, 0], pi[:, :, -1]], axis=1)
    return np.asarray((pi - np.median(border, axis=1)[:, None, None]).sum(axis=(1, 2)))


def pi_axes(image: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
    """Standard deviations (minor, major) in pixels of the brighter half of the PI image."""
    pi = image[CHANNELS.index("PI")].astype(np.float64)
    weight = np.clip(pi - (np.median(pi) + pi.max()) / 2, 0, None)
    points = np.indices(pi.shape).reshape(2, -1)
    return np.asarray(np.sqrt(np.linalg.eigvalsh(np.cov(points, aweights=weight.ravel()))))


def pi_blobs(image: npt.NDArray[np.uint16]) -> int:
    """Number of connected regions above half of the PI image's maximum, specks left out."""
    pi = ndimage.gaussian_filter(image[CHANNELS.index("PI")].astype(np.float64), 1)
    labels, _ = ndimage.label(pi > (np.median(pi) + pi.max()) / 2)
    return int((np.bincount(labels.ravel())[1:] > 10).sum())


class TestStageCounts:
    def test_default_has_all_mitotic_cells_and_7200_of_interphase(self) -> None:
        counts = stage_counts()
        assert sum(counts.values()) == 7916
        assert [counts[s] for s in ("Prophase", "Metaphase", "Anaphase", "Telophase")] == [606, 68, 15, 27]
        interphase = sum(PUBLISHED_COUNTS[s] for s in INTERPHASE)
        for stage in INTERPHASE:
            assert abs(counts[stage] - 7200 * PUBLISHED_COUNTS[stage] / interphase) < 1

    def test_published_counts(self) -> None:
        assert stage_counts("published") == dict(PUBLISHED_COUNTS)
        assert sum(PUBLISHED_COUNTS.values()) == 32_266

    def test_names_and_their_numbers_agree(self) -> None:
        assert stage_counts(7916) == stage_counts("default")
        assert stage_counts(32_266) == stage_counts("published")

    @given(st.integers(min_value=SMALLEST, max_value=100_000))
    def test_any_number(self, n_cells: int) -> None:
        counts = stage_counts(n_cells)
        mitotic = sum(n for stage, n in counts.items() if stage not in INTERPHASE)
        assert tuple(counts) == STAGES
        assert sum(counts.values()) == n_cells
        assert min(counts.values()) >= RAREST
        assert sum(counts[stage] for stage in INTERPHASE) > n_cells / 2
        if n_cells <= 32_266:
            assert mitotic <= 716

    @pytest.mark.parametrize("n_cells", [0, SMALLEST - 1, "all", 500.0, True])
    def test_refuses_what_is_no_number_of_cells(self, n_cells: Any) -> None:
        with pytest.raises(ConfigError, match="n_cells: cannot be"):
            stage_counts(n_cells)


class TestSimulate:
    def test_shape_dtype_and_range(self) -> None:
        images, dna_content = simulate(list(STAGES), seed=0)
        assert images.shape == (7, 3, 66, 66)
        assert images.dtype == np.uint16
        assert images.max() < 4096
        assert dna_content.shape == (7,)
        assert dna_content.dtype == np.float32

    def test_same_seed_same_cells(self) -> None:
        stages = ["S", "Telophase", "G1"]
        first, again, other = (simulate(stages, seed=seed) for seed in (3, 3, 4))
        assert np.array_equal(first[0], again[0])
        assert np.array_equal(first[1], again[1])
        assert not (first[0] == other[0]).all(axis=(1, 2, 3)).any()

    @pytest.mark.parametrize("batch", [1, 7, 50])
    def test_a_cell_does_not_depend_on_how_many_are_drawn_at_a_time(self, batch: int) -> None:
        stages = [STAGES[i % 7] for i in range(75)]
        whole, dna_content = simulate(stages, seed=1)
        for first in range(0, 75, batch):
            part, dna_part = simulate(stages[first : first + batch], seed=1, first=first)
            assert np.array_equal(part, whole[first : first + batch])
            assert np.array_equal(dna_part, dna_content[first : first + batch])

    def test_no_two_cells_are_alike(self) -> None:
        bf = simulate(["G1"] * 60, seed=2)[0][:, 0, 20:46, 20:46].reshape(60, -1)
        correlation = np.corrcoef(bf) - np.eye(60)
        assert correlation.max() < 0.97

    def test_smaller_images_show_the_same_cells(self) -> None:
        stages = list(STAGES)
        assert np.array_equal(
            simulate(stages, seed=0, image_size=40)[0], simulate(stages, seed=0)[0][..., 13:53, 13:53]
        )
        assert simulate(stages, seed=0, image_size=90)[0].shape == (7, 3, 90, 90)

    def test_refuses_unknown_stages_and_small_images(self) -> None:
        with pytest.raises(DataError, match="cannot simulate stage M"):
            simulate(["M"], seed=0)
        with pytest.raises(ConfigError, match="image_size: 32 is too small"):
            simulate(["G1"], seed=0, image_size=32)


class TestChannels:
    def test_background_levels_are_those_of_the_camera(self, drawn: Any) -> None:
        images, _ = drawn["G1"]
        corners = images[:, :, :6, :6].astype(float)
        assert corners.mean(axis=(0, 2, 3)) == pytest.approx([677, 42, 27], abs=1.5)
        assert corners.std(axis=(2, 3)).mean(axis=0) == pytest.approx([5.3, 2.3, 1.8], abs=0.8)

    def test_dna_content_follows_the_stage(self, drawn: Any) -> None:
        dna_content = {stage: dna for stage, (_, dna) in drawn.items()}
        assert set(dna_content["G1"]) == {2.0}
        assert all(set(dna_content[stage]) == {4.0} for stage in STAGES[2:])
        assert dna_content["S"].min() < 2.2
        assert dna_content["S"].max() > 3.8
        assert dna_content["S"].mean() == pytest.approx(3.0, abs=0.25)

    def test_integrated_pi_is_that_of_the_real_stage(self, drawn: Any) -> None:
        """Medians in thousand counts, measured on Experiment_1 of the montages."""
        real = {"G1": 139, "S": 183, "G2": 251, "Prophase": 305, "Metaphase": 318, "Anaphase": 303, "Telophase": 283}
        for stage, (images, _) in drawn.items():
            assert np.median(integrated_pi(images)) / 1000 == pytest.approx(real[stage], rel=0.08), stage

    def test_integrated_pi_parts_the_stages_of_interphase_as_gates_do_and_rises_through_s(self, drawn: Any) -> None:
        pi = {stage: integrated_pi(images) for stage, (images, _) in drawn.items()}
        for before, after in (("G1", "S"), ("S", "G2")):
            assert np.percentile(pi[before], 90) < np.percentile(pi[after], 10)
        assert np.corrcoef(pi["S"], drawn["S"][1])[0, 1] > 0.8

    def test_the_metaphase_plate_is_elongated(self, drawn: Any) -> None:
        ratios = {}
        for stage in ("G1", "Metaphase"):
            axes = np.array([pi_axes(image) for image in drawn[stage][0]])
            ratios[stage] = np.median(axes[:, 1] / axes[:, 0])
        assert ratios["G1"] < 1.25
        assert ratios["Metaphase"] > 1.4

    def test_telophase_has_two_blobs_of_pi_one_above_the_other(self, drawn: Any) -> None:
        images, _ = drawn["Telophase"]
        assert np.mean([pi_blobs(image) == 2 for image in images]) > 0.8
        assert np.mean([pi_blobs(image) == 1 for image in drawn["G1"][0]]) > 0.95
        rows = images[:, 1].mean(axis=(0, 2))
        assert rows[31:35].max() < 0.8 * min(rows[18:31].max(), rows[35:48].max())

    def test_cells_grow_through_interphase(self, drawn: Any) -> None:
        area = {s: (np.abs(i[:, 0].astype(float) - 677) > 30).sum(axis=(1, 2)).mean() for s, (i, _) in drawn.items()}
        assert area["G1"] < area["S"] < area["G2"] < area["Prophase"]

    def test_bf_has_a_dark_ring_and_a_brighter_body(self, drawn: Any) -> None:
        bf = drawn["G2"][0][:, 0].astype(float).mean(axis=0)
        assert bf[30:36, 30:36].mean() > 677 + 20
        ring = [bf[33 + round(12 * np.sin(a)), 33 + round(12 * np.cos(a))] for a in np.linspace(0, 2 * np.pi, 36)]
        assert np.mean(ring) < 677 - 30

    def test_df_is_black_in_the_cell_with_bright_speckle_towards_the_laser(self, drawn: Any) -> None:
        df = drawn["G2"][0][:, 2].astype(float)
        inside = df[:, 26:40, 26:40].reshape(PER_STAGE, -1)
        assert np.median(inside) < 5
        assert np.median(df.max(axis=(1, 2))) > 80
        bright = np.clip(df - 40, 0, None).sum(axis=(0, 1))
        assert bright[:33].sum() > 2 * bright[33:].sum()

    def test_speckle_lies_where_bf_is_granular(self, drawn: Any) -> None:
        images = np.concatenate([drawn[stage][0] for stage in ("G1", "S", "G2")])[..., 27:39, 27:39].astype(float)
        grains = np.abs(images[:, 0] - ndimage.uniform_filter(images[:, 0], (0, 3, 3)))
        maps = [
            ndimage.gaussian_filter(field, (0, 1.5, 1.5)).reshape(len(images), -1) for field in (grains, images[:, 2])
        ]
        together = [np.corrcoef(a, b)[0, 1] for a, b in zip(*maps, strict=True)]
        assert np.nanmedian(together) > 0.1


class TestRead:
    def test_cells_in_mixed_order_with_ids(self) -> None:
        batches = list(read(dataset(n_cells=300, seed=1), Path()))
        stages = [stage for batch in batches for stage in batch.stage]
        ids = [cell_id for batch in batches for cell_id in batch.cell_id]
        assert {s: stages.count(s) for s in STAGES} == stage_counts(300)
        assert ids == [f"sim-{i:06d}" for i in range(1, 301)]
        assert {source for batch in batches for source in batch.source} == {"simulated"}
        assert set(stages[:30]) & set(INTERPHASE) == set(INTERPHASE)

    def test_batches_hold_what_simulate_draws(self) -> None:
        batches = list(read(dataset(n_cells=280, image_size=40, seed=1), Path()))
        stages = [stage for batch in batches for stage in batch.stage]
        images, dna_content = simulate(stages, seed=1, image_size=40)
        assert len(batches) == 2
        assert np.array_equal(np.concatenate([batch.images for batch in batches]), images)
        assert np.array_equal(np.concatenate([batch.dna_content for batch in batches]), dna_content)

    def test_the_order_depends_on_the_seed(self) -> None:
        one, two = (next(read(dataset(n_cells=100, seed=seed), Path())).stage for seed in (1, 2))
        assert one != two

    def test_channels_in_the_order_asked_for(self) -> None:
        every = next(read(dataset(n_cells=70), Path())).images
        some = next(read(dataset(("DF", "BF"), n_cells=70), Path())).images
        assert np.array_equal(some, every[:, [2, 0]])

    def test_refuses_what_cannot_be_simulated(self) -> None:
        with pytest.raises(ConfigError, match="cannot simulate channel MPM2"):
            next(read(dataset(("BF", "MPM2")), Path()))
        with pytest.raises(ConfigError, match="seed is -1"):
            next(read(dataset(seed=-1), Path()))


def test_conversion_keeps_every_cell(tmp_path: Path) -> None:
    convert(dataset(n_cells=120), raw=tmp_path, out=tmp_path / "cells.h5", report=tmp_path / "cells.json")
    table = read_table(tmp_path / "cells.h5")
    assert table["stage"].value_counts().to_dict() == stage_counts(120)
    assert table["dna_content"].between(2, 4).all()
    assert read_info(tmp_path / "cells.h5").image_shape == (66, 66)


def test_a_linear_model_on_bf_is_neither_perfect_nor_hopeless() -> None:
    """Five classes from 10 x 10 BF pixels: above chance (0.2), and far from solved."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    stages = [stage for stage, n in stage_counts(900).items() for _ in range(n)]
    bf = simulate(stages, seed=0)[0][:, 0, 13:53, 13:53].astype(float)
    features = bf.reshape(len(bf), 10, 4, 10, 4).mean(axis=(2, 4)).reshape(len(bf), -1)
    classes = np.array(["Interphase" if stage in INTERPHASE else stage for stage in stages])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=300))
    accuracy = balanced_accuracy_score(classes, cross_val_predict(model, features, classes, cv=5))
    assert 0.3 < accuracy < 0.75
