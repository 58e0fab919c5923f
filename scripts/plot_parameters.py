"""Draw scores on test cells against the number of parameters."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.figures import parameters

with step:
    parameters.plot(
        step.input.metrics,
        step.input.chosen,
        step.input.models,
        study=step.input.study or None,
        svg=step.output.svg,
        png=step.output.png,
        **step.params.options,
    )
