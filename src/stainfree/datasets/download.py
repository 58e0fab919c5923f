"""Fetch the files of a public data set: resumed, retried, verified, from upstream or from a mirror."""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import requests

from stainfree import files
from stainfree.datasets import Dataset, SourceFile
from stainfree.errors import ConfigError, StainfreeError

logger = logging.getLogger(__name__)

# What is lost of a piece when the line breaks within it, so small.
_CHUNK_BYTES = 1 << 14
_SECONDS_BETWEEN_LINES = 5.0
# To connect, and between two bytes.
_TIMEOUT_SECONDS = (10, 60)
_LONGEST_DELAY_SECONDS = 60.0
_ERRORS_THAT_PASS = (
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


class DownloadError(StainfreeError):
    """A file could not be had."""


class UnreachableError(DownloadError):
    """A server does not answer, or not to the end; later it may."""

    lasting = False


class _TryAgainError(Exception):
    """Something went wrong that may mend itself."""


@dataclass(frozen=True)
class Retries:
    """How often and how patiently a failed transfer is tried again."""

    times: int = 5
    """Tries after the first without a new byte; a try that brought some starts the count anew."""
    first_delay: float = 1.0
    """Seconds before the second try; doubled with each further one, up to a minute."""

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after the n-th failure in a row."""
        return min(self.first_delay * 2.0 ** (failures - 1), _LONGEST_DELAY_SECONDS)


def download(
    dataset: Dataset,
    *,
    raw: str | os.PathLike[str],
    manifest: str | os.PathLike[str],
    mirror: str | None = None,
    parallel: int = 4,
    retries: Retries | None = None,
) -> None:
    """Bring all files of a data set to `raw`, then write the manifest.

    Files that are there and verified are left alone; a ``.part`` left by an earlier run is continued.

    Parameters
    ----------
    dataset
        Which files, from where, with what size and sha256.
    raw
        Folder that receives them.
    manifest
        JSON to make: path, url (upstream, whatever the mirror), size and sha256 of each file.
    mirror
        Folder or http(s) URL in place of upstream: a file is looked up at ``<mirror>/<name with hyphens>/<path>``.
    parallel
        Files fetched at the same time.
    retries
        Patience with a failing server; `Retries()` where None.

    Raises
    ------
    ConfigError
        If a path leaves `raw`, or there is neither ``base_url`` nor mirror.
    DownloadError
        If a file cannot be had, or is not the one described.
    """
    raw = Path(raw)
    targets = [_inside(raw, dataset, file) for file in dataset.files]
    origin = _origin(dataset, mirror)
    transfer = _Transfer(retries or Retries(), _Progress(dataset))

    def fetch(file: SourceFile, target: Path) -> None:
        if target.is_file() and _mismatch(target, file) is None:
            transfer.progress.finished(file.size or target.stat().st_size)
            return
        with files.explained(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + ".part")
            if isinstance(origin, Path):
                transfer.copy(origin / file.path, part, file)
            else:
                transfer.get(f"{origin}/{quote(file.path)}", part, file, hint=_hint(dataset, file))
            part.replace(target)
        transfer.progress.finished(0)

    with ThreadPoolExecutor(max_workers=max(1, parallel)) as pool:
        running = [pool.submit(fetch, file, target) for file, target in zip(dataset.files, targets, strict=True)]
        try:
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            # After the first failure the others stop soon, and keep their partial files for the next run.
            transfer.stop.set()
            pool.shutdown(cancel_futures=True)
    files.write_json(manifest, _manifest(dataset, targets))
    logger.info("%s: all %d files are there and verified", dataset.name, len(targets))


class _Progress:
    """Counts files and bytes of all threads, and says so now and then."""

    def __init__(self, dataset: Dataset) -> None:
        self._name = dataset.name
        self._n_files = len(dataset.files)
        sizes = [file.size for file in dataset.files]
        known = [size for size in sizes if size is not None]
        self._total = f" of {sum(known) / 1e6:.1f}" if len(known) == len(sizes) else ""
        self._files = 0
        self._bytes = 0
        self._spoken = time.monotonic()
        self._lock = threading.Lock()

    def received(self, n_bytes: int) -> None:
        """Count bytes; a negative number where some had to be thrown away."""
        with self._lock:
            self._bytes += n_bytes
            if time.monotonic() - self._spoken > _SECONDS_BETWEEN_LINES:
                self._spoken = time.monotonic()
                megabytes = f"{self._bytes / 1e6:.1f}{self._total} MB"
                logger.info("%s: %d of %d files, %s", self._name, self._files, self._n_files, megabytes)

    def finished(self, n_bytes: int) -> None:
        """Count one file that is complete, and bytes of it not counted before."""
        with self._lock:
            self._files += 1
        self.received(n_bytes)


class _Transfer:
    """Moves one file at a time into its ``.part``, verified; used by several threads."""

    def __init__(self, retries: Retries, progress: _Progress) -> None:
        self.retries = retries
        self.progress = progress
        self.stop = threading.Event()

    def copy(self, source: Path, part: Path, file: SourceFile) -> None:
        """Copy a file of a mirror folder."""
        if not source.is_file():
            raise DownloadError(f"{source}: not in the mirror; put it there, or unset STAINFREE_MIRROR and `mirror`")
        shutil.copyfile(source, part)
        mismatch = _mismatch(part, file)
        if mismatch:
            part.unlink()
            raise DownloadError(f"{source}: {mismatch}; replace it in the mirror by the published file")
        self.progress.received(part.stat().st_size)

    def get(self, url: str, part: Path, file: SourceFile, *, hint: str) -> None:
        """Fetch from a server until the file is complete, or patience is at an end."""
        already = part.stat().st_size if part.exists() else 0
        self.progress.received(already)
        failures = 0
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                if file.size is None or before != file.size:
                    self._request(url, part, file, hint=hint)
                mismatch = _mismatch(part, file)
                if mismatch is None:
                    return
                self._discard(part)
                if not before:
                    raise DownloadError(f"{url}: {mismatch}; {hint}")
                # The piece from an earlier try may be of another file: once more from the start.
                raise _TryAgainError(mismatch)
            except (*_ERRORS_THAT_PASS, _TryAgainError) as error:
                after = part.stat().st_size if part.exists() else 0
                failures = 1 if after > before else failures + 1
                if failures > self.retries.times:
                    reason = str(error) if isinstance(error, _TryAgainError) else type(error).__name__
                    raise UnreachableError(f"{url}: cannot be reached or completed ({reason}); {hint}") from error
                delay = self.retries.delay(failures)
                logger.warning("%s: %s; trying again in %.0f s", url, type(error).__name__, delay)
                if self.stop.wait(delay):
                    raise DownloadError(f"{url}: stopped, since another file failed") from error
            except requests.RequestException as error:
                raise DownloadError(f"{url}: cannot be fetched ({error}); {hint}") from error

    def _request(self, url: str, part: Path, file: SourceFile, *, hint: str) -> None:
        """Send one request and write what it brings, after what is there already."""
        offset = part.stat().st_size if part.exists() else 0
        if file.size is not None and offset > file.size:
            self._discard(part)
            offset = 0
        # Bytes as stored: sizes, ranges and checksums are those of the file, not of a compressed transfer.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS) as response:
            if response.status_code == 416:
                self._discard(part)
                raise _TryAgainError("the partial file does not fit the server's")
            if response.status_code == 429 or response.status_code >= 500:
                raise _TryAgainError(f"HTTP {response.status_code}")
            if response.status_code not in (200, 206):
                raise DownloadError(f"{url}: HTTP {response.status_code} {response.reason}; {hint}")
            if response.headers.get("Content-Type", "").startswith("text/html") and not _is_page(file):
                raise DownloadError(f"{url}: the server answered with a web page in place of the file; {hint}")
            resumed = response.status_code == 206 and _starts_at(response, offset)
            if offset and not resumed:
                if response.status_code == 206:
                    self._discard(part)
                    raise _TryAgainError("the server sent another range than asked for")
                # The server ignores ranges and sends all of it.
                self.progress.received(-offset)
            with part.open("ab" if resumed else "wb") as stream:
                for chunk in response.iter_content(_CHUNK_BYTES):
                    stream.write(chunk)
                    self.progress.received(len(chunk))
                    if self.stop.is_set():
                        raise DownloadError(f"{url}: stopped, since another file failed")
        if file.size is not None and part.stat().st_size < file.size:
            raise _TryAgainError(f"ended after {part.stat().st_size} of {file.size} bytes")

    def _discard(self, part: Path) -> None:
        self.progress.received(-part.stat().st_size)
        part.unlink()


def _inside(raw: Path, dataset: Dataset, file: SourceFile) -> Path:
    """Return where a file goes; refuse a path that would leave the folder."""
    path = PurePosixPath(file.path)
    target = raw / path
    leaves = path.is_absolute() or ".." in path.parts or "\\" in file.path or not path.parts
    if leaves or not target.resolve().is_relative_to(raw.resolve()):
        raise ConfigError(f"data set {dataset.name}: path {file.path!r} leaves the data set's folder; correct `files`")
    return target


def _origin(dataset: Dataset, mirror: str | None) -> str | Path:
    """Return the folder or URL under which the paths of the files are found."""
    if not mirror:
        if dataset.files and not dataset.base_url:
            raise ConfigError(f"data set {dataset.name}: has files but no `base_url`; add it, or set a mirror")
        return (dataset.base_url or "").rstrip("/")
    name = dataset.name.replace("_", "-")
    if re.match(r"https?://", mirror):
        return f"{mirror.rstrip('/')}/{name}"
    folder = Path(mirror).expanduser()
    if dataset.files and not folder.is_dir():
        raise ConfigError(f"mirror {mirror}: no such folder; correct STAINFREE_MIRROR or `mirror`, or unset both")
    return folder / name


def _hint(dataset: Dataset, file: SourceFile) -> str:
    place = f"{dataset.name.replace('_', '-')}/{file.path}"
    return f"check the network and `base_url`, or set STAINFREE_MIRROR to a folder or URL that holds {place}"


def _mismatch(path: Path, file: SourceFile) -> str | None:
    """Return in what a file is not the one described; None where it is."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        page = stream.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))
    if page and not _is_page(file):
        return "is a web page in place of the file"
    if file.size is not None and size != file.size:
        return f"has {size} bytes, not {file.size}"
    if file.sha256 is not None:
        digest = files.sha256(path)
        if digest != file.sha256.lower():
            return f"has the wrong checksum (sha256 {digest[:12]}..., expected {file.sha256[:12]}...)"
    return None


def _is_page(file: SourceFile) -> bool:
    return file.path.lower().endswith((".html", ".htm"))


def _starts_at(response: requests.Response, offset: int) -> bool:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == offset


def _manifest(dataset: Dataset, targets: list[Path]) -> dict[str, object]:
    """Return what is there now; sizes and checksums are the file's own where the description has none."""
    base = (dataset.base_url or "").rstrip("/")
    return {
        "dataset": dataset.name,
        "licence": dataset.licence,
        "citation": dataset.citation,
        "files": [
            {
                "path": file.path,
                "url": f"{base}/{quote(file.path)}" if base else None,
                "size": target.stat().st_size,
                "sha256": file.sha256 or files.sha256(target),
            }
            for file, target in zip(dataset.files, targets, strict=True)
        ],
    }
