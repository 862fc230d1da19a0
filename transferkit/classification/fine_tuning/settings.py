"""`FineTuning`: how a network is trained further."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sklearn.base import BaseEstimator

from transferkit.classification.fine_tuning.trainable import Trainable
from transferkit.datasets import LabelledImages
from transferkit.errors import ParameterError, UnknownNameError, shorten
from transferkit.images import Images
from transferkit.images.augmentation import Augmentation, CutMix, MixUp
from transferkit.support.validation import (
    check_bool,
    check_integer,
    check_non_negative,
    check_positive,
    is_number,
)
from transferkit.training.optimizers import (
    NormalizedGradientDescent,
    Optimizer,
    find_optimizer,
)
from transferkit.training.schedules import Schedule, find_schedule

__all__ = ["FineTuning", "Validation"]

Validation: TypeAlias = (
    float | str | os.PathLike[str] | tuple[Images, Sequence[Any]] | LabelledImages | None
)
"""The validation images: a fraction, a folder of class folders, or images and their labels."""

BATCH_NORMS = ("frozen", "update")
SAMPLINGS = ("shuffled", "balanced")


@dataclass(repr=False, eq=False)
class FineTuning(BaseEstimator):  # type: ignore[misc]
    """How `transferkit.Classifier` trains the network after its head.

    The head is fitted first, to the frozen network; then both are trained together, which is
    more accurate than to start from a random head (Kumar et al., 2022, "Fine-Tuning can Distort
    Pretrained Features and Underperform Out-of-Distribution", LP-FT). Of the head alone, the
    epochs and the averages, the best weights on validation images are kept: those with the
    highest accuracy and, where accuracies differ by less than their standard error, with the
    lowest loss after temperature scaling, but none with a lower accuracy than the head alone.
    Unless these are those of the head alone, training is then repeated on all images (``refit``).

    Values are checked when a classifier is fitted. The parameters of a classifier's
    ``fine_tuning`` can be searched by ``GridSearchCV`` as ``fine_tuning__learning_rate`` and so
    on.

    Parameters
    ----------
    epochs
        The number of passes over the training images; None: chosen by the number of images.
    learning_rate
        The learning rate of the head, before the schedule. None: that of ``optimizer`` if it is
        an object, and otherwise chosen from 0.0001, 0.0003 and 0.001 by training with each for a
        third of the epochs, or 0.0001 without validation images. For ``"sgd"`` by name these are
        low; give a rate.
    trainable
        ``"all"``; ``"head"``; the name of a layer: that layer and everything after it; or a
        function from the name of a parameter to whether it is trained. What comes before the
        first trained layer runs once for each image.
    optimizer
        ``"adamw"``, ``"sgd"``, ``"adam"``, ``"rmsprop"``, ``"adagrad"``, or one of the objects of
        these names in `transferkit.training`, such as ``SGD(momentum=0.9)``. Biases and
        parameters of batch norms have no weight decay.
    schedule
        How the learning rate changes; see `transferkit.training.schedules`. None: that of
        ``optimizer`` if it is an object, and otherwise ``"cosine"``.
    warmup
        The fraction of the steps in which the learning rate rises linearly from near 0, in
        [0, 1) (Goyal et al., 2017, "Accurate, Large Minibatch SGD", section 2.2).
    batch_size
        The number of images in a step.
    layer_decay
        The ratio of the learning rate of a block to that of the block after it, in (0, 1].
    learning_rate_factors
        Beginnings of names of parameters to further factors of their learning rate.
    l2_sp
        Weight of the squared distance to the pre-trained weights; 0: none.
    batch_norm
        ``"frozen"``: batch norms use the statistics of the pre-training; ``"update"``: they
        normalize by the batch and update the statistics, for training from random weights.
    dropout
        The fraction of the head's inputs that are set to 0 in a step, in [0, 1) (Srivastava et
        al., 2014).
    label_smoothing
        The probability that is spread evenly over all classes, in [0, 1) (Szegedy et al., 2016).
    stochastic_depth
        The probability of leaving out the last residual block, in [0, 1); it falls linearly to
        the first (Huang et al., 2016, "Deep Networks with Stochastic Depth", section 3).
    augmentation
        A list of augmentations from `transferkit.images.augmentation`, applied in this order;
        None: random resized crops, and horizontal flips unless training images can be told from
        their mirror images, as characters can.
    views
        If only a part of the network is trained: the number of augmentations of each image for
        which the rest runs; the epochs use them in turn. 1: images are not augmented, also not
        by ``augmentation``, except for `MixUp` and `CutMix`, which mix activations then.
    clip_norm
        The largest norm of the gradient; None: any.
    clip_value
        The largest absolute value in the gradient; None: any.
    sampling
        ``"shuffled"``: each image once in an epoch; ``"balanced"``: images are drawn, with
        replacement, so that all classes are equally frequent.
    validation
        The fraction of the images of each class that is kept for validation, in (0, 1); a
        folder of class folders; a tuple of images and labels; or
        `transferkit.datasets.LabelledImages`. None: no validation; the moving average of the
        weights after the last epoch is kept, or the mean of ``swa``. After few steps the average
        is still near the start; ``average_decay=None`` keeps the weights themselves.
    refit
        If ``validation`` is a fraction and training is better than the head alone: whether to
        train again on all images, with what was chosen, and keep the result: the weights after
        the last epoch, or an average of the kind that was the best.
    patience
        Stop after this number of epochs without a better validation loss; None: never.
    average_decay
        The decay of the moving average of the weights in each step, in [0, 1), which is a
        further candidate; None: no average.
    swa
        Whether the mean of the weights after each epoch of the second half is a candidate
        (Izmailov et al., 2018, "Averaging Weights Leads to Wider Optima").
    soup
        The number of best epochs whose weights are averaged greedily as a candidate (Wortsman et
        al., 2022, "Model soups", algorithm 1); 0: none.
    interpolation
        The fractions of the way from the head on the pre-trained network to the best weights that
        are candidates (Wortsman et al., 2022, "Robust fine-tuning of zero-shot models"). None: 0.5
        if there are validation images.
    checkpoint
        A folder in which the state is written after each epoch. If it has a checkpoint of the
        same run, training resumes there.

    Examples
    --------
    >>> from transferkit import Classifier, FineTuning
    >>> clf = Classifier("mobilenet_v2", fine_tuning=FineTuning(epochs=5))
    >>> clf.set_params(fine_tuning__learning_rate=1e-4).fine_tuning.learning_rate
    0.0001
    """

    epochs: int | None = None
    learning_rate: float | None = None
    trainable: Trainable = "all"
    optimizer: str | Optimizer = "adamw"
    schedule: str | Schedule | None = None
    warmup: float = 0.1
    batch_size: int = 16
    layer_decay: float = 0.85
    learning_rate_factors: Mapping[str, float] | None = None
    l2_sp: float = 0.0
    batch_norm: str = "frozen"
    dropout: float = 0.0
    label_smoothing: float = 0.0
    stochastic_depth: float = 0.0
    augmentation: Sequence[Augmentation | MixUp | CutMix] | None = None
    views: int = 1
    clip_norm: float | None = 1.0
    clip_value: float | None = None
    sampling: str = "shuffled"
    validation: Validation = 0.15
    refit: bool = True
    patience: int | None = None
    average_decay: float | None = 0.98
    swa: bool = False
    soup: int = 0
    interpolation: Sequence[float] | None = None
    checkpoint: str | os.PathLike[str] | None = None

    def check(self) -> None:
        """Check all values.

        Raises
        ------
        ParameterError
            If a value is of the wrong type or out of range.
        UnknownNameError
            If there is no optimizer, schedule or other choice of that name.
        """
        if self.epochs is not None:
            check_integer("epochs", self.epochs, 1)
        if self.learning_rate is not None:
            check_positive("learning_rate", self.learning_rate)
        if not isinstance(self.trainable, str) and not callable(self.trainable):
            raise ParameterError(
                f"trainable is {shorten(self.trainable)}; expected 'all', 'head', the name of a "
                "layer, or a function from the name of a parameter to True or False"
            )
        if isinstance(find_optimizer(self.optimizer), NormalizedGradientDescent):
            raise ParameterError(
                f"optimizer is {shorten(self.optimizer)}, which is for images; expected 'adamw', "
                "'sgd', 'adam', 'rmsprop', 'adagrad' or one of the objects of these names"
            )
        if self.schedule is not None:
            find_schedule(self.schedule)
        check_integer("batch_size", self.batch_size, 1)
        if self.batch_norm == "update" and self.batch_size == 1:
            raise ParameterError(
                "batch_size is 1 with batch_norm='update', which normalizes by the batch; use at "
                "least 2, or batch_norm='frozen'"
            )
        check_integer("views", self.views, 1)
        if not is_number(self.layer_decay) or not 0 < self.layer_decay <= 1:
            raise ParameterError(
                f"layer_decay is {shorten(self.layer_decay)}; expected a number in (0, 1]"
            )
        self._check_learning_rate_factors()
        check_non_negative("l2_sp", self.l2_sp)
        self._check_numbers()
        for name, choices in (("batch_norm", BATCH_NORMS), ("sampling", SAMPLINGS)):
            if getattr(self, name) not in choices:
                raise UnknownNameError(name, getattr(self, name), choices)
        check_bool("swa", self.swa)
        check_bool("refit", self.refit)
        self._check_sequences()
        self._check_validation()
        if self.checkpoint is not None and not isinstance(self.checkpoint, (str, os.PathLike)):
            raise ParameterError(
                f"checkpoint is {shorten(self.checkpoint)}; expected the path of a folder, or None"
            )

    def _check_learning_rate_factors(self) -> None:
        factors = self.learning_rate_factors
        if factors is None:
            return
        if not isinstance(factors, Mapping) or not all(isinstance(key, str) for key in factors):
            raise ParameterError(
                f"learning_rate_factors is {shorten(factors)}; expected a mapping from the "
                "beginnings of names to factors, such as {'head': 10.0}, or None"
            )
        for prefix, factor in factors.items():
            check_positive(f"learning_rate_factors[{shorten(prefix)}]", factor)

    def _check_numbers(self) -> None:
        for name in ("warmup", "dropout", "label_smoothing", "stochastic_depth"):
            _check_fraction(name, getattr(self, name))
        if self.average_decay is not None:
            _check_fraction("average_decay", self.average_decay)
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.patience is not None:
            check_integer("patience", self.patience, 1)
        check_integer("soup", self.soup, 0)

    def _check_sequences(self) -> None:
        for name, example in (("interpolation", "(0.5,)"), ("augmentation", "[HorizontalFlip()]")):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Sequence):
                raise ParameterError(
                    f"{name} is {shorten(value)}; expected a list or tuple, such as {example}, or "
                    "None"
                )
        for index, fraction in enumerate(self.interpolation or ()):
            if not is_number(fraction) or not 0 < fraction < 1:
                raise ParameterError(
                    f"interpolation[{index}] is {shorten(fraction)}; expected a number in (0, 1)"
                )
        for index, augmentation in enumerate(self.augmentation or ()):
            if not isinstance(augmentation, Augmentation | MixUp | CutMix):
                raise ParameterError(
                    f"augmentation[{index}] is {shorten(augmentation)}; expected one of "
                    "transferkit.images.augmentation, such as HorizontalFlip()"
                )

    def _check_validation(self) -> None:
        validation = self.validation
        if is_number(validation):
            is_valid = 0 < validation < 1
        elif isinstance(validation, tuple):
            is_valid = len(validation) == 2
        else:
            is_valid = isinstance(validation, (str, os.PathLike, LabelledImages, type(None)))
        if not is_valid:
            shown = shorten(validation)
            if isinstance(validation, tuple):
                shown = f"a tuple of {len(validation)}"
            raise ParameterError(
                f"validation is {shown}; expected a fraction in (0, 1), a folder, a "
                "tuple of images and labels, LabelledImages, or None"
            )
        if validation is None and (self.patience or self.soup or self.interpolation):
            raise ParameterError(
                "validation is None, but patience, soup and interpolation choose by validation "
                "images; set validation, or leave these out"
            )


def _check_fraction(name: str, value: object) -> None:
    if not is_number(value) or not 0 <= value < 1:
        raise ParameterError(f"{name} is {shorten(value)}; expected a number in [0, 1)")
