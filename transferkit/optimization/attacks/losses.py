"""What an attack makes larger: functions of the logits, one number for each picture.

Each takes the table, logits (n, classes), and two arrays of ones and zeros (n, classes): the
class that each picture has, and the one that it is to have; None where any other will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from transferkit.backends.base import Table

__all__ = ["LOSSES", "Loss", "cross_entropy", "dlr", "linear", "logit_difference"]

Loss: TypeAlias = Callable[[Table[Any], Any, Any, Any], Any]

_FAR = 1e9
_TINY = 1e-12


def cross_entropy(table: Table[Any], logits: Any, label: Any, target: Any) -> Any:
    """The log-probability of the target; or minus that of the label."""
    log_probabilities = table.log_softmax(logits)
    if target is None:
        return table.multiply(_at(table, log_probabilities, label), table.asarray(-1.0))
    return _at(table, log_probabilities, target)


def logit_difference(table: Table[Any], logits: Any, label: Any, target: Any) -> Any:
    """The target's logit less the largest other; or the largest other less the label's.

    Greater than 0 just where the attack has succeeded (Carlini and Wagner 2017).
    """
    if target is None:
        return table.subtract(_largest_but(table, logits, label), _at(table, logits, label))
    return table.subtract(_at(table, logits, target), _largest_but(table, logits, target))


def dlr(table: Table[Any], logits: Any, label: Any, target: Any) -> Any:
    """The difference of logits ratio (Croce and Hein 2020, equations 6 and 7).

    Neither scaling the logits nor adding a number to them changes it, so that it has a
    gradient where a network is so sure that cross-entropy has none left. Needs three classes;
    the targeted one four.
    """
    largest = table.max(logits, axes=(1,), keepdims=True)
    rest = table.subtract(logits, _far_where_equal(table, logits, largest))
    second = table.max(rest, axes=(1,), keepdims=True)
    rest = table.subtract(rest, _far_where_equal(table, rest, second))
    third = table.max(rest, axes=(1,), keepdims=True)
    if target is None:
        over = table.subtract(largest, third)
        difference = table.subtract(_largest_but(table, logits, label), _at(table, logits, label))
    else:
        rest = table.subtract(rest, _far_where_equal(table, rest, third))
        fourth = table.max(rest, axes=(1,), keepdims=True)
        mean = table.multiply(table.add(third, fourth), table.asarray(0.5))
        over = table.subtract(largest, mean)
        difference = table.subtract(_at(table, logits, target), _at(table, logits, label))
    over = table.add(table.sum(over, axes=(1,)), table.asarray(_TINY))
    return table.divide(difference, over)


def linear(table: Table[Any], logits: Any, label: Any, target: Any) -> Any:  # noqa: ARG001
    """The sum of the logits, each times its number in ``label``, which may be any here."""
    return _at(table, logits, label)


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {"logit-difference": logit_difference, "cross-entropy": cross_entropy, "dlr": dlr}
)
"""The losses that an attack may be asked to use, by name."""


def _at(table: Table[Any], logits: Any, where: Any) -> Any:
    return table.sum(table.multiply(logits, where), axes=(1,))


def _largest_but(table: Table[Any], logits: Any, where: Any) -> Any:
    """The largest of each row, that at ``where`` left out."""
    far = table.multiply(where, table.asarray(_FAR))
    return table.max(table.subtract(logits, far), axes=(1,))


def _far_where_equal(table: Table[Any], x: Any, largest: Any) -> Any:
    """A number larger than any logit where ``x`` is ``largest``, else 0."""
    below = table.sign(table.subtract(largest, x))
    return table.multiply(table.subtract(table.asarray(1.0), below), table.asarray(_FAR))
