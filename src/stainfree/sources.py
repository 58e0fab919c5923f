"""Which files of a user's own a data set is made of: what a conversion depends on.

Importing this module costs nothing but the standard library, so that a plan can be made with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stainfree.errors import ConfigError

_SHARED = {"download", "duplicates", "pictures", "zips"}
"""Modules of `stainfree.datasets` that serve all kinds of source and read none."""

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
"""Endings, in lower case, of the files that a folder of pictures is read from."""

DEFAULT_LAYOUT = "{folder}/{id}"
"""Layout of a folder in which a file holds all channels of a cell, whatever its ending."""


def kinds() -> tuple[str, ...]:
    """Return the kinds of source that can be read, in alphabetical order: the modules of `stainfree.datasets`."""
    modules = (Path(__file__).parent / "datasets").glob("[a-z]*.py")
    return tuple(sorted(module.stem for module in modules if module.stem not in _SHARED))


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
    elif kind == "cytometer":
        found = [path / name for sample in samples(description).values() for name in sample.values()]
    elif path.is_file():
        found = [path]
    elif kind == "montage" and not description.get("files"):
        found = pictures(path, layout=_montage_layout(description))
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


def samples(description: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """Return source -> names of its files, of a description of kind cytometer.

    Each has ``images``, a .cif or .rif file, and what tells the stages: either ``daf`` or ``labels``, a .csv file.

    Raises
    ------
    ConfigError
        If ``samples`` is missing, or one of them lacks a name or has another.
    """
    given = description.get("samples")
    if not isinstance(given, Mapping) or not given:
        raise ConfigError("a data set of kind cytometer needs `samples`: {source: {images: x.cif, daf: x.daf}}; add it")
    for source, sample in given.items():
        named = (
            set(sample) if isinstance(sample, Mapping) and all(isinstance(v, str) for v in sample.values()) else None
        )
        if named not in ({"images", "daf"}, {"images", "labels"}):
            raise ConfigError(
                f"`samples.{source}`: {sample!r} must have the key images, a .cif or .rif file, and either daf, a .daf "
                "file, or labels, a .csv file; correct it"
            )
    return {str(source): sample for source, sample in given.items()}


def _montage_layout(description: Mapping[str, Any]) -> str:
    """Return the ``layout`` of a user's own montages."""
    layout = description.get("layout")
    if not isinstance(layout, str):
        raise ConfigError("a data set of kind montage needs `layout`, such as {folder}/{channel}_{montage}.tif; add it")
    return layout


def _path(description: Mapping[str, Any]) -> Path | None:
    """Return the ``path`` of a description as a path that is there and of the sort that its kind needs."""
    kind, given = description.get("kind"), description.get("path")
    if given is None:
        if kind in ("folder", "archive", "arrays", "hdf5", "montage", "cytometer") and not description.get("files"):
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
