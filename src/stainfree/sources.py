"""Which files of a user's own a data set is made of: what a conversion depends on.

Importing this module costs nothing but the standard library, so that a plan can be made with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stainfree.errors import ConfigError

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
"""Endings, in lower case, of the files that a folder of pictures is read from."""

DEFAULT_LAYOUT = "{folder}/{id}"
"""Layout of a folder in which a file holds all channels of a cell, whatever its ending."""


def source_files(description: Mapping[str, Any]) -> list[str]:
    """List the files that a user's own data set is read from.

    Parameters
    ----------
    description
        The mapping of the data set in the config, of any kind.

    Returns
    -------
    list of str
        Sorted paths; empty where the description has no ``path``: such a data set is fetched or made.

    Raises
    ------
    ConfigError
        If ``path`` is missing where its kind needs one, or nothing is there.
    """
    path = _path(description)
    if path is None:
        return []
    kind = description.get("kind")
    if kind == "folder":
        found = pictures(path, layout=description.get("layout", DEFAULT_LAYOUT))
    elif kind == "arrays":
        found = [path / pair[key] for pair in array_pairs(description).values() for key in ("images", "labels")]
    elif path.is_file():
        found = [path]
    else:
        found = [path / entry["path"] for entry in description.get("files", ())]
    _refuse_missing(found)
    return sorted(str(file) for file in found)


def fingerprint(description: Mapping[str, Any]) -> str:
    """Return a digest of names, sizes and times of the files that `source_files` lists.

    It changes when a file is added, removed or written: one short value in place of a hundred thousand inputs of a job.

    Raises
    ------
    ConfigError
        As `source_files` does.
    """
    lines = hashlib.sha256()
    for file in source_files(description):
        status = Path(file).stat()
        lines.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return lines.hexdigest()


def pictures(folder: Path, *, layout: str) -> list[Path]:
    """Return the pictures at the depth of `layout` below a folder, sorted; hidden files and folders are none."""
    levels = "/".join("*" * (layout.count("/") + 1))
    return sorted(
        path
        for path in folder.glob(levels)
        if path.suffix.lower() in PICTURE_SUFFIXES
        and not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def array_pairs(description: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """Return source -> file names of its ``images`` and ``labels``, of a description of kind arrays.

    Raises
    ------
    ConfigError
        If ``pairs`` is missing or lacks a name.
    """
    pairs = description.get("pairs")
    if not isinstance(pairs, Mapping) or not pairs:
        raise ConfigError("a data set of kind arrays needs `pairs`: {source: {images: x.npy, labels: y.npy}}; add it")
    for source, pair in pairs.items():
        if not isinstance(pair, Mapping) or set(pair) != {"images", "labels"}:
            raise ConfigError(
                f"`pairs.{source}`: {pair!r} must have the keys images and labels, both names of .npy files"
            )
    return {str(source): pair for source, pair in pairs.items()}


def _path(description: Mapping[str, Any]) -> Path | None:
    """Return the ``path`` of a description as a path that is there and of the sort that its kind needs."""
    kind, given = description.get("kind"), description.get("path")
    if given is None:
        if kind in ("folder", "archive", "arrays", "hdf5") and not description.get("files"):
            raise ConfigError(f"a data set of kind {kind} needs `path`: where your cells lie; add it")
        return None
    if not isinstance(given, str) or not given:
        raise ConfigError(f"`path`: {given!r} is no path; give the file or folder of your cells")
    path = Path(given).expanduser()
    is_file = kind in ("archive", "hdf5")
    if not (path.is_file() if is_file else path.is_dir()):
        what = f"no such {'file' if is_file else 'folder'}"
        if path.exists():
            what = f"is a {'folder' if is_file else 'file'}, and kind {kind} reads a {'file' if is_file else 'folder'}"
        raise ConfigError(f"`path` {given}: {what}; correct it")
    return path


def _refuse_missing(paths: list[Path]) -> None:
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; put it there, or correct `path` or what names it")
