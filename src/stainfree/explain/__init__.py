"""Explanations: where in the image a model looks, and how its embedding lies."""
