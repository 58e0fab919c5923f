"""A user's own cells, in each way of the README's section "Your own cells", from their files to predictions and report.

The cells are real ones, laid out by hand where the README's lines of config say; only the paths are changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import tifffile
import yaml
from conftest import ROOT, copy_project, snakemake
from PIL import Image

from stainfree.cells import read_images, read_table
from stainfree.datasets import Dataset, montage
from stainfree.schemes import STAGES

PER_STAGE = 12
FOLDERS = {"G1": "g1", "S": "s", "G2": "g2", "Prophase": "pro", "Metaphase": "meta", "Anaphase": "ana"}
FOLDERS["Telophase"] = "telo"

Images = npt.NDArray[np.uint16]
# What a test lays out: cell_id -> stage and image (channel, y, x).
Truth = dict[str, tuple[str, Images]]


def readme_config() -> dict[str, Any]:
    """Return the lines of config that the README gives for one's own cells."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your own cells")[1].split("\n## ")[0]
    config: dict[str, Any] = {}
    for block in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL):
        config |= yaml.safe_load(block)
    return config


@pytest.fixture(scope="module")
def jurkat(mirror: Path) -> dict[str, Images]:
    """Stage -> some real cells (cell, channel BF and DF, 40, 40), no copies among them."""
    public = yaml.safe_load((ROOT / "workflow" / "datasets.yaml").read_text(encoding="utf-8"))["jurkat_montage"]
    public["files"] = [file for file in public["files"] if file["path"].startswith("Experiment_1/")]
    batches = montage.read(Dataset.from_config("jurkat_montage", public), mirror / "jurkat-montage")
    return {batch.stage[0]: batch.images[:PER_STAGE, [0, 2]] for batch in batches}


def enlarged(image: Images) -> Images:
    """Return an image (channel, 40, 40) in a larger field of view (channel, 80, 80)."""
    return np.pad(image, ((0, 0), (20, 20), (20, 20)), mode="reflect")


def write_pictures(path: Path, jurkat: dict[str, Images]) -> Truth:
    """A folder per class, and in it a PNG for each channel of a cell, one of a channel that is not asked for."""
    truth: Truth = {}
    for stage, images in jurkat.items():
        (path / FOLDERS[stage]).mkdir(parents=True)
        for number, image in enumerate(images, start=101):
            for key, plane in zip(("Ch3", "Ch6", "Ch4"), [*image, image[0]], strict=True):
                Image.fromarray(plane).save(path / FOLDERS[stage] / f"cell {number}_{key}.png")
            truth[f"{FOLDERS[stage]}/cell {number}"] = (stage, image)
    return truth


def write_stacks(path: Path, jurkat: dict[str, Images]) -> Truth:
    """A folder per stage, and in it a TIFF per cell with a page per channel."""
    truth: Truth = {}
    for stage, images in jurkat.items():
        (path / stage).mkdir(parents=True)
        for number, image in enumerate(images):
            tifffile.imwrite(path / stage / f"{number}.tif", image, photometric="minisblack")
            truth[f"{stage}/{number}"] = (stage, image)
    return truth


