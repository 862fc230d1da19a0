"""Which labels and class folders a classifier is fitted on."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import colored, labeled_folder, tiny_classifier, write_images

from transferkit import Classifier
from transferkit.classification.labels import with_labels
from transferkit.errors import DatasetError, ImageError
from transferkit.images import ImageTypeError


def test_unicode_forms_of_a_label_are_the_same(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    for index, name in enumerate((decomposed, "tea")):
        write_images(tmp_path / "drinks" / name, colored([index] * 3))
    classifier = tiny_classifier(C=10.0).fit(tmp_path / "drinks")
    assert classifier.classes_.tolist() == [composed, "tea"]
    X, y = colored([0, 1]), [composed, "tea"]
    assert classifier.score(X, y) == classifier.score(X, [decomposed, "tea"]) == 1.0
    assert classifier.evaluate(X, [decomposed, "tea"]).accuracy == 1.0
    fitted = tiny_classifier(C=10.0).fit(X * 2, np.array([decomposed, "tea"] * 2, object))
    assert fitted.classes_.tolist() == [composed, "tea"]


def test_class_of_one_image_needs_a_given_C() -> None:  # noqa: N802
    X, y = colored([0, 0, 1, 1, 2]), ["red", "red", "green", "green", "blue"]
    with pytest.raises(DatasetError, match=r"only one image: 'blue'.*pass C"):
        tiny_classifier().fit(X, y)
    classifier = tiny_classifier(C=10.0).fit(X, y)
    assert classifier.classes_.tolist() == ["blue", "green", "red"]
    assert classifier.predict(X).tolist() == y


def test_small_classes_are_skipped_and_listed() -> None:
    X, y = colored([0, 0, 1, 1, 2]), ["red", "red", "green", "green", "blue"]
    classifier = tiny_classifier().fit(X, y, on_error="skip")
    assert classifier.classes_.tolist() == ["green", "red"]
    assert [(skip.source, skip.reason) for skip in classifier.skipped_] == [
        ("class 'blue'", "1 image; at least 2 are required")
    ]
    with pytest.raises(DatasetError, match="one class, 'red'"):
        tiny_classifier().fit(X[1:3], ["red", "red"], on_error="skip")


@pytest.mark.parametrize("number", [2, 3])
def test_class_that_becomes_small_by_unreadable_images_is_skipped(
    tmp_path: Path, number: int
) -> None:
    folder = labeled_folder(tmp_path / "data", number=3, classes=3)
    broken = sorted((folder / "sky").iterdir())[:number]
    for path in broken:
        path.write_bytes(b"nothing")
    with pytest.raises(ImageError):
        tiny_classifier().fit(folder)
    classifier = tiny_classifier().fit(folder, on_error="skip")
    assert classifier.classes_.tolist() == ["blood", "grass"]
    *images, small = classifier.skipped_
    assert [skip.source for skip in images] == [*map(str, broken)]
    assert classifier.n_samples_fit_ == 6
    reason = "no image is left" if number == 3 else "1 image; at least 2 are required"
    assert (small.source, small.reason) == ("class 'sky'", reason)


def test_empty_and_system_folders_do_not_stop_a_fit(tmp_path: Path) -> None:
    folder = labeled_folder(tmp_path / "data", number=3)
    for name in ("__MACOSX", "$RECYCLE.BIN", ".ipynb_checkpoints", "empty"):
        (folder / name).mkdir()
    write_images(folder / "__MACOSX" / "blood", colored([0]))
    with pytest.raises(DatasetError, match="empty: no images in this class folder"):
        tiny_classifier(C=1.0).fit(folder)
    classifier = tiny_classifier(C=1.0).fit(folder, on_error="skip")
    assert classifier.classes_.tolist() == ["blood", "grass"]
    assert [skip.source for skip in classifier.skipped_] == [str(folder / "empty")]
    evaluation = classifier.evaluate(folder, on_error="skip")
    assert [skip.source for skip in evaluation.skipped] == [str(folder / "empty")]


@pytest.mark.parametrize(
    "splits", [("training_set", "test_set"), ("a", "b", "c"), ("train", "val")]
)
def test_folder_one_level_too_high_is_rejected(tmp_path: Path, splits: tuple[str, ...]) -> None:
    for split in splits:
        labeled_folder(tmp_path / "data" / split, number=2)
    with pytest.raises(DatasetError, match=r"one level further down \(blood, grass\)"):
        tiny_classifier().fit(tmp_path / "data")
    # Subfolders that differ, or images beside them, are part of the class.
    write_images(tmp_path / "data" / splits[0] / "other", colored([2]))
    if splits != ("train", "val"):
        tiny_classifier(C=1.0).fit(tmp_path / "data")


def test_unreadable_images_have_no_prediction(tmp_path: Path) -> None:
    X, y = colored([0, 1] * 3), ["red", "green"] * 3
    classifier = tiny_classifier(C=10.0).fit(X, y)
    paths = write_images(tmp_path / "images", X)
    paths[2].write_bytes(b"nothing")
    with pytest.raises(ImageError):
        classifier.predict(paths)
    message = r"no prediction for 1 of 6 images, which .*: .*002\.png"
    with pytest.warns(UserWarning, match=message) as seen:
        probabilities = classifier.predict_proba(paths, on_error="skip")
    assert np.isnan(probabilities[2]).all()
    assert not np.isnan(np.delete(probabilities, 2, axis=0)).any()
    assert [warning.filename for warning in seen] == [__file__]
    with pytest.warns(UserWarning, match="cannot be read") as seen:
        predicted = classifier.predict(paths, on_error="skip")
    assert [warning.filename for warning in seen] == [__file__]
    assert predicted.tolist() == ["red", "green", None, "green", "red", "green"]
    assert classifier.predict(paths[:2], on_error="skip").dtype == classifier.classes_.dtype
    with pytest.warns(UserWarning, match="cannot be read"):
        top = classifier.predict_top(paths, k=1, on_error="skip")
    assert [len(row) for row in top] == [1, 1, 0, 1, 1, 1]
    # Also if no image can be read.
    for unreadable in (b"nothing", [paths[2], paths[2]]):
        number = 1 if isinstance(unreadable, bytes) else 2
        with pytest.warns(UserWarning, match=f"no prediction for {number} of {number} images"):
            predicted = classifier.predict(unreadable, on_error="skip")
        assert predicted.tolist() == [None] * number
        with pytest.warns(UserWarning, match="cannot be read"):
            assert np.isnan(classifier.predict_proba(unreadable, on_error="skip")).all()
        with pytest.raises(ImageError):
            classifier.predict(unreadable)


@pytest.mark.parametrize("shape", [(3, 20, 24), (1, 20, 24), (4, 20, 24), (2, 3, 20, 24)])
def test_channels_first_is_rejected(shape: tuple[int, ...]) -> None:
    classifier = tiny_classifier(C=10.0).fit(colored([0, 1] * 2), [0, 1] * 2)
    with pytest.raises(ValueError, match=r"transpose\("):
        classifier.predict(np.zeros(shape, np.uint8))
    assert len(classifier.predict(np.zeros((5, 20, 24), np.uint8))) == 5


@pytest.mark.parametrize("form", [np.asarray, list, np.ndarray.tolist, "DataFrame", "tensor"])
def test_features_are_not_images(form: Any) -> None:
    if isinstance(form, str):
        module = {"DataFrame": "pandas", "tensor": "torch"}[form]
        form = getattr(pytest.importorskip(module), form)
    table, y = form(np.zeros((4, 64), np.float32)), [0, 1, 0, 1]
    classifier = tiny_classifier(C=10.0)
    with pytest.raises(DatasetError, match=r"table of 4 rows and 64 columns.*LogisticRegression"):
        classifier.fit(table, y)
    classifier.fit(colored(y), y)
    with pytest.raises(DatasetError, match="table of 4 rows"):
        classifier.score(table, y)


def test_labels_in_extended_precision_are_saved(tmp_path: Path) -> None:
    y = np.array([0.5, 1.5, 0.5, 1.5], np.longdouble)
    classifier = tiny_classifier(C=10.0).fit(colored([0, 1, 0, 1]), y)
    classifier.save(tmp_path / "c.safetensors")
    assert Classifier.load(tmp_path / "c.safetensors").classes_.tolist() == [0.5, 1.5]


def test_images_in_a_column_of_a_data_frame(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    y = ["red", "green"] * 3
    paths = list(map(str, write_images(tmp_path / "images", colored([0, 1] * 3))))
    frame = pandas.DataFrame({"path": paths, "label": y})
    classifier = tiny_classifier(C=10.0).fit(frame[["path"]], frame[["label"]])
    assert classifier.predict(frame[["path"]]).tolist() == y
    assert classifier.predict(frame["path"]).tolist() == y
    assert classifier.evaluate(frame[["path"]], y).sources == paths
    with pytest.raises(DatasetError, match=r'6 rows and 2 columns.*df\["path"\]'):
        classifier.fit(frame, y)
    with pytest.raises(ImageTypeError, match=r'6 x 2.*df\["path"\]'):
        classifier.predict(frame)


def test_labels_are_sorted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    unique, sorted_labels = np.unique, []

    def counted(values: Any, *arguments: Any, **options: Any) -> Any:
        if np.asarray(values).dtype.kind == "U":
            sorted_labels.append(len(values))
        return unique(values, *arguments, **options)

    monkeypatch.setattr(np, "unique", counted)
    X, y = colored([0, 0, 1, 1]), ["red", "red", "green", "green"]
    weights = {"red": 1.0, "green": 2.0}
    tiny_classifier(class_weight=weights).fit(X, y, sample_weight=[1.0] * 4, on_error="skip")
    assert sorted_labels == [4]


def test_empty_path_is_not_the_current_directory() -> None:
    classifier = tiny_classifier(C=10.0).fit(colored([0, 1] * 2), [0, 1] * 2)
    with pytest.raises(DatasetError, match=r"the path is empty; pass '\.'"):
        classifier.predict("")
    with pytest.raises(ImageError, match=r"images\[0\]: the path is empty"):
        classifier.predict([""])


def test_a_column_of_a_data_frame_and_tensors_are_read_as_labels() -> None:
    torch, pandas = pytest.importorskip("torch"), pytest.importorskip("pandas")
    labels = [0.0, 1.0, 1.0]
    for y in (pandas.DataFrame({"y": labels}), torch.tensor(labels, requires_grad=True)):
        _, array = with_labels(np.zeros((3, 8, 8, 3), np.uint8), y)
        assert array.tolist() == labels
    with pytest.raises(DatasetError, match=r"shape \(3, 2\); expected \(n,\)"):
        with_labels(np.zeros((3, 8, 8, 3), np.uint8), pandas.DataFrame({"y": labels, "id": labels}))
