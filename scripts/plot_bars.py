"""Draw scores on test cells as bars, with their intervals."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.figures import bars

with step:
    bars.plot(
        step.input.metrics,
        step.input.chosen,
        study=step.input.study or None,
        svg=step.output.svg,
        png=step.output.png,
        **step.params.options,
    )
