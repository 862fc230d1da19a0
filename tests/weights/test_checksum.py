"""The digest of a file is computed once, and again when the file has changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from transferkit.weights import Checksum


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"weights")
    reads: list[str] = []
    file_digest = hashlib.file_digest
    monkeypatch.setattr(
        hashlib,
        "file_digest",
        lambda file, new: reads.append(file.name) or file_digest(file, new),
    )
    sha256, md5 = Checksum("sha256", ""), Checksum("md5", "")
    for _ in range(3):
        assert sha256.of(path) == hashlib.sha256(b"weights").hexdigest()
        assert md5.of(path) == hashlib.md5(b"weights", usedforsecurity=False).hexdigest()
    assert reads == [str(path)] * 2


@pytest.mark.parametrize("content", [b"WEIGHTS", b"more weights"])
def test_a_changed_file_is_hashed_again(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"weights")
    checksum = Checksum("sha256", hashlib.sha256(b"weights").hexdigest())
    assert checksum.matches(path)
    modified = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(modified + 1000, modified + 1000))
    assert not checksum.matches(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        checksum.of(path)
