"""Stores on file systems of fsspec: the same files as in a folder, whatever fails on the way."""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import error_of, output_of, run
from samples import DEMO, noise, tiny_extractor, write_images

from transferkit import FeatureExtractor, FeatureStore
from transferkit.errors import (
    DownloadError,
    FileFormatError,
    OutputError,
    ParameterError,
    UnknownNameError,
    UnsupportedError,
)
from transferkit.store import locks
from transferkit.store.places import FolderPlace, RemotePlace, find_place

fsspec = pytest.importorskip("fsspec")

HOST = socket.gethostname()
LAYERS = ["embedding", "relu1"]


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The folder of temporary files, which is empty at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr("transferkit.support.remote._PAUSE", 0.0)
    monkeypatch.setattr(locks, "_PAUSE", 0.01)
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(params=["memory", "local"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a folder that is not there yet, on a file system that is treated as remote."""
    if request.param == "memory":
        yield "memory://bucket/features"
        fsspec.filesystem("memory").store.clear()
        fsspec.filesystem("memory").pseudo_dirs[:] = [""]
    else:
        yield f"local://{(tmp_path / 'bucket' / 'features').as_posix()}"


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """21 images, of which one in ten cannot be read."""
    paths = write_images(tmp_path / "photos", noise(21))
    for path in paths[1::10]:
        path.write_bytes(b"no image")
    return paths


@pytest.fixture
def extractor() -> FeatureExtractor:
    return tiny_extractor(backend="onnxruntime")


def system_of(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    return fsspec.core.url_to_fs(url)


def files(folder: str | Path) -> dict[str, bytes]:
    """Return every file of a store, but the lock file that a folder keeps."""
    place = find_place(folder)
    content = {}
    for name in set(place.names()) - {"_arrays"}:
        with place.open(name) as file:
            content[name] = file.read()
    if isinstance(place, FolderPlace):
        content.pop(".lock", None)
    return content


def fail(monkeypatch: pytest.MonkeyPatch, url: str, method: str, errors: list[Exception]) -> None:
    """Let calls of a method of the file system raise errors, as long as there are any."""
    kind = type(system_of(url)[0])
    original = getattr(kind, method)

    def failing(self: Any, *arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return original(self, *arguments, **options)

    monkeypatch.setattr(kind, method, failing)


def test_the_files_are_those_of_a_folder(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path, url: str
) -> None:
    extractor.extract_to(f"{url}/", photos[:12], LAYERS, shard_size=5)
    store = extractor.extract_to(url, photos, LAYERS, shard_size=5)
    local = extractor.extract_to(tmp_path / "s", photos[:12], LAYERS, shard_size=5)
    local = extractor.extract_to(tmp_path / "s", photos, LAYERS, shard_size=5)
    assert files(url) == files(tmp_path / "s")
    assert store.verify() == []
    assert store.folder == url
    assert store.shards == [f"{url}/{path.name}" for path in local.shards]
    assert store.info == local.info
    assert store.sources == local.sources
    assert store.skipped == local.skipped
    assert len(store.skipped) == 2
    assert store.to_arrow().equals(local.to_arrow())
    for layer in LAYERS:
        np.testing.assert_array_equal(store[layer], local[layer])
        assert isinstance(store[layer], np.memmap)
    query = store["embedding"][7]
    assert store.nearest(query, 1, layer="embedding").rows.tolist() == [7]
    other = pickle.loads(pickle.dumps(store))
    assert other.sources == store.sources
    assert f"<FeatureStore {url!r}: 19 rows" in repr(store)


def test_done_images_are_not_computed_again(
    extractor: FeatureExtractor, photos: list[Path], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor.extract_to(url, photos, shard_size=5)
    before = files(url)
    fail(monkeypatch, url, "put_file", [AssertionError("a shard is written again")])
    extractor.extract_to(url, photos, shard_size=5)
    assert files(url) == before
    with pytest.raises(ParameterError, match="shard_size is 5 in the store, 6 here"):
        extractor.extract_to(url, photos, shard_size=6)


@pytest.mark.parametrize("method", ["put_file", "mv", "pipe_file", "exists", "ls"])
def test_a_failure_for_a_moment_is_not_noticed(
    extractor: FeatureExtractor,
    photos: list[Path],
    tmp_path: Path,
    url: str,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail(monkeypatch, url, method, [TimeoutError("slow"), OSError("busy")])
    extractor.extract_to(url, photos, shard_size=10)
    extractor.extract_to(tmp_path / "s", photos, shard_size=10)
    assert files(url) == files(tmp_path / "s")


@pytest.mark.parametrize(
    ("error", "reason", "tries"),
    [
        (OSError("busy"), "busy, in 3 tries", 3),
        (PermissionError(13, "Access Denied"), "Access Denied", 1),
        (RuntimeError("no credentials"), "no credentials", 1),
    ],
)
@pytest.mark.parametrize("method", ["put_file", "mv"])
def test_a_failed_upload_loses_no_complete_shard(
    extractor: FeatureExtractor,
    photos: list[Path],
    tmp_path: Path,
    url: str,
    method: str,
    error: Exception,
    reason: str,
    tries: int,
) -> None:
    kind = type(system_of(url)[0])
    original = getattr(kind, method)
    calls: list[str] = []

    def failing(self: Any, source: str, target: str, **options: Any) -> None:
        if "shard-000002" in target:
            calls.append(target)
            raise error
        original(self, source, target, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, method, failing)
        with pytest.raises(OutputError, match=f"{url}: shard 2 cannot be written: {reason}$"):
            extractor.extract_to(url, photos, shard_size=5)
    assert len(calls) == tries
    assert [name[:12] for name in sorted(files(url))] == [
        "_manifest.js",
        "shard-000000",
        "shard-000001",
    ]
    assert FeatureStore(url).verify() == []
    extractor.extract_to(url, photos, shard_size=5)
    extractor.extract_to(tmp_path / "s", photos, shard_size=5)
    assert files(url) == files(tmp_path / "s")


def test_a_killed_process_leaves_nothing_that_is_read(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path, url: str
) -> None:
    extractor.extract_to(url, photos[:5], shard_size=5)
    system, path = system_of(url)
    system.pipe_file(f"{path}/.shard-000001.abcdef01.part", b"half a sha")
    system.pipe_file(f"{path}/._manifest.json.abcdef01.part", b"")
    assert len(FeatureStore(url).sources) == 4
    extractor.extract_to(url, photos, shard_size=5)
    extractor.extract_to(tmp_path / "s", photos[:5], shard_size=5)
    extractor.extract_to(tmp_path / "s", photos, shard_size=5)
    assert files(url).keys() - files(tmp_path / "s").keys() == {"._manifest.json.abcdef01.part"}


@pytest.mark.parametrize("damage", ["truncated", "altered", "removed"])
def test_a_damaged_shard_is_computed_again(
    extractor: FeatureExtractor, photos: list[Path], url: str, damage: str
) -> None:
    store = extractor.extract_to(url, photos, shard_size=10)
    before = files(url)
    system, _ = system_of(url)
    path = system._strip_protocol(store.shards[1])
    name = path.rpartition("/")[2]
    content = bytearray(before[name])
    content[2000] ^= 1
    if damage == "removed":
        system.rm_file(path)
        with pytest.raises(FileFormatError, match=r"1 of 3 shards are missing \(number 1\)"):
            FeatureStore(url)
        extractor.extract_to(url, photos, shard_size=10)
        assert files(url) == before
        return
    system.pipe_file(path, bytes(content[:700] if damage == "truncated" else content))
    assert FeatureStore(url).verify() == [f"{name}: the content is not what was written"]
    with pytest.warns(UserWarning, match=f"{url}: 1 shard was damaged: {name}"):
        extractor.extract_to(url, photos, shard_size=10)
    after = files(url)
    assert after.pop(f"_{name}.damaged") != before[name]
    assert after == before


def test_a_connection_that_is_lost_is_no_damage(
    extractor: FeatureExtractor, photos: list[Path], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor.extract_to(url, photos, shard_size=10)
    before = files(url)
    kind = type(system_of(url)[0])
    original = kind.cat_file
    failures = 0

    def failing(self: Any, path: str, *arguments: Any, **options: Any) -> bytes:
        nonlocal failures
        if failures and ".parquet" in path:
            failures -= 1
            raise ConnectionError("lost")
        content: bytes = original(self, path, *arguments, **options)
        return content

    monkeypatch.setattr(kind, "cat_file", failing)
    failures = 2
    assert FeatureStore(url).verify() == []
    failures = 2
    assert len(FeatureStore(url)["embedding"]) == 19
    store, counted = FeatureStore(url), FeatureStore(url)
    assert "19 rows" in repr(counted)
    calls: list[Any] = [
        lambda: counted["embedding"],
        store.verify,
        lambda: store.sources,
        lambda: store["embedding"],
        store.to_arrow,
        lambda: extractor.extract_to(url, photos, shard_size=10),
    ]
    for call in calls:
        failures = 1000
        with pytest.raises(DownloadError, match=r"shard-0.*: cannot be read: lost, in 3 tries"):
            call()
    failures = 0
    assert files(url) == before


class TestLock:
    @pytest.fixture
    def write(self, url: str) -> Any:
        """Write the lock as another process would."""

        def write(host: str, process: int, age: float) -> None:
            system, path = system_of(url)
            system.makedirs(path, exist_ok=True)
            data = {"host": host, "process": process, "token": "x", "time": time.time() - age}
            system.pipe_file(f"{path}/.lock", json.dumps(data).encode())

        return write

    @pytest.mark.parametrize("cannot_create", [False, True])
    def test_a_second_writer_is_told_at_once(
        self,
        extractor: FeatureExtractor,
        photos: list[Path],
        url: str,
        cannot_create: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if cannot_create:
            kind = type(system_of(url)[0])
            original = kind.pipe_file

            def without_mode(self: Any, path: str, value: bytes) -> None:
                original(self, path, value)

            monkeypatch.setattr(kind, "pipe_file", without_mode)
        told = []

        def images() -> Iterator[Path]:
            yield from photos[:3]
            with pytest.raises(OutputError) as raised:
                extractor.extract_to(url, photos)
            told.append(str(raised.value))
            yield from photos[3:]

        assert len(extractor.extract_to(url, images()).sources) == 19
        assert f"another process is writing to this store: process {os.getpid()} on " in told[0]
        assert HOST in told[0]
        # The lock is gone.
        assert len(extractor.extract_to(url, photos).sources) == 19

    def test_only_one_creates_it(
        self,
        extractor: FeatureExtractor,
        photos: list[Path],
        url: str,
        write: Any,
        monkeypatch: Any,
    ) -> None:
        """Another process that was not there when this one looked."""
        original = locks.RemoteLock._create

        def late(self: Any) -> None:
            write("elsewhere", 1, 0)
            original(self)

        monkeypatch.setattr(locks.RemoteLock, "_create", late)
        with pytest.raises(OutputError, match="process 1 on 'elsewhere'"):
            extractor.extract_to(url, photos)
        assert files(url).keys() == {".lock"}

    @pytest.mark.parametrize(
        ("host", "process", "age"),
        [
            ("elsewhere", 1, 130),
            (HOST, 2**22 + 1, 0),
            (HOST, 1, 130),
        ],
    )
    @pytest.mark.skipif(sys.platform == "win32", reason="processes are not looked up")
    def test_the_lock_of_a_process_that_is_gone_is_taken(
        self,
        extractor: FeatureExtractor,
        photos: list[Path],
        url: str,
        write: Any,
        host: str,
        process: int,
        age: float,
    ) -> None:
        write(host, process, age)
        extractor.extract_to(url, photos)
        assert ".lock" not in files(url)

    @pytest.mark.parametrize("host", ["elsewhere", HOST])
    def test_the_lock_of_a_process_that_may_live_is_respected(
        self, extractor: FeatureExtractor, photos: list[Path], url: str, write: Any, host: str
    ) -> None:
        write(host, os.getppid(), 100)
        with pytest.raises(OutputError, match="its lock ends after 120 seconds"):
            extractor.extract_to(url, photos)
        assert files(url).keys() == {".lock"}

    def test_a_lock_without_content_is_taken(
        self, extractor: FeatureExtractor, photos: list[Path], url: str, write: Any
    ) -> None:
        write("elsewhere", 1, 0)
        system, path = system_of(url)
        for content in (b"", b"{}", b"[]", b"\xff"):
            system.pipe_file(f"{path}/.lock", content)
            extractor.extract_to(url, photos)

    def test_it_is_renewed(
        self, extractor: FeatureExtractor, photos: list[Path], url: str, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(locks, "_INTERVAL", 0.01)
        system, path = system_of(url)
        times: list[float] = []

        def read_time() -> float:
            try:
                return float(json.loads(system.cat_file(f"{path}/.lock"))["time"])
            except ValueError:
                # In a folder, a file is seen while it is written.
                return -1.0

        def images() -> Iterator[Path]:
            for photo in photos:
                before = read_time()
                until = time.monotonic() + 10
                while time.monotonic() < until and len(times) < 3:
                    now = read_time()
                    if now > before:
                        times.append(now)
                        break
                yield photo

        extractor.extract_to(url, images())
        assert len(times) == 3

    def test_a_writer_whose_lock_was_taken_stops(
        self,
        extractor: FeatureExtractor,
        photos: list[Path],
        url: str,
        write: Any,
        monkeypatch: Any,
    ) -> None:
        monkeypatch.setattr(locks, "_INTERVAL", 0.01)

        def images() -> Iterator[Path]:
            yield from photos[:7]
            # Until it is noticed: the owner may replace it once more.
            while "transferkit-store-lock" in {thread.name for thread in threading.enumerate()}:
                write("elsewhere", 1, 0)
                time.sleep(0.02)
            yield from photos[7:]

        with pytest.raises(OutputError, match="process 1 on 'elsewhere'"):
            extractor.extract_to(url, images(), shard_size=5)
        # It is left to the other one.
        assert ".lock" in files(url)


def test_a_folder_without_a_store_is_a_typed_error(url: str) -> None:
    with pytest.raises(FileFormatError, match=f"{url}: no such folder"):
        FeatureStore(url)
    system, path = system_of(url)
    system.makedirs(path)
    system.pipe_file(f"{path}/a.txt", b"")
    with pytest.raises(FileFormatError, match="no store of features in this folder"):
        FeatureStore(url)


def test_folders_are_created_but_no_bucket(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system, path = system_of(url)
    created = []
    original = type(system).mkdir

    def recorded(self: Any, folder: str, **options: Any) -> None:
        created.append((folder, options))
        original(self, folder, **options)

    monkeypatch.setattr(type(system), "mkdir", recorded)
    find_place(f"{url}/a").create()
    find_place(f"{url}/a").create()
    above = path.rpartition("/")[0]
    wanted = [above, path, f"{path}/a"]
    assert [folder for folder, _ in created] == wanted
    assert all(options == {"create_parents": False} for _, options in created)
    created.clear()
    RemotePlace("memory://bucket").create()
    assert created == []


def test_bad_urls_are_typed_errors(extractor: FeatureExtractor, photos: list[Path]) -> None:
    def error_of_url(folder: Any, kind: type[Exception]) -> str:
        with pytest.raises(kind) as raised:
            FeatureStore(folder)
        with pytest.raises(kind):
            extractor.extract_to(folder, photos)
        return str(raised.value)

    assert "unknown URL scheme 'memroy'" in error_of_url("memroy://a", UnknownNameError)
    assert "cannot have '*'" in error_of_url("memory://a/*", ParameterError)
    assert "give it as a str, 'memory://" in error_of_url(Path("memory://a/b"), ParameterError)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "s3fs", None)
        message = error_of_url("s3://bucket/features", UnsupportedError)
        assert message.endswith("; pip install s3fs")
        for name in ("fsspec", "fsspec.core"):
            patch.setitem(sys.modules, name, None)
        message = error_of_url("memory://a", UnsupportedError)
        assert 'pip install "transferkit[remote]"' in message
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFERKIT_OFFLINE", "1")
        with pytest.raises(DownloadError, match="cannot be read: TRANSFERKIT_OFFLINE is set"):
            FeatureStore("ftp://localhost/a")
        with pytest.raises(OutputError, match="cannot be written: TRANSFERKIT_OFFLINE is set"):
            extractor.extract_to("ftp://localhost/a", photos)


def test_a_file_url_is_that_of_a_folder(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    store = extractor.extract_to((tmp_path / "s").as_uri(), photos)
    assert store.folder == tmp_path / "s"


def test_the_commands(url: str) -> None:
    arguments = ("extract", DEMO / "test", "--network", "mobilenet_v2", "-o", url)
    assert output_of(*arguments).startswith(f"saved {url}: embedding (24, 1280); 24 new in ")
    content = output_of("features", url, "--verify")
    assert f"{url}: 24 rows in 1 file" in content
    assert "verified: 1 file, none damaged or missing" in content
    system, _ = system_of(url)
    [path] = FeatureStore(url).shards
    system.pipe_file(system._strip_protocol(path), b"damaged")
    assert run("features", url, "--verify").exit_code == 1
    assert "no such folder" in error_of("features", f"{url}/none")
    assert "the URL of a folder" in error_of(*arguments[:-1], f"{url}/a.npz")
