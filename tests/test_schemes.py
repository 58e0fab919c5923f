"""Label schemes: stages to classes, and classes to parts of file names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stainfree.errors import DataError
from stainfree.schemes import Scheme, slug


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Interphase", "interphase"), ("not G2", "not_g2"), ("G2/M", "g2_m"), ("G1 - early", "g1_early"), ("S", "s")],
)
def test_slug(name: str, expected: str) -> None:
    assert slug(name) == expected


@given(st.text(min_size=1))
def test_a_slug_is_always_fit_for_a_file_name(name: str) -> None:
    assert re.fullmatch("[a-z0-9_]+", slug(name))
    assert slug(slug(name)) == slug(name)


def test_a_stage_of_no_class_is_left_out_and_an_unknown_one_refused() -> None:
    scheme = Scheme("mine", {"G2/M": ["G2", "Metaphase"], "G1": ["G1"]})
    assert scheme.classes == ("G2/M", "G1")
    assert scheme.class_of(["G1", "Metaphase", "S"]).tolist() == ["G1", "G2/M", ""]
    with pytest.raises(DataError, match="stage G3 is not one of G1, S"):
        scheme.class_of(["G1", "G3"])
