"""What models ask of a data set is asked before anything is trained, and refused in one line that says the mend."""

from __future__ import annotations

from typing import Any

import pytest

from stainfree import models, requirements
from stainfree.errors import DataError


def check(model: str | dict[str, Any], shape: tuple[int, int], *, fit: str = "pad", channels: str = "BF") -> None:
    """Ask for one model, as its entry in the config says it, on images of `shape` with BF and PI."""
    entry = models.entry(model)
    requirements.check(
        shape,
        ["BF", "PI"],
        dataset="mine",
        channels=channels.split(),
        sizes={entry.name: entry.image_size},
        crops={entry.name: entry.crop},
        smallest={entry.name: models.family(entry.family).smallest_side},
        fit=fit,
    )


@pytest.mark.parametrize("side", [21, 40, 64, 66, 300])
@pytest.mark.parametrize("name", ["majority", "pi_threshold", "logreg", "nn", "resnet", "nagao", "duque_cnn"])
def test_families_of_any_size_take_all(name: str, side: int) -> None:
    check(name, (side, side))


@pytest.mark.parametrize(
    ("model", "shape", "fit", "message"),
    [
        ("duque_cnn", (20, 20), "pad", "images of 20 x 20 are smaller than the 21 x 21 that it needs; set `image_size"),
        ({"duque_cnn": {"image_size": 20}}, (40, 40), "resize", "images of 20 x 20 are smaller than the 21 x 21"),
        (
            {"duque_cnn": {"image_size": 40, "crop": 20}},
            (40, 40),
            "pad",
            "crops of 20 x 20 are smaller than the 21 x 21 that it needs; set `crop` of the model to 21 or more",
        ),
        ({"cnn3": {"image_size": 40, "crop": 36}}, (40, 40), "pad", "crops of 36 x 36 are smaller than the 64 x 64"),
        ("cnn3", (300, 300), "pad", "images of 300 x 300 are larger than 66 x 66; set `fit: crop`, "),
        ("cnn3", (40, 40), "crop", "images of 40 x 40 are smaller than 66 x 66; set `fit: pad`, "),
        ("nagao", (40, 60), "pad", "images of 40 x 60 are not square; set `image_size` of the model, and `fit`"),
    ],
)
def test_what_a_model_cannot_take_is_refused(model: Any, shape: tuple[int, int], fit: str, message: str) -> None:
    with pytest.raises(DataError, match="^mine: model (duque_cnn|cnn3|nagao) cannot take it: " + message) as refused:
        check(model, shape, fit=fit)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("side", [21, 40])
def test_larger_crops_and_padding_mend_it(side: int) -> None:
    check({"duque_cnn": {"image_size": 40, "crop": side}}, (40, 40))
    check({"duque_cnn": {"image_size": side}}, (20, 20))


def test_a_channel_that_the_data_set_lacks_is_refused() -> None:
    with pytest.raises(DataError, match="mine: has no channel DF; it has BF, PI"):
        check("nn", (40, 40), channels="BF DF")
