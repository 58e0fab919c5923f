"""The digest of the code behind a step, by which a change makes stale what depends on it and nothing else.

Snakemake follows a step's script and its declared files. The library behind the script, the model family and the loss
that it looks up by name, and the versions of the packages it runs on are followed by this digest, which each rule
carries as a parameter.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).parent


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the dotted names below `package` that a module imports, at the top or inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name == package or name.startswith(f"{package}."))


def _find(name: str, root: Path) -> Path | None:
    """Return the file of the dotted name below the folder `root`, which holds the package."""
    path = root.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _code(path: Path) -> str:
    """Return the Python of a script, a module or a notebook; nothing for any other file."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return path.read_text(encoding="utf-8") if path.suffix == ".py" else ""


@cache
def _imported(path: Path, modified_ns: int, package: str) -> frozenset[str]:
    """Return what a file imports below `package`; a plan asks for the same files once per job."""
    return frozenset(_imports(ast.parse(_code(path)), package))


def reached_modules(start: Iterable[Path], *, library: Path = LIBRARY) -> list[Path]:
    """Return the files of `start` and all library modules that they import, directly or through others, sorted."""
    waiting = list(start)
    reached: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        for name in _imported(path, path.stat().st_mtime_ns, library.name):
            found = _find(name, library.parent)
            if found is not None:
                waiting.append(found)
    return sorted(reached)


class _DropDocstrings(ast.NodeTransformer):
    def _strip(self, node: Any) -> Any:
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node

    visit_Module = visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _strip


def _is_text(node: ast.stmt) -> bool:
    """Tell a text that stands alone as a statement: documentation of a field, no code."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def code_text(source: str) -> str:
    """Return Python source without comments, docstrings and layout: what is left is what runs."""
    tree = _DropDocstrings().visit(ast.parse(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [child for child in node.body if not _is_text(child)] or [ast.Pass()]
    tree.body = [child for child in tree.body if not _is_text(child)]
    return ast.unparse(tree)


@cache
def _file_digest(path: Path, modified_ns: int) -> str:
    text = path.read_text(encoding="utf-8")
    return hashlib.sha256((code_text(text) if path.suffix == ".py" else text).encode()).hexdigest()


def pins(environment: Path, lock: Path) -> list[str]:
    """Return ``name==version`` from `lock` for every package that the environment file pins, sorted.

    Raises
    ------
    ValueError
        If the environment names a package that the lock does not have.
    """
    locked = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
    names = re.findall(r"^\s*-\s*([A-Za-z0-9_.-]+)==", environment.read_text(encoding="utf-8"), re.MULTILINE)
    missing = [name for name in names if name not in locked]
    if missing:
        raise ValueError(f"{environment}: {', '.join(missing)} is not in {lock.name}; compile the lock again")
    return sorted(f"{name}=={locked[name]}" for name in names)


def code_digest(
    script: Path,
    *,
    plugins: Iterable[Path] = (),
    environment: Path | None = None,
    lock: Path | None = None,
    library: Path = LIBRARY,
) -> str:
    """Return a digest of the code behind a step: it changes when, and only when, what the step runs changes.

    Parameters
    ----------
    script
        The step's script.
    plugins
        Files that the step looks up by name at run time, such as its model family, and a notebook that it runs.
    environment, lock
        The step's environment file and the lock: the versions of the packages it names are part of the digest.
    library
        Folder of the package that scripts import.

    Returns
    -------
    str
        16 hexadecimal digits. Comments, docstrings and time stamps do not enter.
    """
    parts = [
        f"{path.relative_to(library.parent) if path.is_relative_to(library) else path.name}"
        f":{_file_digest(path, path.stat().st_mtime_ns)}"
        for path in reached_modules([script, *plugins], library=library)
    ]
    if environment is not None and lock is not None:
        parts += pins(environment, lock)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
