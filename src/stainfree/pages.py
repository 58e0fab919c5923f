"""Pages: numbers and names in words, templates filled, and HTML that holds its own style and pictures.

Templates stand in ``templates/``, those of the report's sections in ``templates/report/``.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
# A drawing larger than this is an image panel; its PNG is then the smaller of the two.
LARGEST_SVG = 400_000


def is_missing(value: Any) -> bool:
    """Tell whether there is no value: None, an empty template variable or NaN."""
    return value is None or isinstance(value, jinja2.Undefined) or (isinstance(value, float) and math.isnan(value))


def percent(value: float) -> str:
    """Write a share of 0 to 1 in per cent, with one digit."""
    return f"{100 * value:.1f}"


def interval(row: Mapping[str, Any]) -> str:
    """Write the 95 % interval of a row of metrics."""
    if is_missing(row["ci_low"]) or is_missing(row["ci_high"]):
        return "no interval"
    return f"{percent(row['ci_low'])}–{percent(row['ci_high'])} %"


def count(value: float) -> str:
    """Write a whole number with commas between thousands."""
    return f"{int(value):,}"


def duration(seconds: float) -> str:
    """Write seconds as a time a reader can grasp."""
    if is_missing(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def words(name: object) -> str:
    """Turn a name such as ``inv_weighted`` into words."""
    return str(name).replace("_", " ")


def short(value: float) -> str:
    """Write a number of any size with three digits that count."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def short_commit(commit: str) -> str:
    """Shorten a commit to the ten digits that tell it from others."""
    return re.sub(r"\b([0-9a-f]{10})[0-9a-f]{30}\b", r"\1", commit)


def _environment() -> jinja2.Environment:
    """Return the templates, which escape whatever they are given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([TEMPLATES, TEMPLATES / "report"]), autoescape=True, trim_blocks=True
    )
    environment.tests["missing"] = is_missing
    environment.filters.update(
        percent=percent,
        interval=interval,
        count=count,
        duration=duration,
        words=words,
        short=short,
        short_commit=short_commit,
    )
    # Headers that start with # stand over numbers.
    environment.filters["hash"] = lambda name: f"#{name}"
    return environment


class Html(Markup):
    """HTML that a notebook shows as such."""

    def _repr_html_(self) -> str:
        return str(self)


def render(template: str, **values: Any) -> Html:
    """Fill a template of ``templates/`` or ``templates/report/``."""
    return Html(_environment().get_template(f"{template}.html.j2").render(**values))


def page(title: str, body: str) -> str:
    """Return a whole page with the project's style in it; `body` is HTML."""
    style = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    return str(render("page", title=title, style=style, body=Markup(body)))


def data_uri(path: Path) -> str:
    """Return a picture as text that stands in a page: SVG where it is small, the PNG beside it otherwise."""
    png = path.with_suffix(".png")
    if path.suffix == ".svg" and path.stat().st_size > LARGEST_SVG and png.is_file():
        path = png
    kind = "svg+xml" if path.suffix == ".svg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def interactive_pages(folder: Path, start: Path) -> list[dict[str, str]]:
    """Return the interactive pages of an experiment as links from the folder `start`."""
    pages = sorted(path for path in folder.glob("*/*.html") if path.is_file())
    names = {path: words(path.stem) if path.stem == "map" else f"map of {words(path.stem)}" for path in pages}
    return [{"href": path.relative_to(start).as_posix(), "name": f"interactive {names[path]}"} for path in pages]
