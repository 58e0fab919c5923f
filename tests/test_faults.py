"""Bad days: a full disk, a folder that is not ours, spoilt files; each ends in one line, and the next run goes on."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import yaml
from conftest import copy_project, missing, snakemake
from PIL import Image
from test_download import CONTENT, PATH, Handler, Server, _dataset, _download, serving
from test_download import server as server

from stainfree import checkpoints, files

CELLS = "data/simulated.h5"
SPLIT = "results/simulated/espinosa/holdout/split.parquet"
MODEL = "results/simulated/espinosa/holdout/cnn3/inv_weighted/model.json"


def configure(project: Path, **simulated: object) -> None:
    """Few cells, and a short training of one model."""
    config = yaml.safe_load((project / "config.yaml").read_text())
    config["datasets"] = {"simulated": {"n_cells": 420, **simulated}}
    espinosa = config["experiments"]["espinosa"]
    espinosa["models"] = [{"cnn3": {"recipe": {"epochs": 1}}}]
    espinosa["losses"] = ["inv_weighted"]
    espinosa["variants"]["kfold"]["split"]["folds"] = 60
    for key in ("study", "explain"):
        espinosa.pop(key, None)
    (project / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose cells are converted and split."""
    project = copy_project(tmp_path_factory.mktemp("converted") / "project")
    configure(project)
    snakemake(project, SPLIT)
    return project


