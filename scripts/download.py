"""Fetch the files of a data set, from upstream or a mirror, and list them."""

import os

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.datasets import Dataset
from stainfree.datasets.download import download

with step:
    download(
        Dataset.from_config(step.wildcards.dataset, step.params.description),
        raw=step.params.raw,
        manifest=step.output.manifest,
        # The environment tells of the machine, config of the project: the machine wins.
        mirror=os.environ.get("STAINFREE_MIRROR") or step.config["mirror"],
    )
