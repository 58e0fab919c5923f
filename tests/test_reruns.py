"""Right reruns: after a change, a plan holds exactly the jobs that depend on it, and no other.

The table says for each kind of change which jobs become stale. Each row changes a copy of a project in which all was
built, and asks Snakemake for its plan.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import snakemake
from PIL import Image

Jobs = frozenset[str]
Change = Callable[[Path], object]

# Jobs are called by their rule, and by their wildcards but for the data set simulated, espinosa and holdout. Each of
# these sets holds some jobs and all that come after them.
MODELS = ("fc", "cnn3", "simple_vit")
LOSSES = ("unweighted", "sqrt_weighted", "inv_weighted")
SALIENCY_FIGURES = frozenset(
    f"plot_saliency saliency_{name}_{outcome}" for name in ("interphase", "telophase") for outcome in ("right", "wrong")
)
CONFUSION_FIGURES = frozenset(f"plot_confusion confusion_{shown}" for shown in ("train", "test", "test_all"))

NOTHING: Jobs = frozenset()
INDEX: Jobs = frozenset({"index"})
REPORT = INDEX | {"report"}
CLAIMS = REPORT | {"check_claims"}
TABLES = REPORT | {"make_tables"}
SALIENCY = CLAIMS | SALIENCY_FIGURES | {"saliency"}
EMBEDDING = REPORT | {"embedding cnn3", "plot_embedding"}
SCORES = TABLES | SALIENCY | EMBEDDING | CONFUSION_FIGURES | {"evaluate", "plot_curves"}


def trained(models: Iterable[str] = MODELS, losses: Iterable[str] = LOSSES) -> Jobs:
    """Return the trainings of some models under some losses, and all that comes after them."""
    pairs = itertools.product(models, losses)
    return SCORES | {"plot_architecture"} | {f"train {model}/{loss}" for model, loss in pairs}


SPLIT = trained() | {"split", "plot_examples"}
DATA = SPLIT | {"convert"}
OWN_SPLIT = frozenset({"split mine"})
OWN_DATA = OWN_SPLIT | {"convert mine"}
FIGURES = {
    "examples": REPORT | {"plot_examples"},
    "architecture": REPORT | {"plot_architecture"},
    "curves": REPORT | {"plot_curves"},
    "confusion": REPORT | CONFUSION_FIGURES,
    "saliency": REPORT | SALIENCY_FIGURES,
    "embedding": REPORT | {"plot_embedding"},
}
ALL_FIGURES = frozenset().union(*FIGURES.values())

SCRIPTS = {
    "convert": DATA | OWN_DATA,
    "split": SPLIT | OWN_SPLIT,
    "train": trained(),
    "train_part": trained(),
    "join_parts": trained(),
    "evaluate": SCORES,
    "make_tables": TABLES,
    "check_claims": CLAIMS,
    "saliency": SALIENCY,
    "embedding": EMBEDDING,
    **{f"plot_{name}": jobs for name, jobs in FIGURES.items()},
    "report": REPORT,
    "index": INDEX,
}

# Modules of the library that the same jobs reach.
MODULES = [
    ("__init__ errors files cells schemes sources datasets/__init__ datasets/duplicates", DATA | OWN_DATA),
    ("datasets/simulated", DATA),
    ("datasets/folder datasets/pictures stain", OWN_DATA),
    ("splits predictions requirements", SPLIT | OWN_SPLIT),
    ("training plans loop parts networks transfer estimators", trained()),
    ("augment images checkpoints deadline provenance names", trained()),
    ("models/__init__ models/_layers models/_values losses/__init__", trained()),
    ("models/cnn3", trained(["cnn3"])),
    ("models/fc", trained(["fc"])),
    ("losses/inv_weighted", trained(losses=["inv_weighted"])),
    ("evaluation metrics", SCORES),
    ("tables", TABLES),
    ("claims evidence measures", CLAIMS),
    ("explain/__init__", SALIENCY | EMBEDDING),
    ("explain/saliency explain/masks trained", SALIENCY),
    ("explain/embedding", EMBEDDING),
    ("figures/__init__ figures/style", ALL_FIGURES),
    *((f"figures/{name}", jobs) for name, jobs in FIGURES.items()),
    ("report layout footnotes notebook headline pages costs accounting attempts", REPORT),
    ("front_page", INDEX),
]


def code(*files: str) -> Change:
    """Change what Python files do, if only by a name that nobody uses."""

    def change(project: Path) -> None:
        for file in files:
            path = project / file
            path.write_text(path.read_text(encoding="utf-8") + "\nUNUSED = 1\n", encoding="utf-8")

    return change


def replace(file: str, old: str, new: str) -> Change:
    """Write `new` in place of the first `old` in a file."""

    def change(project: Path) -> None:
        text = (project / file).read_text(encoding="utf-8")
        assert old in text, f"{file} has no {old!r}: the table is behind"
        (project / file).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def setting(value: Any, *keys: str) -> Change:
    """Set a key of config.yaml."""

    def change(project: Path) -> None:
        config = yaml.safe_load((project / "config.yaml").read_text(encoding="utf-8"))
        inner = config
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = value
        (project / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")

    return change


def version(package: str) -> Change:
    """Lock another version of a package."""
    return replace("requirements.lock", f"\n{package}==", f"\n{package}==99.")


def together(*changes: Change) -> Change:
    """Make several changes."""
    return lambda project: [change(project) for change in changes]


def comments_docstrings_and_layout(project: Path) -> None:
    """Say more in every Python file, and do the same."""
    for folder in ("src", "scripts"):
        for path in (project / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace('"""', '"""Told anew: ', 1) + "\n\n\n# The end.\n", encoding="utf-8")


def touch(project: Path) -> None:
    """Touch every file of the project that is no data."""
    for name in ("Snakefile", "config.yaml", "requirements.lock", "src", "scripts", "envs", "profiles"):
        for path in [project / name, *(project / name).rglob("*")]:
            os.utime(path)
    for path in (project / "workflow").rglob("*.smk"):
        os.utime(path)


def modules_of_no_step(project: Path) -> None:
    """Change every module of the library that the table does not name, and all other scripts."""
    named = {f"src/stainfree/{name}.py" for names, _ in MODULES for name in names.split()}
    named |= {f"src/stainfree/models/{name}.py" for name in MODELS}
    named |= {f"src/stainfree/losses/{name}.py" for name in LOSSES}
    named |= {f"scripts/{name}.py" for name in SCRIPTS}
    there = {
        str(path.relative_to(project)) for folder in ("src", "scripts") for path in project.glob(f"{folder}/**/*.py")
    }
    assert named <= there, "the table is behind"
    code(*there - named)(project)


def write_anew(file: str) -> Change:
    """Write a file again, with the same bytes."""
    return lambda project: (project / file).write_bytes((project / file).read_bytes())


def another_picture(project: Path) -> None:
    """Put another cell in the place of one of the user's own."""
    path = project / "own/S/3.png"
    Image.open(path).rotate(90).save(path)


