"""Every environment is built from the package index, and every step really runs in its own.

A host that holds nothing but snakemake runs `snakemake --sdm conda` on a copy of the project. conda is played by
`conda/stand_in.py`: all of Snakemake's own machinery is at work, and everything but conda-forge's Python is the real
thing. Run it with `make test-environments`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pin
import pytest
import yaml
from conftest import ROOT, copy_project
from packaging.requirements import Requirement

pytestmark = pytest.mark.environments

UV = str(Path(sys.executable).parent / "uv")
CONDA = ROOT / "tests" / "conda"
# What a script's preamble loads before the script begins.
PREAMBLE = "from snakemake.logging import logger; from snakemake.iocontainers import Snakemake; import json, sys; "
TEXT = {"capture_output": True, "text": True, "check": True}
TARGETS = ["espinosa", "data/jurkat_montage.h5"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the locked snakemake and what it needs, and nothing else."""
    host = tmp_path_factory.mktemp("host") / "venv"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, host], check=True)
    into = ["--python", host / "bin" / "python", "--constraint", ROOT / "requirements.lock"]
    subprocess.run([UV, "pip", "install", "--quiet", *into, "snakemake"], check=True)
    return host


@pytest.fixture(scope="module")
def project(host: Path, mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the host's snakemake ran every step in its environment, on few cells."""
    project = copy_project(tmp_path_factory.mktemp("built") / "project")
    (project / "witnesses").mkdir()
    config = yaml.safe_load((project / "config.yaml").read_text())
    config["datasets"] = {"simulated": {"n_cells": 420}}
    config["evaluation"]["bootstrap"] = 100
    search = {"trials": 2, "folds": 2, "epochs": 1, "space": {"learning_rate": [1e-2, 1e-3]}}
    config["experiments"]["espinosa"]["models"] = [{"cnn3": {"recipe": {"epochs": 1}, "tune": search}}]
    config["experiments"]["espinosa"]["losses"] = ["inv_weighted"]
    (project / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    # Nothing of the environment that runs the tests may be in reach.
    outside = [folder for folder in os.environ["PATH"].split(os.pathsep) if not folder.startswith(sys.prefix)]
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    environment |= {
        "PATH": os.pathsep.join([str(CONDA / "bin"), str(host / "bin"), *outside]),
        "PYTHONDONTWRITEBYTECODE": "",
        "STAINFREE_MIRROR": str(mirror),
        "STAND_IN_UV": UV,
        "STAND_IN_LOCK": str(ROOT / "requirements.lock"),
        "WITNESS_RECORDS": str(project / "witnesses"),
    }
    run = subprocess.run(
        [host / "bin" / "snakemake", *TARGETS, "--sdm", "conda"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if run.returncode:
        raise AssertionError(f"snakemake ended with {run.returncode}:\n{run.stdout[-6000:]}")
    (project / "run.log").write_text(run.stdout)
    return project


@pytest.fixture(scope="module")
def built(project: Path) -> dict[str, Path]:
    """Environment -> the folder in which it was built."""
    ours = {path.read_text(): path.stem for path in (project / "envs").glob("*.yaml")}
    folder = project / ".snakemake" / "conda"
    return {ours[path.read_text()]: path.with_suffix("") for path in folder.glob("*.yaml")}


@pytest.fixture(scope="module")
def witnesses(project: Path) -> list[dict[str, object]]:
    """What every process in an environment said of itself."""
    return [json.loads(path.read_text()) for path in (project / "witnesses").glob("*.json")]


def scripts_of(witness: dict[str, object]) -> list[str]:
    """Name of the script that a process ran, if it ran one: Snakemake runs a copy, `tmpabcd.convert.py`."""
    return re.findall(r"/\.snakemake/scripts/\w+\.(\w+)\.py$", witness["arguments"][0])


def test_every_step_ran_in_its_environment(project: Path, built: dict[str, Path], witnesses: list) -> None:
    expected = {script: name for name, scripts in pin.environments().items() for script in scripts}
    log = (project / "run.log").read_text()
    ran = set(re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)$", log, re.MULTILINE)) & set(expected)
    prefixes = {str(prefix): name for name, prefix in built.items()}
    found = {script: prefixes[str(witness["prefix"])] for witness in witnesses for script in scripts_of(witness)}
    assert found == {script: expected[script] for script in ran}
    # ... the report's notebook too, which is a process of its own.
    kernels = [prefixes[str(witness["prefix"])] for witness in witnesses if "ipykernel" in witness["arguments"][0]]
    assert kernels == ["report"]
    assert sorted(set(found.values())) == sorted(path.stem for path in (ROOT / "envs").glob("*.yaml"))


@pytest.mark.parametrize("environment", sorted(path.stem for path in (ROOT / "envs").glob("*.yaml")))
def test_an_environment_holds_what_its_file_pins(built: dict[str, Path], environment: str) -> None:
    python = built[environment] / "bin" / "python"
    listed = subprocess.run([UV, "pip", "list", "--quiet", "--format=json", "--python", python], **TEXT)
    held = {f"{package['name']}=={package['version']}" for package in json.loads(listed.stdout)}
    told = yaml.safe_load((ROOT / "envs" / f"{environment}.yaml").read_text())["dependencies"]
    version = subprocess.run([python, "-c", "import platform; print(platform.python_version())"], **TEXT).stdout.strip()
    world = {"python_version": ".".join(version.split(".")[:2]), "python_full_version": version}
    pins = [Requirement(line) for line in told[-1]["pip"]]
    pinned = {f"{one.name}{one.specifier}" for one in pins if one.marker is None or one.marker.evaluate(world)}
    locked = {line for about in pin.read_lock().values() for line in about.lines}
    assert pinned <= held <= locked
    # An older Python than the file names may need more, which the lock pins.
    if told[0] == f"python ={world['python_version']}":
        assert held == pinned


def test_no_step_takes_a_module_from_the_host(host: Path, witnesses: list) -> None:
    code = f"{PREAMBLE}print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    preamble = set(json.loads(subprocess.run([host / "bin" / "python", "-c", code], **TEXT).stdout))
    stepped = [witness for witness in witnesses if scripts_of(witness)]
    assert stepped
    for witness in stepped:
        taken = {name for name, file in witness["modules"].items() if file.startswith(f"{host}{os.sep}")}
        assert "snakemake" in taken  # the preamble's own
        assert taken <= preamble, scripts_of(witness)
        imported = pin.imported_modules(pin.loaded_modules(scripts_of(witness)[0]))
        assert not taken & imported, scripts_of(witness)
