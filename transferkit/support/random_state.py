"""Random states as scikit-learn's estimators take them, with NumPy's generators behind them."""

from __future__ import annotations

from numbers import Integral
from typing import TypeAlias

import numpy as np

from transferkit.errors import ParameterError, shorten

__all__ = ["RandomState", "as_generator", "as_seed"]

RandomState: TypeAlias = int | np.random.Generator | np.random.RandomState | None
"""What is accepted as ``random_state``."""

_SEED_BITS = 63


def as_generator(random_state: RandomState) -> np.random.Generator:
    """Return the generator that a random state stands for.

    Parameters
    ----------
    random_state
        An int of at least 0 seeds a new generator; a generator is returned as it is; a
        ``RandomState`` supplies the seed, which advances it; None takes a seed from the
        operating system. Unlike in scikit-learn, None leaves NumPy's global state alone.

    Raises
    ------
    ParameterError
        If it is none of these.

    Examples
    --------
    >>> from transferkit.support.random_state import as_generator
    >>> int(as_generator(0).integers(100))
    85
    """
    if isinstance(random_state, np.random.Generator):
        return random_state
    return np.random.default_rng(None if random_state is None else as_seed(random_state))


def as_seed(random_state: RandomState) -> int:
    """Return an int seed: the given int, or one drawn from the random state.

    Parameters
    ----------
    random_state
        As for `as_generator`.

    Raises
    ------
    ParameterError
        If it is none of these.

    Examples
    --------
    >>> from transferkit.support.random_state import as_seed
    >>> as_seed(7)
    7
    """
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**_SEED_BITS - 1, dtype=np.int64))
    if random_state is None or isinstance(random_state, np.random.Generator):
        return int(as_generator(random_state).integers(2**_SEED_BITS))
    if isinstance(random_state, bool) or not isinstance(random_state, Integral) or random_state < 0:
        raise ParameterError(
            f"random_state is {shorten(random_state)}; expected an int of at least 0, a "
            "numpy.random.Generator, a numpy.random.RandomState or None"
        )
    return int(random_state)
