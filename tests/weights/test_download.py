"""A download ends in the whole and right file, or in none and words, whatever happens to it."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import requests
from server import CONTENT, NAME, Behaviour, serving

from transferkit.errors import DownloadError, OutputError
from transferkit.weights import WEIGHTS, WeightsEntry, fetch, find_weights
from transferkit.weights.cache import part_files
from transferkit.weights.checksum import Checksum

# What some tests change a constant of.
module = sys.modules["transferkit.weights.download"]
download = module.download
CHUNK = module._CHUNK


@pytest.fixture
def told() -> Behaviour:
    return Behaviour()


@pytest.fixture
def address(told: Behaviour) -> Iterator[str]:
    with serving(told) as address:
        yield address


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries that follow each other at once, and an environment without a word on weights."""
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    for variable in ("TRANSFERKIT_OFFLINE", "TRANSFERKIT_CACHE", "TORCH_HOME", "KERAS_HOME"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, which nobody has made yet; other caches are empty."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TRANSFERKIT_CACHE", str(folder))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return folder


def is_content(path: Path) -> str | None:
    return None if path.read_bytes() == CONTENT else "it is another file"


def left_in(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.endswith(".lock"))


def entry_at(address: str, content: bytes = CONTENT) -> WeightsEntry:
    return dataclasses.replace(
        find_weights("vgg16"),
        url=f"{address}/{NAME}",
        checksum=Checksum("sha256", hashlib.sha256(content).hexdigest()[:8]),
    )


# ------------------------------------------------------------------------------- it goes well


@pytest.mark.parametrize("where", [NAME, "moved"])
@pytest.mark.parametrize("length", [True, False])
def test_a_file_is_fetched(
    told: Behaviour, address: str, tmp_path: Path, where: str, length: bool
) -> None:
    told.length = length
    path = tmp_path / NAME
    download(f"{address}/{where}", path, check=is_content)
    assert path.read_bytes() == CONTENT
    assert left_in(tmp_path) == [NAME]
    # What is there is not fetched again.
    before = len(told.requests)
    download(f"{address}/{where}", path, check=is_content)
    assert len(told.requests) == before


