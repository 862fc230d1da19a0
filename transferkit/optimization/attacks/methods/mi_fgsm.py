"""The momentum iterative fast gradient sign method (Dong et al. 2018)."""

from __future__ import annotations

from typing import ClassVar

from transferkit.optimization.attacks.methods.pgd import PGD

__all__ = ["MIFGSM"]


class MIFGSM(PGD):
    """`PGD` with momentum: steps along a decaying sum of the gradients, each divided by its mean.

    Its adversarial images transfer to other networks more often.

    Parameters
    ----------
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    loss
        One of `transferkit.optimization.attacks.losses.LOSSES`.
    """

    name: ClassVar[str] = "mi-fgsm"
    momentum: ClassVar[float] = 0.75
