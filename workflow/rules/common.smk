"""Reads and checks the config, and what several stages ask of it."""

import json
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "src"))

from stainfree import config as configuration
from stainfree import losses, models, requirements, staleness
from stainfree.errors import StainfreeError

try:
    SETTINGS = configuration.check(config, workflow=ROOT / "workflow")
    # What the models ask of the data, for the scripts; what is already converted is asked before any job starts.
    config["requirements"] = {
        name: configuration.requirements_of(experiment)
        for name, experiment in SETTINGS.experiments.items()
    }
    if (converted := Path(f"data/{SETTINGS.dataset}.json")).is_file():
        about = json.loads(converted.read_text())
        for name in SETTINGS.build:
            requirements.check(
                tuple(about["image_shape"]),
                about["channels"],
                dataset=SETTINGS.dataset,
                **config["requirements"][name],
            )
except StainfreeError as error:
    sys.exit("\n".join(f"config: {line}" for line in str(error).split("\n")))


wildcard_constraints:
    dataset="|".join(SETTINGS.datasets),
    experiment="|".join(SETTINGS.experiments),
    variant="[A-Za-z][A-Za-z0-9_]*",
    model="[A-Za-z][A-Za-z0-9_]*",
    loss="[A-Za-z][A-Za-z0-9_]*",
