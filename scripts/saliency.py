"""Explain test cells by every model that has gradients, and measure how much of the saliency lies on the cell."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.explain import saliency

with step:
    saliency.explain(
        step.input.cells,
        step.input.models,
        step.input.chosen,
        maps=step.output.maps,
        picked=step.output.cells,
        shares=step.output.shares,
        **step.params.options,
    )
