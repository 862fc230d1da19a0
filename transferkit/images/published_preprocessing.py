"""Preprocessing as timm, torchvision and transformers publish it with their models.

None of these libraries is imported: their objects are read by their attributes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transferkit.errors import ParameterError, shorten
from transferkit.images.preprocessing import Preprocessing

__all__ = ["from_timm", "from_torchvision", "from_transformers", "published_preprocessing"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
# Pillow's filters, by their numbers.
_PILLOW_FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}


def from_timm(model: object) -> Preprocessing:
    """Return the preprocessing of a timm model.

    It is equal to the transform that ``timm.data.create_transform`` makes for evaluation.

    Parameters
    ----------
    model
        A model of timm, its ``pretrained_cfg``, or what ``timm.data.resolve_model_data_config``
        returns.

    Raises
    ------
    ParameterError
        If ``model`` has no such configuration, or one that `Preprocessing` cannot express.

    Examples
    --------
    >>> from transferkit.images import from_timm
    >>> config = {"input_size": (3, 288, 288), "crop_pct": 0.95, "interpolation": "bicubic"}
    >>> from_timm(config).resize
    303
    """
    config = _get(model, "pretrained_cfg") or _get(model, "default_cfg") or model
    input_size = _get(config, "input_size")
    if not isinstance(input_size, Sequence) or len(input_size) != 3:
        raise ParameterError(
            f"a {type(model).__name__} has no timm configuration with an input_size; expected a "
            "model of timm or its pretrained_cfg"
        )
    size = _square("timm", "input_size", input_size[1:])
    crop_mode = _get(config, "crop_mode") or "center"
    crop_pct = _get(config, "crop_pct") or 0.875
    # Rounded down, as timm does.
    resize = math.floor(size / float(crop_pct))
    if crop_mode not in ("center", "squash") or (crop_mode == "squash" and resize != size):
        raise _inexpressible("timm", f"crop_mode {shorten(crop_mode)} with crop_pct {crop_pct}")
    return Preprocessing(
        size=size,
        resize=resize if crop_mode == "center" else None,
        crop=crop_mode == "center",
        interpolation=_get(config, "interpolation") or "bicubic",
        mean=_three(_get(config, "mean") or _IMAGENET_MEAN),
        std=_three(_get(config, "std") or _IMAGENET_STD),
    )


def from_torchvision(weights: object) -> Preprocessing:
    """Return the preprocessing of torchvision's weights.

    Parameters
    ----------
    weights
        An entry of a weights enum, such as ``ResNet50_Weights.IMAGENET1K_V2``, or what its
        ``transforms()`` returns.

    Raises
    ------
    ParameterError
        If ``weights`` is neither, or `Preprocessing` cannot express its preprocessing.
    """
    transforms = _get(weights, "transforms")
    preset = transforms() if callable(transforms) else weights
    crop_size, resize_size = _get(preset, "crop_size"), _get(preset, "resize_size")
    if not crop_size or not resize_size:
        raise ParameterError(
            f"a {type(weights).__name__} has no crop_size and resize_size; expected an entry of a "
            "weights enum of torchvision for classification, or its transforms()"
        )
    size = _square("torchvision", "crop_size", crop_size)
    sides = [resize_size] if isinstance(resize_size, int) else list(resize_size)
    if len(sides) == 2 and sides != [size, size]:
        raise _inexpressible("torchvision", f"resize_size {sides} with crop_size {size}")
    interpolation = _get(preset, "interpolation")
    return Preprocessing(
        size=size,
        resize=sides[0] if len(sides) == 1 else None,
        crop=len(sides) == 1,
        interpolation=str(_get(interpolation, "value") or interpolation),
        mean=_three(_get(preset, "mean")),
        std=_three(_get(preset, "std")),
    )


def from_transformers(processor: object) -> Preprocessing:
    """Return the preprocessing of an image processor of transformers.

    Parameters
    ----------
    processor
        What ``AutoImageProcessor.from_pretrained`` returns, or the content of a
        ``preprocessor_config.json`` as a dict.

    Raises
    ------
    ParameterError
        If ``processor`` is neither, or `Preprocessing` cannot express its preprocessing.

    Examples
    --------
    >>> from transferkit.images import from_transformers
    >>> config = {
    ...     "size": {"shortest_edge": 256},
    ...     "crop_size": {"height": 224, "width": 224},
    ...     "do_center_crop": True,
    ...     "image_mean": [0.5, 0.5, 0.5],
    ...     "image_std": [0.5, 0.5, 0.5],
    ...     "resample": 3,
    ... }
    >>> preprocessing = from_transformers(config)
    >>> preprocessing.size, preprocessing.resize, preprocessing.interpolation
    (224, 256, 'bicubic')
    """
    inner = _get(processor, "image_processor")
    processor = processor if inner is None else inner
    if _get(processor, "size") is None and _get(processor, "image_mean") is None:
        raise ParameterError(
            f"a {type(processor).__name__} has neither size nor image_mean; expected an image "
            "processor of transformers"
        )
    mean, std = _transformers_normalization(processor)
    size, resize, crop = _transformers_geometry(processor)
    resample = _get(processor, "resample")
    interpolation = _PILLOW_FILTERS.get(2 if resample is None else int(resample))
    if interpolation is None:
        raise _inexpressible("transformers", f"resample {shorten(resample)}")
    return Preprocessing(
        size=size,
        resize=resize,
        crop=crop,
        interpolation=interpolation,
        mean=mean,
        std=std,
        channel_order="bgr" if _get(processor, "do_flip_channel_order") else "rgb",
    )


def published_preprocessing(model: object) -> Preprocessing | None:
    """Return the preprocessing that a model object carries; None if it carries none.

    Parameters
    ----------
    model
        A model of timm, or an object that `transferkit.FeatureExtractor.to_native` returned.
    """
    own = _get(model, "preprocessing")
    if isinstance(own, Preprocessing):
        return own
    config = _get(model, "pretrained_cfg")
    # A wrapper may have an attribute of this name that is not timm's.
    return None if _get(config, "input_size") is None else from_timm(config)


def _transformers_geometry(processor: object) -> tuple[int | None, int | None, bool]:
    """Return the size, resize and crop of `Preprocessing`."""
    does_crop = bool(_get(processor, "do_center_crop"))
    size: Any = _get(processor, "size")
    crop_size: Any = _get(processor, "crop_size")
    if isinstance(size, int):
        # Old configurations: the shorter side if there is a crop.
        size = {"shortest_edge": size} if does_crop else {"height": size, "width": size}
    if isinstance(crop_size, int):
        crop_size = {"height": crop_size, "width": crop_size}
    if _get(processor, "do_resize") is False:
        if does_crop:
            raise _inexpressible("transformers", "do_center_crop without do_resize")
        return None, None, True
    shorter = _get(size, "shortest_edge")
    crop_pct = _get(processor, "crop_pct")
    if crop_pct and shorter:
        # ConvNeXT: small images are cropped, large ones stretched.
        return (shorter, int(shorter / crop_pct), True) if shorter < 384 else (shorter, None, False)
    if not does_crop:
        height, width = _get(size, "height"), _get(size, "width")
        if not height or not width:
            raise _inexpressible("transformers", f"size {shorten(size)} without do_center_crop")
        return _square("transformers", "size", (height, width)), None, False
    sides = (_get(crop_size, "height"), _get(crop_size, "width"))
    crop = _square("transformers", "crop_size", sides)
    if shorter:
        return crop, int(shorter), True
    if _get(size, "height") == _get(size, "width") == crop:
        return crop, None, False
    raise _inexpressible("transformers", f"size {shorten(size)} with crop_size {crop}")


def _transformers_normalization(
    processor: object,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and std for pixels in [0, 1]."""
    mean, std = (0.0,) * 3, (1.0,) * 3
    given = {name: _get(processor, name) for name in ("image_mean", "image_std")}
    missing = [name for name, values in given.items() if values is None]
    if _get(processor, "do_normalize") is not False and len(missing) < 2:
        if missing:
            raise ParameterError(
                f"a {type(processor).__name__} has no {missing[0]}; expected image_mean and "
                "image_std, or neither: add it, as documented for the class of the image processor"
            )
        mean, std = _three(given["image_mean"]), _three(given["image_std"])
    factor = _get(processor, "rescale_factor")
    scale = 255 * (1 / 255 if factor is None else float(factor))
    if _get(processor, "do_rescale") is False:
        scale = 255.0
    offset = 1.0 if _get(processor, "rescale_offset") else 0.0
    if math.isclose(scale, 1):
        scale = 1.0
    red, green, blue = ((value + offset) / scale for value in mean)
    return (red, green, blue), _three([value / scale for value in std])


