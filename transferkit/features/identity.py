"""Everything that determines the numbers of a feature extractor, to tell features apart."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.backends import Program
from transferkit.backends.base import FLOAT32, INT8
from transferkit.errors import FileFormatError, UnsupportedError, shorten
from transferkit.models import Model
from transferkit.networks import network_to_json
from transferkit.support.version import __version__
from transferkit.weights.files import digest

__all__ = ["Identity", "identify", "is_frozen"]

_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that determines the numbers of a feature extractor.

    Two extractors with the same identity give the same features, to within the rounding of
    float32. Another backend or device gives the same to within 1e-4 of the largest value.

    Attributes
    ----------
    network
        The name of the network.
    network_digest
        The SHA-256 of the network as JSON, in hexadecimal.
    weights_digest
        The SHA-256 of the names and values of its weights, in hexadecimal.
    preprocessing
        How images are resized, cropped and normalized, as `Preprocessing.to_dict` returns it.
    precision
        How the network is computed: ``"float32"``, or ``"int8"`` with the first digits of the
        SHA-256 of the calibration.
    backend
        The name of the backend.
    device
        Its device.
    versions
        The name of each package that takes part to its version: for information only, it is not
        compared.
    """

    network: str
    network_digest: str
    weights_digest: str
    preprocessing: Mapping[str, Any]
    precision: str
    backend: str
    device: str
    versions: Mapping[str, str] = field(default_factory=dict, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the identity as plain data for JSON; `from_dict` reads it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "identity") -> Identity:
        """Return the identity that `to_dict` wrote.

        Parameters
        ----------
        data
            The entries. Unknown ones are ignored.
        source
            The file that they are from, for the message.

        Raises
        ------
        FileFormatError
            If an entry is missing or has another type.
        """
        texts = ("network", "network_digest", "weights_digest", "precision", "backend", "device")
        for name in texts:
            if not isinstance(data.get(name), str):
                raise FileFormatError(
                    f"{source}: {name} is {shorten(data.get(name))}; expected a string"
                )
        for name in ("preprocessing", "versions"):
            if not isinstance(data.get(name), Mapping):
                raise FileFormatError(
                    f"{source}: {name} is {shorten(data.get(name))}; expected an object"
                )
        return cls(
            **{name: data[name] for name in texts},
            preprocessing=dict(data["preprocessing"]),
            versions=dict(data["versions"]),
        )

    def differences(
        self, other: Identity, *, ignored: Collection[str] = (), names: tuple[str, str] = ("", "")
    ) -> list[str]:
        """Name each entry in which two identities differ, as a clause for a message.

        Parameters
        ----------
        other
            The identity to compare with.
        ignored
            The names of entries that may differ, such as ``("backend", "device")``.
        names
            What has this identity and what the other, as they follow a value in the clauses:
            ``(" in the store", " here")``.

        Returns
        -------
        list of str
            Empty if there are none.

        Examples
        --------
        >>> from transferkit.features.identity import Identity
        >>> store = Identity("resnet18", "5e", "1f", {"size": 224}, "float32", "torch", "cpu")
        >>> here = Identity("resnet18", "5e", "1f", {"size": 64}, "int8", "torch", "cpu")
        >>> for difference in store.differences(here, names=(" in the store", " here")):
        ...     print(difference)
        preprocessing.size is 224 in the store, 64 here
        precision is 'float32' in the store, 'int8' here
        """
        found = []

        def compare(name: str, ours: object, theirs: object) -> None:
            if ours != theirs and name.partition(".")[0] not in ignored:
                found.append(f"{name} is {shorten(ours)}{names[0]}, {shorten(theirs)}{names[1]}")

        compare("network", self.network, other.network)
        if self.network == other.network:
            # A digest says nothing more if the names already differ.
            compare("network_digest", *_first_digits(self.network_digest, other.network_digest))
        compare("weights_digest", *_first_digits(self.weights_digest, other.weights_digest))
        for key in sorted({*self.preprocessing, *other.preprocessing}):
            ours, theirs = self.preprocessing.get(key), other.preprocessing.get(key)
            compare(f"preprocessing.{key}", ours, theirs)
        for name in ("precision", "backend", "device"):
            compare(name, getattr(self, name), getattr(other, name))
        return found


def _first_digits(ours: str, theirs: str) -> tuple[str, str]:
    """Return two digests, cut for a message if their first digits differ."""
    if ours[:_DIGITS] == theirs[:_DIGITS]:
        return ours, theirs
    return ours[:_DIGITS], theirs[:_DIGITS]


def identify(program: Program, model: Model) -> Identity:
    """Return everything that determines the numbers of an extractor, and will from now on.

    The weights may be arrays of the user, who changed them in place since the network was
    compiled; it is compiled again then.

    Parameters
    ----------
    program
        The network on its backend.
    model
        The network with its weights and preprocessing.

    Raises
    ------
    UnsupportedError
        If the network is a model object of a framework, whose weights may change at any time.

    Examples
    --------
    >>> from transferkit import FeatureExtractor
    >>> from transferkit.features.identity import identify
    >>> fx = FeatureExtractor("resnet18", weights="random", random_state=0, backend="onnxruntime")
    >>> identity = identify(*fx._load())
    >>> identity.network, identity.precision, identity.backend, len(identity.weights_digest)
    ('resnet18', 'float32', 'onnxruntime', 64)
    """
    if model.wrapped is not None:
        raise UnsupportedError(
            f"network {model.network.name!r} is a model of a framework, whose weights may change "
            "at any time, so that features that are kept could be those of other weights; expected "
            "a network of this library. Use FeatureExtractor.extract or iter_extract, and keep the "
            "arrays yourself"
        )
    backend = program.backend
    versions = {"transferkit": __version__}
    versions |= {name: version(name) for name in ("numpy", "pillow")}
    versions[backend.name] = backend.version()
    text = network_to_json(model.network)
    weights_digest = digest(model.weights, {})
    if not all(map(is_frozen, model.weights.values())):
        program.release_if_changed(model.weights, weights_digest)
    return Identity(
        network=model.network.name,
        network_digest=hashlib.sha256(text.encode()).hexdigest(),
        weights_digest=weights_digest,
        # As it is read from JSON, to be compared with that.
        preprocessing=json.loads(json.dumps(model.preprocessing.to_dict())),
        precision=FLOAT32
        if model.calibration is None
        else f"{INT8}, calibration {model.calibration.digest()[:16]}",
        backend=backend.name,
        device=backend.device,
        versions=versions,
    )


def is_frozen(array: npt.NDArray[Any]) -> bool:
    """Return whether nobody can change the values of an array, which may be a view of another.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.features.identity import is_frozen
    >>> array = np.zeros(3)
    >>> view = array.view()
    >>> view.flags.writeable = False
    >>> is_frozen(view)
    False
    >>> array.flags.writeable = False
    >>> is_frozen(view)
    True
    """
    owner: object = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return False
        owner = owner.base
    # Buffers of other types, such as a bytearray, may change.
    return owner is None or isinstance(owner, bytes | mmap.mmap)
