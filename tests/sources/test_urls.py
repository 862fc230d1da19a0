"""URLs: retries, failures that are final, and every kind of input on a server."""

from __future__ import annotations

import io
import pickle
import sys
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image
from web_server import Site, serving_site

from transferkit.errors import (
    DatasetError,
    DownloadError,
    ImageError,
    UnknownNameError,
    UnsupportedError,
)
from transferkit.images import Preprocessing, stream_batches
from transferkit.sources import open_sources, remote


def png(level=0, side=8):
    file = io.BytesIO()
    pixels = np.full((side, side, 3), level, np.uint8)
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


def tar(members, mode="w"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def read(inputs, **options):
    skipped = []
    levels = {}
    batches = stream_batches(
        open_sources(inputs, **options),
        Preprocessing(8),
        batch_size=4,
        on_error="skip",
        skipped=skipped,
    )
    for batch in batches:
        for source, pixels in zip(batch.sources, batch.pixels, strict=True):
            levels[source] = round(255 * float(pixels.max()))
    return levels, skipped


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.delenv("TRANSFERKIT_OFFLINE", raising=False)
    monkeypatch.setattr("transferkit.support.remote._PAUSE", 0.0)
    monkeypatch.setattr(remote, "_TIMEOUT", (5.0, 0.3))


@pytest.fixture
def site():
    return Site()


@pytest.fixture
def url(site):
    with serving_site(site) as address:
        yield address


def test_images_of_urls_are_in_order(site, url):
    site.files = {f"/{number}.png": png(number) for number in range(10)}
    levels, skipped = read([f"{url}/{number}.png?size=8" for number in range(10)])
    assert levels == {f"{url}/{number}.png?size=8": number for number in range(10)}
    assert list(levels) == [f"{url}/{number}.png?size=8" for number in range(10)]
    assert not skipped


@pytest.mark.parametrize("failure", [500, 503, 429, "break", "hang"])
def test_what_is_temporary_is_tried_again(site, url, failure):
    site.files["/1.png"] = png(7, side=300)
    site.failures["/1.png"] = [failure, failure]
    levels, skipped = read(f"{url}/1.png")
    assert list(levels.values()) == [7]
    assert not skipped
    assert site.requests["/1.png"] == 3


@pytest.mark.parametrize(
    ("failures", "reason", "requests"),
    [
        ([500] * 5, "the server returned 500 Internal Server Error, in 3 tries", 3),
        (["hang"] * 5, "the server does not respond, in 3 tries", 3),
        (["break"] * 5, "the connection was lost, in 3 tries", 3),
        ([404], "the server returned 404 Not Found", 1),
        ([403], "the server returned 403 Forbidden", 1),
    ],
)
def test_what_fails_is_skipped_with_the_reason(site, url, failures, reason, requests):
    site.files = {"/0.png": png(1), "/1.png": png(2, side=300), "/2.png": png(3)}
    site.failures["/1.png"] = failures
    levels, skipped = read([f"{url}/{number}.png" for number in range(3)])
    assert list(levels.values()) == [1, 3]
    assert [(one.source, one.reason) for one in skipped] == [(f"{url}/1.png", reason)]
    assert site.requests["/1.png"] == requests


def test_a_server_that_sends_byte_by_byte_is_left(site, url, monkeypatch):
    monkeypatch.setattr(remote, "_MAX_SECONDS", 0.2)
    site.files["/1.png"] = png(1, side=300)
    site.failures["/1.png"] = ["drip"]
    (image,) = open_sources(f"{url}/1.png")
    with pytest.raises(ImageError, match="the server took more than 0 seconds"):
        image.read()


def test_no_server_and_no_url(monkeypatch):
    with serving_site(Site()) as address:
        pass
    _, skipped = read([f"{address}/1.png", "http://", "http://a b/1.png"])
    assert skipped[0].reason.startswith("no connection to the server")
    assert skipped[1].reason.startswith("the URL cannot be requested")
    assert len(skipped) == 3
    monkeypatch.setenv("TRANSFERKIT_OFFLINE", "1")
    _, skipped = read([f"{address}/1.png"])
    assert skipped[0].reason == "TRANSFERKIT_OFFLINE is set"


def test_a_page_is_not_read_to_its_end(site, url, monkeypatch):
    site.files["/1.png"] = b"<html>" + b" " * 10_000_000
    received = []
    original = remote.join_blocks

    def counted(blocks, source):
        return original((received.append(len(block)) or block for block in blocks), source)

    monkeypatch.setattr(remote, "join_blocks", counted)
    _, skipped = read(f"{url}/1.png")
    assert skipped[0].reason.startswith("not an image")
    assert sum(received) < 1_000_000


def test_connections_are_kept_by_each_thread(site, url):
    site.files["/1.png"] = png(1)
    (image,) = open_sources(f"{url}/1.png")
    connections = set()
    original = remote.Http._session

    def session(self):
        found = original(self)
        connections.add((threading.get_ident(), id(found)))
        return found

    remote.Http._session = session
    try:
        for _ in range(5):
            image.read()
    finally:
        remote.Http._session = original
    assert len(connections) == 1


def test_images_can_be_pickled(site, url):
    site.files["/1.png"] = png(1)
    (image,) = open_sources(f"{url}/1.png")
    image.read()
    copy = pickle.loads(pickle.dumps(image))
    assert (copy.source, copy.read()) == (f"{url}/1.png", png(1))


def test_a_list_on_a_server(site, url, tmp_path):
    (tmp_path / "3.png").write_bytes(png(3))
    site.files = {
        "/a/list.txt": f"1.png\n{url}/b/2.png\r\n{(tmp_path / '3.png').as_uri()}\n".encode(),
        "/a/1.png": png(1),
        "/b/2.png": png(2),
    }
    site.failures["/a/list.txt"] = [503]
    levels, _ = read(f"{url}/a/list.txt?version=2")
    assert levels == {f"{url}/a/1.png": 1, f"{url}/b/2.png": 2, str(tmp_path / "3.png"): 3}
    with pytest.raises(DownloadError, match=r"none\.txt: the server returned 404"):
        open_sources(f"{url}/none.txt")


def test_a_local_list_of_urls(site, url, tmp_path):
    site.files = {"/1.png": png(1)}
    path = tmp_path / "urls.txt"
    path.write_text(f"{url}/1.png\n{url}/2.png\n")
    levels, skipped = read(path)
    assert levels == {f"{url}/1.png": 1}
    assert skipped[0].reason == "the server returned 404 Not Found"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("honors_ranges", [True, False])
def test_a_tar_file_is_read_on_after_the_connection_breaks(site, url, mode, honors_ranges):
    site.honors_ranges = honors_ranges
    generator = np.random.default_rng(0)
    noise = generator.bytes(300_000)
    members = [(f"{number}.png", png(number) + noise) for number in range(5)]
    site.files["/a.tar"] = tar(members, mode)
    site.failures["/a.tar"] = ["break", "break", 503] if honors_ranges else ["break", 503]
    expected = 1 + len(site.failures["/a.tar"])
    levels, skipped = read(f"{url}/a.tar")
    assert levels == {f"{url}/a.tar/{number}.png": number for number in range(5)}
    assert not skipped
    assert site.requests["/a.tar"] == expected
    assert site.ranges[0] is None
    assert site.ranges[1].startswith("bytes=")


def test_the_images_before_a_lost_connection_are_kept(site, url):
    members = [(f"{number}.png", png(number, side=300)) for number in range(5)]
    site.files["/a.tar"] = tar(members)
    site.failures["/a.tar"] = ["break", 500, 500, 500]
    levels, skipped = read([f"{url}/a.tar", f"{url}/none.tar"])
    assert list(levels.values()) == [0, 1]
    assert [one.source for one in skipped] == [f"{url}/a.tar", f"{url}/none.tar"]
    assert skipped[0].reason.startswith("damaged or truncated after 2 images: the server returned")
    assert skipped[1].reason.endswith("after 0 images: the server returned 404 Not Found")


def test_a_parquet_file_on_a_server(site, url, tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"image": [png(1), png(2)]}), tmp_path / "a.parquet")
    site.files["/a.parquet"] = (tmp_path / "a.parquet").read_bytes()
    sources = open_sources(f"{url}/a.parquet")
    assert sources.number == 2
    levels, _ = read(f"{url}/a.parquet", column="image")
    assert levels == {f"{url}/a.parquet[0]": 1, f"{url}/a.parquet[1]": 2}