def another_model(project: Path) -> None:
    """Add a family of models to the library, and to the experiment."""
    library = project / "src/stainfree/models"
    shutil.copy(library / "fc.py", library / "own_fc.py")
    replace("config.yaml", "    - simple_vit\n", "    - simple_vit\n    - own_fc\n")(project)


def other_resources(project: Path) -> None:
    """Give every job more memory and time, and say so."""
    for path in (project / "workflow/rules").glob("*.smk"):
        text = path.read_text(encoding="utf-8")
        path.write_text(
            re.sub(r"(get_memory|get_runtime)\((\d+)\)", r"\1(1\2)", text) + "\n# More.\n", encoding="utf-8"
        )


ESPINOSA = ("experiments", "espinosa")

TABLE: dict[str, tuple[Change, Jobs]] = {
    # Code.
    **{f"script {name}": (code(f"scripts/{name}.py"), jobs) for name, jobs in SCRIPTS.items()},
    **{f"module {name}": (code(f"src/stainfree/{name}.py"), jobs) for names, jobs in MODULES for name in names.split()},
    "modules that no step runs": (modules_of_no_step, NOTHING),
    "comments, docstrings and layout": (comments_docstrings_and_layout, NOTHING),
    "mere touches": (touch, NOTHING),
    "comments and resources of rules": (other_resources, NOTHING),
    "a recipe in a family's file": (
        replace("src/stainfree/models/simple_vit.py", "learning_rate=", "weight_decay=0.1, learning_rate="),
        trained(["simple_vit"]),
    ),
    "a family and a loss that no model uses": (
        together(
            lambda project: shutil.copy(project / "src/stainfree/models/fc.py", project / "src/stainfree/models/x.py"),
            lambda project: (project / "src/stainfree/losses/x.py").write_text("def class_weights(n):\n    return n\n"),
        ),
        NOTHING,
    ),
    # What is no Python.
    "notebook": (replace("notebooks/report.ipynb", "import ", "import os, "), REPORT),
    "style of the pages": (replace("src/stainfree/templates/style.css", "{", "{ "), REPORT),
    "template of a section": (replace("src/stainfree/templates/report/scores.html.j2", "<", " <"), REPORT),
    "template of the front page": (replace("src/stainfree/templates/index.html.j2", "<", " <"), INDEX),
    "what the study says": (
        lambda project: (project / "workflow/studies/espinosa.yaml").open("a").write("# A note.\n"),
        SCORES,
    ),
    # Locked versions.
    "version of numpy, in all steps": (version("numpy"), DATA | OWN_DATA),
    "version of torch": (version("torch"), trained()),
    "version of captum": (version("captum"), SALIENCY),
    "version of umap-learn": (version("umap-learn"), EMBEDDING),
    "version of scikit-learn": (version("scikit-learn"), SCORES),
    "version of plotly": (version("plotly"), ALL_FIGURES),
    "version of papermill": (version("papermill"), REPORT),
    "versions that no step uses": (together(version("pytest"), version("hypothesis"), version("ruff")), NOTHING),
    # Settings.
    "seed": (setting(1, "seed"), SPLIT | OWN_SPLIT),
    "bootstrap": (setting(200, "evaluation", "bootstrap"), SCORES),
    "threads": (setting(2, "training", "threads"), trained()),
    "settings that change no result": (
        together(setting("/mnt/cells", "mirror"), setting(5, "training", "checkpoint_seconds")),
        NOTHING,
    ),
    "thinning of the map": (setting({"Interphase": 10}, *ESPINOSA, "explain", "thin"), EMBEDDING),
    "judge of the saliency figures": (setting("fc", *ESPINOSA, "explain", "judge"), SALIENCY),
    "recipe of one model": (
        setting(["fc", {"cnn3": {"recipe": {"epochs": 3}}}, "simple_vit"], *ESPINOSA, "models"),
        trained(["cnn3"]),
    ),
    "one model more": (another_model, trained(["own_fc"])),
    "fit": (setting("resize", *ESPINOSA, "fit"), trained()),
    "scheme of the experiment": (setting(["G1", "S"], "schemes", "five", "Interphase"), SPLIT | OWN_SPLIT),
    "scheme of no experiment": (setting(["Prophase"], "schemes", "four", "M"), NOTHING),
    "experiment that is not built": (
        lambda project: setting(
            yaml.safe_load((project / "config.yaml").read_text())["experiments"]["espinosa"], "experiments", "other"
        )(project),
        NOTHING,
    ),
    # Data.
    "description of simulated cells": (setting(421, "datasets", "simulated", "n_cells"), DATA),
    "description of one's own cells": (setting("CC0", "datasets", "mine", "licence"), OWN_DATA),
    "another picture": (another_picture, OWN_DATA),
    "a picture more": (lambda project: shutil.copy(project / "own/S/3.png", project / "own/S/x.png"), OWN_DATA),
    "a picture less": (lambda project: (project / "own/S/3.png").unlink(), OWN_DATA),
    "a file beside the pictures": (lambda project: (project / "own/S/notes.txt").write_text("Monday"), NOTHING),
    "converted cells, written anew": (write_anew("data/simulated.h5"), SPLIT),
}


