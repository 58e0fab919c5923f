"""Turn the files of a data set into the cells contract, with a report of what was read and left out."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.datasets import Dataset, convert

with step:
    convert(
        Dataset.from_config(step.wildcards.dataset, step.params.description),
        raw=step.params.raw,
        out=step.output.cells,
        report=step.output.report,
    )
