"""The front page over the reports of all data sets and experiments that were built."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stainfree import files
from stainfree.headline import best_pair, is_stained, read_metrics, trivial_row
from stainfree.pages import interactive_pages, page, render, words

logger = logging.getLogger(__name__)


def _entry(report: Path, results: Path, data: Path, main: Mapping[str, str]) -> dict[str, Any]:
    """Return what the front page says of one report; `main` as in `write`."""
    folder = report.parent
    converted = data / f"{folder.parent.name}.json"
    kind = files.read_json(converted)["kind"] if converted.is_file() else folder.parent.name
    metrics = read_metrics(folder / "metrics.csv")
    first = metrics.iloc[0]
    variant = main.get(folder.name) or str(first["variant"])
    if variant not in set(metrics["variant"]):  # a report of other settings
        variant = str(first["variant"])
    channels = str(first["channels"]).split("+")
    classes = [name for name in metrics["class"].unique() if name != "all"]
    return {
        "dataset": folder.parent.name,
        "experiment": folder.name,
        "href": report.relative_to(results).as_posix(),
        "simulated": kind == "simulated",
        "variant": variant if metrics["variant"].nunique() > 1 else "",
        "best": best_pair(metrics, variant=variant),
        "trivial": trivial_row(metrics, variant=variant),
        "channels": channels,
        "stained": is_stained(channels),
        "classes": classes,
        "interactive": interactive_pages(folder, results),
        "tables": [
            {"href": path.relative_to(results).as_posix(), "name": words(path.stem)}
            for path in [folder / "metrics.csv", folder / "claims.csv", *sorted(folder.glob("tables/*.csv"))]
            if path.is_file()
        ],
    }


def write(
    results: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    main: Mapping[str, str] | None = None,
) -> None:
    """Write the front page over all reports that were built.

    Parameters
    ----------
    results
        The folder `results/`; reports are looked for here, so that one more report makes no other step stale.
    data
        The folder `data/`, whose conversion reports tell which cells are simulated.
    out
        HTML to write, in that folder, atomically.
    main
        Experiment -> the variant that stands for it; the first of its metrics where it is not named.
    """
    results = Path(results)
    reports = sorted(results.glob("*/*/report.html"))
    scored = [path for path in reports if (path.parent / "metrics.csv").is_file()]
    entries = [_entry(path, results, Path(data), main or {}) for path in scored]
    files.write_text(out, page("stainfree", render("index", entries=entries)))
    logger.info("front page over %d reports", len(entries))
