"""What holds for whatever comes in: tiles of a montage, and mappings of stages to classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stainfree.datasets import montage
from stainfree.errors import DataError
from stainfree.schemes import STAGES, Scheme


@settings(deadline=None)
@given(
    rows=st.integers(1, 5), columns=st.integers(1, 5), channels=st.integers(1, 3),
    height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_montage_is_cut_into_the_tiles_it_was_laid_of(
    rows: int, columns: int, channels: int, height: int, width: int, seed: int
) -> None:
    tiles = np.random.default_rng(seed).integers(4096, size=(rows * columns, channels, height, width), dtype=np.uint16)
    grid = np.concatenate(
        [np.concatenate(list(tiles[start : start + columns]), axis=2) for start in range(0, len(tiles), columns)],
        axis=1,
    )
    np.testing.assert_array_equal(montage.cut(grid, (height, width)), tiles)
    if height > 1:
        with pytest.raises(DataError, match="are no whole number of"):
            montage.cut(grid[:, :-1], (height, width))


@given(
    classes=st.lists(st.integers(0, 3), min_size=len(STAGES), max_size=len(STAGES)),
    stages=st.lists(st.sampled_from(STAGES), max_size=50),
)
def test_every_stage_goes_to_its_class_and_to_no_other(classes: list[int], stages: list[str]) -> None:
    # Class 0 stands for none.
    mapping = {f"class {k}": [s for s, c in zip(STAGES, classes, strict=True) if c == k] for k in sorted({*classes})}
    left_out = mapping.pop("class 0", [])
    given = Scheme("mine", mapping).class_of(stages).tolist()
    assert len(given) == len(stages)
    for stage, name in zip(stages, given, strict=True):
        assert (name == "" and stage in left_out) or stage in mapping[name]
