"""Batches of images, read in threads ahead of the network, with few in memory at a time."""

from __future__ import annotations

import logging
import operator
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, Self, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.errors import DatasetError, ImageError, ParameterError, ShapeError, shorten
from transferkit.images.augmentation.base import AugmentationStage
from transferkit.images.bit_depth import BitDepth
from transferkit.images.conversion import to_float32
from transferkit.images.folders import list_images
from transferkit.images.named import NamedImage
from transferkit.images.preprocessing import Preprocessing
from transferkit.images.reading import (
    Array,
    ImageLike,
    ImageTypeError,
    is_encoded,
    read_content,
    read_image_of_call,
)
from transferkit.images.skipped import Skipped, check_on_error
from transferkit.support.validation import check_integer

__all__ = [
    "Batch",
    "Images",
    "WithSource",
    "choose_images",
    "count_images",
    "image_sequence",
    "iterate_images",
    "source_name",
    "stream_batches",
]

_LOGGER = logging.getLogger(__name__)

Images: TypeAlias = ImageLike | Iterable[ImageLike]
"""The types of a collection of images; `stream_batches` describes them."""

_Pixels: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.float32]

# The number of threads that load named images, which wait for a server most of the time.
_LOADERS = 32

# Lengths of an axis of channels: gray, RGB, RGBA.
_CHANNELS = (1, 3, 4)

_ACCEPTED = (
    "expected a path, a folder, the bytes of an image file, a binary file object, a PIL image, an "
    "array, or a sequence or generator of these"
)


class ImageReader(Protocol):
    """A function that reads one image, in place of `read_image`; it is called in threads."""

    def __call__(
        self, image: ImageLike, source: str, depth: BitDepth, index: int, /
    ) -> Image.Image | npt.NDArray[np.float32] | None:
        """Return what `read_image` returns, or None if the pixels of the image are not needed.

        Parameters
        ----------
        image
            As for `read_image`; a file object or named image has been read to bytes.
        source
            The name of the image in error messages.
        depth
            For `read_image_of_call`.
        index
            The position of the image in the input, from 0.

        Raises
        ------
        ImageError
            If the image cannot be read.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A batch of preprocessed images.

    Parameters
    ----------
    pixels
        (n, height, width, 3), RGB, float32 in [0, 1]; (n, 0, 0, 3) of images for which an
        `ImageReader` returned None, which are in batches of their own.
    sources
        The source of each image: its path or name, or its position in the input
        (``"images[3]"``).
    indices
        The position of each image in the input, from 0; skipped images count.
    """

    pixels: npt.NDArray[np.float32]
    sources: list[str]
    indices: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class WithSource:
    """An image that has another name in messages than its own, or than its position.

    Attributes
    ----------
    source
        The name.
    image
        The image.
    """

    source: str
    image: ImageLike


def count_images(images: Images) -> int | None:
    """Return the number of images without reading them.

    Parameters
    ----------
    images
        As for `stream_batches`.

    Returns
    -------
    int or None
        None if the number is unknown before iterating, as for a generator. Iterables that are no
        iterators may state it with ``__length_hint__``.

    Raises
    ------
    DatasetError
        If ``images`` is a path that does not exist, or a folder without images.
    ImageTypeError
        If ``images`` has an unsupported type.
    ShapeError
        If ``images`` is an array with an unsupported shape.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images import count_images
    >>> count_images(np.zeros((5, 32, 32, 3), np.uint8))
    5
    """
    sources = iterate_images(images)
    if isinstance(sources, Iterator):
        return None
    number = operator.length_hint(sources, -1)
    return None if number < 0 else number


