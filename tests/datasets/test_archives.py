"""Archives: what they contain is unpacked completely, or not at all and with a reason."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transferkit.datasets.archives import unpack_archive
from transferkit.errors import FileFormatError, OutputError

FILES = {
    "images/a.jpg": b"one" * 1000,
    "images/deep/b.jpg": bytes(range(256)) * 99,
    "empty.txt": b"",
}
SIZE = sum(map(len, FILES.values()))


def zipped(path: Path, files: Mapping[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("images")
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: Mapping[str, bytes] = FILES, *extra: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        folder = tarfile.TarInfo("./images")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = 0o6777
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info)
    return path


Writer = Callable[..., Path]
both = pytest.mark.parametrize("write", [zipped, tarred])


def unpacked(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(tmp_path: Path, path: Path, *, max_bytes: int = 10**7) -> str:
    """Return the message for an archive that is not unpacked, and leaves nothing."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileFormatError) as raised:
        unpack_archive(path, tmp_path / "out", max_bytes=max_bytes)
    assert sorted(tmp_path.rglob("*")) == before
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@both
def test_files_are_unpacked(tmp_path: Path, write: Writer) -> None:
    path = write(tmp_path / "archive.bin")
    unpack_archive(path, tmp_path / "out", max_bytes=SIZE)
    assert unpacked(tmp_path / "out") == FILES
    assert sorted(os.listdir(tmp_path)) == ["archive.bin", "out"]
    mode = (tmp_path / "out/images/a.jpg").stat().st_mode
    assert mode & 0o6111 == 0


@both
def test_only_wanted_files_are_written(tmp_path: Path, write: Writer) -> None:
    path = write(tmp_path / "archive.bin")
    unpack_archive(path, tmp_path / "out", max_bytes=SIZE, wanted=lambda name: "b.jpg" in name)
    assert set(unpacked(tmp_path / "out")) == {"images/deep/b.jpg"}


@given(
    files=st.dictionaries(
        st.from_regex(r"[a-z]{1,3}(/[A-Z]{1,9}){0,2}\.jpg", fullmatch=True),
        st.binary(max_size=2000),
    ),
    in_zip=st.booleans(),
)
def test_any_files_are_unpacked(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], in_zip: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = (zipped if in_zip else tarred)(folder / "archive.bin", files)
    unpack_archive(path, folder / "out", max_bytes=10**6)
    assert unpacked(folder / "out") == files
    shutil.rmtree(folder)


@both
def test_more_than_the_limit_is_refused(tmp_path: Path, write: Writer) -> None:
    path = write(tmp_path / "archive.bin")
    message = refused(tmp_path, path, max_bytes=SIZE - 1)
    assert message == f"not unpacked: it contains more than {SIZE - 1:,} bytes"


@both
def test_a_bomb_is_refused(tmp_path: Path, write: Writer) -> None:
    path = write(tmp_path / "archive.bin", {"zeros": bytes(1 << 24)})
    assert path.stat().st_size < 1 << 18
    assert "more than 1,000,000 bytes" in refused(tmp_path, path, max_bytes=10**6)


@both
def test_too_many_files_are_refused(
    tmp_path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transferkit.datasets.archives.MAX_FILES", 3)
    assert "more than 3 files" in refused(tmp_path, write(tmp_path / "archive.bin"))


def test_a_zip_with_more_data_than_stated_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(100_000))
    content = path.read_bytes()
    # The sizes in both headers.
    assert content.count(struct.pack("<I", 100_000)) == 2
    path.write_bytes(content.replace(struct.pack("<I", 100_000), struct.pack("<I", 10)))
    assert "damaged" in refused(tmp_path, path)
    path.write_bytes(content.replace(struct.pack("<I", 100_000), struct.pack("<I", 200_000)))
    assert "damaged" in refused(tmp_path, path)


def test_data_after_the_last_file_is_refused(tmp_path: Path) -> None:
    path = tarred(tmp_path / "archive.tar.gz")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(1 << 24)))
    assert "there is more data after the last file" in refused(tmp_path, path)


