"""The rows of torchvision's weights are what torchvision's own tables state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import DEMO
from torchvision.models import get_model_weights

from transferkit.images import list_images, read_image
from transferkit.weights import WEIGHTS, WeightsEntry

ROWS = [row for row in WEIGHTS if row.source == "torchvision"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.network}-{row.name}")
def test_a_row_is_what_torchvision_states(row: WeightsEntry) -> None:
    theirs = get_model_weights(row.network)[row.name.upper()]
    assert row.published_as == f"torchvision.models.{theirs}"
    assert row.url == theirs.url
    assert row.checksum is not None
    assert f"-{row.checksum.digits}.pth" in theirs.url
    assert row.size == theirs.meta["_file_size"]
    assert row.top1 == pytest.approx(theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100)
    assert len(theirs.meta["categories"]) == 1000
    preset, ours = theirs.transforms(), row.preprocessing
    assert [ours.size] == preset.crop_size
    assert [ours.resize] == preset.resize_size
    assert ours.interpolation == preset.interpolation.value
    assert list(ours.mean) == preset.mean
    assert list(ours.std) == preset.std
    assert (ours.channel_order, ours.crop) == ("rgb", True)


def test_no_row_is_missing() -> None:
    """All weights of ImageNet-1K that have a classifier, of the networks that there are."""
    expected = {
        (network, weights.name.lower())
        for network in {row.network for row in ROWS}
        for weights in get_model_weights(network)
        # Those have no classifier.
        if weights.name != "IMAGENET1K_FEATURES"
    }
    assert {(row.network, row.name) for row in ROWS} == expected


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.network}-{row.name}")
def test_pictures_are_prepared_as_by_the_preset(row: WeightsEntry, tmp_path: Path) -> None:
    preset = get_model_weights(row.network)[row.name.upper()].transforms()
    tall = tmp_path / "tall.png"
    Image.open(DEMO / "cat.jpg").convert("RGB").resize((301, 533)).save(tall)
    for path in (DEMO / "cat.jpg", *list_images(DEMO / "test")[:2], tall):
        picture = read_image(path, str(path))
        ours = np.asarray(row.preprocessing.apply(picture, str(path)), np.float32) / 255
        normalized = (ours - np.float32(row.preprocessing.mean)) / np.float32(row.preprocessing.std)
        with Image.open(path) as image:
            theirs = preset(image.convert("RGB")).numpy().transpose(1, 2, 0)
        np.testing.assert_allclose(normalized, theirs, rtol=0, atol=1e-5)
        # Before normalisation, pixel for pixel.
        back = theirs * np.float32(preset.std) + np.float32(preset.mean)
        np.testing.assert_array_equal(np.rint(back * 255), np.rint(ours * 255))
