"""Downloads end complete and verified, or with one clear line; proved against a real server on this machine."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stainfree.datasets import Dataset
from stainfree.datasets.download import DownloadError, Retries, download
from stainfree.errors import ConfigError

QUICK = Retries(times=3, first_delay=0.01)
CONTENT = np.random.default_rng(0).bytes(300_000)
PATH = "Experiment_1/G1/Ch3 CP0001.tif"


class Server(ThreadingHTTPServer):
    """Serves `CONTENT` under every path, as badly as told."""

    daemon_threads = True

    def __init__(self, handler: type[Handler] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.content = CONTENT
        self.ranges = True
        self.lines: list[tuple[str, str | None]] = []
        """Path and Range header of each request."""
        self.statuses: list[int] = []
        """Answers to give first, one per request."""
        self.cuts: list[int] = []
        """Bytes after which to hang up, one per request."""
        self.page = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.lines.append((self.path, asked))
        if self.server.statuses:
            self.send_error(self.server.statuses.pop(0))
            return
        if self.server.page:
            self._send(200, b"<!DOCTYPE html><title>Please log in</title>", {"Content-Type": "text/html"})
            return
        content, status, headers = self.server.content, 200, {}
        if asked and self.server.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        self._send(status, content, headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: self.server.cuts.pop(0)] if self.server.cuts else content)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""


@contextmanager
def serving(running: Server) -> Iterator[Server]:
    """Let a server answer while the block lasts."""
    with running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Server()) as running:
        yield running


def _dataset(url: str | None, *, paths: tuple[str, ...] = (PATH,), content: bytes = CONTENT) -> Dataset:
    digest = hashlib.sha256(content).hexdigest()
    return Dataset.from_config(
        "my_cells",
        {
            "kind": "montage",
            "channels": ["BF"],
            "bit_depth": 12,
            "base_url": url,
            "files": [{"path": path, "size": len(content), "sha256": digest} for path in paths],
        },
    )


def _download(tmp_path: Path, dataset: Dataset, **options: Any) -> Path:
    options = {"retries": QUICK} | options
    download(dataset, raw=tmp_path / "raw", manifest=tmp_path / "manifest.json", **options)
    return tmp_path / "raw" / dataset.files[0].path


def _part(tmp_path: Path, content: bytes) -> None:
    part = tmp_path / "raw" / f"{PATH}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)


def test_file_and_manifest(tmp_path: Path, server: Server) -> None:
    assert _download(tmp_path, _dataset(server.url)).read_bytes() == CONTENT
    assert server.lines == [("/Experiment_1/G1/Ch3%20CP0001.tif", None)]
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["files"] == [
        {
            "path": PATH,
            "url": f"{server.url}/Experiment_1/G1/Ch3%20CP0001.tif",
            "size": len(CONTENT),
            "sha256": hashlib.sha256(CONTENT).hexdigest(),
        }
    ]
    assert [path.name for path in (tmp_path / "raw" / "Experiment_1" / "G1").iterdir()] == ["Ch3 CP0001.tif"]


def test_verified_file_is_left_alone_and_a_spoilt_one_replaced(tmp_path: Path, server: Server) -> None:
    path = _download(tmp_path, _dataset(server.url))
    _download(tmp_path, _dataset(server.url))
    assert len(server.lines) == 1
    path.write_bytes(CONTENT[:-1] + b"?")
    assert _download(tmp_path, _dataset(server.url)).read_bytes() == CONTENT
    assert len(server.lines) == 2


def test_partial_file_is_continued(tmp_path: Path, server: Server) -> None:
    _part(tmp_path, CONTENT[:1000])
    assert _download(tmp_path, _dataset(server.url)).read_bytes() == CONTENT
    assert [asked for _, asked in server.lines] == ["bytes=1000-"]


def test_complete_partial_file_needs_no_request(tmp_path: Path, server: Server) -> None:
    _part(tmp_path, CONTENT)
    assert _download(tmp_path, _dataset(server.url)).read_bytes() == CONTENT
    assert server.lines == []


def test_server_that_ignores_ranges(tmp_path: Path, server: Server) -> None:
    server.ranges = False
    _part(tmp_path, CONTENT[:1000])
    assert _download(tmp_path, _dataset(server.url)).read_bytes() == CONTENT


def test_partial_file_of_something_else_is_started_over(tmp_path: Path, server: Server) -> None:
    _part(tmp_path, b"x" * 1000)
    assert _download(tmp_path, _dataset(server.url)).read_bytes() == CONTENT
    assert [asked for _, asked in server.lines] == ["bytes=1000-", None]


def test_partial_file_longer_than_the_whole(tmp_path: Path, server: Server) -> None:
    _part(tmp_path, CONTENT + b"more")
    assert _download(tmp_path, _dataset(server.url)).read_bytes() == CONTENT


def test_cut_off_transfers_are_resumed_as_long_as_they_bring_bytes(tmp_path: Path, server: Server) -> None:
    server.cuts = [50_000] * 5
    assert _download(tmp_path, _dataset(server.url)).read_bytes() == CONTENT
    starts = [0 if asked is None else int(asked[6:-1]) for _, asked in server.lines]
    assert len(starts) == 6
    assert starts[0] == 0
    assert np.diff(starts).min() > 30_000


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_troubles_are_waited_out(tmp_path: Path, server: Server, status: int) -> None:
    server.statuses = [status, status]
    assert _download(tmp_path, _dataset(server.url)).read_bytes() == CONTENT
    assert len(server.lines) == 3


def test_lasting_trouble_ends_the_patience(tmp_path: Path, server: Server) -> None:
    server.statuses = [503] * 100
    with pytest.raises(DownloadError, match=r"tif: cannot be reached or completed \(HTTP 503\); .*STAINFREE_MIRROR"):
        _download(tmp_path, _dataset(server.url))
    assert len(server.lines) == 1 + QUICK.times


def test_waits_grow_up_to_a_minute() -> None:
    assert [Retries(first_delay=1.0).delay(n) for n in (1, 2, 3, 20)] == [1.0, 2.0, 4.0, 60.0]


@pytest.mark.parametrize("status", [403, 404])
def test_refusals_are_not_tried_again(tmp_path: Path, server: Server, status: int) -> None:
    server.statuses = [status] * 9
    with pytest.raises(DownloadError, match=rf"{server.url}/.*tif: HTTP {status} "):
        _download(tmp_path, _dataset(server.url))
    assert len(server.lines) == 1
    assert not (tmp_path / "manifest.json").exists()


def test_web_page_in_place_of_the_file(tmp_path: Path, server: Server) -> None:
    server.page = True
    with pytest.raises(DownloadError, match="answered with a web page"):
        _download(tmp_path, _dataset(server.url))


def test_web_page_under_another_content_type(tmp_path: Path, server: Server) -> None:
    server.content = b"<html>".ljust(len(CONTENT))
    with pytest.raises(DownloadError, match="is a web page in place of the file"):
        _download(tmp_path, _dataset(server.url))


def test_wrong_bytes(tmp_path: Path, server: Server) -> None:
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(DownloadError, match=r"Ch3%20CP0001\.tif: has the wrong checksum"):
        _download(tmp_path, _dataset(server.url))
    assert list((tmp_path / "raw").rglob("*.tif*")) == []


def test_no_server(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=r"cannot be reached .* holds my-cells/Experiment_1"):
        _download(tmp_path, _dataset(f"http://127.0.0.1:{port}"), retries=Retries(times=1, first_delay=0.01))


def test_many_files_each_once(tmp_path: Path, server: Server) -> None:
    paths = tuple(f"folder{i % 3}/{i}.tif" for i in range(12))
    _download(tmp_path, _dataset(server.url, paths=paths))
    assert Counter(path for path, _ in server.lines) == {f"/{path}": 1 for path in paths}
    assert all((tmp_path / "raw" / path).read_bytes() == CONTENT for path in paths)


def test_mirror_replaces_upstream(tmp_path: Path, server: Server) -> None:
    _download(tmp_path, _dataset("http://upstream.invalid/data"), mirror=f"{server.url}/some/mirror/")
    assert [path for path, _ in server.lines] == ["/some/mirror/my-cells/Experiment_1/G1/Ch3%20CP0001.tif"]
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["files"][0]["url"].startswith("http://upstream.invalid/data/Experiment_1")


def _mirror(tmp_path: Path, content: bytes) -> str:
    file = tmp_path / "mirror" / "my-cells" / PATH
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return str(tmp_path / "mirror")


def test_mirror_folder(tmp_path: Path) -> None:
    mirror = _mirror(tmp_path, CONTENT)
    assert _download(tmp_path, _dataset("http://upstream.invalid"), mirror=mirror).read_bytes() == CONTENT


def test_spoilt_file_in_a_mirror_folder(tmp_path: Path) -> None:
    mirror = _mirror(tmp_path, CONTENT[:-1])
    with pytest.raises(DownloadError, match=r"has 299999 bytes, not 300000; replace it in the mirror"):
        _download(tmp_path, _dataset(None), mirror=mirror)
    assert list((tmp_path / "raw").rglob("*.tif*")) == []


def test_mirror_folder_without_the_file(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    with pytest.raises(DownloadError, match=r"my-cells/.*: not in the mirror"):
        _download(tmp_path, _dataset(None), mirror=str(tmp_path / "mirror"))


def test_mirror_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder; correct STAINFREE_MIRROR"):
        _download(tmp_path, _dataset(None), mirror=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("path", ["../out.tif", "/etc/out.tif", "a/../../out.tif", "link/out.tif", ""])
def test_paths_that_leave_the_folder(tmp_path: Path, server: Server, path: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="leaves the data set's folder"):
        _download(tmp_path, _dataset(server.url, paths=("fine.tif", path)))
    assert server.lines == []


def test_unknown_sizes_and_checksums_are_filled_in(tmp_path: Path, server: Server) -> None:
    description = {"kind": "montage", "channels": ["BF"], "bit_depth": 8, "base_url": server.url}
    dataset = Dataset.from_config("my_cells", description | {"files": [{"path": "a.tif"}]})
    server.cuts = [100]
    assert _download(tmp_path, dataset).read_bytes() == CONTENT
    entry = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["files"][0]
    assert (entry["size"], entry["sha256"]) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def test_data_set_without_files(tmp_path: Path) -> None:
    description = {"kind": "montage", "channels": ["BF"], "bit_depth": 12}
    download(Dataset.from_config("made", description), raw=tmp_path / "raw", manifest=tmp_path / "m.json")
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))["files"] == []
