"""Search the settings of one (variant, model, loss) by cross-validation inside the training part of each fold."""

from pathlib import Path

from _step import Step

step = Step(snakemake)

from stainfree import deadline, training, tuning
from stainfree.search import Search

with step:
    # Not a parameter of the rule: it changes no result, so it makes no search stale.
    seconds = float(step.config["training"].get("checkpoint_seconds", 60))
    tuning.tune(
        step.input.cells,
        step.input.split,
        Path(step.output.best).parent,
        plan=training.plan_from(step.params.plan, checkpoint_seconds=seconds),
        search=Search(**step.params.search),
        work="work/tuning",
        deadline=deadline.Deadline(deadline.of_job()),
    )
