"""Error messages show at most 100 characters of any value that was passed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import NETWORK, SIDE, WEIGHTS, noise, tiny_classifier, tiny_extractor

from transferkit import Classifier, ImageOptimizer, Preprocessing, compare, datasets, training
from transferkit.backends import Backend, Program, backend_of, describe_backend, get_backend
from transferkit.comparison import logme
from transferkit.images import (
    count_images,
    list_images,
    list_labeled_images,
    read_image,
    stream_batches,
)
from transferkit.models import find_architecture, load_model
from transferkit.networks import NetworkBuilder, build_network, random_weights
from transferkit.optimization import objectives, visualization
from transferkit.testing import ReferenceBackend
from transferkit.weights import find_imagenet_classes, find_weights, load_weights

LONG = "x" * 10**6
VALUES = {
    "string": LONG,
    "list": [LONG],
    "tuple": (LONG, LONG),
    "bytes": LONG.encode(),
    "mapping": {LONG: LONG},
    "numbers": [7] * 10**4,
    "object": type("Long", (), {"__repr__": lambda _: LONG})(),
}

Call = tuple[Callable[..., Any], dict[str, Any]]


def images_and_labels() -> dict[str, Any]:
    return {"X": noise(6), "y": ["a", "b"] * 3}


def fitted() -> Classifier:
    return tiny_classifier(C=1.0, progress=False).fit(**images_and_labels())


def calls(folder: Path) -> dict[str, Call]:
    """Return the public entry points that need no gradients, with valid arguments."""
    extractor, classifier = tiny_extractor(progress=False), fitted()
    classifier.save(folder / "saved.safetensors")
    table = folder / "table.csv"
    table.write_text("file,label\ntable.csv,a\n")

    def extract(X: Any = noise(2), **parameters: Any) -> Any:  # noqa: B008
        return tiny_extractor(**parameters).transform(X)

    def fit(C: Any = 1.0, **parameters: Any) -> Any:
        return tiny_classifier(C=C, **parameters).fit(**images_and_labels())

    def stream(images: Any = noise(2), size: Any = SIDE, **parameters: Any) -> Any:  # noqa: B008
        parameters = {"batch_size": 2, **parameters}
        return list(stream_batches(images, Preprocessing(size), **parameters))

    small = load_model(NETWORK, WEIGHTS, Preprocessing(SIDE))

    def run_comparison(networks: Any = (small,), **parameters: Any) -> Any:
        return compare(networks, **{"cv": 3, "progress": False, **parameters})

    common = dict.fromkeys(inspect.signature(type(extractor)).parameters)
    common.pop("progress")
    program = Program(ReferenceBackend(), NETWORK, WEIGHTS)
    evaluation = classifier.evaluate(**images_and_labels())
    images = {"X": noise(2)}
    return {
        "FeatureExtractor": (extract, {"X": None, **common}),
        "extract": (extractor.extract, images),
        "show_layer": (extractor.show_layer, {"image": noise(1)[0], "layer": "conv1"}),
        "export": (extractor.export, {"path": folder / "a.onnx"}),
        "feature names": (
            lambda layer: tiny_extractor(layer=layer).get_feature_names_out(),
            {"layer": None},
        ),
        "Classifier": (fit, {"C": None, "class_weight": None, **common}),
        "fit": (tiny_classifier(C=1.0, progress=False).fit, images_and_labels()),
        "predict": (classifier.predict, images),
        "predict_proba": (classifier.predict_proba, images),
        "predict_top": (classifier.predict_top, images),
        "score": (classifier.score, images_and_labels()),
        "evaluate": (classifier.evaluate, images_and_labels()),
        "compare": (
            run_comparison,
            {**images_and_labels(), "fine_tune": None, "weights": None, "cv": None, "device": None},
        ),
        "logme": (logme, {"features": np.eye(6), "labels": ["a", "b"] * 3}),
        "top_k": (evaluation.top_k, {"k": 1}),
        "worst_pairs": (evaluation.worst_pairs, {}),
        "save": (classifier.save, {"path": folder / "b.safetensors"}),
        "Classifier.export": (classifier.export, {"path": folder / "b.onnx"}),
        "load": (Classifier.load, {"path": folder / "saved.safetensors"}),
        "pretrained": (Classifier.pretrained, {"network": "mobilenet_v2"}),
        "Preprocessing": (Preprocessing, {}),
        "from_dict": (Preprocessing.from_dict, {"data": {}}),
        "field of from_dict": (
            lambda value: [Preprocessing.from_dict({key: value}) for key in ("size", LONG)],
            {"value": None},
        ),
        "apply": (Preprocessing(SIDE).apply, {"image": read_image(noise(1)[0])}),
        "list_images": (list_images, {"folder": folder}),
        "list_labeled_images": (list_labeled_images, {"folder": folder}),
        "LabelledImages": (datasets.LabelledImages, {"images": [b"1", b"2"], "labels": ["a", "b"]}),
        "split": (
            datasets.LabelledImages([b"1", b"2"], ["a", "a"]).split,
            {"test": 0.5, "random_state": 0},
        ),
        "of_split": (
            datasets.LabelledImages([b"1"], ["a"], splits=["test"]).of_split,
            {"name": "test"},
        ),
        "from_folder": (datasets.from_folder, {"folder": folder}),
        "from_csv": (datasets.from_csv, {"path": table}),
        "from_names": (datasets.from_names, {"folder": table, "pattern": "(?P<label>.*)"}),
        "oxford_iiit_pet": (datasets.oxford_iiit_pet, {"folder": table}),
        "cats_vs_dogs": (datasets.cats_vs_dogs, {"folder": table}),
        "count_images": (count_images, {"images": noise(1)}),
        "read_image": (read_image, {"image": noise(1)[0]}),
        "stream_batches": (stream, dict.fromkeys(("images", "size", "batch_size", "on_error"))),
        "get_backend": (get_backend, {"backend": "onnxruntime"}),
        "describe_backend": (describe_backend, {"name": "onnxruntime"}),
        "backend_of": (backend_of, {"model": None}),
        "Program.load": (program.load, {"layers": ["conv1"]}),
        "Program.shapes": (program.shapes, {"height": 16, "width": 16}),
        "Program.run": (
            program.run,
            {"pixels": np.zeros((1, SIDE, SIDE, 3), np.float32), "layers": ["conv1"]},
        ),
        "load_model": (
            load_model,
            {"network": NETWORK, "weights": WEIGHTS, "preprocessing": Preprocessing(SIDE)},
        ),
        "catalogued load_model": (load_model, {"network": "mobilenet_v2"}),
        "find_architecture": (find_architecture, {"network": "mobilenet_v2"}),
        "build_network": (build_network, {"name": "mobilenet_v2"}),
        "random_weights": (random_weights, {"network": NETWORK}),
        "resolve": (NETWORK.resolve, {"layer": "conv1"}),
        "node": (NETWORK.node, {"layer": "conv1"}),
        "alias": (NetworkBuilder("tiny", 8).alias, {"alias": "a", "target": "b"}),
        "find_weights": (find_weights, {"network": "mobilenet_v2"}),
        "load_weights": (load_weights, {"entry": find_weights("mobilenet_v2")}),
        "find_imagenet_classes": (find_imagenet_classes, {"name": "tabby"}),
        "find_optimizer": (training.find_optimizer, {"optimizer": "adam"}),
        "find_schedule": (training.find_schedule, {"schedule": "cosine"}),
        "Adam": (training.Adam, {}),
        "AdamW": (training.AdamW, {}),
        "SGD": (training.SGD, {}),
        "RMSprop": (training.RMSprop, {}),
        "Adagrad": (training.Adagrad, {}),
        "NormalizedMomentum": (training.NormalizedMomentum, {}),
        "Step": (training.Step, {}),
        "Exponential": (training.Exponential, {}),
        "OneCycle": (training.OneCycle, {}),
        "Warmup": (training.Warmup, {"schedule": "cosine"}),
        "History": (training.History, {}),
        "to_pandas": (training.History().to_pandas, {}),
        "to_dict": (
            lambda value: training.History(choices={LONG: value, "x": {"y": value}}).to_dict(),
            {"value": None},
        ),
        "History.from_dict": (training.History.from_dict, {"data": {}}),
        **{
            f"{name} of History.from_dict": (
                lambda value, name=name: training.History.from_dict(
                    training.History().to_dict() | {name: value}
                ),
                {"value": None},
            )
            for name in training.History().to_dict()
        },
        "geometric_learning_rates": (
            training.geometric_learning_rates,
            {"smallest": 0.1, "largest": 1.0, "steps": 3},
        ),
        "LearningRateRange": (
            training.LearningRateRange,
            {"learning_rates": [0.1, 0.2], "losses": [0.1, 0.2]},
        ),
    }


def calls_with_gradients(backend: Backend) -> dict[str, Call]:
    """Return the public entry points that need gradients, with valid arguments."""
    optimizer = ImageOptimizer(
        NETWORK,
        weights=WEIGHTS,
        backend=backend,
        preprocessing=Preprocessing(SIDE),
        progress=False,
    )
    images = {"X": noise(2), "epsilon": 0.1, "steps": 2, "method": "pgd", "norm": "linf"}
    result = optimizer.attack(**images)
    required: dict[str, Any] = {
        "layer": "conv1",
        "channel": 0,
        "target": 0,
        "vector": np.ones(4),
        "function": len,
        "of": ["conv1"],
        "pixels": 1,
        "smallest": 0.5,
        "largest": 1.0,
        "degrees": 1.0,
    }
    made = {}
    for module in (objectives, visualization):
        for name in module.__all__:
            kind = getattr(module, name)
            if inspect.isclass(kind) and not inspect.isabstract(kind):
                parameters = inspect.signature(kind).parameters.values()
                needed = {
                    parameter.name
                    for parameter in parameters
                    if parameter.default is parameter.empty
                }
                if needed <= required.keys():
                    made[name] = (kind, {name: required[name] for name in needed})

    def seen(objectives: Any = 0, **arguments: Any) -> Any:
        return optimizer.visualize(
            objectives, **{"steps": 1, "frames": 0, "size": SIDE, **arguments}
        )

    def wanted(value: Any) -> Any:
        channel = functools.partial(objectives.Channel, channel=0)
        for make in (objectives.Class, objectives.Layer, channel):
            try:
                seen(make(value))
            except Exception as error:
                check(error, "an objective")
        return seen(objectives.Channel("conv1", value))

    visualize = dict.fromkeys(inspect.signature(optimizer.visualize).parameters)
    return {
        **made,
        "attack": (optimizer.attack, {**images, "y": None, "target": None, "loss": None}),
        "transfer": (optimizer.transfer, {"adversarial": result, "other": optimizer}),
        "resolve_class": (optimizer.resolve_class, {"name": 0}),
        "visualize": (seen, visualize),
        "objectives": (wanted, {"value": None}),
    }


def arguments_of(function: Callable[..., Any], valid: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the parameters of a function."""
    yield from valid
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in valid and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            yield name


def check(error: BaseException | None, where: str) -> None:
    """Check the messages of an error and of its causes, which a traceback shows too."""
    while error is not None:
        message = str(error)
        assert "x" * 101 not in message, f"{where}: {message[:160]!r}"
        assert ", 7" * 40 not in message, f"{where}: {message[:160]!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def check_calls(entries: dict[str, Call], kind: str) -> None:
    failures = []
    for entry, (function, valid) in entries.items():
        given = {name: value for name, value in valid.items() if value is not None}
        for name in arguments_of(function, valid):
            try:
                function(**{**given, name: VALUES[kind]})
            except Exception as error:
                try:
                    check(error, f"{entry}({name}=)")
                except AssertionError as failure:
                    failures.append(str(failure).splitlines()[0])
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.filterwarnings("ignore")
def test_messages_show_100_characters_of_any_argument(kind: str, tmp_path: Path) -> None:
    check_calls(calls(tmp_path), kind)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.filterwarnings("ignore")
def test_messages_of_the_optimizer_show_100_characters(differentiable: Backend, kind: str) -> None:
    check_calls(calls_with_gradients(differentiable), kind)
