"""The front page over the reports of all data sets and experiments that were built."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from stainfree import files
from stainfree.headline import best_pair, read_metrics, trivial_row
from stainfree.pages import interactive_pages, page, render, words

logger = logging.getLogger(__name__)


def _entry(report: Path, results: Path, data: Path) -> dict[str, Any]:
    """Return what the front page says of one report."""
    folder = report.parent
    converted = data / f"{folder.parent.name}.json"
    kind = files.read_json(converted)["kind"] if converted.is_file() else folder.parent.name
    metrics = read_metrics(folder / "metrics.csv")
    variant = str(metrics["variant"].iloc[0])
    first = metrics.iloc[0]
    classes = [name for name in metrics["class"].unique() if name != "all"]
    return {
        "dataset": folder.parent.name,
        "experiment": folder.name,
        "href": report.relative_to(results).as_posix(),
        "simulated": kind == "simulated",
        "best": best_pair(metrics, variant=variant),
        "trivial": trivial_row(metrics, variant=variant),
        "channels": str(first.get("channels", "")).replace("+", " ").replace(",", " ").split(),
        "classes": classes,
        "interactive": interactive_pages(folder, results),
        "tables": [
            {"href": path.relative_to(results).as_posix(), "name": words(path.stem)}
            for path in [folder / "metrics.csv", folder / "claims.csv", *sorted(folder.glob("tables/*.csv"))]
            if path.is_file()
        ],
    }


def write(results: str | os.PathLike[str], *, data: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Write the front page over all reports that were built.

    Parameters
    ----------
    results
        The folder `results/`; reports are looked for here, so that one more report makes no other step stale.
    data
        The folder `data/`, whose conversion reports tell which cells are simulated.
    out
        HTML to write, in that folder, atomically.
    """
    results = Path(results)
    reports = sorted(results.glob("*/*/report.html"))
    entries = [_entry(path, results, Path(data)) for path in reports if (path.parent / "metrics.csv").is_file()]
    files.write_text(out, page("stainfree", render("index", entries=entries)))
    logger.info("front page over %d reports", len(entries))
