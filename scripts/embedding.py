"""Lay out the test embeddings of one part of a training in three dimensions."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.explain import embedding

with step:
    embedding.embed(step.input.embeddings, out=step.output.embedding, **step.params.options)
