"""The interface of an attack method: where to start, and how to take a step.

A custom attack is a subclass of `Attack` that implements `Attack.start` and `Attack.step`. The
number of gradients, the epsilon ball and the criterion for success are the same for all attacks;
`transferkit.optimization.attacks.runner.AttackRunner` takes care of them.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table
from transferkit.errors import ArgumentTypeError, UnknownNameError
from transferkit.optimization.attacks.losses import LOSSES, Loss

__all__ = [
    "SUCCESS_MARGIN",
    "Attack",
    "AttackBatch",
    "State",
    "boundary_offset",
    "success_margins",
]

SUCCESS_MARGIN = 3e-4
"""The margin by which the winning logit must exceed the others for a success, as a fraction of
the largest absolute logit. Logits of two backends may differ by 1e-4 of it, so that a success on
one backend is a success on all."""

Floats: TypeAlias = npt.NDArray[np.float32]
State: TypeAlias = dict[str, Any]
"""Tensors and arrays by name, each with one row per image. ``"x"``, the images at which the next
gradient is computed, is required. ``"label"``, an array (n, classes), if present, replaces the
one-hot labels that the loss is given."""


@dataclass(frozen=True)
class AttackBatch:
    """Images that are attacked together, with their labels and target classes.

    Attributes
    ----------
    originals
        (n, h, w, 3), float32 in [0, 1].
    labels
        (n,) the label of each image. An untargeted attack succeeds when the predicted class is
        another one.
    targets
        (n,) the target class of each image; None in an untargeted attack.
    logits
        (n, classes) the logits of the originals.
    epsilon
        The largest allowed norm of a perturbation; None for no limit.
    restart
        0 in the first run from the start, 1 in the second, ...
    seed
        The seed of the random starts, which is combined with each image's pixels.
    table
        The primitives of the backend.
    compile_once
        A function ``(name, function)`` that returns ``function``, compiled by the backend. It
        compiles at the first call for an attack and a name, and returns the same compiled
        function later. ``function`` must therefore depend on its arguments and on constant
        attributes of the attack only.
    """

    originals: Floats
    labels: npt.NDArray[np.intp]
    targets: npt.NDArray[np.intp] | None
    logits: Floats
    epsilon: float | None
    restart: int
    seed: int
    table: Table[Any]
    compile_once: Callable[[str, Callable[..., Any]], Callable[..., Any]]

    def select(self, rows: npt.NDArray[np.intp]) -> AttackBatch:
        """Return the batch of some of the images."""
        return replace(
            self,
            originals=self.originals[rows],
            labels=self.labels[rows],
            targets=None if self.targets is None else self.targets[rows],
            logits=self.logits[rows],
        )

    @property
    def num_classes(self) -> int:
        """The number of logits."""
        return int(self.logits.shape[1])

    @property
    def is_targeted(self) -> bool:
        """Whether the attack is targeted."""
        return self.targets is not None

    def one_hot(self, classes: npt.NDArray[np.intp]) -> Floats:
        """Return an array (n, classes): 1 at each image's class, 0 elsewhere."""
        encoded = np.zeros((len(classes), self.num_classes), np.float32)
        encoded[np.arange(len(classes)), classes] = 1
        return encoded

    def column(self, values: npt.ArrayLike) -> Any:
        """Return one value per image, or one for all, as a tensor (n, 1, 1, 1)."""
        column = np.broadcast_to(np.asarray(values, np.float32), (len(self.originals),))
        return self.table.asarray(np.ascontiguousarray(column).reshape(-1, 1, 1, 1))

    def generators(self) -> list[np.random.Generator]:
        """Return one random generator per image.

        It depends on the seed, the restart and the image's pixels, and so does not depend on the
        other images of the batch.
        """
        generators = []
        for original in self.originals:
            digest = hashlib.sha256(np.ascontiguousarray(original).tobytes()).digest()
            words = np.frombuffer(digest, np.uint32)
            generators.append(np.random.default_rng([self.seed, self.restart, *words.tolist()]))
        return generators


