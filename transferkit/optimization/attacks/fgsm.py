"""The fast gradient sign method (Goodfellow et al. 2015): one step to the ball's surface."""

from __future__ import annotations

from typing import ClassVar

from transferkit.optimization.attacks.pgd import PGD

__all__ = ["FGSM"]


class FGSM(PGD):
    """One step of length epsilon along the steepest direction: the first one of `PGD`.

    Parameters
    ----------
    norm
        ``"linf"``, which it was published for, ``"l2"`` or ``"l1"``.
    loss
        One of `transferkit.optimization.attacks.losses.LOSSES`.
    """

    can_restart: ClassVar[bool] = False
    default_steps: ClassVar[int] = 1
    most_steps: ClassVar[int | None] = 1
