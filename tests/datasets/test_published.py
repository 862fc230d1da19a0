"""Published data sets, from a local server with small archives of the same structure."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from published_archives import (
    BREEDS,
    CORRUPT,
    as_published,
    cats_files,
    pets_files,
    tar_gz,
    tree,
    zipped,
)
from server import NAME, Behavior, serving

from transferkit.datasets import (
    LabelledImages,
    cats_dogs,
    cats_vs_dogs,
    from_folder,
    oxford_iiit_pet,
    oxford_pets,
)
from transferkit.datasets.cache import cached_archives, clear_archives
from transferkit.errors import (
    DatasetError,
    DownloadError,
    FileFormatError,
    OutputError,
    ParameterError,
)

TRAIN, TEST = (1, 2, 3, 4, 5), (10, 11, 12)


class Published(NamedTuple):
    """The servers of the archives of a data set, and the contents."""

    behaviors: list[Behavior]
    contents: list[bytes]

    @property
    def requests(self) -> int:
        return sum(len(behavior.requests) for behavior in self.behaviors)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache folder, which does not exist yet."""
    monkeypatch.setenv("TRANSFERKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TRANSFERKIT_OFFLINE", raising=False)
    monkeypatch.setattr("transferkit.weights.download._PAUSE", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that serves archives as those of a module."""
    with ExitStack() as servers:

        def published(module: Any, *contents: bytes) -> Published:
            behaviors = [Behavior(content=content) for content in contents]
            rows = tuple(
                as_published(row, content, f"{servers.enter_context(serving(behavior))}/{NAME}")
                for row, content, behavior in zip(module.ARCHIVES, contents, behaviors, strict=True)
            )
            monkeypatch.setattr(module, "ARCHIVES", rows)
            return Published(behaviors, [*contents])

        yield published


@pytest.fixture
def pets(publish: Any) -> Published:
    images, annotations = pets_files()
    return publish(oxford_pets, tar_gz(images), tar_gz(annotations))


@pytest.fixture
def cats(publish: Any) -> Published:
    return publish(cats_dogs, zipped(cats_files()))


def labels_by_name(data: LabelledImages) -> dict[str, str]:
    return {Path(source).name: label for source, label in zip(data.sources, data.labels)}  # noqa: B905


# ---------------------------------------------------------------------------- Oxford-IIIT Pet


@pytest.mark.usefixtures("pets")
def test_pets_have_the_official_split_and_readable_breeds(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "new" / "pets"
    train, test = oxford_iiit_pet(folder, progress=False)
    names = ("Abyssinian", "American Bulldog", "Maine Coon", "Pug")
    assert train.counts == dict.fromkeys(names, 5)
    assert test.counts == dict.fromkeys(names, 3)
    for data, numbers in ((train, TRAIN), (test, TEST)):
        assert labels_by_name(data) == {
            f"{breed}_{number}.jpg": name
            for breed, name in zip(BREEDS, names, strict=True)
            for number in numbers
        }
        assert (data.splits, data.skipped) == (None, [])
    assert "train/American Bulldog/american_bulldog_2.jpg" in tree(folder)
    # Nothing else: no list, no .mat file, no image that is in neither list.
    assert len(tree(folder)) == 4 * 8 + 1
    images, _ = pets_files()
    for source in train.sources + test.sources:
        assert Path(source).read_bytes() == images[f"images/{Path(source).name}"]
    # The archives are kept.
    assert cached_archives() == sorted(cache / archive.file for archive in oxford_pets.ARCHIVES)


def test_pets_may_have_their_species_as_labels(pets: Published, tmp_path: Path) -> None:
    train, test = oxford_iiit_pet(tmp_path / "pets", target="species", progress=False)
    assert train.counts == {"cat": 10, "dog": 10}
    assert labels_by_name(test) == {
        f"{breed}_{number}.jpg": "cat" if species == 1 else "dog"
        for breed, (_, species) in BREEDS.items()
        for number in TEST
    }
    assert from_folder(tmp_path / "pets").of_split("test").sources == test.sources
    with pytest.raises(DatasetError, match="has oxford-iiit-pet with target species, not oxford-i"):
        oxford_iiit_pet(tmp_path / "pets")
    # The archives are not downloaded again.
    before = pets.requests
    oxford_iiit_pet(tmp_path / "breeds", progress=False)
    assert pets.requests == before


@pytest.mark.parametrize("target", ["breeds", "", None, 3])
def test_an_unknown_target_is_rejected(target: Any, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="expected 'breed' or 'species'"):
        oxford_iiit_pet(tmp_path / "pets", target=target)


def changed(files: dict[str, bytes], name: str, content: bytes | None) -> bytes:
    """Return an archive in which one file is replaced or left out."""
    others = {key: value for key, value in files.items() if key != name}
    return tar_gz(others if content is None else {**others, name: content})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images/pug_2.jpg", None, r"has no pug_2\.jpg, which trainval\.txt lists"),
        ("./annotations/test.txt", None, r"annotations/test\.txt is missing or not text"),
        ("./annotations/test.txt", b"\xff", r"annotations/test\.txt is missing or not text"),
        ("./annotations/test.txt", b"../a 1 1 1", r"has the line '\.\./a 1 1 1'; expected such"),
        ("./annotations/test.txt", b"pug_2 1", "has the line 'pug_2 1'"),
    ],
)
def test_unexpected_content_is_described(
    publish: Any, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    images, annotations = pets_files()
    if name in images:
        publish(oxford_pets, changed(images, name, content), tar_gz(annotations))
    else:
        publish(oxford_pets, tar_gz(images), changed(annotations, name, content))
    with pytest.raises(FileFormatError, match=message):
        oxford_iiit_pet(tmp_path / "pets", progress=False)
    assert not (tmp_path / "pets").exists()


def test_a_hostile_archive_leaves_nothing(publish: Any, tmp_path: Path) -> None:
    images, annotations = pets_files()
    publish(oxford_pets, tar_gz({**images, "../evil.jpg": b"x"}), tar_gz(annotations))
    with pytest.raises(FileFormatError, match="not a path inside of a folder"):
        oxford_iiit_pet(tmp_path / "pets", progress=False)
    assert sorted(os.listdir(tmp_path)) == ["cache"]


# -------------------------------------------------------------------------------- Cats vs. Dogs


@pytest.mark.usefixtures("cats")
def test_cats_and_dogs_are_split_by_the_documented_rule(tmp_path: Path) -> None:
    folder = tmp_path / "cats"
    train, test = cats_vs_dogs(folder, progress=False)
    # By the rule, from all files as they are in the archive.
    whole = tmp_path / "whole"
    for name, content in cats_files().items():
        path = whole / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    parts = from_folder(whole / "PetImages").split(test=0.2, random_state=0)
    for data, part in zip((train, test), parts, strict=True):
        expected = [
            source.removeprefix(f"{whole}/") for source in part.sources if source.endswith(".jpg")
        ]
        assert [
            f"PetImages/{label.title()}/{Path(source).name}"
            for source, label in zip(data.sources, data.labels, strict=True)
        ] == [source for source in expected if source not in CORRUPT]
    assert train.classes.tolist() == test.classes.tolist() == ["cat", "dog"]
    assert len(train) + len(test) == 40
    assert {Path(source).suffix for source in train.sources} == {".jpg"}
    # Copies are on one side.
    cats = [{Path(source).parts[-2:] for source in data.sources} for data in (train, test)]
    assert sorted(len(names & {("cat", "1.jpg"), ("cat", "3.jpg")}) for names in cats) == [0, 2]


@pytest.mark.usefixtures("cats")
def test_files_that_do_not_decode_are_listed(tmp_path: Path) -> None:
    for _ in range(2):
        train, test = cats_vs_dogs(tmp_path / "cats", progress=False)
        assert sorted(item.source for item in train.skipped) == [*CORRUPT]
        assert all(item.reason for item in train.skipped)
        assert test.skipped == []
        left = {f"{Path(source).parent.name}/{Path(source).name}" for source in train.sources}
        assert not left & {"cat/666.jpg", "dog/117.jpg"}


@pytest.mark.usefixtures("cats")
def test_another_seed_gives_another_split(tmp_path: Path) -> None:
    tests = [
        cats_vs_dogs(tmp_path / str(seed), random_state=seed, progress=False)[1]
        for seed in range(3)
    ]
    assert len({tuple(Path(one).name for one in test.sources) for test in tests}) == 3
    with pytest.raises(DatasetError, match="has cats-vs-dogs with random_state 1, not"):
        cats_vs_dogs(tmp_path / "1", random_state=2)
    with pytest.raises(ParameterError, match="random_state is -1"):
        cats_vs_dogs(tmp_path / "1", random_state=-1)


def test_an_archive_of_other_files_is_rejected(publish: Any, tmp_path: Path) -> None:
    publish(cats_dogs, zipped({"readme.txt": b"nothing"}))
    with pytest.raises(FileFormatError, match="not the expected files"):
        cats_vs_dogs(tmp_path / "cats", progress=False)
    assert sorted(os.listdir(tmp_path)) == ["cache"]


# ------------------------------------------------------------------------------- the folder


@pytest.mark.usefixtures("cats")
def test_a_complete_folder_is_only_read(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cats_vs_dogs(tmp_path / "cats", progress=False)
    shutil.rmtree(cache)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cats").rglob("*")}
    monkeypatch.setattr(socket.socket, "connect", None)
    # As for a folder that others share.
    monkeypatch.setattr(os, "access", lambda *_: False)
    again = cats_vs_dogs(tmp_path / "cats")
    assert [data.sources for data in again] == [data.sources for data in first]
    assert [data.skipped for data in again] == [data.skipped for data in first]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cats").rglob("*")} == before
    assert not cache.exists()


@pytest.mark.usefixtures("cats")
def test_an_empty_folder_and_the_current_one_are_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cats").mkdir()
    monkeypatch.chdir(tmp_path / "cats")
    train, _ = cats_vs_dogs(".", progress=False)
    assert Path(train.sources[0]).is_file()
    assert sorted(os.listdir()) == [".transferkit.json", "test", "train"]


def test_a_folder_with_other_files_is_not_touched(cats: Published, tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"the folder is not empty: notes\.txt; give a new one"):
        cats_vs_dogs(tmp_path / "cats")
    assert tree(tmp_path / "cats") == ["notes.txt"]
    assert cats.requests == 0


def test_the_folder_is_checked_before_the_download(
    cats: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="file is not a folder"):
        cats_vs_dogs(tmp_path / "file" / "cats")
    with pytest.raises(OutputError, match="file is not a folder"):
        cats_vs_dogs(tmp_path / "file")
    with pytest.raises(OutputError, match=r"cannot be written: .*too long"):
        cats_vs_dogs(tmp_path / ("x" * 300))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="is not writable"):
        cats_vs_dogs(tmp_path / "new" / "cats")
    assert cats.requests == 0
    assert os.listdir(tmp_path) == ["file"]


def test_space_is_checked_before_the_download(
    cats: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(OutputError, match=r"the data set needs 0\.0 GB, but 0\.0 GB are free"):
        cats_vs_dogs(tmp_path / "cats")
    assert cats.requests == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("cats")
def test_an_interrupted_call_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        context.setattr("transferkit.datasets.published.read_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cats_vs_dogs(tmp_path / "cats", progress=False)
    assert not (tmp_path / "cats").exists()
    assert len(cats_vs_dogs(tmp_path / "cats", progress=False)[0]) > 0


@pytest.mark.parametrize("moved", [1, 2])
def test_a_call_that_was_killed_in_its_last_step_is_completed(
    cats: Published, tmp_path: Path, moved: int
) -> None:
    folder = tmp_path / "cats"
    expected = [data.sources for data in cats_vs_dogs(folder, progress=False)]
    # The state before the last steps.
    work = folder / ".unfinished"
    work.mkdir()
    for name in ("train", "test", ".transferkit.json")[moved:]:
        (folder / name).replace(work / name)
    before = cats.requests
    again = [data.sources for data in cats_vs_dogs(folder, progress=False)]
    assert again == expected
    assert cats.requests == before
    assert sorted(os.listdir(folder)) == [".transferkit.json", "test", "train"]


@pytest.mark.usefixtures("cats")
def test_the_files_of_a_killed_call_are_replaced(tmp_path: Path) -> None:
    work = tmp_path / "cats" / ".unfinished"
    work.mkdir(parents=True)
    (work / "half").write_text("x")
    cats_vs_dogs(tmp_path / "cats", progress=False)
    assert sorted(os.listdir(tmp_path / "cats")) == [".transferkit.json", "test", "train"]


def test_one_of_several_calls_fills_the_folder(cats: Published, tmp_path: Path) -> None:
    results: list[list[str]] = []

    def call() -> None:
        results.append(cats_vs_dogs(tmp_path / "cats", progress=False)[1].sources)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(sources == results[0] for sources in results)
    assert cats.requests == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": 3, "skipped": []}', "\xff"])
@pytest.mark.usefixtures("cats")
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    cats_vs_dogs(tmp_path / "cats", progress=False)
    (tmp_path / "cats" / ".transferkit.json").write_text(text, encoding="latin-1")
    with pytest.raises(DatasetError, match=r"\.transferkit\.json: damaged"):
        cats_vs_dogs(tmp_path / "cats", progress=False)


# ------------------------------------------------------------------------------ the archives


def test_local_archives_are_used(pets: Published, tmp_path: Path) -> None:
    files = [tmp_path / "first.bin", tmp_path / "second.bin"]
    for file, content in zip(files, pets.contents, strict=True):
        file.write_bytes(content)
    # In any order.
    train, _ = oxford_iiit_pet(tmp_path / "a", archive=files[::-1], progress=False)
    assert len(train) == 20
    assert pets.requests == 0
    # One of them: only the other one is downloaded.
    oxford_iiit_pet(tmp_path / "b", archive=str(files[0]), progress=False)
    assert [len(behavior.requests) for behavior in pets.behaviors] == [0, 1]
    assert [path.name for path in cached_archives()] == ["oxford-iiit-pet-annotations.tar.gz"]
    assert files[0].read_bytes() == pets.contents[0]


def test_another_archive_is_rejected_before_the_download(cats: Published, tmp_path: Path) -> None:
    file = tmp_path / "cats.zip"
    content = cats.contents[0]
    for changed, message in (
        (content[:-1], rf"has {len(content) - 1:,} bytes; expected {len(content):,}"),
        (content[:-1] + b"x", "its SHA-256 is .*; expected "),
    ):
        file.write_bytes(changed)
        with pytest.raises(FileFormatError, match=message):
            cats_vs_dogs(tmp_path / "cats", archive=file)
    with pytest.raises(FileFormatError, match=r"missing\.zip: .*cannot be read: No such file"):
        cats_vs_dogs(tmp_path / "cats", archive=tmp_path / "missing.zip")
    assert cats.requests == 0
    assert not (tmp_path / "cats").exists()


def test_a_broken_download_is_resumed(
    cats: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transferkit.weights.download._CHUNK", 1000)
    cats.behaviors[0].breaks = [5000]
    cats_vs_dogs(tmp_path / "cats", progress=False)
    assert cats.behaviors[0].requests == [None, "bytes=5000-"]


def test_an_altered_download_is_removed(cats: Published, tmp_path: Path) -> None:
    cats.behaviors[0].content = b"x" + cats.contents[0][1:]
    with pytest.raises(DownloadError, match=r"the file fails the check .*; or pass the downloaded"):
        cats_vs_dogs(tmp_path / "cats", progress=False)
    assert cached_archives() == []
    assert not (tmp_path / "cats").exists()


def test_a_damaged_file_in_the_cache_is_downloaded_again(
    cats: Published, tmp_path: Path, cache: Path
) -> None:
    cache.mkdir()
    (cache / "kagglecatsanddogs_5340.zip").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="is not used: it has 7 bytes"):
        cats_vs_dogs(tmp_path / "cats", progress=False)
    assert (cache / "kagglecatsanddogs_5340.zip").read_bytes() == cats.contents[0]


def test_nothing_is_downloaded_offline(
    cats: Published, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFERKIT_OFFLINE", "1")
    with pytest.raises(DownloadError, match="TRANSFERKIT_OFFLINE is set") as raised:
        cats_vs_dogs(tmp_path / "cats")
    assert str(cache / "kagglecatsanddogs_5340.zip") in str(raised.value)
    assert cats.requests == 0
    assert not (tmp_path / "cats").exists()
    cache.mkdir()
    (cache / "kagglecatsanddogs_5340.zip").write_bytes(cats.contents[0])
    assert len(cats_vs_dogs(tmp_path / "cats", progress=False)[0]) > 0


@pytest.mark.usefixtures("cats")
def test_archives_are_cleared(tmp_path: Path, cache: Path) -> None:
    cats_vs_dogs(tmp_path / "cats", progress=False)
    (cache / "other.zip").write_bytes(b"mine")
    before = tree(tmp_path / "cats")
    assert clear_archives() == [cache / "kagglecatsanddogs_5340.zip"]
    assert [name for name in os.listdir(cache) if not name.endswith(".lock")] == ["other.zip"]
    assert tree(tmp_path / "cats") == before


def test_the_catalog_has_what_the_publishers_state() -> None:
    rows = {
        row.url.rpartition("/")[2]: (row.size, row.sha256[:8])
        for row in (*oxford_pets.ARCHIVES, *cats_dogs.ARCHIVES)
    }
    # huggingface/datasets, cats_vs_dogs/dataset_infos.json; tensorflow/datasets,
    # url_checksums/oxford_iiit_pet.txt.
    assert rows == {
        "images.tar.gz": (791918971, "67195c5e"),
        "annotations.tar.gz": (19173078, "52425fb6"),
        "kagglecatsanddogs_5340.zip": (824887076, "b7974bd0"),
    }
    names = Counter(row.file for row in (*oxford_pets.ARCHIVES, *cats_dogs.ARCHIVES))
    assert max(names.values()) == 1
