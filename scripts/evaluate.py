"""Score every training and the trivial answer, and choose a loss per model on validation."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree import evaluation

with step:
    evaluation.run(
        step.input.predictions,
        pairs=step.params.pairs,
        split_paths=dict(zip(step.params.split_variants, step.input.splits, strict=True)),
        study=step.input.study or None,
        out=step.output.metrics,
        chosen=step.output.chosen,
        **step.params.options,
    )
