"""Write the pinned packages of every environment anew: what its scripts import and what that needs, as locked.

    python envs/pin.py            after a change of imports or of requirements.lock (``make lock`` calls it)
    python envs/pin.py --check    only say which files would change

Everything is worked out from the code, from the rules (which script runs where) and from requirements.lock (versions,
and by its ``# via`` notes which package needs which). So an environment holds all that its steps need and nothing else,
and all of it at the versions of the lock: conda's pip has nothing left to choose.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.markers import Marker

from stainfree import staleness

ROOT = Path(__file__).resolve().parent.parent
# Used through another package, without an import of ours.
USED_THROUGH = {
    "pandas": {"pyarrow"},  # reads and writes Parquet with it
    "papermill": {"ipykernel"},  # runs the report's notebook in it
}
PLATFORMS = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))


@dataclass(frozen=True)
class Locked:
    """What requirements.lock says of one package."""

    lines: dict[str, str] = field(default_factory=dict)
    """Requirement, such as ``numpy==2.4.6`` -> the marker that says where it holds, or an empty text."""
    needed_by: set[str] = field(default_factory=set)


@cache
def read_lock(path: Path = ROOT / "requirements.lock") -> dict[str, Locked]:
    """Read the lock: name of each package -> its versions, and the packages that need it."""
    lock: dict[str, Locked] = defaultdict(Locked)
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if pin := re.match(r"([\w.-]+)==[^\s;\\]+", line):
            name = pin[1]
            lock[name].lines[pin[0]] = line.removeprefix(pin[0]).strip(" ;\\")
        elif parent := re.match(r" +#(?: via)? +([\w.-]+)$", line):
            lock[name].needed_by.add(parent[1])
    return dict(lock)


def closure(packages: Iterable[str]) -> set[str]:
    """Return the packages and all that they need."""
    found = set(packages)
    while more := {name for name, about in read_lock().items() if about.needed_by & found} - found:
        found |= more
    return found


def environments() -> dict[str, list[str]]:
    """Return which scripts run in which environment, as the rules say."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        pairs = re.findall(r'/envs/(\w+)\.yaml"(?:(?!\n *rule\b).)*?/scripts/(\w+)\.py"', path.read_text(), re.DOTALL)
        for environment, script in pairs:
            found[environment].append(script)
    return dict(found)


def loaded_modules(script: str) -> list[Path]:
    """Return the files of the project that a script may load: those it looks up by name, and its notebook, too."""
    notebook = ROOT / "notebooks" / f"{script}.ipynb"
    start = [ROOT / "scripts" / "_step.py", ROOT / "scripts" / f"{script}.py"]
    reached = staleness.reached_modules([*start, notebook] if notebook.is_file() else start)
    by_name = [path for path in reached if path.name == "__init__.py" and "import_module(" in path.read_text()]
    named = [file for path in by_name for file in path.parent.glob("*.py")]
    return [path for path in staleness.reached_modules([*reached, *named]) if path.suffix == ".py"]


@cache
def packages_of_modules() -> dict[str, str]:
    """Return the package that each top-level module of this environment comes from."""
    return {module: names[0].lower().replace("_", "-") for module, names in packages_distributions().items()}


def imported_modules(paths: Iterable[Path]) -> set[str]:
    """Return the top-level modules outside the project and the standard library that files import, wherever in them."""
    tops = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                tops |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                tops.add(node.module.split(".")[0])
    return tops - set(sys.stdlib_module_names) - {"stainfree", "_step"}


def imported_packages(paths: Iterable[Path]) -> set[str]:
    """Return the packages outside the project and the standard library that files import."""
    return {packages_of_modules()[module] for module in imported_modules(paths)}


def direct(environment: str) -> set[str]:
    """Return the packages that the scripts of an environment import, and those used through them."""
    found = {name for script in environments()[environment] for name in imported_packages(loaded_modules(script))}
    return found.union(*(USED_THROUGH.get(name, set()) for name in found))


def pinned(packages: Iterable[str], python: str) -> list[str]:
    """Return the locked requirement lines of packages that hold somewhere under a Python version, sorted."""
    worlds = [
        {
            "python_version": python,
            "python_full_version": f"{python}.0",
            "sys_platform": system,
            "platform_machine": machine,
            "platform_system": system.capitalize(),
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }
        for system, machine in PLATFORMS
    ]
    return [
        f"{pin} ; {marker}" if marker else pin
        for name in sorted(packages)
        for pin, marker in read_lock()[name].lines.items()
        if not marker or any(Marker(marker).evaluate(world) for world in worlds)
    ]


def environment_text(environment: str) -> str:
    """Return what an environment file should hold: its own head, and its packages as locked."""
    path = ROOT / "envs" / f"{environment}.yaml"
    head = path.read_text(encoding="utf-8").partition("  - pip:\n")[0]
    python = re.search(r"- python =([\d.]+)", head)
    if python is None:
        raise SystemExit(f"{path}: names no Python version; write `- python =3.12` under its dependencies")
    imported = direct(environment)
    lines = ["  - pip:", "      # what the steps import"]
    lines += [f"      - {pin}" for pin in pinned(imported, python[1])]
    lines += ["      # what that needs"]
    lines += [f"      - {pin}" for pin in pinned(closure(imported) - imported, python[1])]
    return head + "\n".join(lines) + "\n"


def main() -> None:
    """Write, or with ``--check`` compare, the environment files."""
    stale = []
    for environment in environments():
        path = ROOT / "envs" / f"{environment}.yaml"
        text = environment_text(environment)
        if path.read_text(encoding="utf-8") != text:
            stale.append(f"envs/{path.name}")
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"{', '.join(stale)} differ from what their scripts need; run `python envs/pin.py`")


if __name__ == "__main__":
    main()