def stream_batches(
    images: Images,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    on_error: str = "raise",
    skipped: list[Skipped] | None = None,
    group_sizes: bool = False,
    augment: AugmentationStage | None = None,
    order: Sequence[int] | None = None,
    read: ImageReader | None = None,
    threads: int | None = None,
) -> Generator[Batch, None, None]:
    """Read, resize and crop images, and yield them in batches, in input order.

    Images are read in threads, one for each CPU core, while the caller processes a batch; the
    content of named images, such as URLs, in 32 further ones. At most two further batches are
    read ahead (or one image for each thread if that is more), and ``images`` is not iterated
    further than that. When the generator is closed,
    garbage-collected or interrupted, each thread ends after its current image.

    Parameters
    ----------
    images
        One of

        - a path to a file, or to a folder, which is listed by `list_images`;
        - the bytes of an image file, or a binary file object, as `read_image` describes: one
          image;
        - a PIL image;
        - an array of one image or several, uint8 or floats in [0, 1]: height x width (gray),
          height x width x 1, 3 or 4 (gray, RGB, RGBA), or number x height x width x 1, 3 or 4.
          Three axes of which neither the first nor the last has length 1, 3 or 4 are number x
          height x width, gray;
        - a sequence, a generator, an array of strings or another iterable of paths to files,
          bytes, file objects, named images (`NamedImage`), PIL images and arrays of one image,
          also mixed. Arrays from a
          generator are copied immediately, so that it can reuse their memory; file objects are
          read immediately, so that it can close them;
        - a column of a data frame, or a data frame with one column, of these.
    preprocessing
        How to resize and crop each image. If its ``size`` is None, images keep their size.
    batch_size
        The number of images in a batch; the last batch may be smaller.
    on_error
        ``"raise"``: raise the error of the first image, in input order, that cannot be read.
        ``"skip"``: skip images that cannot be read; nothing is yielded if all are skipped.
    skipped
        A list to which skipped images are appended, in input order.
    group_sizes
        Whether images that are not resized may differ in size. Each batch then contains images
        of one size, so batches are not in input order, and can be smaller; at most two batches
        of images wait for others of their size.
    augment
        The augmentations of each image; None for none. They depend on the position of the image
        in ``images``, not on ``order`` or the number of threads.
    order
        The positions of the images to read, in this order; a position may occur several times,
        or not at all. ``images`` must be a sequence then. None: all of them, in their order.
    read
        How an image is read, such as by a function that also examines it; None: as `read_image`
        does.
    threads
        The number of threads that read images; None: one for each CPU core.

    Returns
    -------
    generator of Batch

    Raises
    ------
    ParameterError
        If ``on_error``, ``batch_size`` or ``order`` is invalid, or ``order`` is given and
        ``images`` is not a sequence; while iterating: if ``augment`` has a `RandomResizedCrop` and
        ``preprocessing`` no size.
    DatasetError
        If there are no images, or a path does not exist.
    ImageTypeError
        If ``images`` has an unsupported type.
    ImageError
        While iterating: if an image cannot be read and ``on_error`` is ``"raise"``.
    ShapeError
        If ``images`` is an array with an unsupported shape; while iterating: if images that
        are not resized differ in size and ``group_sizes`` is False.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images import Preprocessing, stream_batches
    >>> images = (np.full((300, 400, 3), level, np.uint8) for level in range(5))
    >>> for batch in stream_batches(images, Preprocessing(size=224), batch_size=3):
    ...     print(batch.pixels.shape, batch.sources[0])
    (3, 224, 224, 3) images[0]
    (2, 224, 224, 3) images[3]
    """
    check_on_error(on_error)
    batch_size = check_integer("batch_size", batch_size, 1)
    sources = iterate_images(images)
    if isinstance(sources, Sized) and len(sources) == 0:
        raise DatasetError("no images were given")
    if order is None:
        named = _named(sources)
    elif isinstance(sources, (Sequence, np.ndarray)):
        named = _ordered(sources, _check_order(order, len(sources)))
    else:
        raise ParameterError(
            f"order is given, but images is a {type(images).__name__}, which can be read only "
            "once; pass a list of images"
        )
    reader = _ReadAhead(named, preprocessing, augment, 2 * batch_size, read, threads)
    return _stream(reader, batch_size, on_error == "skip", skipped, group_sizes)


