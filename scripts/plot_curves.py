"""Draw the learning curves of an experiment's trainings."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.figures import curves

with step:
    curves.plot(
        step.input.histories,
        step.input.models,
        step.input.chosen,
        step.input.split,
        pairs=step.params.pairs,
        svg=step.output.svg,
        png=step.output.png,
    )
