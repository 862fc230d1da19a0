"""A download ends with the complete and correct file, or with an error and no file."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import logging
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
from server import CONTENT, NAME, Behavior, serving

from transferkit.errors import DownloadError, OutputError
from transferkit.weights import WEIGHTS, WeightsEntry, fetch, find_weights
from transferkit.weights.cache import part_files
from transferkit.weights.checksum import Checksum

# Some tests change constants of this module.
module = sys.modules["transferkit.weights.download"]
download = module.download
CHUNK = module._CHUNK


@pytest.fixture
def behavior() -> Behavior:
    return Behavior()


@pytest.fixture
def address(behavior: Behavior) -> Iterator[str]:
    with serving(behavior) as address:
        yield address


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the pauses between tries, and all variables about weights."""
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    for variable in ("TRANSFERKIT_OFFLINE", "TRANSFERKIT_CACHE", "TORCH_HOME", "KERAS_HOME"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache folder that does not exist yet; other caches are empty."""
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


# ------------------------------------------------------------------------------- success


@pytest.mark.parametrize("where", [NAME, "moved"])
@pytest.mark.parametrize("length", [True, False])
def test_a_file_is_downloaded(
    behavior: Behavior,
    address: str,
    tmp_path: Path,
    where: str,
    length: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    behavior.length = length
    path = tmp_path / NAME
    with caplog.at_level(logging.INFO, logger="transferkit"):
        download(f"{address}/{where}", path, check=is_content)
    assert caplog.messages == [f"downloading {address}/{where} to {path}", f"downloaded {path}"]
    assert path.read_bytes() == CONTENT
    assert left_in(tmp_path) == [NAME]
    # An existing file is not downloaded again.
    before = len(behavior.requests)
    download(f"{address}/{where}", path, check=is_content)
    assert len(behavior.requests) == before


def test_progress_is_shown_on_request_only(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download(f"{address}/{NAME}", tmp_path / "one", check=is_content)
    assert capsys.readouterr() == ("", "")
    download(f"{address}/{NAME}", tmp_path / "two", check=is_content, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Downloading two" in shown.err
    assert "1.0/1.0 MB" in shown.err


# ------------------------------------------------------------------------------ interruptions


def test_a_broken_download_is_resumed(behavior: Behavior, address: str, tmp_path: Path) -> None:
    behavior.breaks = [2 * CHUNK, 3 * CHUNK]
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert behavior.requests == [None, f"bytes={2 * CHUNK}-", f"bytes={5 * CHUNK}-"]
    assert behavior.conditions == [None, behavior.tag, behavior.tag]
    assert behavior.sent == [2 * CHUNK, 3 * CHUNK, len(CONTENT) - 5 * CHUNK]
    assert left_in(tmp_path) == [NAME]


def test_tries_that_receive_data_do_not_count(
    behavior: Behavior, address: str, tmp_path: Path
) -> None:
    behavior.breaks = [CHUNK] * 8
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert len(behavior.requests) == 9


def test_a_partial_file_is_mentioned_only_if_there_is_one(
    behavior: Behavior, address: str, tmp_path: Path
) -> None:
    behavior.breaks = [0] * 20
    with pytest.raises(DownloadError, match=r"check the connection and try again$"):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert left_in(tmp_path) == []


def test_a_later_call_resumes(behavior: Behavior, address: str, tmp_path: Path) -> None:
    behavior.breaks = [CHUNK] + [0] * 20
    with pytest.raises(DownloadError, match="the partial file is kept and will be resumed"):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert left_in(tmp_path) == [f"{NAME}.part", f"{NAME}.part.json"]
    # The number of tries is limited; the first received data and does not count.
    assert len(behavior.requests) == 1 + 5 - 1
    behavior.breaks.clear()
    behavior.requests.clear()
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert behavior.requests == [f"bytes={CHUNK}-"]
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
def test_a_partial_file_that_cannot_be_resumed_is_downloaded_again(
    behavior: Behavior, address: str, tmp_path: Path, change: dict[str, bool]
) -> None:
    for name, value in change.items():
        setattr(behavior, name, value)
    behavior.breaks = [CHUNK] + [0] * 20
    # Without a length the truncation is noticed by the check only.
    with pytest.raises(DownloadError, match=r"try again$" if behavior.length else "was removed"):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    behavior.breaks = []
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert behavior.sent[-1] == len(CONTENT)
    assert left_in(tmp_path) == [NAME]


@pytest.mark.parametrize("honors_if_range", [True, False])
def test_versions_of_a_file_are_not_mixed(
    behavior: Behavior, address: str, tmp_path: Path, honors_if_range: bool
) -> None:
    behavior.content, behavior.breaks = b"other" * 50_000, [CHUNK] + [0] * 20
    with pytest.raises(DownloadError):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    behavior.content, behavior.breaks, behavior.honors_if_range = CONTENT, [], honors_if_range
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_complete_partial_file_is_not_downloaded_again(
    behavior: Behavior, address: str, tmp_path: Path
) -> None:
    def interrupted(_: Path) -> str | None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(f"{address}/{NAME}", tmp_path / NAME, check=interrupted)
    assert left_in(tmp_path) == [f"{NAME}.part", f"{NAME}.part.json"]
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert behavior.requests == [None, f"bytes={len(CONTENT)}-"]
    assert behavior.sent == [len(CONTENT)]
    assert left_in(tmp_path) == [NAME]


def test_a_partial_file_that_is_too_long_is_dropped(
    behavior: Behavior, address: str, tmp_path: Path
) -> None:
    behavior.breaks = [CHUNK] + [0] * 20
    with pytest.raises(DownloadError):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    with (tmp_path / f"{NAME}.part").open("ab") as file:
        file.write(CONTENT)
    behavior.breaks = []
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_a_damaged_validator_file_is_ignored(
    behavior: Behavior, address: str, tmp_path: Path
) -> None:
    part, note, _lock = part_files(tmp_path / NAME)
    for text in ("", "[]", "{}", '{"url": 1, "validator": 2}', "\0"):
        part.write_bytes(b"something else")
        note.write_text(text)
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
        assert behavior.requests.pop() is None
        (tmp_path / NAME).unlink()


def test_a_busy_server_is_tried_again(behavior: Behavior, address: str, tmp_path: Path) -> None:
    behavior.statuses = [503, 429, 500]
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert len(behavior.requests) == 4


def test_a_server_that_stops_responding_times_out(
    behavior: Behavior, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", (0.2, 0.05))
    behavior.pause = 0.5
    with pytest.raises(DownloadError, match="5 tries"):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert f"{NAME}.part" in left_in(tmp_path)
    behavior.pause = 0.0
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert left_in(tmp_path) == [NAME]


FETCHING = """
import signal, sys
from pathlib import Path
# The parent process may have disabled the signal for its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
from transferkit.weights.download import download
def check(path):
    return None if path.stat().st_size == int(sys.argv[3]) else "too short"
download(sys.argv[1], Path(sys.argv[2]), check=check)
"""


def fetching(address: str, path: Path) -> subprocess.Popen[bytes]:
    arguments = [f"{address}/{NAME}", str(path), str(len(CONTENT))]
    return subprocess.Popen([sys.executable, "-c", FETCHING, *arguments], stderr=subprocess.PIPE)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent in other ways there")
def test_an_interrupted_process_keeps_the_partial_file(
    behavior: Behavior, address: str, tmp_path: Path
) -> None:
    # The wait ends with the process, long before this time.
    behavior.content = CONTENT * 4
    behavior.pause = 60.0
    process = fetching(address, tmp_path / NAME)
    part = tmp_path / f"{NAME}.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size):
        pass
    process.send_signal(signal.SIGINT)
    _out, process_stderr = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in process_stderr
    assert process.returncode != 0
    size = part.stat().st_size
    assert 0 < size <= len(behavior.content) // 2
    behavior.pause = 0.0
    download(
        f"{address}/{NAME}",
        tmp_path / NAME,
        check=lambda path: None if path.read_bytes() == behavior.content else "wrong",
    )
    assert behavior.requests == [None, f"bytes={size}-"]


def test_two_processes_download_once(behavior: Behavior, address: str, tmp_path: Path) -> None:
    behavior.pause = 0.5
    processes = [fetching(address, tmp_path / NAME) for _ in range(3)]
    for process in processes:
        _out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert len(behavior.requests) == 1
    assert (tmp_path / NAME).read_bytes() == CONTENT


# ------------------------------------------------------------------------------ rejected files


def test_a_corrupt_file_is_rejected(behavior: Behavior, address: str, tmp_path: Path) -> None:
    behavior.content = CONTENT[:-1] + b"?"
    with pytest.raises(DownloadError, match="fails the check and was removed"):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert left_in(tmp_path) == []


def test_a_corrupt_file_does_not_replace_an_existing_one(
    behavior: Behavior, address: str, tmp_path: Path
) -> None:
    (tmp_path / NAME).write_bytes(b"damaged")
    behavior.content = b"worse"
    with pytest.raises(DownloadError):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert (tmp_path / NAME).read_bytes() == b"damaged"
    behavior.content = CONTENT
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert (tmp_path / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_missing_file_is_an_error(
    behavior: Behavior, address: str, tmp_path: Path, status: int
) -> None:
    behavior.statuses = [status]
    with pytest.raises(DownloadError, match=f"{NAME}: the server returned {status}"):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert len(behavior.requests) == 1
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("url", ["no address", "http://", "ftp://127.0.0.1/x"])
def test_an_invalid_url_is_an_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="the URL cannot be requested"):
        download(url, tmp_path / NAME, check=is_content)


def test_an_unreachable_server_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(DownloadError, match="no connection to the server"):
        download(f"http://127.0.0.1:{port}/{NAME}", tmp_path / NAME, check=is_content)
    assert left_in(tmp_path) == []


def test_missing_disk_space_is_noticed_first(
    behavior: Behavior, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(DownloadError, match=r"not enough space .* TRANSFERKIT_CACHE"):
        download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert not (tmp_path / NAME).exists()
    assert len(behavior.requests) == 1


def test_a_full_disk_during_a_download_is_an_error(
    behavior: Behavior, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(_response: object, file: IO[bytes], _advance: object) -> None:
        file.write(CONTENT[:CHUNK])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module._Transfer, "_copy", staticmethod(fill))
        with pytest.raises(DownloadError, match="not enough space"):
            download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert (tmp_path / f"{NAME}.part").stat().st_size == CHUNK
    download(f"{address}/{NAME}", tmp_path / NAME, check=is_content)
    assert behavior.requests[-1] == f"bytes={CHUNK}-"


def test_a_read_only_folder_is_an_error(address: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="TRANSFERKIT_CACHE"):
        download(f"{address}/{NAME}", tmp_path / "file" / NAME, check=is_content)


# ----------------------------------------------------------------------- rows of the catalog


def test_a_row_is_downloaded_once(behavior: Behavior, address: str, cache: Path) -> None:
    entry = entry_at(address)
    path = fetch(entry)
    assert path == cache / NAME
    assert path.read_bytes() == CONTENT
    assert fetch(entry) == path
    assert len(behavior.requests) == 1


def test_a_damaged_file_in_the_cache_is_downloaded_again(
    behavior: Behavior, address: str, cache: Path
) -> None:
    cache.mkdir()
    (cache / NAME).write_bytes(CONTENT[:-1])
    with pytest.warns(UserWarning, match=f"{NAME} is not used: its digest is"):
        path = fetch(entry_at(address))
    assert path.read_bytes() == CONTENT
    assert len(behavior.requests) == 1


def test_a_file_other_than_the_published_one_is_rejected(
    behavior: Behavior, address: str, cache: Path
) -> None:
    behavior.content = b"another"
    with pytest.raises(DownloadError, match=r"expected SHA-256 .*put it at .*weights\.bin"):
        fetch(entry_at(address))
    assert left_in(cache) == []


def test_without_a_checksum_files_other_than_hdf5_are_rejected(
    behavior: Behavior, address: str, cache: Path, tmp_path: Path
) -> None:
    h5py = pytest.importorskip("h5py")
    entry = dataclasses.replace(entry_at(address), checksum=None)
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["kernel"] = [0.0] * 1000
    whole = (tmp_path / "weights.h5").read_bytes()
    for content in (b"<html>Log in to this network</html>", whole[:-500]):
        behavior.content = content
        with pytest.raises(DownloadError, match="damaged or truncated"):
            fetch(entry)
        assert left_in(cache) == []
    behavior.content = whole
    assert fetch(entry).read_bytes() == whole


def test_offline_mode_makes_no_connection(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert str(entry.checksum or "its publisher states no checksum") in message
    assert not cache.exists()
    monkeypatch.setenv("TRANSFERKIT_OFFLINE", "0")
    with pytest.raises(AssertionError):
        fetch(WEIGHTS[0])


def test_a_cache_folder_that_cannot_be_created_is_an_error(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TRANSFERKIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match="set TRANSFERKIT_CACHE"):
        fetch(entry_at(address))