def test_large_attributes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"comment": "x" * (1 << 21)}
        archive.addfile(info)
    assert "bytes of attributes" in refused(tmp_path, path)
    # Long names are usual.
    name = "/".join(["folder" * 10] * 4) + ".jpg"
    unpack_archive(tarred(path, {name: b"1"}), tmp_path / "out", max_bytes=9)
    assert unpacked(tmp_path / "out") == {name: b"1"}


BAD_NAMES = (
    *("../a.jpg", "images/../../a.jpg", "images/..", "/a.jpg", "//a.jpg", "/"),
    *("C:/a.jpg", "images\\..\\a.jpg", "a.jpg:stream"),
)


@both
@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_outside_of_the_folder_is_refused(tmp_path: Path, write: Writer, name: str) -> None:
    path = write(tmp_path / "archive.bin", {"a.txt": b"1", name: b"2"})
    message = refused(tmp_path, path)
    # zipfile itself leaves such parts out, in some versions.
    assert "not a path inside of a folder" in message


@both
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(tmp_path: Path, write: Writer) -> None:
    for names in (("a/b", "a/b"), ("a", "a/b"), ("a/b", "a"), ("a", "./a")):
        path = tmp_path / "archive.bin"
        if write is zipped:
            with zipfile.ZipFile(path, "w") as archive:
                for name in names:
                    archive.writestr(name, b"1")
        else:
            with tarfile.open(path, "w:gz") as tar:
                for name in names:
                    tar.addfile(tarfile.TarInfo(name))
        assert "several times" in refused(tmp_path, path)


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, "images/a.jpg"
    path = tarred(tmp_path / "archive.tar.gz", FILES, info)
    assert "'link' is a link or device" in refused(tmp_path, path)


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc")
        archive.writestr("link/a.jpg", b"1")
    assert "'link' is a link or device" in refused(tmp_path, path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "archive.zip")
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + 8] |= 1
    path.write_bytes(content)
    assert refused(tmp_path, path) == "not unpacked: it is encrypted"


@both
def test_a_truncated_archive_is_refused(tmp_path: Path, write: Writer) -> None:
    path = write(tmp_path / "archive.bin")
    content = path.read_bytes()
    for length in (*range(2, len(content), max(1, len(content) // 40)), len(content) - 1):
        path.write_bytes(content[:length])
        assert "damaged or truncated archive: " in refused(tmp_path, path)


@both
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_altered_archive_is_unpacked_as_it_was_or_refused(
    tmp_path: Path, write: Writer, data: st.DataObject
) -> None:
    path = tmp_path / "archive.bin"
    content = bytearray(write(path).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    folder = tmp_path / "out"
    try:
        unpack_archive(path, folder, max_bytes=10**6)
    except FileFormatError:
        assert sorted(os.listdir(tmp_path)) == ["archive.bin"]
    else:
        # Such as a time of modification or, in a .zip, the name of a file.
        assert sorted(unpacked(folder).values()) == sorted(FILES.values())
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"<html>", zlib.compress(b"x"), b"Rar!\x1a\x07"], ids=range(5)
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "archive.zip"
    path.write_bytes(content)
    assert "not an archive; expected a .zip or .tar.gz file" in refused(tmp_path, path)


def test_a_gzip_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(gzip.compress(b"hello" * 1000))
    assert "damaged or truncated archive" in refused(tmp_path, path)


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        unpack_archive(zipped(tmp_path / "a.zip"), tmp_path / "out", max_bytes=10**6)
    assert os.listdir(tmp_path / "out") == []


def test_a_missing_archive_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be unpacked from .*a\.zip: No such file"):
        unpack_archive(tmp_path / "a.zip", tmp_path / "out", max_bytes=1)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "a.zip")
    original = Path.open

    def full(target: Path, mode: str = "r", *arguments: object) -> object:
        if mode == "xb" and target.name == "b.jpg":
            raise OSError(28, os.strerror(28))
        return original(target, mode, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutputError, match="No space left"):
        unpack_archive(path, tmp_path / "out", max_bytes=10**6)
    assert os.listdir(tmp_path) == ["a.zip"]
