"""`KnownImages` compared with a dict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferkit.store import known
from transferkit.store.known import NEW, KnownImages, fingerprint


@given(
    sources=st.lists(st.text(max_size=3), max_size=40),
    asked=st.lists(st.text(max_size=3), max_size=10),
    waiting=st.integers(1, 8),
)
def test_it_finds_what_a_dict_finds(sources: list[str], asked: list[str], waiting: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "_MAX_WAITING", waiting)
        images, expected = KnownImages(), {}
        for row, source in enumerate(sources):
            if source not in expected:
                images.add_row(source, row, row % 3)
                expected[source] = (row, row % 3)
            elif row % 2:
                # An image that was skipped first.
                images.add_row(source, row, row % 3)
                expected[source] = (row, row % 3)
        if waiting > len(sources):
            assert len(images) == len(expected)
        for source in [*sources, *asked]:
            assert images.find(source) == expected.get(source)


def test_an_image_takes_16_bytes() -> None:
    images = KnownImages()
    for row in range(known._MAX_WAITING):
        images.add_row(f"photos/{row}.jpg", NEW)
    arrays = (images._keys, images._fingerprints, images._rows)
    assert sum(array.nbytes for array in arrays) == 16 * known._MAX_WAITING
    assert not images._waiting


def test_a_fingerprint_differs_if_an_image_has_changed() -> None:
    one = fingerprint(10, 20, b"x" * 32)
    assert one == fingerprint(10, 20, b"y" * 32)
    assert len({one, fingerprint(11, 20, None), fingerprint(10, 21, None)}) == 3
    assert fingerprint(10, None, b"x" * 32) != fingerprint(10, None, b"y" * 32)
    assert fingerprint(None, None, None) == 0
