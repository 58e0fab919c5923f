"""Write the front page over all reports that were built."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree import report

with step:
    report.write_index(step.params.results, data=step.params.data, out=step.output.html)
