"""The fast gradient sign method (Goodfellow et al. 2015)."""

from __future__ import annotations

from typing import ClassVar

from transferkit.optimization.attacks.methods.pgd import PGD

__all__ = ["FGSM"]


class FGSM(PGD):
    """One step of size epsilon in the steepest ascent direction: the first step of `PGD`.

    Parameters
    ----------
    norm
        ``"linf"``, for which it was published, ``"l2"`` or ``"l1"``.
    loss
        One of `transferkit.optimization.attacks.losses.LOSSES`.
    """

    name: ClassVar[str] = "fgsm"
    can_restart: ClassVar[bool] = False
    default_steps: ClassVar[int] = 1
    max_steps: ClassVar[int | None] = 1
