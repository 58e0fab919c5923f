"""Draw the architecture of an experiment's networks."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.figures import architecture

with step:
    architecture.plot(step.input.models, svg=step.output.svg, png=step.output.png)
