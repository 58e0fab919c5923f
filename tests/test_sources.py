"""The files a conversion depends on are listed at the cost of the standard library, and a missing one is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import stainfree
from stainfree import sources
from stainfree.errors import ConfigError
from stainfree.sources import fingerprint, source_files


def _touch(root: Path, *names: str) -> list[str]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return sorted(str(root / name) for name in names)


def test_pictures_of_a_folder_at_the_depth_of_its_layout(tmp_path: Path) -> None:
    wanted = _touch(tmp_path, "G1/b.png", "G1/a.TIF", "S/c d.jpeg", "S/[x].jpg")
    _touch(tmp_path, "G1/notes.txt", "G1/.hidden.png", "__MACOSX/a.png", "top.png", ".git/a.png", "G1/deep/a.png")
    (tmp_path / "S" / "folder.png").mkdir()
    description = {"kind": "folder", "path": str(tmp_path)}
    assert source_files(description) == wanted
    assert source_files(description | {"layout": "{source}/{folder}/{id}.png"}) == [str(tmp_path / "G1/deep/a.png")]


def test_one_file(tmp_path: Path) -> None:
    (name,) = _touch(tmp_path, "cells.h5")
    assert source_files({"kind": "hdf5", "path": name}) == [name]
    # A path laid over a public data set stands for the file that would be fetched.
    assert source_files({"kind": "archive", "path": name, "files": [{"path": "BBBC048v1.zip"}]}) == [name]


def test_pairs(tmp_path: Path) -> None:
    names = _touch(tmp_path, "x.npy", "y.npy", "z/x.npy", "z/y.npy")
    pairs = {"a": {"images": "x.npy", "labels": "y.npy"}, "b": {"images": "z/x.npy", "labels": "z/y.npy"}}
    assert source_files({"kind": "arrays", "path": str(tmp_path), "pairs": pairs}) == names


def test_own_montages(tmp_path: Path) -> None:
    names = _touch(tmp_path, "E1/G1/Ch3_M.tif", "E1/G1/Ch4_M.tif")
    files = [{"path": "E1/G1/Ch4_M.tif"}, {"path": "E1/G1/Ch3_M.tif"}]
    assert source_files({"kind": "montage", "path": str(tmp_path), "files": files}) == names
    _touch(tmp_path, "E1/notes.tif", "E1/G1/notes.txt")
    layout = "{source}/{folder}/{channel}_{montage}.tif"
    assert source_files({"kind": "montage", "path": str(tmp_path), "layout": layout}) == names


def test_nothing_where_cells_are_fetched_or_made() -> None:
    assert source_files({"kind": "simulated"}) == []
    assert source_files({"kind": "archive", "files": [{"path": "a.zip"}]}) == []


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (name,) = _touch(tmp_path, "cells.h5")
    assert source_files({"kind": "hdf5", "path": "~/cells.h5"}) == [name]


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "folder"}, "kind folder needs `path`: where your cells lie; add it"),
        ({"kind": "hdf5", "path": "{root}/no.h5"}, r"`path` .*no\.h5: no such file; correct it"),
        ({"kind": "folder", "path": "{root}/no"}, r"`path` .*no: no such folder; correct it"),
        ({"kind": "hdf5", "path": "{root}"}, "is a folder, and kind hdf5 reads a file; correct it"),
        ({"kind": "folder", "path": "{root}/a.png"}, "is a file, and kind folder reads a folder; correct it"),
        ({"kind": "folder", "path": 3}, "`path`: 3 is no path; give the file or folder of your cells"),
        ({"kind": "folder", "path": ""}, "`path`: '' is no path"),
        ({"kind": "arrays", "path": "{root}"}, "kind arrays needs `pairs`: {source: {images: x.npy"),
        (
            {"kind": "arrays", "path": "{root}", "pairs": {"a": {"images": "a.png"}}},
            r"`pairs\.a`: .* images and labels",
        ),
        (
            {"kind": "arrays", "path": "{root}", "pairs": {"a": {"images": "a.png", "labels": "y.npy"}}},
            r"y\.npy: no such file; put it there",
        ),
        ({"kind": "montage", "path": "{root}"}, "kind montage needs `layout`, such as .*; add it"),
        ({"kind": "montage", "path": "{root}", "files": [{"path": "M.tif"}]}, r"M\.tif: no such file; put it there"),
    ],
)
def test_what_is_not_there(tmp_path: Path, description: dict[str, Any], message: str) -> None:
    _touch(tmp_path, "a.png")
    path = description.get("path")
    if isinstance(path, str):
        description = description | {"path": path.replace("{root}", str(tmp_path))}
    with pytest.raises(ConfigError, match=message) as caught:
        source_files(description)
    assert "\n" not in str(caught.value)


def test_fingerprint_follows_names_contents_and_times(tmp_path: Path) -> None:
    names = _touch(tmp_path, "G1/a.png", "G1/b.png")
    description = {"kind": "folder", "path": str(tmp_path)}
    seen = [fingerprint(description)]
    assert fingerprint(description) == seen[0]
    _touch(tmp_path, "G1/notes.txt")
    assert fingerprint(description) == seen[0]
    _touch(tmp_path, "G1/c.png")
    seen.append(fingerprint(description))
    os.utime(names[0], ns=(0, 1))
    seen.append(fingerprint(description))
    Path(names[1]).rename(tmp_path / "G1" / "d.png")
    seen.append(fingerprint(description))
    assert len(set(seen)) == 4


def test_module_needs_the_standard_library_alone() -> None:
    program = (
        "import importlib.util, sys; before = set(sys.modules)\n"
        f"spec = importlib.util.spec_from_file_location('sources', {sources.__file__!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(stainfree.__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['stainfree']"
