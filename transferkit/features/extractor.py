"""`FeatureExtractor`: what a trained network makes of pictures, as arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from transferkit.backends import Backend, Program
from transferkit.errors import ShapeError, UnsupportedError
from transferkit.features.extraction import Features, compute_features
from transferkit.images import ImageLike, Images, Preprocessing, read_image
from transferkit.models.model import AnyWeights, LazyProgram, Model, load_model
from transferkit.networks import Network

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FeatureExtractor"]


class FeatureExtractor(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turns pictures into the activations of a network's layers.

    A scikit-learn transformer that needs no fitting: it stands in a ``Pipeline`` before any
    classifier. It can be shared between threads, pickled and cloned.

    Parameters
    ----------
    network
        A name (``transferkit networks`` lists them), a `transferkit.networks.Network`, or a
        model of your own: a ``torch.nn.Module`` or a ``keras.Model``, used where it is.
    weights
        The name of published weights or of who published them (``"keras"``), None for the
        network's usual ones; the path of a file, ``.pth``, ``.h5``, ``.weights.h5``,
        ``.keras`` or ``.safetensors``; ``"random"``. For a network of one's own: a mapping
        from parameter name to float32 array, or ``"random"``. What is not on disk is
        downloaded, once.
    backend
        ``"onnxruntime"``, ``"torch"``, ``"tensorflow"``, the name of another plugin, or a
        `transferkit.backends.Backend`. None: the environment variable
        ``TRANSFERKIT_BACKEND``, or else the first of these that is installed.
    device
        One of the backend's devices; None means the processor.
    layer
        What `transform` gives: a layer's name. `layers` lists them.
    preprocessing
        How pictures are resized and cropped; None means as the weights expect it. With a
        ``torch.nn.Module``, also how it wants them normalised.
    batch_size
        How many pictures the network gets at once.
    progress
        Whether a progress bar is shown on standard error; None: only on a terminal.
    initialization, seed
        How random weights are drawn, ``"he"``, ``"glorot"``, ``"uniform"`` or ``"gaussian"``,
        and from what whole number; see `transferkit.networks.random_weights`. The same seed
        gives the same weights on every backend, and in a copy of the extractor. Published
        weights need neither.

    Raises
    ------
    UnknownNameError
        When first used: if there is no such network, weights, layer, backend or device.
    BackendNotInstalledError
        When first used: if the backend's framework is not installed.
    TypeError
        When first used: if ``seed`` is no whole number.

    Notes
    -----
    Images are given as a path, a folder, a PIL image, an array, or a sequence or generator of
    paths, PIL images and arrays; `transferkit.images.stream_batches` says how each is read.
    Rows come in the order of the input; a folder's pictures are ordered by their path.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit import FeatureExtractor
    >>> fx = FeatureExtractor("mobilenet_v2", backend="onnxruntime")
    >>> picture = np.zeros((300, 400, 3), np.uint8)
    >>> fx.transform([picture]).shape
    (1, 1280)
    >>> found = fx.extract(picture, layers=["features.6", "logits"])
    >>> found["features.6"].shape, found["logits"].shape, found.sources
    ((1, 28, 28, 32), (1, 1000), ['images[0]'])
    """

    def __init__(
        self,
        network: str | Network | object = "mobilenet_v2",
        *,
        weights: AnyWeights = None,
        backend: str | Backend | None = None,
        device: str | None = None,
        layer: str = "embedding",
        preprocessing: Preprocessing | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
        initialization: str = "he",
        seed: int = 0,
    ) -> None:
        self.network = network
        self.weights = weights
        self.backend = backend
        self.device = device
        self.layer = layer
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.progress = progress
        self.initialization = initialization
        self.seed = seed
        self._program = LazyProgram()

    @property
    def layers(self) -> Mapping[str, tuple[int, ...]]:
        """Every layer that can be asked for, with its shape for one picture, (h, w, c) or (d,)."""
        program, model = self._load()
        side = model.preprocessing.size or model.network.input_size
        return program.shapes(side, side)

    @property
    def native(self) -> object:
        """The network as the framework's own object, to go on with there.

        A ``torch.nn.Module`` or a ``keras.Model``, with weights of its own, made anew each time
        this is asked for; where ``network`` is such an object, that object itself. It takes
        pixels in [0, 1], in the framework's own order of axes, and gives logits.

        Raises
        ------
        UnsupportedError
            If the backend has no models of its own.
        """
        return self._load()[0].to_native()

    def model(self) -> Model:
        """The network, its weights and its preprocessing, as the parameters ask for them."""
        return self._load()[1]

    def fit(self, images: object = None, labels: object = None) -> Self:  # noqa: ARG002
        """Do nothing: the network is trained already. For scikit-learn's sake."""
        return self

    def transform(self, images: Images) -> npt.NDArray[np.float32]:
        """The output of `layer` for each picture.

        Parameters
        ----------
        images
            See the notes of the class.

        Returns
        -------
        array
            (n, d), float32: row i belongs to picture i. A layer of shape (h, w, c) is laid
            out as d = h * w * c numbers, row by row.

        Raises
        ------
        ImageError
            If a picture cannot be read; so that rows always match the input.
        DatasetError
            If there are no pictures.
        """
        found = self.extract(images, [self.layer])[self.layer]
        return found.reshape(len(found), -1)

    def extract(
        self,
        images: Images,
        layers: Sequence[str] | None = None,
        *,
        on_error: str = "raise",
    ) -> Features:
        """The outputs of several layers, in one pass.

        Parameters
        ----------
        images
            See the notes of the class.
        layers
            Names from `layers`; None means just `layer`.
        on_error
            ``"raise"``, or ``"skip"`` to leave out pictures that cannot be read.

        Returns
        -------
        Features
            A mapping from layer to array, (n, h, w, c) or (n, d), float32, that also has
            ``sources`` and ``skipped``.

        Raises
        ------
        UnknownNameError
            If there is no such layer; close matches are named.
        ImageError
            If a picture cannot be read and ``on_error`` is ``"raise"``.
        DatasetError
            If there are no pictures, or all were left out.
        """
        program, model = self._load()
        if isinstance(layers, str):
            raise TypeError(f"layers is {layers!r}; expected a list of names: [{layers!r}]")
        return compute_features(
            program,
            model.preprocessing,
            images,
            [self.layer] if layers is None else list(layers),
            batch_size=self.batch_size,
            on_error=on_error,
            progress=self.progress,
        )

    def show_layer(
        self,
        image: ImageLike,
        layer: str,
        *,
        channels: Sequence[int] | None = None,
        scale: str = "channel",
    ) -> Image.Image:
        """A layer's channels for one picture, as one picture: a tile for each.

        Parameters
        ----------
        image
            One picture: a path, a PIL image or an array.
        layer
            A layer whose shape in `layers` is (h, w, c).
        channels
            Which channels, counted from 0; None: all.
        scale
            ``"channel"``: each tile is coloured from its own smallest to its own largest value;
            ``"layer"``: all alike, so that they can be compared.

        Returns
        -------
        PIL image
            The first tile is the picture as the network saw it.

        Raises
        ------
        UnknownNameError
            If there is no such layer.
        ShapeError
            If the layer gives no maps but a vector; layers that do are named.
        ImageError
            If the picture cannot be read.
        ValueError
            If there is no such channel or scale.

        Examples
        --------
        >>> from transferkit import FeatureExtractor
        >>> from transferkit.demo import CAT
        >>> fx = FeatureExtractor("mobilenet_v2", backend="onnxruntime")
        >>> fx.show_layer(CAT, "features.6", channels=[0, 3, 5], scale="layer").mode
        'RGB'
        """
        from transferkit.features.layer_grid import check_channels, check_is_map, show_layer

        program, model = self._load()
        model.network.resolve(layer)
        source = os.fspath(image) if isinstance(image, (str, os.PathLike)) else "image"
        photo = model.preprocessing.apply(read_image(image, str(source)), str(source))
        shapes = program.shapes(*photo.shape[:2])
        check_is_map(layer, shapes)
        check_channels(shapes[layer][2], channels, scale)
        pixels = photo.astype(np.float32)
        if photo.dtype == np.uint8:
            pixels /= 255
        found = program.run(pixels[None], [layer])[layer][0]
        size = " x ".join(map(str, found.shape))
        title = f"{model.network.name}, {layer}: {size}"
        return show_layer(found, channels=channels, scale=scale, photo=photo, title=title)

    def export(self, path: str | os.PathLike[str], layers: Sequence[str] | None = None) -> None:
        """Write the network to an ONNX file.

        The file's input is ``pixels``, (batch, height, width, 3), RGB, float32 in [0, 1], of
        any batch size, and any height and width where the network allows that; its outputs
        have the layers' names. How pictures are to be read is in its metadata.

        Parameters
        ----------
        path
            The file.
        layers
            Names from `layers`; None means just `layer`.

        Raises
        ------
        UnknownNameError
            If there is no such layer.
        UnsupportedError
            If the network is a model of a framework's own, or has more than 2 GB of weights.
        OutputError
            If the file cannot be written.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import onnxruntime
        >>> from transferkit import FeatureExtractor
        >>> fx = FeatureExtractor("mobilenet_v2")
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "mobilenet_v2.onnx")
        ...     fx.export(path, layers=["embedding", "logits"])
        ...     session = onnxruntime.InferenceSession(path)
        >>> [(output.name, output.shape) for output in session.get_outputs()]
        [('embedding', ['batch', 1280]), ('logits', ['batch', 1000])]
        """
        from transferkit.models.export import export_onnx

        if isinstance(layers, str):
            raise TypeError(f"layers is {layers!r}; expected a list of names: [{layers!r}]")
        model = self.model()
        if model.wrapped is not None:
            raise UnsupportedError(
                f"{model.network.name} is a model of a framework's own, which exports itself: "
                "torch.onnx.export(model, ...) in PyTorch, model.export(path, format='onnx') in "
                "Keras"
            )
        export_onnx(
            model.network,
            model.weights,
            [self.layer] if layers is None else list(layers),
            Path(path),
            preprocessing=model.preprocessing,
        )

    def get_feature_names_out(self, input_features: object = None) -> npt.NDArray[np.object_]:  # noqa: ARG002
        """The names of `transform`'s columns: ``"embedding_0"`` and so on."""
        _, model = self._load()
        shape = self.layers[self.layer]
        if model.preprocessing.size is None and len(shape) > 1:
            raise ShapeError(
                f"how many columns layer {self.layer!r} has depends on the pictures, which "
                "Preprocessing(size=None) leaves as they are"
            )
        number = int(np.prod(shape))
        return np.asarray([f"{self.layer}_{index}" for index in range(number)], dtype=object)

    def __dir__(self) -> list[str]:
        # scikit-learn's evaluates every property to see whether it is there, which here would
        # download weights, or import a framework, for the sake of a list of names.
        return list(object.__dir__(self))

    def _get_fitted_attr_html(self, doc_link: str = "") -> str:  # noqa: ARG002
        # What scikit-learn shows of an estimator in a notebook evaluates every property likewise.
        # Nothing is fitted here.
        return ""

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def _load(self) -> tuple[Program, Model]:
        # A generator would give a copy of this, or what is unpickled of it, other weights.
        if isinstance(self.seed, bool) or not isinstance(self.seed, Integral):
            raise TypeError(f"seed is {self.seed!r}; expected a whole number, such as 0")
        return self._program.get(
            (self.network, self.weights, self.preprocessing, self.initialization, self.seed),
            lambda: load_model(
                self.network,
                self.weights,
                self.preprocessing,
                self.backend,
                self.device,
                initialization=self.initialization,
                seed=self.seed,
                progress=self.progress,
            ),
            self.backend,
            self.device,
        )
