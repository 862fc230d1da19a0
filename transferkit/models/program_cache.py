"""The program of an estimator, created when first needed."""

from __future__ import annotations

import logging
from collections.abc import Callable

from transferkit.backends import Backend, Program, get_backend
from transferkit.backends.base import INFERENCE
from transferkit.models.model import Model
from transferkit.support.locks import ForkSafeLock

__all__ = ["ProgramCache", "are_same"]

_LOGGER = logging.getLogger(__name__)

_COMPARED_BY_VALUE = (str, int, float)


class ProgramCache:
    """Holds a program and its model until the parameters that they were made from change.

    Estimators hold one, so that they can be created, cloned, pickled and sent to another
    process before any framework is imported. It is safe to use from several threads.

    Attributes
    ----------
    lock
        Held while a program is created.
    """

    def __init__(self) -> None:
        self.lock = ForkSafeLock()
        self._entry: tuple[tuple[object, ...], Program, Model] | None = None

    def get(
        self,
        parameters: tuple[object, ...],
        make_model: Callable[[], Model],
        choose_backend: Callable[[], str | Backend | None],
        device: str | None,
        *,
        needs: str = INFERENCE,
    ) -> tuple[Program, Model]:
        """Return the program and its model, creating both if necessary.

        Parameters
        ----------
        parameters
            What the model and the backend are made from. Strings and numbers are compared by
            value, other objects by identity.
        make_model, choose_backend
            Called if there is no program for these parameters.
        device, needs
            As for `transferkit.backends.get_backend`.
        """
        key = (*parameters, device, needs)
        with self.lock:
            if self._entry is None or not are_same(key, self._entry[0]):
                # The backend first: a model may have to be downloaded.
                chosen = get_backend(choose_backend(), needs=needs, device=device)
                model = make_model()
                if model.wrapped is not None:
                    chosen = get_backend(model.wrapped.backend, needs=needs)
                self._entry = (key, model.program(chosen), model)
                _LOGGER.info(
                    "%s runs on backend %s, device %s",
                    model.network.name,
                    chosen.name,
                    chosen.device,
                )
            return self._entry[1], self._entry[2]

    def __reduce__(self) -> tuple[type[ProgramCache], tuple[()]]:
        return (ProgramCache, ())


def are_same(new: tuple[object, ...], old: tuple[object, ...]) -> bool:
    """Return whether parameters are the same: strings and numbers by value, others by identity."""
    return len(new) == len(old) and all(
        one is other
        or (isinstance(one, _COMPARED_BY_VALUE) and type(one) is type(other) and bool(one == other))
        for one, other in zip(new, old, strict=True)
    )