def write_montages(path: Path, jurkat: dict[str, Images]) -> Truth:
    """A folder per stage, and in it two montages of 2 x 5 tiles, the second with blank ones at its end."""
    truth: Truth = {}
    for stage, images in jurkat.items():
        (path / stage).mkdir(parents=True)
        for plate, some in (("plate1", images[:10]), ("plate2", images[10:])):
            grid = np.zeros((2, 2 * 40, 5 * 40), dtype=np.uint16)
            for position, image in enumerate(some):
                y, x = 40 * (position // 5), 40 * (position % 5)
                grid[:, y : y + 40, x : x + 40] = image
                truth[f"{stage}/{plate}:{position}"] = (stage, image)
            for key, picture in zip(("Ch3", "Ch6"), grid, strict=True):
                tifffile.imwrite(path / stage / f"{key}_{plate}.tif", picture)
    return truth


def write_arrays(path: Path, jurkat: dict[str, Images]) -> Truth:
    """Images of 80 x 80 pixels, one channel, and labels that are numbers; stages in turns."""
    path.mkdir()
    cells = [(stage, enlarged(jurkat[stage][n, :1])) for n in range(PER_STAGE) for stage in STAGES]
    np.save(path / "images.npy", np.stack([image[0] for _, image in cells]))
    np.save(path / "labels.npy", np.array([STAGES.index(stage) for stage, _ in cells]))
    return {f"day1:{position}": cell for position, cell in enumerate(cells)}


def write_hdf5(path: Path, jurkat: dict[str, Images]) -> Truth:
    """One file from elsewhere, with a third channel and images of 80 x 80 pixels."""
    truth = {f"object {k}{n}": (s, enlarged(i)) for k, s in enumerate(STAGES) for n, i in enumerate(jurkat[s])}
    with h5py.File(path, "w") as file:
        file["images"] = np.stack([image[[1, 0, 0]] for _, image in truth.values()])
        file["stage"] = [stage for stage, _ in truth.values()]
        file["cell_id"] = list(truth)
        file.attrs["channels"] = ["DF", "BF", "PI"]
    return truth


WRITERS: dict[str, Callable[[Path, dict[str, Images]], Truth]] = {
    "mine": write_pictures,
    "stacks": write_stacks,
    "montages": write_montages,
    "arrays": write_arrays,
    "hdf5": write_hdf5,
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, jurkat: dict[str, Images]) -> tuple[Path, dict[str, Truth]]:
    """A project whose config holds the README's lines for cells that lie there; data set -> what it is made of."""
    folder = tmp_path_factory.mktemp("own")
    project = copy_project(folder / "project")
    config = readme_config()
    truths = {}
    for name, description in config["datasets"].items():
        description["path"] = str(folder / Path(description["path"]).relative_to("/data"))
        truths[name] = WRITERS[name](Path(description["path"]), jurkat)
    config["evaluation"] = {"bootstrap": 50}
    config["experiments"]["espinosa"] = {"models": [{"cnn3": {"recipe": {"epochs": 1}}}], "losses": ["inv_weighted"]}
    (project / "mine.yaml").write_text(yaml.safe_dump(config))
    return project, truths


def predictions_of(dataset: str) -> str:
    return f"results/{dataset}/espinosa/holdout/cnn3/inv_weighted/predictions.parquet"


def run(project: Path, *arguments: str, dataset: str = "mine", fit: str = "pad", check: bool = True) -> str:
    """Run snakemake on a data set of ``mine.yaml``; return what it printed."""
    settings = [f"dataset={dataset}", f"experiments={{espinosa: {{fit: {fit}}}}}"]
    return snakemake(project, *arguments, "--configfile", "mine.yaml", "--config", *settings, check=check).stdout


@pytest.fixture(scope="module")
def built(own: tuple[Path, dict[str, Truth]]) -> Path:
    """The project with the whole study of `mine`, and the predictions of the others."""
    project, _ = own
    run(project)
    run(project, predictions_of("stacks"), predictions_of("montages"))
    run(project, predictions_of("arrays"), dataset="arrays", fit="crop")
    run(project, predictions_of("hdf5"), dataset="hdf5", fit="resize")
    return project


def test_there_is_a_writer_for_each_way_of_the_readme() -> None:
    assert list(readme_config()["datasets"]) == list(WRITERS)


@pytest.mark.parametrize("dataset", WRITERS)
def test_cells_are_what_lies_there_under_their_names(
    built: Path, own: tuple[Path, dict[str, Truth]], dataset: str
) -> None:
    truth = own[1][dataset]
    table = read_table(built / f"data/{dataset}.h5")
    assert sorted(table["cell_id"]) == sorted(truth)
    assert table["stage"].tolist() == [truth[cell_id][0] for cell_id in table["cell_id"]]
    expected = np.stack([truth[cell_id][1] for cell_id in table["cell_id"]])
    np.testing.assert_array_equal(read_images(built / f"data/{dataset}.h5"), expected)
    report = json.loads((built / f"data/{dataset}.json").read_text(encoding="utf-8"))
    assert report["duplicates_dropped"] == []
    assert sum(report["padding_tiles"].values()) == (7 * 8 if dataset == "montages" else 0)


@pytest.mark.parametrize("dataset", WRITERS)
def test_names_survive_into_predictions(built: Path, own: tuple[Path, dict[str, Truth]], dataset: str) -> None:
    truth = own[1][dataset]
    predictions = pd.read_parquet(built / predictions_of(dataset))
    assert sorted(predictions["cell_id"]) == sorted(truth)
    assert predictions["stage"].tolist() == [truth[cell_id][0] for cell_id in predictions["cell_id"]]
    assert set(predictions["subset"]) == {"train", "validation", "test"}
    shares = predictions[[name for name in predictions if name.startswith("p_")]].sum(axis=1)
    np.testing.assert_allclose(shares, 1, atol=1e-5)


def test_the_whole_study_runs_on_them(built: Path) -> None:
    folder = built / "results/mine/espinosa"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "84 cells, 40 × 40 pixels, 12 bits, channels BF, DF" in page
    for name in ("metrics.csv", "claims.csv", "tables/scores.csv", "saliency/maps.h5", "embedding/map.html"):
        assert (folder / name).is_file()
    assert "mine" in (built / "results/index.html").read_text(encoding="utf-8")


def test_the_readmes_own_experiment_is_one(own: tuple[Path, dict[str, Truth]]) -> None:
    project, _ = own
    run(project, "results/mine/mitosis/kfold/split.parquet")
    split = pd.read_parquet(project / "results/mine/mitosis/kfold/split.parquet")
    one = split[split["fold"] == 0]
    assert one["class"].value_counts().to_dict() == {"resting": 3 * PER_STAGE, "dividing": PER_STAGE}
    told = run(project, "mitosis", "--dry-run")
    assert "Write the report of mitosis on mine" in told


def test_images_too_large_for_padding_are_refused_with_the_mend(own: tuple[Path, dict[str, Truth]]) -> None:
    project, _ = own
    told = run(project, predictions_of("hdf5"), dataset="hdf5", check=False)
    assert "images of 80 x 80 are larger than 66 x 66; set `fit: crop`, `centre` or `resize` in the experiment" in told
