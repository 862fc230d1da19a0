"""Attacks: pictures changed by as little as it takes for a network to see something else."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from transferkit.attacks.apgd import APGD
from transferkit.attacks.base import Attack
from transferkit.attacks.carlini_wagner import CarliniWagner
from transferkit.attacks.deepfool import DeepFool
from transferkit.attacks.fgsm import FGSM
from transferkit.attacks.fmn import FMN
from transferkit.attacks.pgd import MIFGSM, PGD

__all__ = ["METHODS", "Attack"]

METHODS: Mapping[str, type[Attack]] = MappingProxyType(
    {
        "fgsm": FGSM,
        "pgd": PGD,
        "mi-fgsm": MIFGSM,
        "apgd": APGD,
        "deepfool": DeepFool,
        "carlini-wagner": CarliniWagner,
        "fmn": FMN,
    }
)
"""The methods, by the names that `transferkit.ImageOptimizer.attack` takes."""
