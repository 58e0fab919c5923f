"""The environments of the steps agree with the lock and with what the steps import."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from stainfree import staleness

LOCKED = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
RULES = {
    name: environment
    for path in (ROOT / "workflow" / "rules").glob("*.smk")
    for environment, name in re.findall(
        r'conda:\s+"\.\./\.\./envs/(\w+)\.yaml".*?script:\s+"\.\./\.\./scripts/(\w+)\.py"', path.read_text(), re.DOTALL
    )
}


def pins(environment: str) -> dict[str, str]:
    told = yaml.safe_load((ROOT / "envs" / f"{environment}.yaml").read_text())
    (pip,) = [item["pip"] for item in told["dependencies"] if isinstance(item, dict)]
    return dict(pin.split("==") for pin in pip)


def imported_distributions(paths: list[Path]) -> set[str]:
    """Distributions outside the project that the files import."""
    tops = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                tops |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                tops.add(node.module.split(".")[0])
    outside = tops - set(sys.stdlib_module_names) - {"stainfree", "_step"}
    known = packages_distributions()
    return {known[top][0].lower().replace("_", "-") for top in outside}


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.stem)
def test_pins_are_those_of_the_lock(path: Path) -> None:
    for name, version in pins(path.stem).items():
        assert LOCKED[name] == version, name


def test_every_script_has_a_rule_of_its_name() -> None:
    scripts = {path.stem for path in (ROOT / "scripts").glob("[a-z]*.py")}
    assert set(RULES) == scripts


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "scripts").glob("[a-z]*.py")))
def test_a_script_finds_all_it_imports_in_its_environment(script: str) -> None:
    plugins = [*(ROOT / "src/stainfree/models").glob("[a-z]*.py"), *(ROOT / "src/stainfree/losses").glob("[a-z]*.py")]
    if script == "convert":
        plugins = list((ROOT / "src/stainfree/datasets").glob("[a-z]*.py"))
    elif script not in ("train", "saliency"):
        plugins = []
    reached = staleness.reached_modules([ROOT / "scripts" / f"{script}.py", *plugins])
    missing = imported_distributions(reached) - set(pins(RULES[script]))
    assert not missing, f"envs/{RULES[script]}.yaml lacks {missing}"


def test_the_lock_names_no_index() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()


def test_scripts_are_glue() -> None:
    for path in (ROOT / "scripts").glob("[a-z]*.py"):
        assert len(path.read_text().splitlines()) <= 45, path.name
