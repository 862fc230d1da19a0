"""Small photos for the demo, the documentation and the tests; NOTICE.md states their sources."""

from pathlib import Path

__all__ = ["CAT", "TEST", "TRAIN"]

TRAIN = Path(__file__).parent / "train"
"""A folder with the class folders brick, grass and gravel, eight images each."""

TEST = Path(__file__).parent / "test"
"""A folder with the same class folders, with other images."""

CAT = Path(__file__).parent / "cat.jpg"
"""A photo of a cat."""
