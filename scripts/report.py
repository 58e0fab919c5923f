"""Run the report's notebook and write it as one page that needs no network."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

import json

from stainfree import notebook, provenance

with step:
    made_by = provenance.collect(["snakemake", "papermill", "nbconvert", "pandas"])
    notebook.run(
        step.input.notebook,
        parameters={**step.params.parameters, "provenance": json.dumps(made_by)},
        out=step.output.html,
        failed_copy=step.params.failed_copy,
    )
