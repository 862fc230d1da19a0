"""Attacks: pictures changed by as little as it takes for a network to see something else."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from transferkit.errors import UnknownNameError
from transferkit.optimization.attacks.apgd import APGD
from transferkit.optimization.attacks.base import Attack
from transferkit.optimization.attacks.carlini_wagner import CarliniWagner
from transferkit.optimization.attacks.deepfool import DeepFool
from transferkit.optimization.attacks.fgsm import FGSM
from transferkit.optimization.attacks.fmn import FMN
from transferkit.optimization.attacks.pgd import MIFGSM, PGD

__all__ = ["METHODS", "Attack", "usual_norm"]

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


def usual_norm(method: str) -> str:
    """The norm that a method measures in where none is named.

    Parameters
    ----------
    method
        One of `METHODS`.

    Returns
    -------
    str
        ``"linf"``, or its own first where it does not know that.

    Raises
    ------
    UnknownNameError
        If there is no such method.

    Examples
    --------
    >>> from transferkit.optimization.attacks import usual_norm
    >>> usual_norm("pgd"), usual_norm("carlini-wagner")
    ('linf', 'l2')
    """
    if not isinstance(method, str) or method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    norms = METHODS[method].norms
    return "linf" if "linf" in norms else norms[0]
