"""A file appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from transferkit.errors import OutputError
from transferkit.support.atomic_write import check_writable, write_atomically


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_what_was_there_stays_when_writing_fails(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"before")

    def write() -> None:
        with write_atomically(path) as file:
            file.write(b"after, but not all of it")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_at_the_path_before_the_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    with write_atomically(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk(tmp_path: Path) -> None:
    def write() -> None:
        with write_atomically(tmp_path / "notes.txt") as file:
            file.write(b"a")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"notes\.txt: cannot be written: No space"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, message in {
        tmp_path: "is a folder",
        tmp_path / "missing" / "notes.txt": "there is no folder",
        tmp_path / "file" / "notes.txt": "there is no folder|Not a directory",
        tmp_path / ("long" * 100): "cannot be written",
    }.items():
        with pytest.raises(OutputError, match=message) as caught:
            check_writable(path)
        assert str(path) in str(caught.value)
    check_writable(tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="no ordinary file"):
        check_writable(tmp_path / "pipe")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="an administrator may write anywhere"
)
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="may not be written to"):
        check_writable(folder / "notes.txt")
