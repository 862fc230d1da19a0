"""Faults that are planted among the images of the demo, and data that is no folder of photos."""

from __future__ import annotations

import colorsys
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter

from transferkit import inspect_images
from transferkit.backends import Backend
from transferkit.datasets import LabelledImages
from transferkit.demo import CAT, TEST, TRAIN
from transferkit.errors import DatasetError, ParameterError, TransferkitError, UnknownNameError
from transferkit.images import list_images, read_image
from transferkit.inspection import KINDS, THRESHOLDS, Finding, Inspection


def color_of(index: int) -> tuple[int, ...]:
    """Return a saturated color, another one for each index."""
    return tuple(round(255 * value) for value in colorsys.hsv_to_rgb(0.15 * index % 1, 0.9, 0.8))


def tinted(path: Path, index: int) -> Image.Image:
    """Return an image of the demo, which are gray, in color."""
    gray = read_image(path)
    assert isinstance(gray, Image.Image)
    tint = Image.new("RGB", gray.size, color_of(index))
    return Image.blend(gray, tint, 0.25).resize((256, 256), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images in train and test, three classes."""
    root = tmp_path_factory.mktemp("clean")
    index = 0
    for split, source, number in (("train", TRAIN, 6), ("test", TEST, 4)):
        for path in list_images(source):
            if int(path.stem[-1]) > number:
                continue
            target = root / split / path.parent.name / f"{path.stem}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            tinted(path, index).save(target, quality=92)
            index += 1
    return root


@pytest.fixture
def data(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "data"))


def inspect(data: object, **options: object) -> Inspection:
    return inspect_images(data, progress=False, **options)  # type: ignore[arg-type]


def below(root: Path, finding: Finding) -> tuple[str, str, str | None]:
    """Return a finding with paths below a folder."""
    file, related = (
        None if name is None else name.removeprefix(f"{root}{os.sep}").replace(os.sep, "/")
        for name in (finding.file, finding.related)
    )
    assert file is not None
    return file, finding.kind, related


def test_clean_images_have_no_findings(clean: Path, backend: Backend) -> None:
    found = inspect(clean, backend=backend)
    assert found.findings == []
    assert len(found.label_ranking) == 30
    assert found.summary() == "30 images, 0 findings about 0 of them"


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "resaved": lambda image: image,
    "half": lambda image: image.resize((128, 128), Image.Resampling.LANCZOS),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "cropped": lambda image: image.crop((13, 5, 243, 235)),
    "brightened": lambda image: image.point(lambda value: min(255, round(1.25 * value))),
}


def test_copies_are_found_where_they_are(data: Path) -> None:
    """In the same class, in another class, and in the other split."""
    expected = set()
    for index, (change, function) in enumerate(CHANGES.items(), start=1):
        for kind, name, target in (
            ("near-duplicate", f"train/grass/grass-{index}.jpg", f"train/grass/z{change}.jpg"),
            ("conflicting-label", f"train/brick/brick-{index}.jpg", f"train/gravel/y{change}.jpg"),
            ("leak", f"train/gravel/gravel-{index}.jpg", f"test/gravel/x{change}.jpg"),
        ):
            with Image.open(data / name) as image:
                quality = 50 if change == "resaved" else 90
                function(image).save(data / target, quality=quality)
            expected.add((target, kind, name))
    found = inspect(data, kinds=["duplicate", "near-duplicate", "conflicting-label", "leak"])
    assert {below(data, finding) for finding in found.findings} == expected
    assert all(
        finding.threshold is not None and finding.threshold <= (finding.measure or 0) <= 1
        for finding in found.findings
    )


def test_exact_copies_are_found(data: Path) -> None:
    original = "train/grass/grass-3.jpg"
    targets = ("train/grass/z.jpg", "train/gravel/y.jpg", "test/grass/x.jpg", "test/grass/w.jpg")
    for target in targets:
        shutil.copy(data / original, data / target)
    found = inspect(data, kinds=["duplicate", "near-duplicate", "conflicting-label", "leak"])
    assert {below(data, finding) for finding in found.findings} == {
        ("train/grass/z.jpg", "duplicate", original),
        ("train/gravel/y.jpg", "conflicting-label", original),
        ("test/grass/w.jpg", "leak", original),
        ("test/grass/w.jpg", "conflicting-label", "train/gravel/y.jpg"),
        ("test/grass/x.jpg", "leak", original),
        ("test/grass/x.jpg", "conflicting-label", "train/gravel/y.jpg"),
        ("test/grass/x.jpg", "duplicate", "test/grass/w.jpg"),
    }
    assert all(finding.measure == 1.0 and finding.threshold is None for finding in found.findings)


def test_faults_of_files_are_found(data: Path) -> None:
    photo = data / "train/brick/brick-1.jpg"
    content = photo.read_bytes()
    (data / "train/brick/truncated.jpg").write_bytes(content[: len(content) // 2])
    (data / "train/brick/empty.jpg").touch()
    (data / "train/brick/page.jpg").write_text("<html>not found</html>")
    photo.rename(photo.with_suffix(".png"))
    found = inspect(data, kinds=["unreadable", "misnamed"])
    assert {below(data, finding)[:2] for finding in found.findings} == {
        ("train/brick/truncated.jpg", "unreadable"),
        ("train/brick/empty.jpg", "unreadable"),
        ("train/brick/page.jpg", "unreadable"),
        ("train/brick/brick-1.png", "misnamed"),
    }
    reasons = {Path(one.file).name: one.related for one in found.findings}
    assert reasons["truncated.jpg"] == "the file is truncated"
    assert reasons["brick-1.png"] == "JPEG"


def test_faults_of_the_look_are_found(data: Path) -> None:
    with Image.open(CAT) as file:
        cat = file.convert("RGB")
    width, height = cat.size
    planted = {
        "dark": cat.point(lambda value: value // 8),
        "bright": cat.point(lambda value: min(255, 210 + value // 3)),
        "blurred": cat.filter(ImageFilter.GaussianBlur(width / 30)),
        "grey": cat.convert("L"),
        "blank": Image.new("RGB", (200, 200), (90, 10, 40)),
        "tiny": cat.resize((48, 40)),
        "aspect-ratio": cat.crop((0, 0, width, height // 4)),
    }
    for kind, image in planted.items():
        image.save(data / "train" / "brick" / f"{kind}.jpg", quality=92)
    found = inspect(data, kinds=planted)
    assert {below(data, finding)[:2] for finding in found.findings} == {
        (f"train/brick/{kind}.jpg", kind) for kind in planted
    }
    for finding in found.findings:
        assert finding.threshold == THRESHOLDS[finding.kind]


def test_wrong_labels_are_ranked_first(data: Path) -> None:
    moved = []
    for name, label in (("train/grass/grass-2.jpg", "brick"), ("test/brick/brick-4.jpg", "gravel")):
        target = data / name.split("/")[0] / label / f"moved-{Path(name).name}"
        (data / name).rename(target)
        moved.append(str(target))
    found = inspect(data, kinds=["label"])
    assert {finding.file for finding in found.label_ranking[:2]} == set(moved)
    assert {finding.related for finding in found.label_ranking[:2]} == {"grass", "brick"}
    margins = [finding.measure for finding in found.label_ranking]
    assert margins == sorted(margins, reverse=True)


def test_a_photo_of_something_else_is_an_outlier() -> None:
    grass = [
        Image.open(path) for path in list_images(TRAIN / "grass") + list_images(TEST / "grass")
    ]
    mirrored = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in grass]
    found = inspect([*grass, *mirrored, Image.open(CAT)], kinds=["outlier"])
    assert [finding.file for finding in found.findings] == ["images[32]"]


def test_classes_of_very_different_sizes_are_found(data: Path) -> None:
    for path in list_images(data / "train" / "grass")[1:]:
        path.unlink()
    found = inspect(data / "train", kinds=["imbalance"], thresholds={"imbalance": 5})
    assert found.findings == [Finding("grass", "imbalance", 6.0, 5.0, "brick")]


def test_what_most_images_have_in_common_is_a_note() -> None:
    found = inspect(TRAIN, kinds=["grey", "tiny"], thresholds={"tiny": 200})
    assert found.findings == []
    assert [note[:24] for note in found.notes] == [
        "24 of 24 images are gray",
        "24 of 24 images are tiny",
    ]


def test_images_without_labels(data: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for index, path in enumerate(list_images(data / "train")):
        shutil.copy(path, flat / f"{index:02d}.jpg")
    shutil.copy(flat / "00.jpg", flat / "copy.jpg")
    found = inspect(flat, kinds=["duplicate", "near-duplicate", "leak", "label", "imbalance"])
    assert [(Path(one.file).name, one.kind) for one in found.findings] == [
        ("copy.jpg", "duplicate")
    ]
    assert found.labels is None
    assert found.label_ranking == []


def test_images_that_are_no_files() -> None:
    generator = np.random.default_rng(0)
    arrays = [generator.integers(0, 256, (80, 80, 3), np.uint8) for _ in range(4)]
    encoded = io.BytesIO()
    Image.fromarray(arrays[0]).save(encoded, "PNG")
    images: list[bytes | npt.NDArray[np.uint8]] = [*arrays, arrays[1].copy(), encoded.getvalue()]
    found = inspect(images, kinds=["duplicate", "near-duplicate", "unreadable"])
    assert [finding[:2] for finding in found.findings] == [
        ("images[4]", "duplicate"),
        ("images[5]", "near-duplicate"),
    ]
    with pytest.raises(ParameterError, match="are no files"):
        found.quarantine("bad")


def test_labelled_images_and_their_folder_give_the_same(data: Path) -> None:
    shutil.copy(data / "train/grass/grass-1.jpg", data / "test/grass/z.jpg")
    paths = list_images(data)
    listed = LabelledImages(
        paths,
        [path.parent.name for path in paths],
        splits=[path.parent.parent.name for path in paths],
    )
    one, other = inspect(listed), inspect(data)
    assert set(one.findings) == set(other.findings)
    assert one.of_kind("leak")


@pytest.mark.parametrize("is_longer", [True, False])
def test_a_file_that_is_changed_while_it_is_read(
    data: Path, is_longer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = data / "train/brick/brick-2.jpg"
    original = os.fstat
    seen = 0

    def fstat(descriptor: int) -> os.stat_result:
        nonlocal seen
        status = original(descriptor)
        if os.path.samestat(status, changed.stat()):
            seen += 1
            if seen == 1:
                changed.write_bytes(changed.read_bytes() + b"more" * is_longer)
                os.utime(changed, (0, 0))
        return status

    monkeypatch.setattr(os, "fstat", fstat)
    found = inspect(data, kinds=["unreadable"])
    assert found.findings == [
        Finding(str(changed), "unreadable", related="the file was changed while it was read")
    ]


def test_only_broken_files(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(b"broken")
    found = inspect(tmp_path)
    assert found.counts == {"unreadable": 2, "duplicate": 1}


def test_one_image() -> None:
    assert inspect(CAT).findings == []


def test_results_as_json_and_table(data: Path, tmp_path: Path) -> None:
    (data / "train/brick/empty.jpg").touch()
    found = inspect(data, kinds=["unreadable"])
    content = json.loads(found.to_json(tmp_path / "found.json"))
    assert json.loads((tmp_path / "found.json").read_text()) == content
    assert content["counts"] == {"unreadable": 1}
    assert content["findings"][0] == {
        "file": str(data / "train/brick/empty.jpg"),
        "kind": "unreadable",
        "measure": None,
        "threshold": None,
        "related": "the file is empty",
    }
    pd = pytest.importorskip("pandas")
    frame = found.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert frame.columns.tolist() == ["file", "kind", "measure", "threshold", "related"]
    assert frame["kind"].tolist() == ["unreadable"]
    assert "<td>unreadable</td><td>1</td>" in found._repr_html_()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kinds": ["leaks"]}, UnknownNameError, "did you mean 'leak'"),
        ({"kinds": "leak"}, TransferkitError, "expected a list"),
        ({"thresholds": {"leak": 1}}, UnknownNameError, "unknown threshold 'leak'"),
        ({"thresholds": {"tiny": "big"}}, ParameterError, "threshold of 'tiny' is 'big'"),
        ({"thresholds": {"tiny": float("nan")}}, ParameterError, "threshold of 'tiny' is nan"),
        ({"thresholds": 1}, TransferkitError, "expected a mapping"),
        ({"network": "mobilenet"}, UnknownNameError, "did you mean"),
        ({"random_state": -1}, ParameterError, "random_state"),
    ],
)
def test_invalid_parameters(
    options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        inspect(CAT, **options)


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images in this folder"):
        inspect(tmp_path)
    with pytest.raises(DatasetError, match="no such file"):
        inspect(tmp_path / "missing")


def test_every_kind_with_a_threshold_is_a_kind() -> None:
    assert set(THRESHOLDS) < set(KINDS)
