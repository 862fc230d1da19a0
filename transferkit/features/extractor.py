"""`FeatureExtractor`: the activations of a network's layers, as arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags

from transferkit.backends import Backend
from transferkit.backends.base import FLOAT32, INT8
from transferkit.errors import ArgumentTypeError, ParameterError, ShapeError, shorten
from transferkit.features.cache import CacheParameter
from transferkit.features.calibration import (
    MAX_CALIBRATION_IMAGES,
    calibrate_on_images,
    stored_calibration,
)
from transferkit.features.extraction import (
    Features,
    compute_features,
    find_not_finite,
    iterate_features,
)
from transferkit.features.identity import Identity, identify
from transferkit.features.open_cache import OpenCache
from transferkit.features.to_store import choose_shard_size, extract_to_store, new_manifest
from transferkit.images import ImageLike, Images, Preprocessing, read_image
from transferkit.images.conversion import to_float32
from transferkit.images.stream import choose_images
from transferkit.models import AnyWeights, Model, find_architecture
from transferkit.models.estimator import NetworkEstimator, document_parameters, takes_images
from transferkit.models.model import attach_metadata
from transferkit.networks import Network
from transferkit.store import FeatureStore
from transferkit.store.features import column_names
from transferkit.store.manifest import Manifest, has_manifest, read_manifest
from transferkit.support.random_state import RandomState
from transferkit.support.warning import warn

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FeatureExtractor"]


@document_parameters
class FeatureExtractor(TransformerMixin, NetworkEstimator):  # type: ignore[misc]
    """Extracts the activations of a network's layers from images.

    A scikit-learn transformer that needs no fitting, except with ``precision="int8"``. It can be
    used from several threads, pickled and cloned.

    Parameters
    ----------
    {network}
    {weights}
    {backend}
    {device}
    layer
        The layer that `transform` returns; `layers` lists them.
    {preprocessing}
    {batch_size}
    {initialization}
    random_state
        Seed of random weights: an int, a ``numpy.random.Generator``, a
        ``numpy.random.RandomState``, or None for a different one in each new object. An int
        gives the same weights on every backend. Published weights do not depend on it.
    {progress}
    {precision}
    {cache}

    Attributes
    ----------
    calibration_ : transferkit.backends.Calibration
        The ranges of the activations, after `calibrate`.

    Raises
    ------
    UnknownNameError
        When first used: if the network, weights, layer, backend, device or precision is unknown.
    BackendNotInstalledError
        When first used: if the backend's framework is not installed.
    ParameterError
        When first used: if ``random_state`` or ``cache`` is not one of the above.
    UnsupportedError
        When first used: if ``cache`` is given and the network is a model of a framework, whose
        weights may change, or pyarrow is not installed.

    Notes
    -----
    ``X`` is a path, a folder, a PIL image, an array, or a sequence or generator of paths, PIL
    images and arrays; see `transferkit.images.stream_batches`. Rows of results are in the
    order of the input; the images of a folder are sorted by path.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit import FeatureExtractor
    >>> fx = FeatureExtractor("mobilenet_v2", backend="onnxruntime")
    >>> image = np.zeros((300, 400, 3), np.uint8)
    >>> fx.transform([image]).shape
    (1, 1280)
    >>> features = fx.extract(image, layers=["features.6", "logits"])
    >>> features["features.6"].shape, features["logits"].shape, features.sources
    ((1, 28, 28, 32), (1, 1000), ['images[0]'])
    """

    def __init__(
        self,
        network: str | Network | Model | object = "mobilenet_v2",
        *,
        weights: AnyWeights = None,
        backend: str | Backend | None = None,
        device: str | None = None,
        layer: str = "embedding",
        preprocessing: Preprocessing | None = None,
        batch_size: int = 32,
        initialization: str = "he",
        random_state: RandomState = 0,
        progress: bool | None = None,
        precision: str = FLOAT32,
        cache: CacheParameter = None,
    ) -> None:
        super().__init__(
            network,
            weights=weights,
            backend=backend,
            device=device,
            preprocessing=preprocessing,
            batch_size=batch_size,
            initialization=initialization,
            random_state=random_state,
            progress=progress,
            precision=precision,
        )
        self.layer = layer
        self.cache = cache
        self._open_cache = OpenCache()

    def layers(self) -> Mapping[str, tuple[int, ...]]:
        """Return every layer, with the shape of its output for one image, (h, w, c) or (d,).

        Published weights are not downloaded for this.
        """
        return self._architecture().layers()

    def model(self) -> Model:
        """Return the network with its weights, preprocessing and labels."""
        return self._load()[1]

    def to_native(self) -> object:
        """Return the network as an object of the backend's framework.

        Returns
        -------
        torch.nn.Module or keras.Model
            A new object with its own copy of the weights; if ``network`` is such an object,
            that object itself. Its input is pixels in [0, 1] in the framework's axis order,
            its output the logits. A new object has the attributes ``preprocessing`` and
            ``labels``, and can be passed to the classes of this library without either.

        Raises
        ------
        UnsupportedError
            If the backend has no models of its own.
        """
        program, model = self._load()
        native = program.to_native()
        if model.wrapped is None:
            attach_metadata(native, model)
        return native

    def fit(self, X: Images | None = None, y: object = None) -> Self:  # noqa: ARG002
        """Calibrate on the images with ``precision="int8"``; otherwise do nothing.

        The network is already trained. Present for scikit-learn.

        Parameters
        ----------
        X
            Images, as for `calibrate`; ignored with ``precision="float32"``.
        y
            Ignored.
        """
        if self._is_int8():
            if X is None:
                raise ArgumentTypeError(
                    f"fit with precision={INT8!r} needs images to calibrate on, but X is None"
                )
            if isinstance(X, Iterator):
                raise ArgumentTypeError(
                    f"X is a {type(X).__name__}, of which calibration would leave nothing to "
                    "transform; expected a list. Or call calibrate with other images"
                )
            self.calibrate(X)
        return self

    def calibrate(self, X: Images | FeatureStore, *, on_error: str = "raise") -> Self:
        """Measure the ranges of the activations on images, for ``precision="int8"``.

        The network runs on the images in float32. At most 128 of them are used, evenly spaced;
        of a generator the first 128. They need no labels, and should be like those that the
        extractor is used on.

        Parameters
        ----------
        X
            Images; see the notes of the class. Or a `FeatureStore` of int8 features, to add images
            to it: the ranges are those that it was computed with, and no images are read.
        on_error
            ``"raise"``, or ``"skip"`` to leave out images that cannot be read.

        Returns
        -------
        FeatureExtractor
            The extractor itself, with ``calibration_``. All layers can be extracted with it.

        Raises
        ------
        ParameterError
            If ``precision`` is not ``"int8"``, or that of the store is not.
        ImageError
            If an image cannot be read and ``on_error`` is ``"raise"``.
        DatasetError
            If there are no images.
        UnsupportedError
            If the backend does not compute with 8-bit integers, or the network is an object of a
            framework or has no layers to quantize.

        Warns
        -----
        UserWarning
            If there are fewer than 10 images.

        Examples
        --------
        >>> from transferkit import FeatureExtractor
        >>> from transferkit.demo import TEST, TRAIN
        >>> fx = FeatureExtractor("mobilenet_v2", precision="int8").calibrate(TRAIN)
        >>> fx.calibration_.num_images, fx.transform(TEST).shape
        (24, (24, 1280))
        """
        if not self._is_int8():
            raise ParameterError(
                f"precision is {self.precision!r}, which needs no calibration; expected {INT8!r}"
            )
        if isinstance(X, FeatureStore):
            self._set_calibration(stored_calibration(X.info, X.folder))
            return self
        program, model = self._load_float32(needs=INT8)
        images = choose_images(X, MAX_CALIBRATION_IMAGES)
        self._set_calibration(
            calibrate_on_images(program, model, images, on_error=on_error, progress=self.progress)
        )
        return self

    def transform(self, X: Images) -> npt.NDArray[np.float32]:
        """Return the output of `layer` for each image.

        Parameters
        ----------
        X
            Images; see the notes of the class.

        Returns
        -------
        array
            (n, d), float32; row i belongs to image i. A feature map (h, w, c) is flattened in
            row-major order to d = h * w * c.

        Raises
        ------
        ImageError
            If an image cannot be read, so that rows always match the input.
        DatasetError
            If there are no images.
        """
        activations = self.extract(X, [self.layer])[self.layer]
        return activations.reshape(len(activations), -1)

    def extract(
        self,
        X: Images,
        layers: Sequence[str] | None = None,
        *,
        on_error: str = "raise",
    ) -> Features:
        """Return the outputs of several layers, computed in one pass.

        Parameters
        ----------
        X
            Images; see the notes of the class.
        layers
            Names from `layers`; None: only `layer`.
        on_error
            ``"raise"``, or ``"skip"`` to leave out images that cannot be read.

        Returns
        -------
        Features
            A mapping from layer to array, (n, h, w, c) or (n, d), float32, with the attributes
            ``sources`` and ``skipped``.

        Raises
        ------
        UnknownNameError
            If a layer is unknown; the message lists close matches.
        ImageError
            If an image cannot be read and ``on_error`` is ``"raise"``.
        DatasetError
            If there are no images, or all were skipped.

        Warns
        -----
        UserWarning
            If an output is NaN or infinite.
        """
        program, model = self._load()
        listed = self._listed(layers)
        features = compute_features(
            program,
            model.preprocessing,
            X,
            listed,
            batch_size=self.batch_size,
            on_error=on_error,
            progress=self.progress,
            cache=self._open_cache.layers(self.cache, program, model, listed),
        )
        for layer, outputs in features.items():
            problem = find_not_finite(outputs, features.sources, layer)
            if problem is not None:
                warn(problem)
        return features

    def iter_extract(
        self,
        X: Images,
        layers: Sequence[str] | None = None,
        *,
        on_error: str = "skip",
    ) -> Iterator[Features]:
        """Yield the outputs of several layers batch by batch, while images are read.

        Parameters
        ----------
        X
            Images; see the notes of the class. They are iterated no more than a few batches ahead.
        layers
            Names from `layers`; None: only `layer`.
        on_error
            ``"skip"`` to leave out images that cannot be read, or ``"raise"``.

        Yields
        ------
        Features
            Of at most ``batch_size`` images, as `extract` returns them. ``indices`` are positions
            in ``X``; ``skipped`` has the images that were left out since the batch before, and in
            the last batch those after it.

        Raises
        ------
        UnknownNameError
            If a layer is unknown.
        ImageError
            If an image cannot be read and ``on_error`` is ``"raise"``.
        DatasetError
            If there are no images, or all were skipped.

        Examples
        --------
        >>> import numpy as np
        >>> from transferkit import FeatureExtractor
        >>> fx = FeatureExtractor("resnet18", weights="random", batch_size=2)
        >>> images = (np.full((64, 64, 3), level, np.uint8) for level in range(5))
        >>> [batch["embedding"].shape for batch in fx.iter_extract(images)]
        [(2, 512), (2, 512), (1, 512)]
        """
        program, model = self._load()
        listed = self._listed(layers)
        return iterate_features(
            program,
            model.preprocessing,
            X,
            listed,
            batch_size=self.batch_size,
            on_error=on_error,
            progress=self.progress,
            cache=self._open_cache.layers(self.cache, program, model, listed),
        )

    def extract_to(
        self,
        folder: str | os.PathLike[str],
        X: Images,
        layers: Sequence[str] | None = None,
        *,
        shard_size: int | None = None,
        dtype: str = "float32",
        base: str | os.PathLike[str] | None = None,
        retry_skipped: bool = False,
    ) -> FeatureStore:
        """Write the outputs of several layers to a store, and add to what it has already.

        Each image is in the store once, under its source: the path as it is given, the name of a
        `transferkit.images.NamedImage`, or the position in ``X`` of an image without either. An
        image whose source the store has is not computed again, so a run that was interrupted or
        killed is resumed by calling this again, and new images are added at the end. One that
        cannot be read is listed in ``skipped`` of the store, and never ends a run.

        With ``precision="int8"``, an extractor that is not calibrated takes the calibration of the
        store.

        Parameters
        ----------
        folder
            The folder of the store, or its URL on a file system of fsspec, such as
            ``"s3://bucket/features/"``; it is created if necessary.
        X
            Images; see the notes of the class. They are iterated no more than a few batches ahead.
            A path may also be that of a list of paths, or of a Parquet or tar file, a pattern or a
            URL; for several of them, pass the result of `transferkit.sources.open_sources`.
        layers
            Names from `layers`; None: only `layer`.
        shard_size
            The number of images in a file; None: that of the store, or 10,000 for a new one. The
            images of a file that is not complete are computed again after the process was killed;
            Ctrl-C and errors complete it first.
        dtype
            ``"float32"``, or ``"float16"`` for files of half the size, with 11 bits of precision.
        base
            The folder that has the images now, if they were moved since, or the store comes from
            another machine; None: where they were. Then it does not matter how the paths of the
            images are written, absolute or relative.
        retry_skipped
            Whether images that were skipped before are tried again. Those that can be read now are
            added at the end, and are not listed in ``skipped`` any more.

        Returns
        -------
        FeatureStore
            The store, opened.

        Raises
        ------
        ParameterError
            If the store was made with another network, weights, preprocessing, layers or another
            setting; the message names each difference.
        OutputError
            If the folder cannot be written to, or has other files and is no store, the disk is
            full, or another process writes to the store. Files that are complete stay.
        DownloadError
            If the store cannot be read from a server.
        UnknownNameError
            If a layer, or the scheme of a URL, is unknown.
        ShapeError
            If the shape of a layer's output depends on the size of the images, which may differ.
        FileFormatError
            If the store is of a newer version, or its manifest is missing or damaged.
        DatasetError
            If there are no images, one of several is a folder, a tar file or the like, or none is
            in ``base``.
        UnsupportedError
            If the network is a model object of a framework, or pyarrow, or what fsspec needs for
            a URL, is not installed.

        Warns
        -----
        UserWarning
            If images have changed since they were computed, or are in the store with another folder
            in their paths; if none could be read, files were damaged, which are computed again, or
            outputs are NaN or infinite.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from transferkit import FeatureExtractor
        >>> from transferkit.demo import TEST, TRAIN
        >>> fx = FeatureExtractor("mobilenet_v2", backend="onnxruntime")
        >>> with TemporaryDirectory() as folder:
        ...     store = fx.extract_to(folder, TRAIN, shard_size=10)
        ...     more = fx.extract_to(folder, TEST, shard_size=10)
        ...     len(store.sources), len(more.sources), len(more.shards)
        (24, 48, 6)
        """
        self._take_stored_calibration(folder)
        shard_size = choose_shard_size(folder, shard_size)
        manifest, identity = self._describe_store(layers, shard_size, dtype)
        program, model = self._load()
        return extract_to_store(
            program,
            model.preprocessing,
            X,
            folder,
            manifest,
            identity,
            batch_size=self.batch_size,
            progress=self.progress,
            base=base,
            retry_skipped=retry_skipped,
        )

    def _take_stored_calibration(self, folder: str | os.PathLike[str]) -> None:
        """Take the calibration of a store if one is needed, and there is none yet."""
        if self._is_int8() and not self._is_calibrated() and has_manifest(folder):
            self._set_calibration(stored_calibration(read_manifest(folder), folder))

    def _describe_store(
        self, layers: Sequence[str] | None, shard_size: int, dtype: str
    ) -> tuple[Manifest, Identity]:
        """Return the manifest of a store for some layers, and what its features depend on."""
        program, model = self._load()
        identity = identify(program, model)
        manifest = new_manifest(
            program,
            model.preprocessing,
            self._listed(layers),
            identity,
            shard_size=shard_size,
            dtype=dtype,
        )
        return manifest, identity

    def show_layer(
        self,
        image: ImageLike,
        layer: str,
        *,
        channels: Sequence[int] | None = None,
        scale: str = "channel",
    ) -> Image.Image:
        """Draw the channels of a layer for one image, one tile per channel.

        Parameters
        ----------
        image
            A path, a PIL image or an array.
        layer
            A layer with a shape of (h, w, c).
        channels
            The channels to draw, counted from 0; None: all.
        scale
            ``"channel"``: each tile is colored from its own minimum to its own maximum;
            ``"layer"``: all tiles share one range, so that they can be compared.

        Returns
        -------
        PIL image
            The first tile is the image as the network receives it.

        Raises
        ------
        UnknownNameError
            If the layer is unknown.
        ShapeError
            If the layer's output is a vector; the message lists layers that have feature maps.
        ImageError
            If the image cannot be read.
        ParameterError
            If a channel or ``scale`` is invalid.

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
        upright = read_image(image, str(source), bit_depth=model.preprocessing.bit_depth)
        prepared = model.preprocessing.apply(upright, str(source))
        shapes = program.shapes(*prepared.shape[:2])
        check_is_map(layer, shapes)
        check_channels(shapes[layer][2], channels, scale)
        if prepared.dtype == np.uint8:
            pixels = to_float32(prepared.astype(np.uint8, copy=False))
        else:
            pixels = prepared.astype(np.float32, copy=False)
        activations = program.run(pixels[None], [layer])[layer][0]
        size = " x ".join(map(str, activations.shape))
        title = f"{model.network.name}, {layer}: {size}"
        return show_layer(activations, channels=channels, scale=scale, image=prepared, title=title)

    def export(self, path: str | os.PathLike[str], layers: Sequence[str] | None = None) -> None:
        """Write the network to an ONNX file.

        The input of the file's graph is ``pixels``, (batch, height, width, 3), RGB, float32 in
        [0, 1], of any batch size, and of any height and width if the network allows it; its
        outputs are named after the layers. The metadata has the preprocessing and, where known,
        the labels and the license of the weights. With ``precision="int8"``, the file has 8-bit
        weights and the metadata ``precision``.

        Parameters
        ----------
        path
            The file to write.
        layers
            Names from `layers`; None: only `layer`.

        Raises
        ------
        UnknownNameError
            If a layer is unknown.
        UnsupportedError
            If the network is an object of a framework, or has more than 2 GB of weights.
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

        names = self._listed(layers)
        export_onnx(self.model(), names, Path(path))

    def get_feature_names_out(self, input_features: object = None) -> npt.NDArray[np.object_]:  # noqa: ARG002
        """Return the names of the columns of `transform`: ``"embedding_0"``, ...

        Parameters
        ----------
        input_features
            Ignored; present for scikit-learn.

        Raises
        ------
        ShapeError
            If the number of columns depends on the size of the images.
        """
        model = self._architecture()
        model.network.resolve(self.layer)
        shape = model.layers()[self.layer]
        if model.preprocessing.size is None and len(shape) > 1:
            raise ShapeError(
                f"the number of columns of layer {self.layer!r} depends on the size of the images, "
                "which Preprocessing(size=None) does not fix"
            )
        return np.asarray(column_names(self.layer, shape), dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        if self.precision == FLOAT32:
            return True
        try:
            self._current_calibration()
        except NotFittedError:
            return False
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = self.precision != FLOAT32
        tags.transformer_tags.preserves_dtype = ["float32"]  # The dtype of every result.
        return takes_images(tags)

    def _architecture(self) -> Model:
        """Return the model, without weights if these would have to be loaded."""
        known = find_architecture(self.network, self.weights, self.preprocessing)
        return self.model() if known is None else known

    def _listed(self, layers: Sequence[str] | None) -> list[str]:
        if layers is None:
            return [self.layer]
        if isinstance(layers, str) or not isinstance(layers, Iterable):
            raise ArgumentTypeError(
                f"layers is {shorten(layers)}; expected a list of names of layers"
            )
        return list(layers)
