"""Reads and checks the config, and what several stages ask of it."""

import json
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "src"))

from stainfree import config as configuration
from stainfree import files, losses, models, requirements, sources, staleness, verdicts
from stainfree.errors import ConfigError, StainfreeError

try:
    files.check_writable("data", "results", "work", "logs")
    # An experiment that is a target need not be one that the config builds, which may not fit the data set.
    SETTINGS = configuration.check(
        config,
        workflow=ROOT / "workflow",
        targets=sys.argv[1:] if workflow.is_main_process else None,
    )
    # What the models ask of the data, for the scripts; what is already converted is asked before any job starts.
    config["requirements"] = {
        name: configuration.requirements_of(experiment)
        for name, experiment in SETTINGS.experiments.items()
    }
    if (converted := Path(f"data/{SETTINGS.dataset}.json")).is_file():
        about = json.loads(converted.read_text())
        # Cells of another description are about to be converted again; the split asks then.
        if about.get("description") == files.digest(
            SETTINGS.datasets[SETTINGS.dataset]
        ):
            for name in SETTINGS.asked:
                requirements.check(
                    tuple(about["image_shape"]),
                    about["channels"],
                    dataset=SETTINGS.dataset,
                    **config["requirements"][name],
                )
except StainfreeError as error:
    prefix = "config" if isinstance(error, ConfigError) else "Error"
    sys.exit("\n".join(f"{prefix}: {line}" for line in str(error).split("\n")))


onstart:
    verdicts.forget_all()


# The reasons last, where they are seen, and not only among what other jobs say.
onerror:
    for line in verdicts.summary():
        print(line, file=sys.stderr)


wildcard_constraints:
    dataset="|".join(SETTINGS.datasets),
    experiment="|".join(SETTINGS.experiments),
    variant="[A-Za-z][A-Za-z0-9_]*",
    model="[A-Za-z][A-Za-z0-9_]*",
    loss="[A-Za-z][A-Za-z0-9_]*",
