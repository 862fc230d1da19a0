"""Copies and wrong labels that are planted among real photos."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from transferkit import inspect_images
from transferkit.datasets import LabelledImages, from_folder
from transferkit.images import list_images, read_image


def changed(photo: Image.Image, change: int, generator: np.random.Generator) -> Image.Image:
    width, height = photo.size
    if change == 1:
        return photo.resize((width // 2, height // 2), Image.Resampling.LANCZOS)
    if change == 2:
        return photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if change == 3:
        left, top = generator.uniform(0, 0.1, 2) * (width, height)
        return photo.crop(
            (round(left), round(top), round(left + 0.9 * width), round(top + 0.9 * height))
        )
    if change == 4:
        return photo.point(lambda value: min(255, round(1.3 * value)))
    return photo


def test_changed_copies_among_breeds_are_found(data_folder: Path, tmp_path: Path) -> None:
    """Of training photos, in the test split; no different photos of one breed are found."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        shutil.copytree(
            data_folder / "pets" / split, tmp_path / split, copy_function=shutil.copyfile
        )
        for folder in (tmp_path / split, *(tmp_path / split).iterdir()):
            folder.chmod(0o755)
    paths = list_images(tmp_path / "train")
    expected = {}
    for index, row in enumerate(generator.permutation(len(paths))[:40]):
        photo = read_image(paths[row])
        assert isinstance(photo, Image.Image)
        target = tmp_path / "test" / paths[row].parent.name / f"planted-{index}.jpg"
        change = index % 5
        changed(photo, change, generator).save(target, quality=50 if change == 0 else 90)
        expected[str(target)] = str(paths[row])
    found = inspect_images(tmp_path, backend="onnxruntime", kinds=["leak", "near-duplicate"])
    assert {finding.file: finding.related for finding in found.of_kind("leak")} == expected
    assert found.of_kind("near-duplicate") == []


def test_wrong_labels_of_cats_and_dogs_are_ranked_first(data_folder: Path) -> None:
    data = from_folder(data_folder / "cats_dogs" / "test")
    clean = inspect_images(data, backend="onnxruntime", kinds=["label"])
    assert len(clean.findings) <= 0.01 * len(data)
    wrong = np.random.default_rng(0).permutation(len(data))[: len(data) // 20]
    labels = data.labels.copy()
    labels[wrong] = np.where(labels[wrong] == "cat", "dog", "cat")
    found = inspect_images(
        LabelledImages(data.images, labels), backend="onnxruntime", kinds=["label"]
    )
    first = {finding.file for finding in found.label_ranking[: round(0.07 * len(data))]}
    sources = [data.sources[row] for row in wrong]
    assert sum(source in first for source in sources) >= 0.8 * len(wrong)
