"""Lay out the test embeddings of one part of a model's chosen training in three dimensions."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.explain import embedding

with step:
    embedding.embed_chosen(
        step.input.embeddings,
        step.input.chosen,
        pairs=step.params.pairs,
        out=step.output.embedding,
        **step.params.options,
    )
