"""The environments of the steps hold what the steps need, as locked, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import packages_distributions

import pin
import pytest
import yaml
from conftest import ROOT

LOCKED = set(re.findall(r"^[\w.-]+==[^\s;\\]+", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
ENVIRONMENTS = sorted(path.stem for path in (ROOT / "envs").glob("*.yaml"))
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("[a-z]*.py"))
RULES = {script: environment for environment, scripts in pin.environments().items() for script in scripts}


def pins(environment: str) -> dict[str, str]:
    """Package -> version that an environment file names."""
    told = yaml.safe_load((ROOT / "envs" / f"{environment}.yaml").read_text())
    (pip,) = [item["pip"] for item in told["dependencies"] if isinstance(item, dict)]
    return dict(line.partition(" ;")[0].split("==") for line in pip)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_pins_are_those_of_the_lock(environment: str) -> None:
    assert {f"{name}=={version}" for name, version in pins(environment).items()} <= LOCKED


def test_every_script_has_a_rule_of_its_name_and_every_environment_a_script() -> None:
    assert sorted(RULES) == SCRIPTS
    assert sorted(set(RULES.values())) == ENVIRONMENTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_finds_all_it_imports_in_its_environment(script: str) -> None:
    missing = pin.imported_packages(pin.loaded_modules(script)) - set(pins(RULES[script]))
    assert not missing, f"envs/{RULES[script]}.yaml lacks {missing}; run `python envs/pin.py`"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_holds_what_its_scripts_need_and_nothing_else(environment: str) -> None:
    written = (ROOT / "envs" / f"{environment}.yaml").read_text()
    assert written == pin.environment_text(environment), "run `python envs/pin.py`"


class TestWhatAScriptNeeds:
    """What `pin` works out, held against facts that it does not read."""

    def test_what_is_looked_up_by_name_counts(self) -> None:
        modules = pin.loaded_modules("train")
        assert ROOT / "src/stainfree/models/cnn3.py" in modules
        assert ROOT / "src/stainfree/datasets/montage.py" not in modules
        assert {"tifffile", "pillow"} <= pin.direct("data")

    def test_what_packages_need_counts(self) -> None:
        assert {"numba", "scikit-learn", "scipy"} <= pin.closure({"umap-learn"})
        assert pin.closure({"numpy"}) == {"numpy"}

    def test_torch_is_where_networks_are_trained_or_explained_only(self) -> None:
        assert [name for name in ENVIRONMENTS if "torch" in pins(name)] == ["explain", "train", "tune"]

    def test_optuna_is_where_settings_are_searched_only(self) -> None:
        assert [name for name in ENVIRONMENTS if "optuna" in pins(name)] == ["tune"]

    def test_no_step_needs_snakemake_or_a_tool_of_the_tests(self) -> None:
        for environment in ENVIRONMENTS:
            assert not {"snakemake", "pytest", "ruff", "stainfree"} & set(pins(environment)), environment

    def test_lines_hold_under_the_python_of_the_environment(self) -> None:
        # The lock has one contourpy for Python 3.11 and one for what comes after.
        old, new = (pin.pinned({"contourpy"}, python) for python in ("3.11", "3.12"))
        assert len(old) == len(new) == 1
        assert old != new
        assert not pin.pinned({"colorama"}, "3.12")  # for Windows


def test_reading_the_workflow_needs_nothing_but_snakemake() -> None:
    """What the rules import is there in an environment that holds snakemake alone."""
    rules = "\n".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
    imports = "\n".join(re.findall(r"^from stainfree\S* import (?:\([^)]*\)|.*)$", rules, re.MULTILINE))
    assert "config" in imports
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); start = set(sys.modules)\n{imports}\n"
    code += "print(*{name.partition('.')[0] for name in set(sys.modules) - start})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    known = pin.packages_of_modules()
    loaded = {known[module] for module in run.stdout.split() if module in known} - {"stainfree"}
    assert loaded <= pin.closure({"snakemake"})


def test_the_lock_names_no_index() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()


def test_scripts_are_glue() -> None:
    for path in (ROOT / "scripts").glob("[a-z]*.py"):
        assert len(path.read_text().splitlines()) <= 45, path.name


def test_no_script_has_the_name_of_a_package() -> None:
    # Steps find their folder first: torch once imported our `tabulate` for the package of that name.
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert not scripts & {*packages_distributions(), *sys.stdlib_module_names}
