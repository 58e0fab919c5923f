"""Draw the split of a variant."""

from _step import Step

step = Step(snakemake)

from stainfree import splits
from stainfree.schemes import Scheme

with step:
    splits.make(
        step.input.cells,
        step.output.split,
        spec=step.params.split,
        scheme=Scheme(**step.params.scheme),
        sources=step.params.sources,
        seed=step.params.seed,
    )
