"""The workflow as a user runs it: the whole chain at small size, new models and experiments, mistakes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import SMALL, configure, missing, snakemake

RESULTS = Path("results/simulated/espinosa")
TABLES = ("class_counts", "balanced_accuracy", "balanced_accuracy_by_source", "scores", "chosen_losses")


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project, to change; time stamps and Snakemake's records come along."""
    shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


class TestTheWholeChain:
    def test_every_file_of_the_contract_is_there(self, finished: Path) -> None:
        folder = finished / RESULTS
        there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        figures = ["examples", "architecture", "curves", "confusion_train", "confusion_test", "confusion_test_all"]
        figures += [f"saliency_{c}_{outcome}" for c in ("interphase", "telophase") for outcome in ("wrong", "right")]
        figures.append("embedding")
        expected = {f"figures/{name}.{kind}" for name in figures for kind in ("svg", "png")}
        expected |= {f"tables/{name}.csv" for name in TABLES}
        expected |= {"metrics.csv", "claims.csv", "report.html", "holdout/split.parquet", "embedding/map.html"}
        for model in ("fc", "cnn3", "simple_vit"):
            for loss in ("unweighted", "sqrt_weighted", "inv_weighted"):
                names = ("predictions.parquet", "embeddings.parquet", "history.csv", "model.json")
                expected |= {f"holdout/{model}/{loss}/{name}" for name in names}
                expected.add(f"holdout/{model}/{loss}/weights/fold0-seed0.safetensors")
        assert expected <= there
        assert (finished / "results" / "index.html").is_file()

    def test_scores_have_intervals_counts_and_the_trivial_answer(self, finished: Path) -> None:
        metrics = pd.read_csv(finished / RESULTS / "metrics.csv")
        balanced = metrics[(metrics["metric"] == "balanced_accuracy") & (metrics["subset"] == "test")]
        assert len(balanced.groupby(["model", "loss"])) == 10
        assert (balanced["ci_low"] <= balanced["value"]).all()
        assert (balanced["value"] <= balanced["ci_high"]).all()
        assert (balanced["n_cells"] == 84).all()
        trivial = balanced[balanced["model"] == "trivial"]
        assert trivial["value"].tolist() == pytest.approx([0.2] * len(trivial))

    def test_a_second_run_does_nothing(self, finished: Path) -> None:
        assert "Nothing to be done" in snakemake(finished).stdout

    def test_work_in_progress_is_told(self, finished: Path) -> None:
        told = (finished / "first-run.log").read_text()
        assert re.search(r"\[train\] cnn3/inv_weighted fold 0 seed 0: done, best step \d+", told)
        assert re.search(r"\[convert\] simulated: 420 cells", told)

    def test_every_log_ends_with_the_cost(self, finished: Path) -> None:
        logs = list((finished / "logs").rglob("*.log"))
        assert len(logs) > 25
        for log in logs:
            assert "cost: peak_rss_mib=" in log.read_text().splitlines()[-1], log

    def test_results_carry_their_provenance(self, finished: Path) -> None:
        about = json.loads((finished / RESULTS / "holdout/cnn3/inv_weighted/model.json").read_text())
        assert {"commit", "python", "packages", "cpu", "cores"} <= set(about["provenance"])
        assert about["cells_sha256"] == json.loads((finished / "data/simulated.json").read_text())["content_sha256"]

    def test_the_same_config_gives_the_same_metrics_to_the_last_digit(self, finished: Path, copy: Path) -> None:
        shutil.rmtree(copy / "results")
        shutil.rmtree(copy / "data")
        snakemake(copy, str(RESULTS / "metrics.csv"))
        assert (copy / RESULTS / "metrics.csv").read_bytes() == (finished / RESULTS / "metrics.csv").read_bytes()

    def test_snakemake_makes_its_own_report(self, finished: Path, tmp_path: Path) -> None:
        snakemake(finished, "--report", str(tmp_path / "report.html"))
        page = (tmp_path / "report.html").read_text()
        assert "simulated, espinosa" in page
        assert "confusion matrices, test" in page


MODEL = '''
"""A model that a user adds: the mean of each channel, and a line."""

from torch import Tensor, nn

from stainfree.models import Family, Recipe

FAMILY = Family(recipe=Recipe(learning_rate=0.1, batches_per_epoch=2, epochs=2))


class Model(nn.Module):
    def __init__(self, *, channels: int, image_size: int, n_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean(dim=(2, 3)))
'''


def test_adding_a_model_is_one_file_and_one_word(copy: Path) -> None:
    (copy / "src/stainfree/models/mean.py").write_text(MODEL)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("- simple_vit", "- simple_vit\n    - mean"))
    before = (copy / RESULTS / "holdout/cnn3/inv_weighted/predictions.parquet").stat().st_mtime_ns
    snakemake(copy)
    assert (copy / RESULTS / "holdout/cnn3/inv_weighted/predictions.parquet").stat().st_mtime_ns == before
    metrics = pd.read_csv(copy / RESULTS / "metrics.csv")
    assert set(metrics.loc[metrics["model"] == "mean", "loss"]) == {"unweighted", "sqrt_weighted", "inv_weighted"}
    assert "mean" in set(pd.read_csv(copy / RESULTS / "saliency/shares.csv")["model"])
    assert ">mean<" in re.sub(r"\s", "", (copy / RESULTS / "report.html").read_text())