@pytest.fixture
def copy(converted: Path, tmp_path: Path) -> Path:
    shutil.copytree(converted, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def mounted(options: str, project: Path, folder: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run snakemake where `folder` is a file system of its own, seen by this run alone; skip where none may be made."""
    (project / folder).mkdir(parents=True, exist_ok=True)
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    # Not empty: snakemake removes empty folders of failed jobs, and cannot remove this one.
    script = 'mount -t tmpfs -o "$0" none "$1" || exit 77; touch "$1/.kept" 2>/dev/null; shift; exec "$@"'
    command = [sys.executable, "-m", "snakemake", *arguments]
    try:
        run = subprocess.run(
            [*unshare, "sh", "-c", script, options, folder, *command],
            cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
        )  # fmt: skip
    except FileNotFoundError:
        missing("install util-linux (unshare, mount) to test on a full and on a read-only disk")
    if run.returncode == 77 or "unshare failed" in run.stdout:
        missing("run as root, or allow user namespaces, to test on a full and on a read-only disk")
    return run


def the_error(run: subprocess.CompletedProcess[str]) -> str:
    """The one line by which a failed run tells what is wrong."""
    assert run.returncode != 0
    assert "Traceback" not in run.stdout
    (line,) = [line for line in run.stdout.splitlines() if re.match(r"\[\w+\] .*[Ee]rror", line)]
    return line


def leftovers(project: Path) -> list[Path]:
    return [path for path in project.rglob("*.part*") if ".snakemake" not in path.parts]


class TestFullDisk:
    @pytest.mark.parametrize(
        ("name", "write"),
        [
            ("a.json", lambda path: files.write_json(path, {"a": ["x"] * 10_000})),
            ("a.csv", lambda path: files.write_csv(path, pd.DataFrame({"a": np.arange(10_000)}))),
            ("a.parquet", lambda path: files.write_parquet(path, pd.DataFrame({"a": np.arange(10_000)}))),
            ("a.safetensors", lambda path: checkpoints.save(path, {"a": torch.arange(10_000)}, {})),
        ],
    )
    def test_every_writer_names_the_file_and_the_mend(
        self, tmp_path: Path, name: str, write: Callable[[Path], None]
    ) -> None:
        path = tmp_path / name
        write(path)
        before = path.read_bytes()
        # The system's own full disk, under the name that is written to.
        files.temporary_name(path).symlink_to("/dev/full")
        message = rf"{name}: no space is left on the disk \([\d.]+ MB free in {tmp_path}\); free some and run again$"
        with pytest.raises(files.UnwritableError, match=message):
            write(path)
        assert [p.name for p in tmp_path.iterdir()] == [name]
        assert path.read_bytes() == before

    def test_a_training_goes_on_when_there_is_space_again(self, copy: Path) -> None:
        before = (copy / SPLIT).stat().st_mtime_ns
        line = the_error(mounted("size=40k", copy, "work", MODEL))
        assert re.search(r"Error: work/checkpoints/\w+/fold0-seed0/\S+: no space is left on the disk \(0\.0 MB", line)
        assert not (copy / MODEL).exists()
        assert not leftovers(copy)
        snakemake(copy, MODEL)
        assert (copy / MODEL).is_file()
        assert (copy / SPLIT).stat().st_mtime_ns == before

    def test_a_conversion_names_the_file_and_leaves_nothing(self, project: Path) -> None:
        configure(project, n_cells=1500)
        (project / "data").mkdir()
        line = the_error(mounted("size=3m", project, "data", CELLS))
        assert re.search(r"\[convert\] Error: data/simulated\.h5: no space is left on the disk \(\d\.\d MB", line)
        snakemake(project, CELLS)
        assert (project / CELLS).is_file()

    @pytest.mark.parametrize("mirror", [True, False])
    def test_a_download_names_the_file(self, tmp_path: Path, server: Server, mirror: bool) -> None:
        part = tmp_path / "raw" / f"{PATH}.part"
        part.parent.mkdir(parents=True)
        part.symlink_to("/dev/full")
        source = tmp_path / "mirror" / "my-cells" / PATH
        source.parent.mkdir(parents=True)
        source.write_bytes(CONTENT)
        with pytest.raises(files.UnwritableError, match=rf"raw/{PATH}: no space is left on the disk"):
            _download(tmp_path, _dataset(server.url), mirror=str(tmp_path / "mirror") if mirror else None)
        assert not (tmp_path / "manifest.json").exists()


class TestUnwritable:
    @pytest.fixture
    def folder(self) -> Iterator[Path]:
        """A folder that may be read, but not written to, by the user that the test runs as."""
        path = Path(tempfile.mkdtemp())
        path.chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        yield path
        if root:
            os.seteuid(0)
        path.chmod(0o755)
        shutil.rmtree(path)

    def test_a_folder_of_someone_else(self, folder: Path) -> None:
        with pytest.raises(
            files.UnwritableError, match=rf"{folder}/a\.txt: permission denied; give yourself the right"
        ):
            files.write_text(folder / "a.txt", "text")
        with pytest.raises(files.UnwritableError, match=rf"{folder}/b: permission denied"):
            files.write_text(folder / "b" / "a.txt", "text")
        assert not list(folder.iterdir())

    def test_a_read_only_disk(self, copy: Path) -> None:
        run = mounted("ro", copy, "work", MODEL)
        assert run.returncode != 0
        assert re.search(r"^Error: \S*work: the file system is read-only; run where you", run.stdout, re.MULTILINE)
        assert not (copy / MODEL).exists()

    def test_folders_are_asked_before_anything_runs(self, folder: Path) -> None:
        with pytest.raises(files.UnwritableError, match=rf"{folder}: permission denied; give yourself the right"):
            files.check_writable(folder / "data" / "raw")
        assert not list(folder.iterdir())

    def test_asking_leaves_nothing_behind(self, tmp_path: Path) -> None:
        files.check_writable(tmp_path, tmp_path / "data")
        assert not list(tmp_path.iterdir())

    def test_a_file_that_may_not_be_read_is_not_taken_for_the_one_to_write(self, tmp_path: Path) -> None:
        error = PermissionError(13, "Permission denied", "source.h5")
        with (
            pytest.raises(files.UnwritableError, match=r"^source\.h5: permission denied"),
            files.atomic(tmp_path / "a"),
        ):
            raise error

    def test_other_errors_are_nobodys_line(self, tmp_path: Path) -> None:
        assert files.explain(FileNotFoundError(2, "No such file", "a")) is None
        assert files.explain(ValueError("errno 7")) is None
        with pytest.raises(ZeroDivisionError), files.atomic(tmp_path / "a"):
            raise ZeroDivisionError
        assert not list(tmp_path.iterdir())

    def test_errors_of_hdf5_are_understood(self) -> None:
        text = "Can't write data (file write failed: filename = 'data/c.h5', file descriptor = 3, errno = 28, error ..."
        assert str(files.explain(RuntimeError(text))).startswith("data/c.h5: no space is left on the disk")


def in_mid_conversion(project: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a snakemake that converts; return it, and the file that its script has begun to write."""
    with (project / "first.log").open("wb") as log:
        run = subprocess.Popen(
            [sys.executable, "-m", "snakemake", CELLS], cwd=project, stdout=log, stderr=subprocess.STDOUT
        )
    deadline = time.monotonic() + 120
    while not (parts := list((project / "data").glob(".simulated.*.part.h5"))):
        assert run.poll() is None, (project / "first.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return run, parts[0]


class TestConversion:
    def test_a_killed_conversion_leaves_no_half_file_and_is_made_again(self, project: Path) -> None:
        configure(project, n_cells=6000)
        run, _ = in_mid_conversion(project)
        family = [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]
        for process in family:
            process.send_signal(signal.SIGKILL)
        run.wait()
        assert not (project / CELLS).exists()
        refused = snakemake(project, CELLS, check=False)
        assert refused.returncode != 0
        assert "lock" in refused.stdout
        configure(project)
        subprocess.run([sys.executable, "-m", "stainfree.restart"], cwd=project, check=True)
        snakemake(project, SPLIT)
        assert (project / SPLIT).is_file()
        assert not leftovers(project)

    @pytest.mark.parametrize("damage", ["truncated", "other bytes"])
    def test_corrupt_cells_are_named_and_converted_again(self, copy: Path, damage: str) -> None:
        path = copy / CELLS
        (copy / SPLIT).unlink()
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 3] if damage == "truncated" else b"x" * 1000)
        line = the_error(snakemake(copy, SPLIT, check=False))
        assert line.startswith("[split] Error: data/simulated.h5: not a readable HDF5 file")
        assert line.endswith("delete it and run the conversion again")
        assert not (copy / SPLIT).exists()
        path.unlink()
        snakemake(copy, SPLIT)
        assert path.stat().st_size == len(whole)

    def test_a_wrong_byte_in_an_image_is_told_by_the_step_that_reads_it(self, copy: Path) -> None:
        path = copy / CELLS
        with h5py.File(path) as file:
            chunk = file["images"].id.get_chunk_info(0)
        content, status = bytearray(path.read_bytes()), path.stat()
        content[chunk.byte_offset + chunk.size // 2] ^= 1
        path.write_bytes(content)
        # As a failing disk does it: nothing tells that the file has changed.
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        line = the_error(snakemake(copy, MODEL, check=False))
        assert line.startswith("[train] Error: data/simulated.h5: not a readable HDF5 file of cells (")
        assert line.endswith("delete it and run the conversion again")
        assert not (copy / MODEL).exists()
        assert (copy / SPLIT).is_file()

    def test_a_class_with_fewer_cells_than_folds(self, copy: Path) -> None:
        kfold = SPLIT.replace("holdout", "kfold")
        line = the_error(snakemake(copy, kfold, "--config", "full=true", check=False))
        assert re.search(
            r"\[split\] Error: .*class \w+ has \d+ independent cells, fewer than the 60 folds; lower", line
        )
        assert not (copy / kfold).exists()
        assert (copy / SPLIT).is_file()
        folds = "experiments={espinosa: {variants: {kfold: {split: {folds: 3}}}}}"
        snakemake(copy, kfold, "--config", "full=true", folds)
        assert pd.read_parquet(copy / kfold)["fold"].nunique() == 3

    def test_a_download_that_is_not_the_published_file(self, project: Path, tmp_path: Path) -> None:
        described = yaml.safe_load((project / "workflow/datasets.yaml").read_text())["jurkat_montage"]["files"]
        for file in described:
            path = tmp_path / "mirror" / "jurkat-montage" / file["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * 10)
        run = snakemake(
            project, "data/raw/jurkat_montage.json", "--config", "dataset=jurkat_montage", check=False,
            environment={"STAINFREE_MIRROR": str(tmp_path / "mirror")},
        )  # fmt: skip
        line = the_error(run)
        assert re.search(r"\[download\] Error: \S+/mirror/jurkat-montage/\S+: has 10 bytes, not \d+; replace it", line)
        assert not [path for path in (project / "data").rglob("*") if path.is_file()]


def add_datasets(project: Path, datasets: dict[str, dict[str, object]]) -> None:
    config = yaml.safe_load((project / "config.yaml").read_text())
    config["datasets"] = datasets
    (project / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def errors_of(run: subprocess.CompletedProcess[str], rule: str) -> list[str]:
    """The lines by which the jobs of a rule tell what is wrong."""
    assert run.returncode != 0
    assert "Traceback" not in run.stdout
    return sorted(re.findall(rf"^\[{rule}\] Error: (.*)$", run.stdout, re.MULTILINE))


class TestOwnPictures:
    """Each kind of bad picture ends its own conversion, and no other."""

    TOLD = (
        r"colours/S/1\.png: is a colour picture where grey is expected; save it as grey, one channel a file",
        r"cut_off_jpeg/S/1\.jpg: not a readable PNG, JPEG or TIFF of a cell \(.*\); replace or remove it",
        r"cut_off_tiff/S/1\.tif: not a readable PNG, JPEG or TIFF of a cell \(it is cut off\); replace or remove it",
        r"empty_class/S: no picture there fits the layout .*; put cells there, .* or remove S",
        r"other_depth/S/1\.png: pixels of uint16, where \S+ has uint8; save all images .*`bit_depth`",
        r"other_size/S/1\.png: 30 x 40 pixels, where \S+ has 40 x 40; set `image_size: \[height, width\]`",
    )
    SUFFIXES = ("png", "jpg", "tif", "png", "png", "png")

    def write(self, folder: Path, suffix: str) -> None:
        rng = np.random.default_rng(0)
        for stage in ("G1", "S"):
            (folder / stage).mkdir(parents=True, exist_ok=True)
            for number in range(3):
                Image.fromarray(rng.integers(256, size=(40, 40), dtype=np.uint8)).save(
                    folder / stage / f"{number}.{suffix}"
                )

    def spoil(self, root: Path) -> None:
        for name in ("cut_off_jpeg/S/1.jpg", "cut_off_tiff/S/1.tif"):
            content = (root / name).read_bytes()
            (root / name).write_bytes(content[: len(content) * 2 // 3])
        colours = np.random.default_rng(1).integers(256, size=(40, 40, 3), dtype=np.uint8)
        Image.fromarray(colours).save(root / "colours/S/1.png")
        Image.fromarray(np.zeros((30, 40), np.uint8)).save(root / "other_size/S/1.png")
        Image.fromarray(np.zeros((40, 40), np.uint16)).save(root / "other_depth/S/1.png")
        for path in (root / "empty_class/S").iterdir():
            path.unlink()

    def test_one_line_each_and_all_goes_on_when_they_are_mended(self, project: Path, tmp_path: Path) -> None:
        kinds = dict(zip([told.split("/")[0] for told in self.TOLD], self.SUFFIXES, strict=True)) | {"sound": "png"}
        root = tmp_path / "mine"
        for name, suffix in kinds.items():
            self.write(root / name, suffix)
        add_datasets(
            project,
            {name: {"kind": "folder", "path": str(root / name), "channels": ["BF"], "bit_depth": 8} for name in kinds},
        )
        targets = [f"data/{name}.h5" for name in kinds]
        self.spoil(root)
        lines = errors_of(snakemake(project, "--keep-going", *targets, check=False), "convert")
        assert len(lines) == len(self.TOLD)
        for line, told in zip(lines, self.TOLD, strict=True):
            assert re.fullmatch(rf"{re.escape(str(root))}/{told}.*", line)
        assert sorted(path.name for path in (project / "data").iterdir()) == ["sound.h5", "sound.json"]
        before = (project / "data/sound.h5").stat().st_mtime_ns
        for name, suffix in kinds.items():
            if name != "sound":
                self.write(root / name, suffix)
        snakemake(project, *targets)
        assert all((project / target).is_file() for target in targets)
        assert (project / "data/sound.h5").stat().st_mtime_ns == before


class MoodyHandler(Handler):
    """Answers after the first folder of the path, until the server is mended."""

    def do_GET(self) -> None:  # noqa: N802 - as http.server calls it
        mood = "" if self.server.mended else self.path.split("/")[1]
        first = self.path not in [path for path, _ in self.server.lines]
        if mood == "missing" or (mood == "busy" and first):
            self.server.lines.append((self.path, None))
            self.send_error(404 if mood == "missing" else 503)
        elif mood in ("page", "wrong"):
            html = mood == "page"
            content = b"<html>Please log in" if html else CONTENT[::-1]
            self._send(200, content, {"Content-Type": "text/html" if html else "image/tiff"})
        else:
            # Hangs up in the midst of it.
            self.server.cuts = [50_000] if mood == "cut" and first else []
            super().do_GET()


class TestDownloads:
    TOLD = (
        r"/missing/a\.tif: HTTP 404 .*; check the network and `base_url`, or set STAINFREE_MIRROR to a folder .*",
        r"/page/a\.tif: the server answered with a web page in place of the file; check .*",
        r"/wrong/a\.tif: has the wrong checksum \(sha256 .*\); check .*",
    )

    def test_bad_servers_are_told_and_passing_troubles_waited_out(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("STAINFREE_MIRROR", "")
        moods = ["busy", "cut", "missing", "page", "wrong"]
        listed = {"path": "a.tif", "size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
        targets = [f"data/raw/{mood}.json" for mood in moods]
        with serving(Server(MoodyHandler)) as server:
            server.mended = False
            add_datasets(
                project,
                {
                    mood: {
                        "kind": "montage",
                        "channels": ["BF"],
                        "bit_depth": 12,
                        "tile": [10, 10],
                        "layout": "{folder}.tif",
                        "base_url": f"{server.url}/{mood}",
                        "files": [listed],
                    }
                    for mood in moods
                },
            )
            lines = errors_of(snakemake(project, "--keep-going", *targets, check=False), "download")
            for line, told in zip(lines, self.TOLD, strict=True):
                assert re.fullmatch(re.escape(server.url) + told, line)
            done = {"busy.json", "busy/a.tif", "cut.json", "cut/a.tif"}
            assert {
                str(path.relative_to(project / "data/raw")) for path in (project / "data").rglob("*") if path.is_file()
            } == done
            # The piece that had come was not fetched again.
            assert [asked for path, asked in server.lines if path == "/cut/a.tif"][1].startswith("bytes=")
            server.mended = True
            server.lines.clear()
            snakemake(project, *targets)
            assert {path for path, _ in server.lines} == {"/missing/a.tif", "/page/a.tif", "/wrong/a.tif"}
        assert all((project / f"data/raw/{mood}/a.tif").read_bytes() == CONTENT for mood in moods)


class TestOrphans:
    def test_a_step_that_outlived_its_snakemake_cannot_replace_what_a_newer_run_made(self, project: Path) -> None:
        configure(project, n_cells=1500)
        run, part = in_mid_conversion(project)
        orphan = psutil.Process(int(re.findall(r"-(\d+)\.part", part.name)[0]))
        orphan.suspend()
        for process in [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]:
            if process != orphan:
                process.send_signal(signal.SIGKILL)
        run.wait()
        configure(project)
        subprocess.run([sys.executable, "-m", "stainfree.restart"], cwd=project, check=True)
        snakemake(project, CELLS)
        outputs = [project / CELLS, (project / CELLS).with_suffix(".json")]
        made = [files.sha256(path) for path in outputs]
        orphan.resume()
        with suppress(psutil.NoSuchProcess):
            orphan.wait(timeout=120)
        assert [files.sha256(path) for path in outputs] == made
        assert not leftovers(project)
