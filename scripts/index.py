"""Write the front page over all reports that were built."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree import front_page

with step:
    front_page.write(step.params.results, data=step.params.data, main=step.params.main, out=step.output.html)