def plan(finished: Path, project: Path, change: Change) -> Jobs:
    """Return the jobs that Snakemake plans in a copy of the finished project after a change.

    What was built is not copied but for the data, which some rows change. The rules' own messages are taken out, so
    that the plan tells rule and wildcards.
    """
    built = ("results", ".snakemake")
    shutil.copytree(finished, project, ignore=shutil.ignore_patterns(*built, "logs", "work", "__pycache__"))
    for name in built:
        (project / name).symlink_to(finished / name)
    for path in (project / "workflow/rules").glob("*.smk"):
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"^ +message:\n.*\n", "", text, flags=re.MULTILINE), encoding="utf-8")
    change(project)
    run = snakemake(project, "all", "results/mine/espinosa/holdout/split.parquet", "--dry-run")
    shutil.rmtree(project)
    return frozenset(_jobs(run.stdout)) - {"all"}


def _jobs(told: str) -> Iterator[str]:
    """Yield the jobs that the plan tells, such as ``train cnn3/inv_weighted`` and ``split mine``."""
    assert "Job stats:" in told or "Nothing to be done" in told, told
    for rule, block in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", told, re.MULTILINE):
        wildcards = re.findall(r"(\w+)=([^,\n]+)", "".join(re.findall(r"^    wildcards: .*\n", block, re.MULTILINE)))
        told_apart = "/".join(value for _, value in wildcards if value not in ("simulated", "espinosa", "holdout"))
        yield f"{rule} {told_apart}".strip()


@pytest.fixture(scope="module")
def plans(
    finished: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Jobs]]]:
    """Row that is tested -> the jobs that are planned after its change; several plans are made at a time."""
    folder = tmp_path_factory.mktemp("reruns")
    tested = [row for row in TABLE if any(item.name.endswith(f"[{row}]") for item in request.session.items)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {
            row: pool.submit(plan, finished, folder / str(number), TABLE[row][0]) for number, row in enumerate(tested)
        }


def test_nothing_is_stale_without_a_change(finished: Path, tmp_path: Path) -> None:
    assert plan(finished, tmp_path / "project", lambda project: None) == NOTHING


@pytest.mark.parametrize("row", TABLE)
def test_what_becomes_stale(plans: dict[str, Future[Jobs]], row: str) -> None:
    assert sorted(plans[row].result()) == sorted(TABLE[row][1])
