"""A few small photos for the demo and the documentation; NOTICE.md tells where they come from."""

from pathlib import Path

__all__ = ["CAT", "TEST", "TRAIN"]

TRAIN = Path(__file__).parent / "train"
"""A folder of three labelled folders, brick, grass and gravel, of eight photos each."""

TEST = Path(__file__).parent / "test"
"""The same, of other parts of the ground."""

CAT = Path(__file__).parent / "cat.jpg"
"""A photo of a cat."""