def test_an_experiment_of_ones_own_needs_no_study_and_no_figures_of_models(project: Path) -> None:
    """Two folds, two seeds, two channels, another scheme, no train predictions, a model without embedding."""
    (project / "src/stainfree/models/mean.py").write_text(MODEL)
    config = yaml.safe_load((project / "config.yaml").read_text())
    config["experiments"]["mine"] = {
        "task": "classification",
        "channels": ["DF", "BF"],
        "scheme": "four",
        "fit": "pad",
        "variants": {"folds": {"split": {"kind": "kfold", "folds": 2, "validation": 0.2}}},
        "models": ["mean", {"small_fc": {"family": "fc", "dropout": 0, "recipe": {"batch_size": 50, "epochs": 1}}}],
        "losses": ["sqrt_weighted"],
        "seeds": [0, 1],
        "subsets": ["validation", "test"],
    }
    (project / "config.yaml").write_text(yaml.safe_dump({**config, **SMALL}, sort_keys=False))
    snakemake(project, "mine")
    folder = project / "results/simulated/mine"
    metrics = pd.read_csv(folder / "metrics.csv", dtype=str)
    pooled = metrics[(metrics["fold"] == "pooled") & (metrics["subset"] == "test") & (metrics["class"] == "all")]
    accuracy = pooled[(pooled["metric"] == "accuracy") & (pooled["model"] == "small_fc")]
    assert accuracy["seed"].tolist() == ["0", "1", "mean"]
    assert accuracy["n_cells"].tolist() == ["420"] * 3
    assert not (folder / "claims.csv").exists()
    assert sorted(path.name for path in folder.glob("figures/*.svg")) == [
        "architecture.svg", "confusion_test.svg", "curves.svg", "examples.svg",
    ]  # fmt: skip
    assert "small_fc" in (folder / "report.html").read_text()
    assert "mine" in (project / "results/index.html").read_text()


class TestMistakes:
    @pytest.mark.parametrize(
        ("setting", "line"),
        [
            ("datset=simulated", "config: unknown key `datset`; did you mean `dataset`?"),
            ("dataset=simulatd", "config: `dataset`: unknown data set `simulatd`; did you mean `simulated`?"),
            ("build=[espinos]", "config: `build`: unknown experiment `espinos`; did you mean `espinosa`?"),
        ],
    )
    def test_a_mistake_in_the_config_is_one_line_before_any_job(self, project: Path, setting: str, line: str) -> None:
        run = snakemake(project, "--config", setting, check=False)
        assert run.returncode != 0
        assert [told for told in run.stdout.splitlines() if told.startswith(line)]
        assert "Traceback" not in run.stdout
        assert not (project / "data").exists()

    def test_what_only_the_data_can_tell_is_refused_before_any_training(self, project: Path) -> None:
        configure(project)
        config = (project / "config.yaml").read_text().replace("fit: pad", "fit: crop")
        (project / "config.yaml").write_text(config.replace("n_cells: 420", "n_cells: 420\n    image_size: 50"))
        run = snakemake(project, check=False)
        assert run.returncode != 0
        assert "images of 50 x 50 are smaller than 66 x 66; set `fit: pad`, `centre` or `resize`" in run.stdout
        assert "[train]" not in run.stdout
        again = snakemake(project, check=False)
        assert again.returncode != 0
        assert again.stdout.splitlines()[-1].startswith("Error: simulated: model fc cannot take it: images of 50 x 50")

    def test_a_notebook_that_fails_leaves_its_executed_copy(self, copy: Path) -> None:
        path = copy / "notebooks/report.ipynb"
        notebook = json.loads(path.read_text())
        cell = {"cell_type": "code", "execution_count": None, "id": "x", "metadata": {}, "outputs": [], "source": "1/0"}
        notebook["cells"].append(cell)
        path.write_text(json.dumps(notebook))
        run = snakemake(copy, check=False)
        assert run.returncode != 0
        told = next(line for line in run.stdout.splitlines() if "Error:" in line)
        assert "work/reports/simulated-espinosa.ipynb" in told
        assert "ZeroDivisionError" in told
        assert "ZeroDivisionError" in (copy / "work/reports/simulated-espinosa.ipynb").read_text()


class TestRealCells:
    def test_the_mirror_gives_7916_cells(self, project: Path, mirror: Path) -> None:
        snakemake(
            project, "data/jurkat_montage.h5", "--config", "dataset=jurkat_montage",
            environment={"STAINFREE_MIRROR": str(mirror)},
        )  # fmt: skip
        report = json.loads((project / "data/jurkat_montage.json").read_text())
        assert report["stages"] == {
            "G1": 5400, "S": 900, "G2": 900, "Prophase": 606, "Metaphase": 68, "Anaphase": 15, "Telophase": 27,
        }  # fmt: skip
        assert report["n_cells"] == 7916


def chromium() -> str:
    """The browser; in CI it must be there."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        missing("install Chromium (Debian: apt install chromium) to test the pages in a real browser")
    return found


@pytest.mark.parametrize("page", ["results/index.html", f"{RESULTS}/report.html", f"{RESULTS}/embedding/map.html"])
def test_pages_open_offline_in_a_real_browser(finished: Path, tmp_path: Path, page: str) -> None:
    run = subprocess.run(
        [
            chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            # Whatever a page asks of the network fails at once, and says so on the console.
            "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", f"--user-data-dir={tmp_path}",
            "--virtual-time-budget=20000", "--dump-dom", f"file://{finished / page}",
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0
    shown = re.sub(r"<(script|style)\b.*?</\1>", "", run.stdout, flags=re.DOTALL)
    expected = {
        "results/index.html": "espinosa",
        f"{RESULTS}/report.html": "What was asked",
        f"{RESULTS}/embedding/map.html": "Telophase",
    }[page]
    assert expected in shown
    console = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in console if "ERR_" in line or "Error" in line], console
