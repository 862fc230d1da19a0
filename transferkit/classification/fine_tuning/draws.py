"""Random numbers of training, drawn by NumPy so that they are the same on every backend.

Each depends on the seed, its purpose, the epoch and the image or the step, not on what was drawn
before it: a run that is resumed, or has more threads, draws the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transferkit.backends.stateless import SEED

__all__ = ["MIRRORED", "MIXING", "ORDER", "SPLIT", "Masks", "epoch_order", "generator_for"]

Floats = npt.NDArray[np.float32]

# The purposes: the second word of every seed.
ORDER = 1
MASKS = 2
MIXING = 3
SPLIT = 4
MIRRORED = 5

# Integers that float32 represents exactly.
_MAX_SEED = 1 << 24


def generator_for(seed: int, purpose: int, *counters: int) -> np.random.Generator:
    """Return the generator for a purpose, an epoch, an image and so on."""
    return np.random.default_rng((seed, purpose, *counters))


def epoch_order(
    classes: npt.NDArray[np.intp], seed: int, epoch: int, *, balanced: bool
) -> npt.NDArray[np.intp]:
    """Return the order of the training images in an epoch.

    Parameters
    ----------
    classes
        (n,) the index of the class of each image.
    seed, epoch
        What the order depends on.
    balanced
        Whether images are drawn with replacement, all classes being equally probable, instead of
        once each.

    Returns
    -------
    array
        (n,) positions of images.
    """
    generator = generator_for(seed, ORDER, epoch)
    if not balanced:
        return generator.permutation(len(classes))
    counts = np.bincount(classes)
    probabilities = 1 / counts[classes]
    probabilities /= probabilities.sum()
    return generator.choice(len(classes), len(classes), p=probabilities)


@dataclass(frozen=True)
class Masks:
    """The masks of dropout and stochastic depth of each image, and the seeds of model objects.

    Parameters
    ----------
    seed
        The seed of the run.
    dropout
        The name of the node to the number of its inputs and the probability of dropping one.
    depth
        The name of the node to the probability of leaving out its block.
    seeds
        Whether a model object draws numbers of its own.
    """

    seed: int
    dropout: Mapping[str, tuple[int, float]]
    depth: Mapping[str, float]
    seeds: bool = False

    def draw(self, images: Sequence[int], epoch: int) -> dict[str, Floats]:
        """Return the masks of some images in an epoch, by the name of the node.

        Parameters
        ----------
        images
            (n,) the position of each image in the training images.
        epoch
            The epoch.

        Returns
        -------
        dict of str to array
            (n, d) for dropout, (n, 1, 1, 1) for stochastic depth, (n,) for the seeds.
        """
        if not (self.dropout or self.depth or self.seeds):
            return {}
        rows: dict[str, list[Floats]] = {}
        for image in images:
            generator = generator_for(self.seed, MASKS, epoch, int(image))
            for name, (size, rate) in self.dropout.items():
                rows.setdefault(name, []).append(_mask(generator, (size,), rate))
            for name, rate in self.depth.items():
                rows.setdefault(name, []).append(_mask(generator, (1, 1, 1), rate))
            if self.seeds:
                number = np.float32(generator.integers(_MAX_SEED))
                rows.setdefault(SEED, []).append(np.asarray(number))
        return {name: np.stack(masks) for name, masks in rows.items()}


def _mask(generator: np.random.Generator, shape: tuple[int, ...], rate: float) -> Floats:
    """Return 0 with probability ``rate``, and otherwise 1 / (1 - rate), so that the mean is 1."""
    kept = generator.random(shape) >= rate
    return (kept / (1 - rate)).astype(np.float32)
