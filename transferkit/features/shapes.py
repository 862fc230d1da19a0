"""The check that the outputs of a layer have the same shape for all images."""

from __future__ import annotations

from transferkit.errors import ShapeError

__all__ = ["check_same_shape"]


def check_same_shape(
    layer: str, first: tuple[tuple[int, ...], str], other: tuple[tuple[int, ...], str]
) -> None:
    """Check that the outputs of a layer for two images can be in one array.

    Parameters
    ----------
    layer
        The name of the layer.
    first, other
        The shape of the output for an image, and the source of the image.

    Raises
    ------
    ShapeError
        If the shapes differ.
    """
    if first[0] != other[0]:
        before, after = (" x ".join(map(str, shape)) for shape, _ in (first, other))
        raise ShapeError(
            f"the output of layer {layer!r} is {before} for {first[1]} but {after} for "
            f"{other[1]}, because the images differ in size; extract a layer with one "
            "vector per image, such as 'embedding', or resize the images with "
            "Preprocessing(size=...)"
        )
