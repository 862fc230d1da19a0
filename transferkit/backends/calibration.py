"""The ranges of a network's activations, by which they are quantized to 8 bits."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from transferkit.errors import shorten

__all__ = ["Calibration"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The ranges of a network's activations, by which they are quantized to 8 bits.

    Attributes
    ----------
    ranges
        The name of each layer whose output is quantized to the lowest and the highest value that
        are represented; others are clipped. Both are finite; 0 is between them.
    num_images
        The number of images that they were measured on.

    Examples
    --------
    >>> from transferkit.backends import Calibration
    >>> calibration = Calibration({"features.1": (0.0, 4.5)}, num_images=32)
    >>> Calibration.from_dict(calibration.to_dict()) == calibration
    True
    """

    ranges: Mapping[str, tuple[float, float]]
    num_images: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranges", MappingProxyType(dict(self.ranges)))

    def __reduce__(self) -> tuple[object, ...]:
        return (Calibration, (dict(self.ranges), self.num_images))

    def __repr__(self) -> str:
        return f"<Calibration of {len(self.ranges)} layers on {self.num_images} images>"

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as plain data for JSON; `from_dict` reads it."""
        return {"ranges": dict(self.ranges), "num_images": self.num_images}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Return the calibration that `to_dict` wrote.

        Raises
        ------
        ValueError
            If a range or the number of images is not valid.
        """
        ranges = {str(name): tuple(map(float, limits)) for name, limits in data["ranges"].items()}
        for limits in ranges.values():
            if len(limits) != 2 or not -math.inf < limits[0] <= 0 <= limits[1] < math.inf:
                raise ValueError(f"the range of a layer is {shorten(limits)}")
        number = data["num_images"]
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"the number of images is {shorten(number)}")
        return cls({name: (low, high) for name, (low, high) in ranges.items()}, number)

    def digest(self) -> str:
        """Return the SHA-256 of the ranges, in hexadecimal."""
        text = json.dumps({name: list(limits) for name, limits in self.ranges.items()})
        return hashlib.sha256(text.encode()).hexdigest()

    def of_layers(self, layers: Collection[str]) -> Calibration:
        """Return the calibration of some layers only."""
        ranges = {name: limits for name, limits in self.ranges.items() if name in layers}
        return Calibration(ranges, self.num_images)
