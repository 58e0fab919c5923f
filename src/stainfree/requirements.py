"""What the models of an experiment ask of a data set: channels, and images in a size that they can be brought to.

Light to import: the workflow asks before it plans, wherever the data set is already converted, and the drawing of a
split asks again, so that nothing is trained on cells that some model of the experiment cannot take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stainfree.errors import DataError


def why_not(shape: tuple[int, int], size: int | None, way: str) -> str:
    """Return why images of `shape` cannot be brought to `size` by `way`; an empty text where they can."""
    if size is None:
        return ""
    if way == "pad" and max(shape) > size:
        return (
            f"images of {shape[0]} x {shape[1]} are larger than {size} x {size}; set `fit: crop`, `centre` or `resize`"
        )
    if way == "crop" and min(shape) < size:
        return (
            f"images of {shape[0]} x {shape[1]} are smaller than {size} x {size}; set `fit: pad`, `centre` or `resize`"
        )
    return ""


def too_small(shape: tuple[int, int], size: int | None, crop: int | None, smallest: int) -> str:
    """Return why a model that needs images of `smallest` pixels cannot do with those of `shape` brought to `size`.

    An empty text where it can. `crop` is the side of what the model is shown of them; None for all.
    """
    what, key, side = "images", "image_size", min(shape) if size is None else size
    if crop is not None:
        what, key, side = "crops", "crop", crop
    if side >= smallest:
        return ""
    needed = f"the {smallest} x {smallest} that it needs"
    return f"{what} of {side} x {side} are smaller than {needed}; set `{key}` of the model to {smallest} or more"


def check(
    image_shape: tuple[int, int],
    available: Sequence[str],
    *,
    dataset: str,
    channels: Sequence[str],
    sizes: Mapping[str, int | None],
    crops: Mapping[str, int | None],
    smallest: Mapping[str, int],
    fit: str,
) -> None:
    """Check that a data set has what the models of an experiment take.

    Parameters
    ----------
    image_shape
        Height and width of its images in pixels.
    available
        Its channels.
    dataset
        Its name, for the message.
    channels
        Channels that the models see.
    sizes
        Model -> side in pixels that its images are brought to; None for a model that takes any size.
    crops
        Model -> side in pixels of the crop that it is shown; None for one that is shown the whole image.
    smallest
        Model -> side in pixels of the smallest image that it can be shown.
    fit
        How images are brought to that size: ``pad``, ``crop``, ``centre`` or ``resize``.

    Raises
    ------
    DataError
        In one line that says what to change.
    """
    missing = [channel for channel in channels if channel not in available]
    if missing:
        raise DataError(
            f"{dataset}: has no channel {', '.join(missing)}; it has {', '.join(available)}. "
            "Change `channels` of the experiment, or choose another data set."
        )
    for model, size in sizes.items():
        reason = why_not(image_shape, size, fit)
        if size is None and image_shape[0] != image_shape[1]:
            height, width = image_shape
            reason = f"images of {height} x {width} are not square; set `image_size` of the model, and `fit`"
        reason = reason or too_small(image_shape, size, crops[model], smallest[model])
        if reason:
            raise DataError(f"{dataset}: model {model} cannot take it: {reason} in the experiment")
