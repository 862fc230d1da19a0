"""The losses that attacks maximize: functions of the logits, one value per image.

Each function takes the table of primitives, logits (n, classes), and two one-hot arrays
(n, classes): the label of each image and its target class. The target is None in an untargeted
attack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from transferkit.backends.base import Table

__all__ = ["LOSSES", "Loss", "cross_entropy", "dlr", "logit_difference", "weighted_sum"]

Loss: TypeAlias = Callable[[Table[Any], Any, Any, Any], Any]

# Larger than any logit.
_LARGE = 1e9
_TINY = 1e-12


def cross_entropy(table: Table[Any], logits: Any, label: Any, target: Any) -> Any:
    """Return the log-probability of the target, or minus the log-probability of the label."""
    log_probabilities = table.log_softmax(logits)
    if target is None:
        return table.multiply(_value_at(table, log_probabilities, label), table.asarray(-1.0))
    return _value_at(table, log_probabilities, target)


def logit_difference(table: Table[Any], logits: Any, label: Any, target: Any) -> Any:
    """Return the target's logit minus the largest other, or the largest other minus the label's.

    It is greater than 0 exactly where the attack succeeds (Carlini and Wagner 2017).
    """
    if target is None:
        return table.subtract(_max_except(table, logits, label), _value_at(table, logits, label))
    return table.subtract(_value_at(table, logits, target), _max_except(table, logits, target))


def dlr(table: Table[Any], logits: Any, label: Any, target: Any) -> Any:
    """Return the difference of logits ratio (Croce and Hein 2020, equations 6 and 7).

    It is invariant to scaling and shifting of the logits, and so has a gradient where the
    gradient of the cross-entropy vanishes because the network is certain. It needs at least three
    classes, or four in a targeted attack.
    """
    largest = table.max(logits, axes=(1,), keepdims=True)
    rest = table.subtract(logits, _large_where_equal(table, logits, largest))
    second = table.max(rest, axes=(1,), keepdims=True)
    rest = table.subtract(rest, _large_where_equal(table, rest, second))
    third = table.max(rest, axes=(1,), keepdims=True)
    if target is None:
        scale = table.subtract(largest, third)
        difference = table.subtract(
            _max_except(table, logits, label), _value_at(table, logits, label)
        )
    else:
        rest = table.subtract(rest, _large_where_equal(table, rest, third))
        fourth = table.max(rest, axes=(1,), keepdims=True)
        mean = table.multiply(table.add(third, fourth), table.asarray(0.5))
        scale = table.subtract(largest, mean)
        difference = table.subtract(
            _value_at(table, logits, target), _value_at(table, logits, label)
        )
    scale = table.add(table.sum(scale, axes=(1,)), table.asarray(_TINY))
    return table.divide(difference, scale)


def weighted_sum(table: Table[Any], logits: Any, label: Any, target: Any) -> Any:  # noqa: ARG001
    """Return the sum of the logits weighted by ``label``, which need not be one-hot here."""
    return _value_at(table, logits, label)


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {"logit-difference": logit_difference, "cross-entropy": cross_entropy, "dlr": dlr}
)
"""The losses that an attack can be asked to use, by name."""


def _value_at(table: Table[Any], logits: Any, one_hot: Any) -> Any:
    return table.sum(table.multiply(logits, one_hot), axes=(1,))


def _max_except(table: Table[Any], logits: Any, one_hot: Any) -> Any:
    """Return the maximum of each row, without the class of ``one_hot``."""
    masked = table.subtract(logits, table.multiply(one_hot, table.asarray(_LARGE)))
    return table.max(masked, axes=(1,))


def _large_where_equal(table: Table[Any], x: Any, largest: Any) -> Any:
    """Return a number larger than any logit where ``x`` equals ``largest``, else 0."""
    below = table.sign(table.subtract(largest, x))
    return table.multiply(table.subtract(table.asarray(1.0), below), table.asarray(_LARGE))
