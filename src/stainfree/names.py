"""Names that a user writes: files that are looked up by their name, and the nearest name to a slip of the pen."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from stainfree.errors import ConfigError


def nearest(word: str, valid: Iterable[str]) -> str:
    """Return ``; did you mean `x`?`` for the valid word most like `word`, or nothing."""
    near = difflib.get_close_matches(word, list(valid), n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


def files_by_name(folder: Path) -> dict[str, Path]:
    """Return name -> Python file of a folder, sorted; files that begin with ``_`` have no name of this sort."""
    return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}


def find_file(folder: Path, name: str, *, what: str) -> Path:
    """Return the file that defines `name`.

    Parameters
    ----------
    what
        How messages call it, such as ``loss``.

    Raises
    ------
    ConfigError
        If there is none; the nearest that exists is named.
    """
    there = files_by_name(folder)
    if name not in there:
        raise ConfigError(f"unknown {what} `{name}`{nearest(name, there)} (there are: {', '.join(there)})")
    return there[name]