class Attack(ABC):
    """An attack method.

    A subclass defines `start`, `step`, and the class attributes without a default below. An
    instance is passed to `transferkit.ImageOptimizer.attack` as ``method``. Attributes of an
    instance must not change after its creation, since compiled functions are kept.

    Parameters
    ----------
    norm
        One of `supported_norms`; None: ``"linf"`` if supported, otherwise the first.
    loss
        One of `supported_losses`; None: the first.

    Attributes
    ----------
    name
        The name of the method, for results and messages.
    supported_norms
        The norms that the method supports: some of
        `transferkit.optimization.attacks.norms.NORMS`.
    is_bounded
        Whether the method stays in a ball of radius epsilon and stops at a success. Otherwise it
        minimizes the norm of the perturbation.
    default_steps
        The number of gradients per image if ``steps`` is None.
    supported_losses
        The losses that the method supports, the default one first. Default: all of
        `transferkit.optimization.attacks.losses.LOSSES`. A subclass with other names overrides
        `loss_function`.
    max_steps
        The largest number of steps; None for no limit.
    can_restart
        Whether `start` uses a random starting point if ``batch.restart`` is greater than 0.
    stops_at_success
        Whether an image is finished after its first success, if the method is not bounded.

    Raises
    ------
    UnknownNameError
        If the method does not support the norm or the loss.

    Examples
    --------
    An attack that tries uniform noise, and keeps the first sample that succeeds:

    >>> import numpy as np
    >>> from transferkit.optimization.attacks import Attack
    >>> class UniformNoise(Attack):
    ...     name = "uniform-noise"
    ...     supported_norms = ("linf",)
    ...     is_bounded = True
    ...     default_steps = 10
    ...
    ...     def start(self, batch):
    ...         return {"x": batch.table.asarray(batch.originals)}
    ...
    ...     def step(self, batch, state, evaluation, index):
    ...         noise = np.random.default_rng(index).uniform(-1, 1, batch.originals.shape[1:])
    ...         x = np.clip(batch.originals + batch.epsilon * noise, 0, 1)
    ...         return {"x": batch.table.asarray(x)}
    >>> attack = UniformNoise()
    >>> attack.norm, attack.loss
    ('linf', 'logit-difference')

    ``ImageOptimizer("mobilenet_v2").attack(images, epsilon=8 / 255, method=attack)`` runs it.
    """

    name: ClassVar[str]
    supported_norms: ClassVar[tuple[str, ...]]
    is_bounded: ClassVar[bool]
    default_steps: ClassVar[int]
    supported_losses: ClassVar[tuple[str, ...]] = tuple(LOSSES)
    max_steps: ClassVar[int | None] = None
    can_restart: ClassVar[bool] = False
    stops_at_success: ClassVar[bool] = True

    def __init__(self, norm: str | None = None, loss: str | None = None) -> None:
        for attribute in ("name", "supported_norms", "is_bounded", "default_steps"):
            if not hasattr(type(self), attribute):
                raise ArgumentTypeError(
                    f"the attack class {type(self).__name__} does not define the class attribute "
                    f"{attribute!r}"
                )
        norm = self.default_norm() if norm is None else norm
        loss = self.supported_losses[0] if loss is None else loss
        if norm not in self.supported_norms:
            raise UnknownNameError("norm", norm, self.supported_norms, of=self.name)
        if loss not in self.supported_losses:
            raise UnknownNameError("loss", loss, self.supported_losses, of=self.name)
        self.norm = norm
        self.loss = loss

    @classmethod
    def default_norm(cls) -> str:
        """Return the norm that is used if none is given.

        Examples
        --------
        >>> from transferkit.optimization.attacks import find_attack_class
        >>> find_attack_class("pgd").default_norm(), find_attack_class("deepfool").default_norm()
        ('linf', 'linf')
        >>> find_attack_class("carlini-wagner").default_norm()
        'l2'
        """
        return "linf" if "linf" in cls.supported_norms else cls.supported_norms[0]

    def loss_function(self, batch: AttackBatch) -> Loss:  # noqa: ARG002
        """Return the function that is differentiated; the same function object each time."""
        return LOSSES[self.loss]

    @abstractmethod
    def start(self, batch: AttackBatch) -> State:
        """Return the state at which the first gradient is computed.

        Parameters
        ----------
        batch
            The images.

        Returns
        -------
        dict
            ``"x"``, (n, h, w, 3), and everything that `step` needs besides; see `State`.
        """

    @abstractmethod
    def step(
        self, batch: AttackBatch, state: State, evaluation: Mapping[str, Any], index: int
    ) -> State:
        """Return the state after one step.

        The result must not depend on the total number of steps, so that more steps never find
        fewer adversarial images.

        Parameters
        ----------
        batch
            The images that are not finished.
        state
            The result of `start` or of the step before, for these images.
        evaluation
            The network at ``state["x"]``: ``"gradient"`` of the loss, a tensor (n, h, w, 3);
            ``"loss"`` (n,), ``"logits"`` (n, classes) and ``"success"`` (n,), arrays.
        index
            The index of the step, from 0.

        Returns
        -------
        dict
            As for `start`.
        """


def success_margins(
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.intp],
    targets: npt.NDArray[np.intp] | None,
) -> npt.NDArray[np.float64]:
    """Return the logit difference of each image, as a fraction of its largest absolute logit.

    Parameters
    ----------
    logits
        (n, classes)
    labels, targets
        As in `AttackBatch`.

    Returns
    -------
    array
        (n,). An attack counts as a success where it is greater than `SUCCESS_MARGIN`.
    """
    rows = np.arange(len(logits))
    classes = labels if targets is None else targets
    others = logits.astype(np.float64)
    own = others[rows, classes].copy()
    scale = np.abs(others).max(axis=1) + 1e-30
    others[rows, classes] = -np.inf
    difference = (own - others.max(axis=1)) / scale
    return np.asarray(-difference if targets is None else difference)


def boundary_offset(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the logit difference to aim at beyond the decision boundary, (n,).

    It is slightly more than what counts as a success.
    """
    return np.asarray(1.1 * SUCCESS_MARGIN * np.abs(logits).max(axis=1))
