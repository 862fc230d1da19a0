"""Processes that are forked after a backend was loaded, or after it has computed."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
import time

import pytest

from transferkit.backends import Backend
from transferkit.support.locks import ForkSafeLock

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="the platform has no fork"
)

_TIMEOUT = 120

# A parent that may predict before it forks, and a child that predicts and exits.
_SCRIPT = """
import multiprocessing, os, sys, threading, time
import numpy as np
from transferkit import FeatureExtractor
from transferkit.errors import UnsupportedError

backend, before, how, *in_child = sys.argv[1:]
images = np.random.default_rng(0).random((6, 96, 96, 3), np.float32)

def extractor():
    return FeatureExtractor("mobilenet_v2", backend=backend, batch_size=6, progress=False)

fx = extractor()
expected = None
if before == "predict":
    expected = fx.transform(images)
elif before == "load":
    fx.model()

def run_child():
    for line in in_child:
        exec(line)
    for inherited in (fx, extractor()):
        try:
            result = inherited.transform(images)
        except UnsupportedError as error:
            print("error:", error, flush=True)
        else:
            # The first result in the child is what others are compared with.
            same = expected is None or np.array_equal(result, expected)
            print("same" if same else "different", flush=True)

if how == "os.fork":
    pid = os.fork()
    if pid == 0:
        run_child()
        sys.exit(0)
    deadline = time.monotonic() + 40
    while (state := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            sys.exit("the child does not exit")
        time.sleep(0.02)
    code = os.waitstatus_to_exitcode(state[1])
else:
    child = multiprocessing.get_context("fork").Process(target=run_child)
    child.start()
    child.join(40)
    code = child.exitcode
    if code is None:
        child.kill()
        sys.exit("the child does not exit")
print("exit code", code)
if expected is not None:
    print("parent", np.array_equal(fx.transform(images), expected))
"""


def _run(*arguments: str) -> list[str]:
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout.splitlines()


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_a_child_predicts_as_its_parent_did_or_is_told_to_be_spawned(
    backend: Backend, how: str
) -> None:
    _skip_exit_of_tensorflow(backend, how)
    first, second, *rest = _run(backend.name, "predict", how)
    assert rest == ["exit code 0", "parent True"]
    if backend.name == "onnxruntime":
        assert [first, second] == ["same", "same"]
    else:
        _check_error(backend, first)
        _check_error(backend, second)


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_a_child_predicts_if_its_parent_has_only_loaded_the_model(
    backend: Backend, how: str
) -> None:
    _skip_exit_of_tensorflow(backend, how)
    first, second, *rest = _run(backend.name, "load", how)
    assert rest == ["exit code 0"]
    if backend.name == "tensorflow":  # it starts when its devices are listed
        _check_error(backend, first)
        _check_error(backend, second)
    else:
        assert [first, second] == ["same", "same"]


def test_a_child_predicts_if_its_parent_has_only_imported_the_package(backend: Backend) -> None:
    assert _run(backend.name, "import", "os.fork") == ["same", "same", "exit code 0"]


def test_a_child_with_one_thread_predicts_with_torch(backend: Backend) -> None:
    if backend.name != "torch":
        pytest.skip("the remedy is PyTorch's")
    lines = _run("torch", "predict", "os.fork", "import torch; torch.set_num_threads(1)")
    assert lines[-2:] == ["exit code 0", "parent True"]
    assert not any(line.startswith("error") for line in lines)


# A fork while images are read in threads, in a consumer of batches and in a source of images.
_READING_SCRIPT = """
import os, sys, time
import numpy as np
from PIL import Image
from transferkit.images import Preprocessing, stream_batches

def images(fork):
    for index in range(40):
        if fork and index == 20:
            run_child()
        yield Image.fromarray(np.full((300, 300, 3), index, np.uint8))

def read(fork=False):
    return stream_batches(images(fork), Preprocessing(64), batch_size=4)

def run_child():
    pid = os.fork()
    if pid == 0:
        print("child", sum(len(batch.pixels) for batch in read()), flush=True)
        sys.exit(0)
    deadline = time.monotonic() + 40
    while (state := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            sys.exit("the child does not exit")
        time.sleep(0.02)
    # Flushed, so that no child writes it again.
    print("exit code", os.waitstatus_to_exitcode(state[1]), flush=True)

count = 0
for batch in read():
    if count == 8:
        run_child()
    count += len(batch.pixels)
print("parent", count + sum(len(batch.pixels) for batch in read(fork=True)))
"""


def test_images_can_be_read_in_a_child_that_is_forked_while_images_are_read() -> None:
    process = subprocess.run(
        [sys.executable, "-c", _READING_SCRIPT],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=True,
    )
    child = ["child 40", "exit code 0"]
    assert process.stdout.splitlines() == [*child, *child, "parent 80"]


def test_a_lock_held_in_the_parent_is_free_in_the_child() -> None:
    lock, is_held, is_done = ForkSafeLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            is_done.wait(_TIMEOUT)

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait(_TIMEOUT)
    child = multiprocessing.get_context("fork").Process(target=_acquire, args=(lock,))
    child.start()
    child.join(30)
    exit_code = child.exitcode
    child.kill()
    is_done.set()
    holder.join()
    assert exit_code == 0


def test_a_lock_excludes_other_threads() -> None:
    lock, values = ForkSafeLock(), [0]

    def count() -> None:
        for _ in range(200):
            with lock:
                value = values[0]
                time.sleep(0)
                values[0] = value + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == [800]


def _skip_exit_of_tensorflow(backend: Backend, how: str) -> None:
    if backend.name == "tensorflow" and how == "os.fork":
        pytest.skip("TensorFlow's destructors wait for its threads when such a child exits")


def _check_error(backend: Backend, line: str) -> None:
    framework = {"torch": "PyTorch", "tensorflow": "TensorFlow"}[backend.name]
    assert line.startswith(f"error: {framework} was started in the parent process")
    assert 'multiprocessing.get_context("spawn")' in line
    assert "gunicorn: omit --preload" in line


def _acquire(lock: ForkSafeLock) -> None:
    with lock, lock:
        pass
