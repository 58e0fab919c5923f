"""The report's notebook, run with the parameters of one experiment and turned into a page."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from stainfree import files
from stainfree.errors import OutOfMemoryError, StainfreeError
from stainfree.pages import page

logger = logging.getLogger(__name__)


def run(
    notebook: str | os.PathLike[str],
    *,
    parameters: Mapping[str, Any],
    out: str | os.PathLike[str],
    failed_copy: str | os.PathLike[str],
) -> None:
    """Run the report's notebook and write it as one page that needs no network.

    Parameters
    ----------
    notebook
        The notebook; its cell tagged ``parameters`` is followed by `parameters`.
    parameters
        Plain values and text.
    out
        HTML to write, atomically.
    failed_copy
        Where the executed notebook stands while it runs. It is removed when all went well, and stays, with the
        traceback, when it did not.

    Raises
    ------
    StainfreeError
        If a cell fails: the last line of the error, and where the executed copy is.
    OutOfMemoryError
        If the kernel dies.
    """
    executed = Path(failed_copy)
    executed.parent.mkdir(parents=True, exist_ok=True)
    logger.info("running %s with %s", notebook, dict(parameters))
    try:
        with _private_kernel() as config:
            papermill.execute_notebook(
                str(notebook),
                str(executed),
                parameters=dict(parameters),
                kernel_name="python3",
                progress_bar=False,
                config=config,
            )
    except PapermillExecutionError as error:
        last = (str(error.evalue).strip().splitlines() or [""])[-1]
        raise StainfreeError(
            f"{notebook}: cell {error.cell_index + 1} failed with {error.ename}: {last} (traceback in {executed})"
        ) from error
    except DeadKernelError as error:
        raise OutOfMemoryError(
            f"{notebook}: its kernel died, most likely for want of memory; give the report more `mem_mb` ({executed})"
        ) from error
    files.write_text(out, as_page(executed))
    executed.unlink()


@contextmanager
def _private_kernel() -> Iterator[Any]:
    """Give the settings of a kernel that neither listens on a port nor writes into the user's home.

    Two reports that start together could otherwise pick the same port, and a cluster's home may be read-only.
    """
    names = ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="stainfree-") as folder:
        os.environ.update(dict.fromkeys(names, folder))
        try:
            yield Config({"KernelManager": {"transport": "ipc"}})
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def as_page(executed: str | os.PathLike[str]) -> str:
    """Return an executed notebook as a page: its text and what its cells show, without their code."""
    notebook: Any = nbformat.reads(Path(executed).read_text(encoding="utf-8"), as_version=4)
    for position, cell in enumerate(notebook.cells):
        cell["id"] = f"part-{position}"  # papermill's ids are random, and the page should be the same twice
    exporter = HTMLExporter(
        # Basic is the bare body: the other templates load scripts from the network.
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        embed_images=True,
    )
    body, _ = exporter.from_notebook_node(notebook)
    given = notebook.metadata.get("papermill", {}).get("parameters", {})
    return page(f"{given.get('experiment', 'report')} on {given.get('dataset', 'cells')}", body)