def _get(container: object, name: str) -> Any:
    """Return an entry of a mapping or an attribute; None if there is none."""
    if isinstance(container, Mapping):
        return container.get(name)
    return getattr(container, name, None)


def _square(library: str, name: str, sides: Any) -> int:
    sides = [sides] if isinstance(sides, int) else list(sides)
    if not all(isinstance(side, int) for side in sides) or len(set(sides)) != 1:
        raise _inexpressible(library, f"{name} {shorten(sides)}, which is not square")
    return int(sides[0])


def _three(values: Any) -> tuple[float, float, float]:
    """Return three numbers; one number, of gray images or of all channels, is repeated."""
    try:
        listed = [values] if isinstance(values, (int, float)) else list(values)
        numbers = [float(value) for value in listed] * (3 if len(listed) == 1 else 1)
    except (TypeError, ValueError):
        raise ParameterError(
            f"a mean or std is {shorten(values)}; expected three numbers or one"
        ) from None
    if len(numbers) != 3:
        raise ParameterError(f"the normalization has {len(numbers)} channels; expected 3 or 1")
    return (numbers[0], numbers[1], numbers[2])


def _inexpressible(library: str, what: str) -> ParameterError:
    return ParameterError(
        f"Preprocessing cannot express {library}'s {what}; preprocess the images yourself and pass "
        "arrays with Preprocessing(size=None, mean=..., std=...)"
    )