class TestFileSystems:
    @pytest.fixture
    def memory(self):
        fsspec = pytest.importorskip("fsspec")
        file_system = fsspec.filesystem("memory")
        file_system.store.clear()
        file_system.pseudo_dirs[:] = [""]
        yield file_system
        file_system.store.clear()

    def test_a_folder_has_the_order_of_list_images(self, memory):
        names = ["b.png", "a/2.PNG", "a/10.png", "a-b/1.png", "a/.x.png", "a/n.txt", ".git/1.png"]
        for number, name in enumerate(names):
            memory.pipe(f"/photos/{name}", png(number))
        for address in ("memory://photos", "memory://photos/"):
            sources = open_sources(address)
            assert sources.number == 4
            levels, _ = read(address)
            expected = sorted(["b.png", "a/2.PNG", "a/10.png", "a-b/1.png"])
            assert list(levels) == [f"memory://photos/{name}" for name in expected]
        assert list(levels.values()) == [names.index(name) for name in expected]

    def test_files_patterns_lists_and_archives(self, memory):
        memory.pipe("/d/1.png", png(1))
        memory.pipe("/d/e/2.png", png(2))
        memory.pipe("/d/s-0.tar", tar([("x.png", png(3))]))
        memory.pipe("/d/s-1.tar.gz", tar([("y.png", png(4))], "w:gz"))
        memory.pipe("/d/list.txt", b"1.png\nnone.png\n")
        levels, skipped = read("memory://d/list.txt")
        assert levels == {"memory://d/1.png": 1}
        assert [(one.source, one.reason) for one in skipped] == [
            ("memory://d/none.png", "no such file or folder")
        ]
        assert read("memory://d/1.png")[0] == {"memory://d/1.png": 1}
        assert list(read("memory://d/**/*.png")[0]) == ["memory://d/1.png", "memory://d/e/2.png"]
        assert list(read("memory://d/s-*")[0].values()) == [3, 4]
        with pytest.raises(DatasetError, match="no images match the pattern"):
            open_sources("memory://d/*.jpg")
        with pytest.raises(DatasetError, match="memory://none: no such file or folder"):
            open_sources("memory://none")
        memory.pipe("/empty/a.txt", b"")
        with pytest.raises(DatasetError, match="memory://empty: no images in this folder"):
            open_sources("memory://empty")

    def test_a_parquet_file(self, memory, tmp_path):
        pa = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table({"path": ["1.png", "memory://d/2.png"]}), tmp_path / "a")
        memory.pipe("/t/a.parquet", (tmp_path / "a").read_bytes())
        memory.pipe("/t/1.png", png(1))
        memory.pipe("/d/2.png", png(2))
        levels, _ = read("memory://t/a.parquet")
        assert levels == {"memory://t/1.png": 1, "memory://d/2.png": 2}

    def test_a_failing_file_system_is_tried_again(self, memory, monkeypatch):
        memory.pipe("/d/1.png", png(1))
        original = type(memory).open
        failures = [TimeoutError("slow"), OSError("busy")]

        def failing(self, *arguments, **options):
            if failures:
                raise failures.pop()
            return original(self, *arguments, **options)

        monkeypatch.setattr(type(memory), "open", failing)
        assert list(read("memory://d/1.png")[0].values()) == [1]
        failures += [OSError("busy")] * 3
        _, (skipped,) = read("memory://d/1.png")
        assert skipped.reason == "cannot be read: busy, in 3 tries"
        failures[:] = [PermissionError(13, "Permission denied")]
        _, (skipped,) = read("memory://d/1.png")
        assert skipped.reason == "cannot be read: Permission denied"

    def test_a_tar_file_is_read_on_after_an_error(self, memory, monkeypatch):
        """Of the file object, some blocks after the start."""
        noise = np.random.default_rng(0).bytes(300_000)
        memory.pipe(
            "/d/a.tar", tar([(f"{number}.png", png(number) + noise) for number in range(3)])
        )
        kind = type(memory.open("/d/a.tar"))
        original = kind.read
        reads = []

        def failing(self, size=-1):
            reads.append(size)
            if len(reads) in {5, 9}:
                raise OSError("busy")
            return original(self, size)

        monkeypatch.setattr(kind, "read", failing)
        levels, skipped = read("memory://d/a.tar")
        assert list(levels.values()) == [0, 1, 2]
        assert not skipped

    def test_images_can_be_pickled(self, memory):
        memory.pipe("/d/1.png", png(1))
        (image,) = open_sources("memory://d/1.png")
        assert pickle.loads(pickle.dumps(image)).read() == png(1)

    @pytest.mark.usefixtures("memory")
    def test_unknown_schemes_and_missing_packages(self, monkeypatch, tmp_path):
        with pytest.raises(UnknownNameError, match="unknown URL scheme 'memroy'; did you mean 'me"):
            open_sources("memroy://1.png")
        path = tmp_path / "list.txt"
        path.write_text("memory://d/1.png\n")
        for name in ("fsspec", "fsspec.core"):
            monkeypatch.setitem(sys.modules, name, None)
        for given in ("memory://d/1.png", path):
            with pytest.raises(UnsupportedError, match=r'pip install "transferkit\[remote\]"'):
                open_sources(given)

    def test_a_package_of_a_scheme_that_is_missing(self, monkeypatch):
        fsspec = pytest.importorskip("fsspec")

        def missing(_):
            raise ImportError("Install s3fs to access S3")

        monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
        with pytest.raises(UnsupportedError, match=r"s3://.*Install s3fs to access S3"):
            open_sources("s3://bucket/1.png")