def image_sequence(images: Images) -> Sequence[ImageLike] | npt.NDArray[np.generic]:
    """Return single images that can be read several times, in any order.

    Parameters
    ----------
    images
        As for `stream_batches`. Those of a generator are kept in memory, file objects are read.

    Returns
    -------
    sequence
        The images, which `stream_batches` accepts with an ``order``.

    Raises
    ------
    DatasetError
        If ``images`` is a path that does not exist, or a folder without images.
    ImageTypeError
        If ``images`` has an unsupported type.
    ShapeError
        If ``images`` is an array with an unsupported shape.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.stream import image_sequence
    >>> len(image_sequence(np.zeros((32, 32, 3), np.uint8) for _ in range(5)))
    5
    """
    sources = iterate_images(images)
    if isinstance(sources, np.ndarray):
        return sources
    return [_content(image, source) for _, source, image in _named(sources)]


def choose_images(images: Images, number: int) -> list[ImageLike]:
    """Return single images that are evenly spaced in a collection.

    Parameters
    ----------
    images
        As for `stream_batches`. Those that are not returned are not kept in memory.
    number
        How many to return; all of them if there are fewer. If their number is unknown, as for a
        generator, the first ones are returned.

    Raises
    ------
    DatasetError, ImageTypeError, ShapeError
        As for `image_sequence`.

    Examples
    --------
    >>> from transferkit.images.stream import choose_images
    >>> choose_images([f"{number}.jpg" for number in range(9)], 3)
    ['0.jpg', '3.jpg', '6.jpg']
    """
    sources = iterate_images(images)
    total = None if isinstance(sources, Iterator) else operator.length_hint(sources, -1)
    named: Iterable[tuple[int, str, ImageLike]] = _named(sources)
    if total is None or total < 0:
        named = islice(named, number)
    elif total > number:
        positions = {position * total // number for position in range(number)}
        named = (item for index, item in enumerate(named) if index in positions)
    return [_content(image, source) for _, source, image in named]


def _content(image: ImageLike, source: str) -> ImageLike:
    """Return the bytes of a file object, or the image itself."""
    if not is_encoded(image):
        return image
    try:
        return read_content(image, source)
    except ImageError:
        # Reported when the image is read.
        return image


def iterate_images(images: Images) -> Iterable[ImageLike]:
    """Return an iterable of single images; it has a length if their number is known.

    Parameters
    ----------
    images
        As for `stream_batches`.

    Raises
    ------
    DatasetError
        If ``images`` is a path that does not exist, or a folder without images.
    ImageTypeError
        If ``images`` has an unsupported type.
    ShapeError
        If ``images`` is an array with an unsupported shape.
    """
    if isinstance(images, (str, os.PathLike)):
        return list_images(images)
    # A file object is iterable, but its lines are not images.
    if isinstance(images, (Image.Image, NamedImage)) or is_encoded(images):
        return [images]
    if isinstance(images, np.ndarray):
        return _images_in_array(images)
    if hasattr(images, "columns"):
        return _images_in_frame(images)
    # Mappings and sets have no order for the results.
    if isinstance(images, (Mapping, AbstractSet)) or not isinstance(images, Iterable):
        raise ImageTypeError("images", f"unsupported type {type(images).__name__}; {_ACCEPTED}")
    return cast("Iterable[ImageLike]", images)


def _images_in_array(array: Array) -> Iterable[ImageLike]:
    if array.dtype.kind in "OU":
        if array.ndim == 1:
            paths: list[ImageLike] = array.tolist()
            return paths
    elif array.ndim == 2 or (array.ndim == 3 and array.shape[2] in _CHANNELS):
        return [array]
    elif array.ndim == 3 and array.shape[0] in _CHANNELS:
        # Channels first, or a few gray images: the shape is ambiguous.
        raise ShapeError(
            f"images is an array of shape {_format_shape(array)}; for an image with channels first "
            "pass array.transpose(1, 2, 0), for several gray images array[..., numpy.newaxis]"
        )
    elif array.ndim == 4 and array.shape[3] not in _CHANNELS and array.shape[1] in _CHANNELS:
        raise ShapeError(
            f"images is an array of shape {_format_shape(array)}; expected number x height x width "
            "x channels; if the second axis holds the channels, pass array.transpose(0, 2, 3, 1)"
        )
    elif array.ndim in (3, 4):
        return array
    raise ShapeError(
        f"images is an array of dtype {array.dtype} and shape {_format_shape(array)}; expected "
        "height x width, height x width x channels, number x height x width, number x height x "
        "width x channels, or an array of paths with one axis"
    )


def _images_in_frame(frame: object) -> list[ImageLike]:
    """Return the column of a data frame, which would be iterated by the names of its columns."""
    array = np.asarray(frame)
    if array.ndim != 2 or array.shape[1] != 1:
        raise ImageTypeError(
            "images",
            f"a {type(frame).__name__} of shape {_format_shape(array)}; expected one column: "
            'select the column of the images, such as df["path"]',
        )
    column: list[ImageLike] = array[:, 0].tolist()
    return column


def _format_shape(array: Array) -> str:
    return " x ".join(map(str, array.shape)) or "()"


def _stream(
    reader: _ReadAhead,
    batch_size: int,
    skip: bool,
    skipped: list[Skipped] | None,
    group_sizes: bool,
) -> Generator[Batch, None, None]:
    with reader:
        first: tuple[str, tuple[int, ...]] | None = None
        # The rows of incomplete batches, by their shape; those that have waited longest first.
        groups: dict[tuple[int, ...], list[_Row]] = {}
        for index, source, future in reader:
            try:
                row = _Row(index, source, future.result())
            except ImageError as error:
                if not skip:
                    raise
                _LOGGER.info("skipped %s", error)
                if skipped is not None:
                    skipped.append(Skipped(source, error.reason))
                continue
            shape = row.pixels.shape
            first = first or (source, shape)
            if shape != first[1] and not group_sizes:
                raise ShapeError(
                    f"{first[0]} has {_size(first[1])} pixels and {source} {_size(shape)}; images "
                    "that are neither resized nor cropped must have the same size"
                )
            groups.setdefault(shape, []).append(row)
            if len(groups[shape]) < batch_size:
                if sum(map(len, groups.values())) < 2 * batch_size:
                    continue
                # Images of many sizes: hold only a few in memory.
                shape = next(iter(groups))
            rows = groups.pop(shape)
            # Keep no references to the images while the caller processes the batch.
            del row, future
            reader.fill()
            reader.depth.warn()
            yield _take_batch(rows)
        if reader.is_empty:
            raise DatasetError("no images were given")
        while groups:
            rows = groups.pop(next(iter(groups)))
            reader.depth.warn()
            yield _take_batch(rows)


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """An image of a batch that is not complete yet."""

    index: int
    source: str
    pixels: _Pixels


class _ReadAhead:
    """An iterator over images prepared in threads, in input order, at most ``ahead`` early."""

    def __init__(
        self,
        images: Iterator[tuple[int, str, ImageLike]],
        preprocessing: Preprocessing,
        augment: AugmentationStage | None,
        ahead: int,
        read: ImageReader | None,
        threads: int | None,
    ) -> None:
        threads = threads or _available_cores()
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="transferkit-images")
        # Threads of a pool are started when they are needed.
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="transferkit-images-load")
        self._ahead = max(ahead, threads)
        self._preprocessing = preprocessing
        self._augment = augment
        self._read = read
        self.depth = BitDepth(preprocessing.bit_depth)
        self._images = images
        self._pending: deque[tuple[int, str, Future[_Pixels]]] = deque()
        self._ended = False
        self._failure: Exception | None = None
        self.is_empty = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        # Waits for the current image of each thread, a few milliseconds for a file.
        self._loaders.shutdown(wait=True, cancel_futures=True)
        self._executor.shutdown(wait=True, cancel_futures=True)

    def fill(self) -> None:
        """Submit images to the threads until enough are pending."""
        while not self._ended and len(self._pending) < self._ahead:
            try:
                index, source, image = next(self._images)
            except StopIteration:
                self._ended = True
            except Exception as error:
                # The caller's generator failed. Its error is raised after those of the images
                # before it, regardless of the timing of threads.
                self._ended = True
                self._failure = error
            else:
                self.is_empty = False
                future = self._submit(image, source, index)
                self._pending.append((index, source, future))

    def _submit(self, image: ImageLike | Future[bytes], source: str, index: int) -> Future[_Pixels]:
        if isinstance(image, NamedImage):
            image = self._loaders.submit(read_content, image, source)
        elif is_encoded(image):
            # In this thread, because the caller may close a file object, or change a bytearray,
            # when the next image is requested, and may have listed a file object twice.
            try:
                image = read_content(image, source)
            except ImageError as error:
                failed: Future[_Pixels] = Future()
                failed.set_exception(error)
                return failed
        return self._executor.submit(
            _prepare,
            image,
            source,
            self._preprocessing,
            self.depth,
            self._augment,
            index,
            self._read,
        )

    def __iter__(self) -> Iterator[tuple[int, str, Future[_Pixels]]]:
        self.fill()
        while self._pending:
            if not self._pending[0][2].done():
                # To be woken for every image would slow down the threads that read.
                wait([self._pending[len(self._pending) // 4][2]])
            yield self._pending.popleft()
            self.fill()
        if self._failure is not None:
            raise self._failure


def _named(
    sources: Iterable[ImageLike | WithSource],
) -> Iterator[tuple[int, str, ImageLike]]:
    """Yield each image with its index and its name in error messages."""
    may_be_reused = not isinstance(sources, (Sequence, np.ndarray))
    for index, item in enumerate(sources):
        if isinstance(item, WithSource):
            name, image = item.source, item.image
        else:
            name, image = source_name(item, index), item
        if may_be_reused and isinstance(image, np.ndarray):
            # A video reader, for example, may write every frame to the same memory, but threads
            # process the array later.
            yield index, name, image.copy()
        else:
            yield index, name, image


def _check_order(order: Sequence[int], number: int) -> list[int]:
    positions = np.asarray(order)
    # Without positions, the dtype is that of floats.
    if positions.ndim != 1 or (positions.size and positions.dtype.kind not in "iu"):
        raise ParameterError(f"order is {shorten(order)}; expected a sequence of integers")
    wrong = positions[(positions < 0) | (positions >= number)]
    if wrong.size:
        raise ParameterError(
            f"order has {wrong[0]}, but there are {number} images; expected positions from 0 to "
            f"{number - 1}"
        )
    checked: list[int] = positions.tolist()
    return checked


def _ordered(
    sources: Sequence[ImageLike] | Array, order: list[int]
) -> Iterator[tuple[int, str, ImageLike]]:
    """Yield the images at some positions, with their positions and names."""
    for index in order:
        yield index, source_name(sources[index], index), sources[index]


def source_name(image: ImageLike, index: int) -> str:
    """Return the name of an image in messages: its path, name, or position in the input."""
    if isinstance(image, NamedImage):
        return image.source
    if isinstance(image, (str, os.PathLike)):
        return os.fsdecode(image) or f"images[{index}]"
    return f"images[{index}]"


def _prepare(
    image: ImageLike | Future[bytes],
    source: str,
    preprocessing: Preprocessing,
    depth: BitDepth,
    augment: AugmentationStage | None,
    index: int,
    read: ImageReader | None,
) -> _Pixels:
    """Return one image as an array; runs in a thread."""
    try:
        if isinstance(image, Future):
            image = image.result()
        if read is None:
            upright = read_image_of_call(image, source, depth)
        else:
            wanted = read(image, source, depth, index)
            if wanted is None:
                return np.empty((0, 0, 3), np.uint8)
            upright = wanted
        if augment is None:
            return preprocessing.apply(upright, source)
        return augment.apply(upright, preprocessing, index, source)
    except MemoryError as error:
        raise ImageError(source, "not enough memory to resize the image") from error


def _take_batch(rows: list[_Row]) -> Batch:
    """Return a batch of the rows, and clear the list."""
    pixels = np.empty((len(rows), *rows[0].pixels.shape), np.float32)
    for index, row in enumerate(rows):
        to_float32(row.pixels, out=pixels[index])
    batch = Batch(pixels, [row.source for row in rows], [row.index for row in rows])
    rows.clear()
    return batch


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
