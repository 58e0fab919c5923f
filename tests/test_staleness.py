"""The digest of a step's code: it changes with what the step runs, and with nothing else.

What follows from it in a plan of the workflow is tested in test_reruns.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stainfree import staleness


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small library: a script that imports `core`, which imports `low`; `other` is reached by nobody."""
    library = tmp_path / "stainfree"
    (library / "models").mkdir(parents=True)
    sources = {
        "__init__.py": "",
        "core.py": '"""Core."""\n\nfrom stainfree import low\n\n\ndef run():\n    """Run."""\n    return low.X\n',
        "low.py": "X = 1  # one\n",
        "other.py": "Y = 2\n",
        "models/__init__.py": "",
        "models/net.py": "from stainfree import low\n\nZ = 3\n",
    }
    for name, text in sources.items():
        (library / name).write_text(text)
    (tmp_path / "step.py").write_text("def main():\n    from stainfree.core import run\n\n    run()\n")
    (tmp_path / "env.yaml").write_text("dependencies:\n  - pip:\n      - numpy==1.0\n")
    (tmp_path / "lock").write_text("numpy==1.0 \\\n    --hash=sha256:0\ntorch==2.0 ; python_version > '3'\n")
    return library


def digest(library: Path, *plugins: str) -> str:
    folder = library.parent
    return staleness.code_digest(
        folder / "step.py",
        plugins=[library / plugin for plugin in plugins],
        environment=folder / "env.yaml",
        lock=folder / "lock",
        library=library,
    )


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("stainfree/core.py", '"""Core."""', '"""Heart."""'),
        ("stainfree/core.py", '"""Run."""', '"""Walk."""'),
        ("stainfree/low.py", "# one", "# uno"),
        ("stainfree/other.py", "Y = 2", "Y = 3"),
        ("stainfree/models/net.py", "Z = 3", "Z = 4"),
        ("lock", "torch==2.0", "torch==2.1"),
        ("lock", "sha256:0", "sha256:1"),
    ],
)
def test_what_the_step_does_not_run_changes_nothing(package: Path, file: str, old: str, new: str) -> None:
    before = digest(package)
    edit(package.parent / file, old, new)
    assert digest(package) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("step.py", "run()", "run() or run()"),
        ("stainfree/core.py", "return low.X", "return low.X + 1"),
        ("stainfree/low.py", "X = 1", "X = 2"),
        ("stainfree/models/net.py", "Z = 3", "Z = 4"),
        ("lock", "numpy==1.0", "numpy==1.1"),
    ],
)
def test_what_the_step_runs_changes_the_digest(package: Path, file: str, old: str, new: str) -> None:
    before = digest(package, "models/net.py")
    edit(package.parent / file, old, new)
    assert digest(package, "models/net.py") != before


def test_a_notebook_counts_with_what_it_imports(package: Path) -> None:
    cells = [{"cell_type": "markdown", "source": "from here"}, {"cell_type": "code", "source": ["import ", "os\n"]}]
    cells.append({"cell_type": "code", "source": "from stainfree import other\nother.Y"})
    (package.parent / "page.ipynb").write_text(json.dumps({"cells": cells}))
    before = digest(package, "../page.ipynb")
    edit(package / "other.py", "Y = 2", "Y = 3")
    assert digest(package, "../page.ipynb") != before


def test_documentation_of_fields_is_no_code() -> None:
    bare = "class A:\n    x: int\n"
    told = 'class A:\n    """An A."""\n\n    x: int\n    """The x."""\n'
    assert staleness.code_text(bare) == staleness.code_text(told)
    assert staleness.code_text(bare) != staleness.code_text(bare.replace("int", "str"))


def test_a_pin_that_the_lock_lacks_is_refused(package: Path) -> None:
    edit(package.parent / "env.yaml", "numpy==1.0", "numpy==1.0\n      - scipy==1.0")
    with pytest.raises(ValueError, match="scipy is not in lock"):
        digest(package)
