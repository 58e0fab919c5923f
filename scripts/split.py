"""Draw the split of a variant."""

from _step import Step

step = Step(snakemake)

from stainfree import cells, requirements, splits
from stainfree.schemes import Scheme

with step:
    # Not a parameter of the rule: another model in the experiment must not make the split stale.
    info = cells.read_info(step.input.cells)
    needed = step.config["requirements"][step.wildcards.experiment]
    requirements.check(info.image_shape, info.channels, dataset=step.wildcards.dataset, **needed)
    splits.make(
        step.input.cells,
        step.output.split,
        spec=step.params.split,
        scheme=Scheme(**step.params.scheme),
        sources=step.params.sources,
        seed=step.params.seed,
    )
