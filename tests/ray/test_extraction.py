"""Extraction by workers of Ray: the store is that of one process, whoever is lost on the way."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import output_of, run
from deadly_images import DeadlyImage, SlowImage
from PIL import Image
from samples import DEMO, SIDE, noise, tiny_extractor, write_images

import transferkit.ray
from transferkit import FeatureExtractor, FeatureStore
from transferkit.errors import (
    ArgumentTypeError,
    ParameterError,
    UnknownNameError,
    UnsupportedError,
    WorkerError,
)
from transferkit.features.to_store import StoreRun
from transferkit.images import NamedImage
from transferkit.images.stream import WithSource
from transferkit.ray.worker import Setup, ShardWorker, pack_order, unpack_report
from transferkit.store.manifest import read_manifest
from transferkit.store.writing import Slot

LAYERS = ["embedding", "relu1"]
TESTS = Path(__file__).parent.parent


@pytest.fixture
def extractor() -> FeatureExtractor:
    return tiny_extractor(backend="onnxruntime")


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """42 images, of which one in ten cannot be read."""
    paths = write_images(tmp_path / "photos", noise(42))
    for path in paths[1::10]:
        path.write_bytes(b"no image")
    return paths


def files(folder: Path) -> dict[str, bytes]:
    """The shards of a store, of which every byte counts, and its manifest."""
    assert not list(folder.glob("*.part"))
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def test_the_store_is_that_of_one_process(
    cluster: Any, extractor: FeatureExtractor, photos: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    context = cluster.data.DataContext.get_current()
    before = [context.enable_progress_bars, *map(str, map(logging.getLogger, ["ray", "ray.data"]))]
    settings: dict[str, Any] = {"shard_size": 10, "dtype": "float16"}
    # Relative paths mean the same in a worker.
    store = transferkit.ray.extract(
        extractor, "photos", "many", LAYERS, num_workers=2, num_cpus=1, **settings
    )
    assert len(store.sources) == 37
    assert len(store.skipped) == 5
    extractor.extract_to("one", "photos", LAYERS, **settings)
    assert files(tmp_path / "many") == files(tmp_path / "one")
    # One continues what the other began.
    photos[0].rename(photos[0].with_name("zzz.png"))
    transferkit.ray.extract(extractor, "photos", "one", LAYERS, **settings)
    extractor.extract_to("many", "photos", LAYERS, **settings)
    assert files(tmp_path / "many") == files(tmp_path / "one")
    assert FeatureStore("one").sources[-1] == os.path.join("photos", "zzz.png")
    # Nothing is to be done, so no worker is started.
    transferkit.ray.extract(extractor, "photos", "one", LAYERS, **settings)
    after = [context.enable_progress_bars, *map(str, map(logging.getLogger, ["ray", "ray.data"]))]
    assert after == before
    assert cluster.is_initialized()


@pytest.mark.usefixtures("cluster")
def test_memory_that_is_reused_and_files_are_read_in_time(
    extractor: FeatureExtractor, tmp_path: Path
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3), np.uint8)

    def images() -> Iterator[Any]:
        buffer = np.empty((SIDE, SIDE, 3), np.uint8)
        for frame in frames:
            buffer[:] = frame
            yield buffer
        content = io.BytesIO()
        Image.fromarray(frames[0]).save(content, "PNG")
        for data in (content.getvalue(), b"no image"):
            with io.BytesIO(data) as file:
                yield io.BufferedReader(file)

    store = transferkit.ray.extract(extractor, images(), tmp_path / "s", num_workers=1)
    np.testing.assert_allclose(
        store["embedding"], extractor.transform([*frames, frames[0]]), rtol=1e-5, atol=1e-6
    )
    assert [skipped.source for skipped in store.skipped] == ["images[7]"]


@pytest.mark.usefixtures("cluster")
def test_a_store_at_a_url_is_that_of_a_folder(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    # A folder that is treated as if it were on a server.
    url = f"local://{(tmp_path / 'many').as_posix()}"
    images: list[Any] = [str(path) for path in photos]
    images[17] = DeadlyImage(images[17], str(tmp_path / "killed"))
    transferkit.ray.extract(extractor, images[:25], url, LAYERS, num_workers=2, shard_size=10)
    assert (tmp_path / "killed").exists()
    store = transferkit.ray.extract(extractor, images, url, LAYERS, num_workers=2, shard_size=10)
    assert store.folder == url
    for stop in (25, None):
        extractor.extract_to(tmp_path / "one", images[:stop], LAYERS, shard_size=10)
    assert files(tmp_path / "many") == files(tmp_path / "one")
    assert not (tmp_path / "many" / ".lock").exists()


@pytest.mark.usefixtures("cluster")
def test_a_store_that_workers_do_not_see_is_an_error(
    extractor: FeatureExtractor, photos: list[Path]
) -> None:
    with pytest.raises(WorkerError, match=r"memory://s: .* does not see the store in this folder"):
        transferkit.ray.extract(extractor, photos, "memory://s", num_workers=1)


@pytest.mark.usefixtures("cluster")
def test_a_lost_worker_is_replaced(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    killed = tmp_path / "killed"
    counts: list[Any] = []
    monkeypatch.setattr(StoreRun, "count", lambda _, *numbers: counts.append(numbers))
    images: list[Any] = [str(path) for path in photos]
    images[17] = DeadlyImage(images[17], str(killed))
    transferkit.ray.extract(extractor, images, tmp_path / "many", num_workers=2, shard_size=10)
    assert int(killed.read_text()) != os.getpid()
    assert np.sum(counts, axis=0).tolist() == [42, 5]
    extractor.extract_to(tmp_path / "one", images, shard_size=10)
    assert files(tmp_path / "many") == files(tmp_path / "one")


def test_a_killed_driver_is_continued(
    cluster: Any, extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    many = tmp_path / "many"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RAY_ADDRESS": cluster.get_runtime_context().gcs_address,
    }
    driver = subprocess.Popen(
        [sys.executable, str(TESTS / "killed_driver.py"), many, *photos],
        env=environment,
        stderr=subprocess.PIPE,
    )
    while driver.poll() is None and not list(many.glob("shard-*")):
        time.sleep(0.01)
    driver.kill()
    _, errors = driver.communicate()
    assert driver.returncode == -signal.SIGKILL, errors.decode()
    assert 1 <= len(list(many.glob("shard-*"))) < 9
    images = [SlowImage(str(path)) for path in photos]
    transferkit.ray.extract(extractor, images, many, shard_size=5)
    extractor.extract_to(tmp_path / "one", images, shard_size=5)
    assert files(many) == files(tmp_path / "one")


@pytest.mark.usefixtures("cluster")
def test_the_command_writes_the_same_store(tmp_path: Path) -> None:
    arguments = ("extract", DEMO / "test", "--shard-size", 12, "--network", "mobilenet_v2")
    result = run(*arguments, "-o", tmp_path / "many", "--ray", "--workers", 2)
    expected = f"saved {tmp_path / 'many'}: embedding (24, 1280); 24 new in "
    assert result.stdout.startswith(expected)
    output_of(*arguments, "-o", tmp_path / "one")
    assert files(tmp_path / "many") == files(tmp_path / "one")


@pytest.mark.usefixtures("cluster")
def test_errors_are_those_of_one_process(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'relu1'"):
        transferkit.ray.extract(extractor, photos, tmp_path / "s", ["relu"])
    extractor.extract_to(tmp_path / "s", photos[:2], shard_size=7)
    with pytest.raises(ParameterError, match="shard_size is 7 in the store, 10 here"):
        transferkit.ray.extract(extractor, photos, tmp_path / "s", shard_size=10)
    with pytest.raises(ParameterError, match=r"num_cpus=3 and num_gpus=0, but Ray has 2 CPUs"):
        transferkit.ray.extract(extractor, photos, tmp_path / "s", num_cpus=3)
    with pytest.raises(ParameterError, match=r"num_gpus=1, but Ray has 2 CPUs and 0 GPUs"):
        transferkit.ray.extract(extractor, photos, tmp_path / "s", num_gpus=1)
    with pytest.raises(ArgumentTypeError, match="held: a Held cannot be sent to another process"):
        transferkit.ray.extract(extractor, [photos[0], Held()], tmp_path / "t")


class Held(NamedImage):
    """An image that cannot be pickled."""

    source = "held"

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def read(self) -> bytes:
        return b""


def test_mistakes_are_found_before_ray_starts(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UnknownNameError, match="unknown URL scheme 's4'"):
        transferkit.ray.extract(extractor, photos, "s4://b/f")
    with pytest.raises(ParameterError, match="num_workers is 0"):
        transferkit.ray.extract(extractor, photos, tmp_path, num_workers=0)
    with pytest.raises(ParameterError, match="num_gpus"):
        transferkit.ray.extract(extractor, photos, tmp_path, num_gpus=-1)
    with pytest.raises(ArgumentTypeError, match="fx is a str"):
        transferkit.ray.extract("resnet18", photos, tmp_path)  # type: ignore[arg-type]


def test_ray_is_not_installed(
    extractor: FeatureExtractor, photos: list[Path], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnsupportedError, match=r'pip install "transferkit\[ray\]"'):
        transferkit.ray.extract(extractor, photos, tmp_path)


class TestWorker:
    """A worker in this process."""

    @pytest.fixture
    def setup(
        self, extractor: FeatureExtractor, photos: list[Path], tmp_path: Path, monkeypatch: Any
    ) -> Setup:
        for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
            monkeypatch.setenv(variable, "7")
        folder = tmp_path / "s"
        extractor.extract_to(folder, photos[:5], LAYERS, shard_size=5)
        manifest = read_manifest(folder)
        return Setup(extractor, folder, manifest, None, os.getcwd(), threads=1)

    def order(self, photos: list[Path]) -> Any:
        pytest.importorskip("ray.data")
        slot = Slot(1, 5, 5, is_gap=False)
        return pack_order(slot, [WithSource(str(path), str(path)) for path in photos[5:10]])

    def test_a_shard_is_computed(self, setup: Setup, photos: list[Path], tmp_path: Path) -> None:
        report = unpack_report(ShardWorker(setup)(self.order(photos)))
        assert (report.num_rows, report.num_skipped) == (5, 0)
        assert os.environ["OMP_NUM_THREADS"] == "1"
        setup.extractor.extract_to(tmp_path / "one", photos[:10], LAYERS, shard_size=5)
        shards = {name: content for name, content in files(tmp_path / "one").items() if "-" in name}
        assert shards.items() <= files(setup.folder).items()

    def test_a_shard_that_ends_its_worker_is_given_up(
        self, setup: Setup, photos: list[Path]
    ) -> None:
        for attempt in range(3):
            (setup.folder / f".shard-000001.{attempt}.attempt.part").touch()
        unpack_report(ShardWorker(setup)(self.order(photos)))
        assert not list(setup.folder.glob(".shard-*"))
        for attempt in range(4):
            (setup.folder / f".shard-000001.{attempt}.attempt.part").touch()
        with pytest.raises(WorkerError, match=r"\(images 5 to 9 .* ended its worker 4 times"):
            unpack_report(ShardWorker(setup)(self.order(photos)))

    def test_another_machine(self, setup: Setup, photos: list[Path]) -> None:
        def error_of(**changes: Any) -> Exception:
            changed = Setup(**{**{name: getattr(setup, name) for name in names}, **changes})
            with pytest.raises((WorkerError, ParameterError)) as raised:
                unpack_report(ShardWorker(changed)(self.order(photos)))
            return raised.value

        names = Setup.__dataclass_fields__
        assert "does not see the store" in str(error_of(folder=setup.folder / "missing"))
        assert "folder in which the run was started" in str(error_of(working_directory="/missing"))
        weights = {name: 2 * array for name, array in setup.extractor.weights.items()}
        other = tiny_extractor(backend="onnxruntime", weights=weights)
        assert "weights_digest" in str(error_of(extractor=other))


def test_an_image_that_cannot_be_sent() -> None:
    pytest.importorskip("ray.data")
    slot = Slot(0, 0, 2, is_gap=False)
    images: list[Any] = [WithSource("a", "a"), WithSource("b", io.FileIO(os.devnull))]
    with pytest.raises(ArgumentTypeError, match="b: a FileIO cannot be sent to another process"):
        pack_order(slot, images)


@pytest.mark.usefixtures("cluster")
def test_the_process_is_as_before(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, str(TESTS / "unchanged_process.py"), tmp_path / "s"],
        env={name: value for name, value in environment.items() if not name.startswith("RAY_")},
        check=True,
    )
