"""The cache folder, the caches of other packages, and which files are used from them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import filelock
import pytest

from transferkit.errors import OutputError
from transferkit.weights import (
    WEIGHTS,
    Checksum,
    WeightsEntry,
    cache_folder,
    cached_files,
    clear_cache,
    find_cached,
    find_weights,
)
from transferkit.weights.cache import on_disk, part_files

CONTENT = b"weights"


def known(entry: WeightsEntry) -> WeightsEntry:
    """Return the entry as if ``CONTENT`` were its published file."""
    assert entry.checksum is not None
    digits = hashlib.new(entry.checksum.algorithm, CONTENT).hexdigest()
    short = digits[: len(entry.checksum.digits)]
    return dataclasses.replace(entry, checksum=Checksum(entry.checksum.algorithm, short))


TORCHVISION = known(find_weights("vgg16", "torchvision"))
KERAS = known(find_weights("vgg16", "keras"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty home folder, with no other folder in the environment."""
    for name in ("TRANSFERKIT_CACHE", "TORCH_HOME", "XDG_CACHE_HOME", "KERAS_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_cache_folder_depends_on_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home in cache_folder().parents
    assert cache_folder().name.lower() in {"transferkit", "cache"}
    monkeypatch.setenv("TRANSFERKIT_CACHE", "~/elsewhere")
    assert cache_folder() == home / "elsewhere"
    # The folder is not created.
    assert os.listdir(home) == []


@pytest.mark.parametrize(
    ("variable", "value", "entry", "folder"),
    [
        ("TRANSFERKIT_CACHE", "mine", TORCHVISION, "mine"),
        ("TRANSFERKIT_CACHE", "mine", KERAS, "mine"),
        ("TORCH_HOME", "torch", TORCHVISION, "torch/hub/checkpoints"),
        ("XDG_CACHE_HOME", "xdg", TORCHVISION, "xdg/torch/hub/checkpoints"),
        (None, "", TORCHVISION, ".cache/torch/hub/checkpoints"),
        ("KERAS_HOME", "keras", KERAS, "keras/models"),
        (None, "", KERAS, ".keras/models"),
    ],
)
def test_a_file_in_any_cache_is_used_in_place(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str | None,
    value: str,
    entry: WeightsEntry,
    folder: str,
) -> None:
    if variable is not None:
        monkeypatch.setenv(variable, str(home / value))
    assert find_cached(entry) is None
    assert on_disk(entry) is None
    path = put(home / folder / entry.file)
    assert find_cached(entry) == path
    assert on_disk(entry) == path
    # Another file of that name is neither used nor changed, and a warning says why.
    path.write_bytes(b"cut")
    with pytest.warns(UserWarning, match="is not used: its digest is"):
        assert find_cached(entry) is None
    assert path.read_bytes() == b"cut"


def test_a_damaged_file_does_not_hide_a_complete_one(home: Path) -> None:
    put(cache_folder() / KERAS.file, b"cut")
    whole = put(home / ".keras" / "models" / KERAS.file)
    with pytest.warns(UserWarning, match="is not used"):
        assert find_cached(KERAS) == whole


def test_a_folder_is_not_a_cached_file() -> None:
    (cache_folder() / KERAS.file).mkdir(parents=True)
    assert find_cached(KERAS) is None
    assert cached_files() == []


def test_without_a_checksum_a_file_must_be_complete_hdf5(home: Path) -> None:
    h5py = pytest.importorskip("h5py")
    entry = find_weights("mobilenet_v1")
    assert entry.checksum is None
    path = put(home / ".keras" / "models" / entry.file, b"<html>")
    with pytest.warns(UserWarning, match="damaged or truncated"):
        assert find_cached(entry) is None
    with h5py.File(path, "w") as file:
        file["kernel"] = [0.0] * 1000
    assert find_cached(entry) == path
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.warns(UserWarning, match="damaged or truncated"):
        assert find_cached(entry) is None


def test_only_weights_in_the_cache_folder_are_listed_and_cleared(home: Path) -> None:
    assert clear_cache() == []
    assert not cache_folder().exists()
    files = [put(cache_folder() / entry.file) for entry in (TORCHVISION, KERAS)]
    part, note, _lock = part_files(cache_folder() / WEIGHTS[0].file)
    kept = [
        put(cache_folder() / "notes.txt"),
        put(cache_folder() / "folder" / KERAS.file),
        put(home / ".keras" / "models" / KERAS.file),
        put(home / ".cache" / "torch" / "hub" / "checkpoints" / TORCHVISION.file),
    ]
    assert cached_files() == sorted(files)
    assert sorted(clear_cache()) == sorted(files)
    put(part)
    put(note)
    assert cached_files() == []
    assert sorted(clear_cache()) == sorted([part, note])
    assert all(path.read_bytes() == CONTENT for path in kept)
    assert sorted(os.listdir(cache_folder())) == ["folder", "notes.txt"]


def test_a_download_in_progress_is_not_cleared() -> None:
    path = put(cache_folder() / KERAS.file)
    part, _note, lock = part_files(path)
    put(part)
    # The lock as another process holds it.
    with filelock.FileLock(lock, is_singleton=False):
        assert clear_cache() == []
    assert part.exists()
    assert sorted(clear_cache()) == sorted([path, part])


def test_a_file_that_cannot_be_removed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(cache_folder() / KERAS.file)

    def refuse(_self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OutputError, match="cannot be removed: Permission denied") as caught:
        clear_cache()
    assert str(path) in str(caught.value)


def test_a_missing_home_folder_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFERKIT_CACHE", "~nobody-at-all/cache")
    with pytest.raises(
        OutputError, match=r"TRANSFERKIT_CACHE is ~nobody-at-all/cache, a home folder"
    ):
        cache_folder()


def test_a_lock_that_cannot_be_acquired_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(cache_folder() / KERAS.file)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # As in a read-only folder.
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(OutputError, match="cannot be removed: Permission denied"):
        clear_cache()
    assert path.exists()


def test_a_lock_that_cannot_be_removed_while_held_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(cache_folder() / KERAS.file)
    unlink = Path.unlink

    def refuse_locks(self: Path, *, missing_ok: bool = False) -> None:
        if self.suffix == ".lock":
            raise PermissionError(13, "The process cannot access the file")
        unlink(self, missing_ok=missing_ok)

    # As on Windows.
    monkeypatch.setattr(Path, "unlink", refuse_locks)
    assert clear_cache() == [path]


def test_checksums_match_by_their_digits() -> None:
    path = put(cache_folder() / "file")
    whole = hashlib.sha256(CONTENT).hexdigest()
    assert Checksum("sha256", whole[:8]).matches(path)
    assert Checksum("sha256", whole).matches(path)
    assert not Checksum("sha256", whole[1:9]).matches(path)
    assert Checksum("md5", hashlib.md5(CONTENT).hexdigest()).matches(path)
    assert str(Checksum("sha256", whole[:8])) == f"SHA-256 {whole[:8]}..."
    assert str(Checksum("md5", "0" * 32)) == f"MD5 {'0' * 32}"
