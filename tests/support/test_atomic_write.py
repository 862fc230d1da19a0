"""Atomic writing of files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from transferkit.errors import OutputError, shorten_path
from transferkit.support.atomic_write import check_writable, write_atomically


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_existing_file_is_unchanged_when_writing_fails(
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


def test_the_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    with write_atomically(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    def write() -> None:
        with write_atomically(tmp_path / "notes.txt") as file:
            file.write(b"a")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"notes\.txt: cannot be written: No space"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_unwritable_paths_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, message in {
        tmp_path: "is a folder",
        tmp_path / "missing" / "notes.txt": "does not exist",
        tmp_path / "file" / "notes.txt": "does not exist|Not a directory",
        tmp_path / ("long" * 100): "cannot be written",
    }.items():
        with pytest.raises(OutputError, match=message) as caught:
            check_writable(path)
        assert shorten_path(path) in str(caught.value)
    check_writable(tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="not a regular file"):
        check_writable(tmp_path / "pipe")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can write everywhere"
)
def test_a_read_only_folder_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="is not writable"):
        check_writable(folder / "notes.txt")


def test_the_content_is_on_the_disk_before_the_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notes.txt"
    synced = []

    def recorded(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced.append((stat.S_ISDIR(status.st_mode), path.exists()))
        if not synced[-1][0]:
            assert status.st_size == 4

    monkeypatch.setattr(os, "fsync", recorded)
    with write_atomically(path) as file:
        file.write(b"half")
    # Folders cannot be opened on Windows.
    assert synced == [(False, False), (True, True)][: 1 if os.name == "nt" else 2]
