"""Check that a data set has what an experiment's models take, before any of them trains."""

from _step import Step

step = Step(snakemake)

from stainfree import requirements

with step:
    requirements.check(
        step.input.cells,
        step.output.checked,
        channels=step.params.channels,
        sizes=step.params.sizes,
        fit=step.params.fit,
    )
