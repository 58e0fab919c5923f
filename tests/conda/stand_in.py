"""A stand-in for conda that answers what ``snakemake --sdm conda`` asks, for machines without conda.

What conda's pip would install, uv installs from the same package index, into a virtual environment of its own. Only
Python itself differs: conda-forge's is replaced by one of this machine, of the version that the file names where there
is one. Every environment gets a witness (see witness.py). It reads the variables ``STAND_IN_UV`` (the command) and
``STAND_IN_LOCK`` (versions and hashes for what an environment file leaves open, which is nothing under its own Python).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent


def uv(*arguments: str) -> None:
    """Run uv; end with its message where it fails."""
    run = subprocess.run([os.environ["STAND_IN_UV"], *arguments], stderr=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit(run.stderr)


def create(file: Path, prefix: Path) -> None:
    """Build the environment that a file describes."""
    told = yaml.safe_load(file.read_text(encoding="utf-8"))
    match told:
        case {"channels": ["conda-forge", "nodefaults"], "dependencies": [python, "pip", {"pip": [*packages]}]}:
            version = python.removeprefix("python =")
        case _:
            sys.exit(f"{file}: the stand-in for conda knows only Python from conda-forge and a pip section")
    finds = subprocess.run([os.environ["STAND_IN_UV"], "python", "find", "--no-python-downloads", version])
    uv("venv", "--quiet", "--python", version if finds.returncode == 0 else sys.executable, str(prefix))
    requirements = prefix / "requirements.txt"
    requirements.write_text("\n".join(packages) + "\n", encoding="utf-8")
    into = ["--python", str(prefix / "bin" / "python"), "--constraint", os.environ["STAND_IN_LOCK"]]
    uv("pip", "install", "--quiet", *into, "--requirement", str(requirements))
    (packages_folder,) = prefix.glob("lib/python*/site-packages")
    shutil.copy2(HERE / "witness.py", packages_folder)
    (packages_folder / "witness.pth").write_text("import witness\n", encoding="utf-8")


match sys.argv[1:]:
    case ["info", "--json"]:
        print(json.dumps({"conda_prefix": str(HERE), "platform": "linux-64"}))
    case ["--version"]:
        print("conda 24.7.1")  # the oldest that Snakemake takes
    case ["config", "--get", "channel_priority", "--json"]:
        print(json.dumps({"get": {"channel_priority": "strict"}}))
    case ["env", "create", *options]:
        parser = argparse.ArgumentParser()
        parser.add_argument("--file", type=Path, required=True)
        parser.add_argument("--prefix", type=Path, required=True)
        parser.add_argument("--quiet", action="store_true")
        parser.add_argument("--no-default-packages", action="store_true")
        given = parser.parse_args(options)
        create(given.file, given.prefix)
    case ["clean", *_]:
        pass  # uv's cache is not conda's to clean
    case other:
        sys.exit(f"the stand-in for conda does not know `conda {' '.join(other)}`")
