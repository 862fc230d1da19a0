"""What is chosen by measurements on the training images: epochs, learning rate, mirrored images."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.classification.head import fit_head
from transferkit.classification.temperature import best_temperature, cross_entropies

__all__ = [
    "LEARNING_RATES",
    "are_mirror_images_different",
    "calibrated_losses",
    "choose_epochs",
    "is_lower_beyond_error",
]

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]

LEARNING_RATES = (1e-4, 3e-4, 1e-3)
"""The learning rates that are tried if none is given, from the most cautious one."""

_IMAGES = 3000
_MIN_EPOCHS = 3
_MAX_EPOCHS = 12
# Of the images and their mirror images together, beyond the half that guessing finds. It was 0.25
# for 20 hand-written characters, and at most 0.02 for animals, waste and textures.
_MIN_CHIRALITY = 0.1
_STANDARD_ERRORS = 2.0
_FOLDS = 5
# Inverse regularization strength; the embeddings have length 1.
_C = 10.0


def choose_epochs(number: int) -> int:
    """Return the number of epochs for a number of training images.

    Examples
    --------
    >>> from transferkit.classification.fine_tuning.choices import choose_epochs
    >>> [choose_epochs(number) for number in (50, 500, 5000)]
    [12, 6, 3]
    """
    return min(max(math.ceil(_IMAGES / number), _MIN_EPOCHS), _MAX_EPOCHS)


def are_mirror_images_different(
    embeddings: Floats, mirrored: Floats, generator: np.random.Generator
) -> bool:
    """Return whether a classifier can tell images from their mirror images.

    It can if they show characters or other things of one handedness, whose mirror images are not
    images of the same class (Lin et al., 2020, "Visual Chirality").

    Parameters
    ----------
    embeddings
        (n, d) the embedding of each image, of length 1; n at least 2.
    mirrored
        (n, d) that of its mirror image.
    generator
        Chooses the folds of the cross-validation.

    Returns
    -------
    bool
        Whether the accuracy of a logistic regression, cross-validated with an image and its
        mirror image in the same fold, is above 0.5 by 0.1 and by two standard errors.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.classification.fine_tuning.choices import are_mirror_images_different
    >>> images, mirrored = np.tile([[1.0, 0.0]], (30, 1)), np.tile([[0.0, 1.0]], (30, 1))
    >>> are_mirror_images_different(images, mirrored, np.random.default_rng(0))
    True
    >>> are_mirror_images_different(images, images, np.random.default_rng(0))
    False
    """
    number = len(embeddings)
    folds = generator.permutation(number) % min(_FOLDS, number)
    hits = 0
    for fold in range(folds.max() + 1):
        held = folds == fold
        X = np.concatenate([embeddings[~held], mirrored[~held]])
        head = fit_head(X, np.repeat([0, 1], (~held).sum()), C=_C, seed=0)
        for is_mirrored, rows in enumerate((embeddings[held], mirrored[held])):
            logits = rows @ head.weight.T + head.bias
            hits += int((logits.argmax(axis=1) == is_mirrored).sum())
    chirality = hits / (2 * number) - 0.5
    return chirality > max(_MIN_CHIRALITY, _STANDARD_ERRORS * 0.5 / math.sqrt(2 * number))


def calibrated_losses(
    logits: npt.NDArray[Any], classes: npt.NDArray[np.intp], weights: Doubles
) -> Doubles:
    """Return the cross-entropy of each image after temperature scaling on the same images.

    The temperature is that of `best_temperature`, so that training that makes a classifier only
    more confident, or less, does not count.

    Parameters
    ----------
    logits
        (n, c) logits.
    classes
        (n,) the index of the class of each image.
    weights
        (n,) the weight of each, by which its loss is multiplied; the mean is 1.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.classification.fine_tuning.choices import calibrated_losses
    >>> logits, classes = np.array([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0]]), np.array([0, 0, 1])
    >>> losses = calibrated_losses(logits, classes, np.ones(3))
    >>> np.allclose(losses, calibrated_losses(10 * logits, classes, np.ones(3)), atol=1e-4)
    True
    """
    temperature = best_temperature(logits, classes, weights)
    return cross_entropies(logits, classes, temperature) * weights


def is_lower_beyond_error(losses: Doubles, others: Doubles) -> bool:
    """Return whether a mean loss is lower than another one by more than one standard error.

    Parameters
    ----------
    losses, others
        (n,) the loss of each image in two trials. The standard error is that of the mean of their
        differences.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.classification.fine_tuning.choices import is_lower_beyond_error
    >>> is_lower_beyond_error(np.array([0.0, 0.0, 0.1, 0.2]), np.array([1.0, 1.1, 0.9, 1.0]))
    True
    >>> is_lower_beyond_error(np.array([0.0, 0.0, 1.0, 1.0]), np.array([1.0, 3.0, 0.0, 0.1]))
    False
    """
    if not np.isfinite(losses).all() or len(losses) == 1:
        return False
    if not np.isfinite(others).all():
        return True
    differences = others - losses
    error = differences.std(ddof=1) / math.sqrt(len(losses))
    return bool(differences.mean() > error)
