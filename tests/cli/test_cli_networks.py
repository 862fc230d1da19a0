"""``transferkit networks``."""

from __future__ import annotations

from pathlib import Path

from command_line import output_of

from transferkit.networks import NETWORKS
from transferkit.weights import find_weights


def test_networks_and_the_state_of_their_weights_are_listed(cache_folder: Path) -> None:
    cache_folder.mkdir()
    with (cache_folder / "resnet50-11ad3fa6.pth").open("wb") as file:
        size = find_weights("resnet50", "imagenet1k_v2").size
        assert size is not None
        file.truncate(int(size * 1024**2))
    (cache_folder / "resnet50-0676ba61.pth").touch()
    rows = [
        [cell.strip() for cell in line.strip("│\n").split("│")]
        for line in output_of("networks").splitlines()
        if line.startswith("│")
    ]
    start = [row[0] for row in rows].index("resnet50")
    assert rows[start : start + 3] == [
        ["resnet50", "2015", "25.6 M", "4.09", "224",
         "imagenet1k_v1 (torchvision)", "0.761", "damaged"],
        ["", "", "", "", "", "imagenet1k_v2 (torchvision)", "0.809", "yes"],
        ["", "", "", "", "", "keras", "0.749", "no"],
    ]  # fmt: skip
    (packaged,) = (row for row in rows if row[0] == "mobilenet_v2")
    assert packaged[-1] == "included"
    assert [row[0] for row in rows if row[0]] == list(NETWORKS)
