"""Stages of the cell cycle, and label schemes: how stages merge into classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stainfree.errors import DataError

# The config is read under a Python that may hold snakemake only.
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

STAGES = ("G1", "S", "G2", "Prophase", "Metaphase", "Anaphase", "Telophase")
"""All stages, in the order in which a cell passes through them."""

INTERPHASE = ("G1", "S", "G2")


def slug(name: str) -> str:
    """Turn a class name into a part of a file name: ``G2/M`` into ``g2_m``, ``not G2`` into ``not_g2``."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


@dataclass(frozen=True)
class Scheme:
    """A label scheme: ordered classes, each a set of stages.

    Parameters
    ----------
    name
        The name in config, such as ``five``.
    members
        Class -> its stages. A stage in no class leaves its cells out of the experiment.
    """

    name: str
    members: Mapping[str, Sequence[str]]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the scheme's order."""
        return tuple(self.members)

    def class_of(self, stages: Sequence[str] | npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
        """Map stages to classes.

        Parameters
        ----------
        stages
            (cell,) stage names.

        Returns
        -------
        ndarray of str
            (cell,) class names; an empty text where the stage belongs to no class.

        Raises
        ------
        DataError
            If a stage is not one of `STAGES`.
        """
        import numpy as np

        lookup = {stage: name for name, members in self.members.items() for stage in members}
        unknown = sorted(set(stages) - set(STAGES))
        if unknown:
            raise DataError(
                f"stage {', '.join(unknown)} is not one of {', '.join(STAGES)}; map it in the data set's `stages`"
            )
        return np.array([lookup.get(stage, "") for stage in stages], dtype=object)
