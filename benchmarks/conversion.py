"""What conversion costs as data sets grow: resident memory and cells per second, per kind of source.

Every measurement runs in a process of its own, since peak memory is a process's. Nothing is asserted.

    python benchmarks/conversion.py [--cells N ...] [--kinds KIND ...]
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from _process import alone, peak_mib
from PIL import Image

from stainfree import files, provenance
from stainfree.cells import CHUNK_CELLS
from stainfree.datasets import Dataset, convert, simulated
from stainfree.datasets.duplicates import DuplicateFilter

SIDE = 66
KEYS = {"BF": "Ch3", "PI": "Ch4", "DF": "Ch6"}
MONTAGE_TILES = (40, 25)
# Simulated cells of which the others are made, and how they are moved for it.
SIMULATED_BATCHES = 6
SHIFTS = [(y, x) for y in (-3, 0, 3) for x in (-3, 0, 3)]
TURNS = 8
MOST_CELLS = SIMULATED_BATCHES * CHUNK_CELLS * len(SHIFTS) * TURNS


@dataclass(frozen=True)
class Cost:
    """What one measurement took."""

    source_mb: float
    seconds: float
    cpu_seconds: float
    peak_mib: float
    """Of the process that converts."""
    base_mib: float
    """Of the same process before it began, all imported."""
    n_kept: int
    """Cells that were no copies."""


def make_cells(n: int) -> Iterator[npt.NDArray[np.uint16]]:
    """Yield n different cells in batches (cell, channel, y, x) of 12 bits, holding few of them.

    Each simulated cell is turned, mirrored and moved by a few pixels in 72 ways, which no search for copies takes for
    one another: drawing each anew would take most of the time.
    """
    drawn = [
        simulated.simulate(["G1"] * CHUNK_CELLS, seed=0, first=batch * CHUNK_CELLS)[0]
        for batch in range(SIMULATED_BATCHES)
    ]
    ways = itertools.product(SHIFTS, range(TURNS), drawn)
    for start, (shift, turn, batch) in zip(range(0, n, CHUNK_CELLS), ways, strict=False):
        images = np.rot90(batch[: n - start], turn % 4, axes=(2, 3))
        yield np.ascontiguousarray(np.roll(images if turn < 4 else images[..., ::-1], shift, axis=(2, 3)))


def write_montages(folder: Path, n: int) -> dict[str, Any]:
    """Write montages of 1,000 tiles, one file per channel; return the description of the data set."""
    rows, columns = MONTAGE_TILES
    paths = []
    batches, waiting = make_cells(n), np.empty((0, len(KEYS), SIDE, SIDE), np.uint16)
    for number in range(math.ceil(n / (rows * columns))):
        while len(waiting) < rows * columns and (batch := next(batches, None)) is not None:
            waiting = np.concatenate([waiting, batch])
        # A blank tile is padding.
        tiles = np.zeros((rows * columns, len(KEYS), SIDE, SIDE), np.uint16)
        filled = min(len(tiles), len(waiting))
        tiles[:filled], waiting = waiting[:filled], waiting[filled:]
        grid = tiles.reshape(rows, columns, len(KEYS), SIDE, SIDE).transpose(2, 0, 3, 1, 4)
        for channel, key in enumerate(KEYS.values()):
            path = f"E1/G1/{key}_{number:04d}.tif"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / path, grid[channel].reshape(rows * SIDE, columns * SIDE))
            paths.append({"path": path})
    return {
        "kind": "montage",
        "tile": [SIDE, SIDE],
        "layout": "{source}/{folder}/{channel}_{montage}.tif",
        "stages": {"G1": "G1"},
        "dna_channel": "PI",
        "files": paths,
    }


def write_archive(folder: Path, n: int) -> dict[str, Any]:
    """Write a zip of JPEGs within a zip, laid out as BBBC048 is; return the description of the data set."""
    number = 0
    with zipfile.ZipFile(folder / "CellCycle.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for batch in make_cells(n):
            for image in batch:
                number += 1
                eight_bits = (image >> 4).astype(np.uint8)
                for key, plane in zip(KEYS.values(), eight_bits, strict=True):
                    packed.writestr(f"CellCycle/G1/{number}_{key}.ome.jpg", _jpeg(plane))
                packed.writestr(f"CellCycle/G1/{number}_merged.jpg", b"colours")
    with zipfile.ZipFile(folder / "cells.zip", "w", zipfile.ZIP_STORED) as outer:
        outer.write(folder / "CellCycle.zip", "CellCycle.zip")
    (folder / "CellCycle.zip").unlink()
    return {
        "kind": "archive",
        "bit_depth": 8,
        "inner": "CellCycle.zip",
        "layout": "{folder}/{id}_{channel}.ome.jpg",
        "dna_channel": "PI",
        "files": [{"path": "cells.zip"}],
    }


def _jpeg(plane: npt.NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(plane).save(out, "JPEG", quality=95)
    return out.getvalue()


def describe_simulated(folder: Path, n: int) -> dict[str, Any]:
    """Return the description of n simulated cells, which have no files."""
    return {"kind": "simulated", "n_cells": n, "seed": 0}


SOURCES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "montage": write_montages,
    "archive": write_archive,
    "simulated": describe_simulated,
}


def measure_conversion(description: dict[str, Any], folder: Path) -> Cost:
    """Convert the data set whose files lie in `folder`."""
    dataset = Dataset.from_config("measured", {"channels": KEYS, "bit_depth": 12} | description)
    base, began, cpu_began = peak_mib(), time.perf_counter(), time.process_time()
    convert(dataset, raw=folder, out=folder / "cells.h5", report=folder / "cells.json")
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    n_bytes = sum((folder / file.path).stat().st_size for file in dataset.files)
    return Cost(
        n_bytes / 1e6, seconds, cpu_seconds, peak_mib(), base, files.read_json(folder / "cells.json")["n_cells"]
    )


def measure_duplicates(n: int) -> Cost:
    """Look for copies among n cells, none of which is one; making the cells does not count."""
    find, seconds, cpu_seconds, base, seen, kept = DuplicateFilter(), 0.0, 0.0, 0.0, 0, 0
    for images in make_cells(n):
        # The first cells hold what the others are made of.
        base = base or peak_mib()
        ids = [f"cell{seen + row}" for row in range(len(images))]
        began, cpu_began = time.perf_counter(), time.process_time()
        kept += find(images, ids).count(None)
        seconds += time.perf_counter() - began
        cpu_seconds += time.process_time() - cpu_began
        seen += len(images)
    return Cost(0.0, seconds, cpu_seconds, peak_mib(), base, kept)


def measure(kind: str, n: int) -> Cost:
    """Make the source of n cells, convert it, and remove both."""
    if kind == "duplicates":
        return alone(measure_duplicates, n)
    with tempfile.TemporaryDirectory(prefix="stainfree-conversion-") as folder:
        description = alone(SOURCES[kind], Path(folder), n)
        return alone(measure_conversion, description, Path(folder))


def tell_growth(costs: dict[int, Cost]) -> None:
    """Print how time and memory grow from the fewest cells to the most."""
    few, many = min(costs), max(costs)
    memory = costs[many].peak_mib / costs[few].peak_mib
    per_cell = (costs[many].peak_mib - costs[few].peak_mib) * 1024 / (many - few)
    exponent = math.log(costs[many].cpu_seconds / costs[few].cpu_seconds) / math.log(many / few)
    print(
        f"  from {few:,} to {many:,} cells: memory x {memory:.2f} ({per_cell:.2f} KiB a cell), "
        f"CPU time as the number to the power of {exponent:.2f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[1000, 10_000, 100_000], help="numbers of cells")
    parser.add_argument("--kinds", nargs="+", default=[*SOURCES, "duplicates"], choices=[*SOURCES, "duplicates"])
    options = parser.parse_args()
    if max(options.cells) > MOST_CELLS:
        parser.error(f"--cells: at most {MOST_CELLS:,}")
    print(f"{provenance.cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run")
    print(f"cells of {SIDE} x {SIDE} pixels in {len(KEYS)} channels; memory in MiB, of one process each")
    for kind in options.kinds:
        print(f"\n{kind:12s}   cells  source MB  seconds  CPU s  cells/s  peak  before it  copies")
        costs = {}
        for n in sorted(set(options.cells)):
            cost = costs[n] = measure(kind, n)
            print(
                f"{n:20,d} {cost.source_mb:10,.1f} {cost.seconds:8.1f} {cost.cpu_seconds:6.1f} "
                f"{n / cost.seconds:8,.0f} {cost.peak_mib:5.0f} {cost.base_mib:10.0f} {n - cost.n_kept:7d}",
                flush=True,
            )
        if len(costs) > 1:
            tell_growth(costs)


if __name__ == "__main__":
    main()
