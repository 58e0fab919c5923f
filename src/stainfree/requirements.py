"""What an experiment asks of a data set: found out from the data, and refused before any training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from stainfree import cells, files, images
from stainfree.errors import DataError


def check(
    cells_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    channels: Sequence[str],
    sizes: Mapping[str, int | None],
    fit: str,
) -> None:
    """Check that a cells file has the channels of an experiment, in a size that all of its models take.

    Parameters
    ----------
    cells_path
        The cells.
    out
        JSON that says what was checked.
    channels
        Channels that the models see.
    sizes
        Model -> side in pixels that its images are brought to; None for a model that takes any size.
    fit
        How images are brought to that size.

    Raises
    ------
    DataError
        In one line that says what to change.
    """
    info = cells.read_info(cells_path)
    info.channel_indices(channels, path=cells_path)
    for model, size in sizes.items():
        reason = images.why_not(info.image_shape, size, fit)
        if reason:
            raise DataError(f"{cells_path}: model {model} cannot take it: {reason} in the experiment")
    files.write_json(
        out,
        {
            "cells_sha256": info.content_sha256,
            "image_shape": list(info.image_shape),
            "channels": list(channels),
            "models": dict(sizes),
        },
    )
