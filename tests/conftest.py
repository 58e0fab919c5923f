"""What tests share: real cells, small cells files, and copies of the project to run workflows in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import yaml
from PIL import Image
from sandbox import Sandbox, missing_packages

from stainfree.cells import CellsInfo, CellsWriter
from stainfree.schemes import STAGES

ROOT = Path(__file__).resolve().parent.parent


def missing(reason: str) -> NoReturn:
    """Skip the test for want of what `reason` names; in CI, where all must run, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder that holds real cells; in CI it must be there, elsewhere tests without it are skipped."""
    given = os.environ.get("STAINFREE_MIRROR", "")
    folder = Path(given) if given else Path("does-not-exist")
    if not (folder / "jurkat-montage").is_dir():
        missing("set STAINFREE_MIRROR to a folder that holds jurkat-montage/ (see README, real cells) to test on them")
    return folder.resolve()


@pytest.fixture
def make_cells(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small cells file in which stages can be told from brightness."""

    def make(counts: dict[str, int] | None = None, *, side: int = 66, channels: tuple[str, ...] = ("BF",)) -> Path:
        counts = counts or dict.fromkeys(STAGES, 12)
        rng = np.random.default_rng(0)
        stages = [stage for stage, n in counts.items() for _ in range(n)]
        images = rng.integers(500, 700, (len(stages), len(channels), side, side)).astype(np.uint16)
        for row, stage in enumerate(stages):
            width = 8 + 3 * STAGES.index(stage)
            images[row, :, 20 : 20 + width, 25:40] += 200
        path = tmp_path / "cells.h5"
        info = CellsInfo(channels=channels, bit_depth=12, licence="MIT", citation="made by a test")
        with CellsWriter(path, info, image_shape=(side, side), dtype=np.uint16) as cells:
            cells.append(
                images,
                stage=stages,
                cell_id=[f"c{k:04d}" for k in range(len(stages))],
                source=["a" if k % 3 else "b" for k in range(len(stages))],
            )
        return path

    return make


def copy_project(to: Path) -> Path:
    """Copy what a run of the workflow needs."""
    to.mkdir(parents=True)
    for name in ("Snakefile", "config.yaml", "requirements.lock"):
        shutil.copy2(ROOT / name, to / name)
    for name in ("workflow", "envs", "scripts", "src", "notebooks", "profiles", "slurm"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    return to


SMALL = {"datasets": {"simulated": {"n_cells": 420}}, "evaluation": {"bootstrap": 100}}


def configure(project: Path, **changes: object) -> None:
    """Lay small sizes, and then the changes, over the project's config.yaml."""
    config = yaml.safe_load((project / "config.yaml").read_text())
    config.update({**SMALL, **changes})
    (project / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which all was built from few simulated cells, and ten pictures per stage in ``own/`` were split.

    Tests share it: they read, and change copies.
    """
    project = copy_project(tmp_path_factory.mktemp("finished") / "project")
    configure(project)
    rng = np.random.default_rng(0)
    for stage in STAGES:
        (project / "own" / stage).mkdir(parents=True)
        for number in range(10):
            picture = Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8))
            picture.save(project / "own" / stage / f"{number}.png")
    config = yaml.safe_load((project / "config.yaml").read_text())
    config["datasets"]["mine"] = {"kind": "folder", "path": "own", "channels": ["BF"], "bit_depth": 8}
    (project / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run = snakemake(project, "all", "results/mine/espinosa/holdout/split.parquet")
    (project / "first-run.log").write_text(run.stdout)
    return project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project to run workflows in and to change."""
    return copy_project(tmp_path / "project")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A real Slurm on this machine, with accounting."""
    if lacking := missing_packages(accounting=True):
        missing(f"to test on a real Slurm: apt-get install {' '.join(lacking)}")
    with Sandbox(tmp_path_factory.mktemp("slurm"), accounting=True) as sandbox:
        yield sandbox


def snakemake(
    project: Path, *arguments: str, check: bool = True, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run snakemake in a copy of the project; the result's `stdout` holds all that it printed."""
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=project,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    if check and run.returncode:
        raise AssertionError(f"snakemake {' '.join(arguments)} ended with {run.returncode}:\n{run.stdout[-6000:]}")
    return run