def test_progress_is_shown_where_asked_for_only(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download(f"{address}/{NAME}", tmp_path / "one", check=is_content)
    assert capsys.readouterr() == ("", "")
    download(f"{address}/{NAME}", tmp_path / "two", check=is_content, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Fetching two" in shown.err
    assert "1.0/1.0 MB" in shown.err


# ------------------------------------------------------------------------------ interruptions


def test_only_the_rest_is_fetched_after_a_break(
    told: Behaviour, address: str, tmp_path: Path
) -> None:
    told.breaks = [2 * CHUNK, 3 * CHUNK]
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert told.requests == [None, f"bytes={2 * CHUNK}-", f"bytes={5 * CHUNK}-"]
    assert told.conditions == [None, told.tag, told.tag]
    assert told.sent == [2 * CHUNK, 3 * CHUNK, len(CONTENT) - 5 * CHUNK]
    assert left_in(tmp_path) == [NAME]


def test_a_bad_line_that_brings_something_each_time_is_good_enough(
    told: Behaviour, address: str, tmp_path: Path
) -> None:
    told.breaks = [CHUNK] * 8
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert len(told.requests) == 9


def test_a_later_call_goes_on(told: Behaviour, address: str, tmp_path: Path) -> None:
    told.breaks = [CHUNK] + [0] * 20
    with pytest.raises(DownloadError, match="has arrived is kept and gone on with"):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert left_in(tmp_path) == [f"{NAME}.part", f"{NAME}.part.json"]
    # Some tries, not for ever; the first brought something and does not count.
    assert len(told.requests) == 1 + 5 - 1
    told.breaks.clear()
    told.requests.clear()
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert told.requests == [f"bytes={CHUNK}-"]
    assert left_in(tmp_path) == [NAME]


@pytest.mark.parametrize(
    "change",
    [
        {"ranges": False},
        {"validators": False},
        {"length": False, "ranges": False},
    ],
    ids=str,
)
def test_where_a_part_cannot_be_gone_on_with_all_is_fetched(
    told: Behaviour, address: str, tmp_path: Path, change: dict[str, bool]
) -> None:
    for name, value in change.items():
        setattr(told, name, value)
    told.breaks = [CHUNK] + [0] * 20
    # Without a length, an early end looks like the end, and the check must find it.
    with pytest.raises(DownloadError, match="is kept" if told.length else "was not kept"):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    told.breaks = []
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert told.sent[-1] == len(CONTENT)
    assert left_in(tmp_path) == [NAME]


@pytest.mark.parametrize("honours_if_range", [True, False])
def test_a_file_that_changes_between_is_not_mixed(
    told: Behaviour, address: str, tmp_path: Path, honours_if_range: bool
) -> None:
    told.content, told.breaks = b"other" * 50_000, [CHUNK] + [0] * 20
    with pytest.raises(DownloadError):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    told.content, told.breaks, told.honours_if_range = CONTENT, [], honours_if_range
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_whole_part_is_not_fetched_again(told: Behaviour, address: str, tmp_path: Path) -> None:
    def interrupted(_: Path) -> str | None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(f"{address}/{NAME}", tmp_path / NAME, check=interrupted)
    assert left_in(tmp_path) == [f"{NAME}.part", f"{NAME}.part.json"]
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert told.requests == [None, f"bytes={len(CONTENT)}-"]
    assert told.sent == [len(CONTENT)]
    assert left_in(tmp_path) == [NAME]


def test_a_part_that_is_too_long_is_dropped(told: Behaviour, address: str, tmp_path: Path) -> None:
    told.breaks = [CHUNK] + [0] * 20
    with pytest.raises(DownloadError):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    with (tmp_path / f"{NAME}.part").open("ab") as file:
        file.write(CONTENT)
    told.breaks = []
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_note_that_is_damaged_is_no_note(told: Behaviour, address: str, tmp_path: Path) -> None:
    part, note, _lock = part_files(tmp_path / NAME)
    for text in ("", "[]", "{}", '{"url": 1, "validator": 2}', "\0"):
        part.write_bytes(b"something else")
        note.write_text(text)
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
        assert told.requests.pop() is None
        (tmp_path / NAME).unlink()


def test_a_busy_server_is_asked_again(told: Behaviour, address: str, tmp_path: Path) -> None:
    told.statuses = [503, 429, 500]
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert len(told.requests) == 4


def test_a_server_that_falls_silent(
    told: Behaviour, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", (0.2, 0.05))
    told.pause = 0.5
    with pytest.raises(DownloadError, match="5 tries"):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert f"{NAME}.part" in left_in(tmp_path)
    told.pause = 0.0
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert left_in(tmp_path) == [NAME]


FETCHING = """
import sys
from pathlib import Path
from transferkit.weights.download import download
def check(path):
    return None if path.stat().st_size == int(sys.argv[3]) else "too short"
download(sys.argv[1], Path(sys.argv[2]), check=check)
"""


def fetching(address: str, path: Path) -> subprocess.Popen[bytes]:
    arguments = [f"{address}/{NAME}", str(path), str(len(CONTENT))]
    return subprocess.Popen([sys.executable, "-c", FETCHING, *arguments], stderr=subprocess.PIPE)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent in other ways there")
def test_an_interrupted_process_keeps_the_part(
    told: Behaviour, address: str, tmp_path: Path
) -> None:
    # Ends when the process does: this is no length of time to wait.
    told.content = CONTENT * 4
    told.pause = 60.0
    process = fetching(address, tmp_path / NAME)
    part = tmp_path / f"{NAME}.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size):
        pass
    process.send_signal(signal.SIGINT)
    _out, told_by_process = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in told_by_process
    assert process.returncode != 0
    size = part.stat().st_size
    assert 0 < size <= len(told.content) // 2
    told.pause = 0.0
    download(
        f"{address}/{NAME}",
        tmp_path / NAME,
        check=lambda path: None if path.read_bytes() == told.content else "wrong",
    )
    assert told.requests == [None, f"bytes={size}-"]


def test_two_processes_fetch_it_once(told: Behaviour, address: str, tmp_path: Path) -> None:
    told.pause = 0.5
    processes = [fetching(address, tmp_path / NAME) for _ in range(3)]
    for process in processes:
        _out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert len(told.requests) == 1
    assert (tmp_path / NAME).read_bytes() == CONTENT


# ------------------------------------------------------------------------------------ refusals


def test_a_corrupt_file_is_refused(told: Behaviour, address: str, tmp_path: Path) -> None:
    told.content = CONTENT[:-1] + b"?"
    with pytest.raises(DownloadError, match="not what is published, and was not kept"):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert left_in(tmp_path) == []


def test_a_corrupt_file_does_not_replace_one(told: Behaviour, address: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"damaged")
    told.content = b"worse"
    with pytest.raises(DownloadError):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert (tmp_path / NAME).read_bytes() == b"damaged"
    told.content = CONTENT
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert (tmp_path / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_file_that_is_not_there(
    told: Behaviour, address: str, tmp_path: Path, status: int
) -> None:
    told.statuses = [status]
    with pytest.raises(DownloadError, match=f"{NAME}: the server says {status}"):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert len(told.requests) == 1
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("url", ["no address", "http://", "ftp://127.0.0.1/x"])
def test_what_is_no_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="cannot be asked for"):
        download(url, tmp_path / NAME, check=is_content)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(DownloadError, match="there is no connection to the server"):
        download(f"http://127.0.0.1:{port}/{NAME}", tmp_path / NAME, check=is_content)
    assert left_in(tmp_path) == []


def test_no_space_is_found_out_first(
    told: Behaviour, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(DownloadError, match=r"no space is left .* TRANSFERKIT_CACHE"):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert not (tmp_path / NAME).exists()
    assert len(told.requests) == 1


def test_no_space_on_the_way(
    told: Behaviour, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(_response: object, file: IO[bytes], _advance: object) -> None:
        file.write(CONTENT[:CHUNK])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module._Transfer, "_copy", staticmethod(fill))
        with pytest.raises(DownloadError, match="no space is left"):
            download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert (tmp_path / f"{NAME}.part").stat().st_size == CHUNK
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert told.requests[-1] == f"bytes={CHUNK}-"


def test_a_folder_that_cannot_be_written_to(address: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="TRANSFERKIT_CACHE"):
        download(f"{address}/{NAME}", tmp_path / "file" / NAME, check=is_content)


# ----------------------------------------------------------------------- of the catalogue's rows


def test_fetched_once(told: Behaviour, address: str, cache: Path) -> None:
    entry = entry_at(address)
    path = fetch(entry)
    assert path == cache / NAME
    assert path.read_bytes() == CONTENT
    assert fetch(entry) == path
    assert len(told.requests) == 1


def test_a_damaged_file_in_the_cache_is_fetched_anew(
    told: Behaviour, address: str, cache: Path
) -> None:
    cache.mkdir()
    (cache / NAME).write_bytes(CONTENT[:-1])
    with pytest.warns(UserWarning, match=f"{NAME} is not used: its digest is"):
        path = fetch(entry_at(address))
    assert path.read_bytes() == CONTENT
    assert len(told.requests) == 1


def test_another_file_than_the_published_one_is_refused(
    told: Behaviour, address: str, cache: Path
) -> None:
    told.content = b"another"
    with pytest.raises(DownloadError, match=r"published; .*put the file at .*weights\.bin"):
        fetch(entry_at(address))
    assert left_in(cache) == []


def test_without_a_digest_what_is_no_hdf5_is_refused(
    told: Behaviour, address: str, cache: Path, tmp_path: Path
) -> None:
    h5py = pytest.importorskip("h5py")
    entry = dataclasses.replace(entry_at(address), checksum=None)
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["kernel"] = [0.0] * 1000
    whole = (tmp_path / "weights.h5").read_bytes()
    for content in (b"<html>Log in to this network</html>", whole[:-500]):
        told.content = content
        with pytest.raises(DownloadError, match="damaged or cut short"):
            fetch(entry)
        assert left_in(cache) == []
    told.content = whole
    assert fetch(entry).read_bytes() == whole


def test_offline_no_connection_is_made(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setattr(requests, "get", connect)
    monkeypatch.setenv("TRANSFERKIT_OFFLINE", "1")
    for entry in WEIGHTS:
        with pytest.raises(DownloadError) as caught:
            fetch(entry)
        message = str(caught.value)
        assert entry.url in message
        assert str(cache / entry.file) in message
        assert str(entry.checksum or "no digest is published") in message
    assert not cache.exists()
    monkeypatch.setenv("TRANSFERKIT_OFFLINE", "0")
    with pytest.raises(AssertionError):
        fetch(WEIGHTS[0])


def test_a_cache_folder_that_cannot_be_made(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TRANSFERKIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match="set TRANSFERKIT_CACHE"):
        fetch(entry_at(address))
