"""The command line: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import done, failed, run, run_process
from PIL import Image
from samples import DEMO
from typer.testing import CliRunner

import transferkit
from transferkit import Classifier, FeatureExtractor
from transferkit.backends import Backend
from transferkit.cli import app, main
from transferkit.errors import DownloadError
from transferkit.weights import WeightsEntry, find_weights

CAT = DEMO / "cat.jpg"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of the demo's textures."""
    path = tmp_path_factory.mktemp("model") / "textures.safetensors"
    Classifier(backend="onnxruntime", C=10.0).fit(DEMO / "train").save(path)
    return path


# ------------------------------------------------------------------------------ the commands


def test_demo() -> None:
    text = done("demo", "--backend", "onnxruntime")
    assert "accuracy on 24 tiles not seen before: 1.000" in text
    assert "Egyptian cat" in text
    assert "transferkit fit FOLDER" in text


def test_fit_and_predict(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "textures.safetensors"
    text = done("fit", DEMO / "train", "-o", output, "--test", DEMO / "test", "--C", 10)
    assert f"saved {output}: 3 classes (brick, grass, gravel), C = 10" in text
    assert "accuracy on 24 images" in text
    expected = Classifier.load(model).evaluate(DEMO / "test")
    assert f"{expected.accuracy:.4f}" in text
    assert os.listdir(tmp_path) == ["textures.safetensors"]
    predicted = json.loads(done("predict", output, DEMO / "test", "--json"))["images"]
    for item in predicted:
        assert item["predictions"][0]["label"] == Path(item["source"]).parent.name


def test_fit_warns_of_judging_on_what_was_learnt(tmp_path: Path) -> None:
    folder = DEMO / "train"
    found = run("fit", folder, "-o", tmp_path / "m.safetensors", "--test", folder, "--C", 10)
    assert found.exit_code == 0
    assert f"{folder} is what was learnt from" in found.stderr


def test_fit_names_the_pairs_that_are_confused(tmp_path: Path) -> None:
    folder = tmp_path / "test"
    for name, of in {"brick": "grass", "grass": "brick", "gravel": "gravel"}.items():
        shutil.copytree(DEMO / "test" / of, folder / name)
    text = done(
        "fit", DEMO / "train", "-o", tmp_path / "m.safetensors", "--test", folder, "--C", 10
    )
    assert "accuracy on 24 images" in text
    assert "0.3333" in text
    rows = [
        line.split()
        for line in text.splitlines()
        if "brick" in line and "grass" in line and "saved" not in line
    ]
    assert {tuple(part for part in row if part.isalnum()) for row in rows} == {
        ("brick", "grass", "8"), ("grass", "brick", "8"),
    }  # fmt: skip


def test_predict_as_table_json_and_csv(model: Path) -> None:
    paths = [DEMO / "test" / "grass" / "grass-1.jpg", CAT]
    classifier = Classifier.load(model)
    expected = classifier.predict_top(paths, k=2)
    table = done("predict", model, *paths)
    for path, best in zip(paths, expected, strict=True):
        (row,) = [line for line in table.splitlines() if str(path) in line]
        assert str(best[0].label) in row
        assert f"{best[0].probability:.3f}" in row
    found = json.loads(done("predict", model, *paths, "--json", "--top", 2))
    assert found["skipped"] == []
    assert [item["source"] for item in found["images"]] == [str(path) for path in paths]
    rows = list(csv.DictReader(io.StringIO(done("predict", model, *paths, "--csv", "--top", 2))))
    assert len(rows) == 4
    for index, best in enumerate(expected):
        for rank, prediction in enumerate(best):
            item = found["images"][index]["predictions"][rank]
            assert item["label"] == prediction.label
            assert item["probability"] == pytest.approx(prediction.probability, abs=1e-5)
            row = rows[2 * index + rank]
            assert (row["source"], row["rank"]) == (str(paths[index]), str(rank + 1))
            assert row["label"] == prediction.label
            assert float(row["probability"]) == pytest.approx(prediction.probability, abs=1e-5)


@pytest.mark.parametrize("option", [("--weights", "keras"), ("--network", "vgg16")])
def test_predict_with_a_model_and_another_network(model: Path, option: tuple[str, str]) -> None:
    result = run("predict", model, CAT, *option)
    assert result.exit_code == 2
    message = " ".join(result.stderr.replace("│", " ").split())
    assert f"has its own network and weights; leave out {option[0]}" in message


def test_predict_without_a_model() -> None:
    (item,) = json.loads(done("predict", CAT, "--json", "--top", 3))["images"]
    assert item["predictions"][0]["label"] == "Egyptian cat"
    assert len(item["predictions"]) == 3


def test_extract(tmp_path: Path) -> None:
    output = tmp_path / "features.npz"
    text = done(
        "extract", DEMO / "test" / "grass", CAT, "-o", output, "--layer", "features.18",
        "--layer", "embedding", "--batch-size", 4,
    )  # fmt: skip
    assert "features.18 (9, 7, 7, 1280), embedding (9, 1280)" in text
    expected = FeatureExtractor(backend="onnxruntime").extract(
        [*sorted((DEMO / "test" / "grass").iterdir()), CAT], ["features.18", "embedding"]
    )
    with np.load(output) as archive:
        assert archive["sources"].tolist() == expected.sources
        for layer in expected:
            scale = np.abs(expected[layer]).max()
            np.testing.assert_allclose(archive[layer], expected[layer], atol=1e-4 * scale)


def test_lists() -> None:
    assert "mobilenet_v2" in done("networks")
    layers = done("layers", "mobilenet_v2")
    assert "features.6 " in layers
    assert "28 x 28 x 32" in layers
    found = run("backends")
    assert found.exit_code == 0
    for name in ("onnxruntime", "torch", "tensorflow", "inference"):
        assert name in found.stdout
    assert done("--version") == f"transferkit {transferkit.__version__}\n"
    for command in (
        "demo", "fit", "predict", "extract", "show-layer", "networks", "download", "cache",
        "layers", "backends",
    ):  # fmt: skip
        assert command in done("--help")
        assert done(command, "--help")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and no other."""
    monkeypatch.setenv("TRANSFERKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "cache"


def test_networks(cache: Path) -> None:
    cache.mkdir()
    with (cache / "resnet50-11ad3fa6.pth").open("wb") as file:
        file.truncate(int(find_weights("resnet50", "imagenet1k_v2").size * 1024**2))
    (cache / "resnet50-0676ba61.pth").touch()
    rows = [
        [cell.strip() for cell in line.strip("│\n").split("│")]
        for line in done("networks").splitlines()
        if line.startswith("│")
    ]
    start = [row[0] for row in rows].index("resnet50")
    assert rows[start : start + 3] == [
        ["resnet50", "ResNet", "2015", "25.6 M", "4.09 G", "224 x 224",
         "imagenet1k_v1 (torchvision)", "0.761", "damaged"],
        ["", "", "", "", "", "", "imagenet1k_v2 (torchvision)", "0.809", "yes"],
        ["", "", "", "", "", "", "keras", "0.749", "no"],
    ]  # fmt: skip
    (packaged,) = (row for row in rows if row[0] == "mobilenet_v2")
    assert packaged[-1] == "in the package"


def test_download_and_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert done("download", "mobilenet_v2") == "mobilenet_v2, imagenet1k_v1: in the package\n"
    assert done("cache", "list") == f"{cache}: 0 files\n"
    asked = []

    def fetch(entry: WeightsEntry, *, progress: bool | None) -> Path:
        asked.append((entry.network, entry.name, progress))
        return cache / entry.file

    monkeypatch.setattr("transferkit.weights.fetch", fetch)
    text = done("download", "vgg16", "resnet50", "--weights", "keras", "-q")
    assert asked == [("vgg16", "keras", False), ("resnet50", "keras", False)]
    assert f"{cache / 'vgg16_weights_tf_dim_ordering_tf_kernels.h5'}\n" in text
    cache.mkdir()
    (cache / "vgg16-397923af.pth").write_bytes(b"x" * 1_500_000)
    text = done("cache", "list")
    assert "vgg16-397923af.pth │ 1.5 MB" in text
    assert f"{cache}: 1 file\n" in text
    # Asked, and answered with no.
    result = CliRunner().invoke(app, ["cache", "clear"], input="n\n")
    assert result.exit_code == 1
    assert os.listdir(cache) == ["vgg16-397923af.pth"]
    assert done("cache", "clear", "--yes") == f"{cache}: 1 file removed\n"
    assert os.listdir(cache) == []


def test_a_download_that_cannot_be(cache: Path) -> None:
    # The second name is looked up before the first file would be fetched.
    assert "unknown network 'vgg99'" in failed("download", "vgg16", "vgg99")
    assert "available: imagenet1k_v1" in failed("download", "vgg11", "--weights", "keras")
    message = failed("download", "vgg16")
    assert "TRANSFERKIT_OFFLINE is set" in message
    assert str(cache / "vgg16-397923af.pth") in message
    assert not cache.exists()


def test_a_download_that_fails_leaves_out_no_other(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(entry: WeightsEntry, *, progress: bool | None) -> Path:  # noqa: ARG001
        if entry.network == "vgg16":
            raise DownloadError("gone")
        return cache / entry.file

    monkeypatch.setattr("transferkit.weights.fetch", fetch)
    result = run("download", "vgg16", "resnet50")
    assert result.exit_code == 1
    assert result.stderr == "error: gone\n"
    assert "resnet50-0676ba61.pth" in result.stdout


def test_a_warning_is_told_in_a_line(cache: Path) -> None:
    cache.mkdir()
    (cache / "vgg16-397923af.pth").write_bytes(b"damaged")
    result = run("download", "vgg16")
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert first.startswith(f"warning: {cache / 'vgg16-397923af.pth'} is not used: ")
    assert second.startswith("error: ")


# ----------------------------------------------------------------------------------- failing


def test_every_kind_of_bad_input(tmp_path: Path, model: Path) -> None:
    empty, one, alone, text = (tmp_path / name for name in ("empty", "one", "alone", "text.jpg"))
    empty.mkdir()
    shutil.copytree(DEMO / "test" / "grass", one / "grass")
    for name in ("brick", "grass"):
        (alone / name).mkdir(parents=True)
        shutil.copy(CAT, alone / name)
    text.write_text("no picture")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(model.read_bytes()[:-1])
    output = tmp_path / "out.safetensors"
    features = tmp_path / "out.npz"
    missing = tmp_path / "missing"
    cases: list[tuple[tuple[object, ...], str]] = [
        (("fit", missing, "-o", output), "no such file or folder"),
        (("fit", empty, "-o", output), "no folders and no pictures"),
        (("fit", one, "-o", output), "are of one class"),
        (("fit", alone, "-o", output), "only one image of each of the classes"),
        (("fit", CAT, "-o", output), "is a file"),
        (("fit", DEMO / "train", "-o", missing / "out.safetensors"), "there is no folder"),
        (("fit", DEMO / "train", "-o", tmp_path), "end the name of a classifier's file in"),
        (("fit", DEMO / "train", "-o", output, "--test", empty), "no folders and no pictures"),
        (("fit", DEMO / "train", "-o", output, "--C", "-1"), "C is -1.0"),
        (("fit", DEMO / "train", "-o", output, "--C", "nan"), "C is nan"),
        (("fit", DEMO / "train", "-o", output, "--network", "mobilenet"), "'mobilenet_v2'"),
        (("fit", DEMO / "train", "-o", output, "--backend", "onnx"), "unknown backend 'onnx'"),
        (("predict", missing), "none of the 1 images"),
        (("predict", text), "none of the 1 images"),
        (("predict", empty), "there are no images in this folder"),
        (("predict", model), "no images were given"),
        (("predict", broken, CAT), "no safetensors file, damaged or cut short"),
        (("predict", missing.with_suffix(".safetensors"), CAT), "there is no such file"),
        (("extract", CAT, "-o", tmp_path / "out.csv"), "end its name in .npz"),
        (("extract", CAT, "-o", missing / "out.npz"), "there is no folder"),
        (("extract", CAT, "-o", features, "--layer", "embeding"), "'embedding'"),
        (("extract", text, "-o", features), "none of the 1 images"),
        (("layers", "vgg"), "unknown network 'vgg'"),
    ]
    for arguments, message in cases:
        assert message in failed(*arguments), arguments
    assert not output.exists()
    assert not features.exists()


def test_wrong_usage() -> None:
    for arguments in (
        ("predict", CAT, "--json", "--csv"),
        ("predict", CAT, "--top", 0),
        ("predict", CAT, "model.safetensors"),
        ("predict",),
        ("fit", DEMO),
        ("explode",),
        ("extract", CAT, "-o", "features.npz", "--batch-size", 0),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, arguments
        assert "Traceback" not in result.output
        assert result.stderr


def test_what_was_skipped_is_told_at_the_end(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "train"
    shutil.copytree(DEMO / "train", folder)
    broken = folder / "brick" / "broken.jpg"
    broken.write_text("no picture")
    cut = folder / "grass" / "cut.jpg"
    cut.write_bytes(CAT.read_bytes()[:2000])
    result = run("fit", folder, "-o", tmp_path / "m.safetensors", "--C", 10)
    assert result.exit_code == 0
    first, *others = result.stderr.splitlines()
    assert first == "skipped 2 images that cannot be read:"
    assert [line.split(":")[0].strip() for line in others] == [str(broken), str(cut)]
    for arguments in (("predict", model), ("extract", "-o", tmp_path / "features.npz")):
        result = run(*arguments, CAT, broken)
        assert result.exit_code == 0
        assert result.stderr.splitlines()[0] == "skipped 1 image that cannot be read:"
        assert str(broken) in result.stderr.splitlines()[1]
    result = run("predict", model, CAT, broken, "--json")
    assert json.loads(result.stdout)["skipped"][0]["source"] == str(broken)


# ----------------------------------------------------------------------------- unusual names


NAMES = ["a b.jpg", "[bold]c[/bold].jpg", "[/nothing].jpg", "ü 猫.jpg", "line\nbreak.jpg",
         "bell\x07\x1b[31m.jpg", "-dash.jpg", ":cat:.jpg", "50%.jpg"]  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not allow such names")
def test_unusual_file_names(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "[red] photos"
    folder.mkdir()
    for name in NAMES:
        # What rich would take for the end of markup goes over a folder's name and a file's.
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(CAT, folder / name)
    expected = [str(path) for path in transferkit.list_images(folder)]
    found = json.loads(done("predict", model, folder, "--json"))
    assert [item["source"] for item in found["images"]] == expected
    rows = csv.DictReader(io.StringIO(done("predict", model, folder, "--csv"), newline=""))
    assert [row["source"] for row in rows] == expected
    table = done("predict", model, folder)
    assert "\x1b" not in table
    assert "\x07" not in table
    for name in NAMES:
        shown = name.replace("\n", "\\n").replace("\x07", "\\x07").replace("\x1b", "\\x1b")
        assert sum(f"/{shown} " in line for line in table.splitlines()) == 1, name
    output = tmp_path / "[red]out.npz"
    assert f"saved {output}:" in done("extract", folder, "-o", output)
    with np.load(output) as archive:
        assert archive["sources"].tolist() == expected


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not allow such names")
def test_unusual_names_in_errors(tmp_path: Path) -> None:
    for name in ("[bold]a.jpg", "line\nbreak.jpg", "[/red].jpg"):
        assert name.replace("\n", "\\n") in failed("predict", tmp_path / name)


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not allow such names")
def test_names_that_are_no_text(tmp_path: Path, model: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\xfe.jpg"
    shutil.copy(os.fsencode(CAT), path)
    shutil.copy(os.fsencode(CAT), path + b".broken")
    Path(os.fsdecode(path) + ".broken").write_text("no picture")
    for options, shown in (((), rb"\udcff\udcfe.jpg"), (("--json",), rb"\udcff\udcfe.jpg"),
                           (("--csv",), b"\xff\xfe.jpg")):  # fmt: skip
        result = run_process(
            "predict", model, os.fsdecode(path), os.fsdecode(path) + ".broken", *options
        )
        assert result.returncode == 0, result.stderr
        assert shown in result.stdout
        assert b"skipped 1 image" in result.stderr


# -------------------------------------------------------------------------- signals and pipes


INTERRUPTING = """
import os, signal, sys
# What started the tests may have told its children to ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from transferkit.backends import Program
run, calls = Program.run, 0
def interrupting(self, pixels, layers):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), signal.SIGINT)
    return run(self, pixels, layers)
Program.run = interrupting
from transferkit.cli import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent in other ways there")
def test_an_interrupted_extraction_is_gone_on_with(tmp_path: Path) -> None:
    output = tmp_path / "features.npz"
    arguments = ("extract", DEMO / "test", "-o", output, "--batch-size", 4)
    result = run_process(*arguments, code=INTERRUPTING)
    assert result.returncode == 130
    assert result.stdout == b""
    assert result.stderr == b"interrupted; call it again to go on from there\n"
    assert os.listdir(tmp_path) == ["features.npz.partial"]
    with np.load(tmp_path / "features.npz.partial") as archive:
        assert archive["embedding"].shape == (8, 1280)
    assert "embedding (24, 1280)" in done(*arguments)
    assert os.listdir(tmp_path) == ["features.npz"]
    done("extract", DEMO / "test", "-o", tmp_path / "whole.npz", "--batch-size", 4)
    with np.load(output) as resumed, np.load(tmp_path / "whole.npz") as whole:
        assert resumed["sources"].tolist() == whole["sources"].tolist()
        np.testing.assert_allclose(resumed["embedding"], whole["embedding"], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent in other ways there")
def test_an_interrupted_fit_leaves_nothing(tmp_path: Path) -> None:
    output = tmp_path / "m.safetensors"
    result = run_process("fit", DEMO / "train", "-o", output, "--batch-size", 4, code=INTERRUPTING)
    assert result.returncode == 130
    assert result.stderr == b"interrupted\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in other ways there")
@pytest.mark.parametrize("options", [["--json", "--top", "900"], ["--csv"], []])
def test_a_reader_that_goes_away(options: list[str]) -> None:
    """As with ``| head -1``: the rest is not asked for, and that is no error to tell."""
    process = subprocess.Popen(
        [sys.executable, "-m", "transferkit", "predict", str(CAT), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    told = process.stderr.read()
    process.stderr.close()
    assert told == b""
    assert process.wait(120) in (0, 1, -signal.SIGPIPE)


def test_main_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    with pytest.raises(SystemExit) as caught:
        main(["layers", "mobilenetv2"])
    assert caught.value.code == 1
    assert "did you mean 'mobilenet_v2'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0


def test_progress_is_not_shown_off_a_terminal(tmp_path: Path) -> None:
    Image.open(CAT).save(tmp_path / "cat.png")
    result = run_process("predict", tmp_path / "cat.png")
    assert result.returncode == 0
    assert result.stderr == b""
    assert b"Egyptian cat" in result.stdout
    assert b"\x1b" not in result.stdout


# ---- visualize ---------------------------------------------------------------------------


def test_visualize_classes(differentiable: Backend, tmp_path: Path) -> None:
    output, animation = tmp_path / "ideal.png", tmp_path / "ideal.gif"
    options = ("--backend", differentiable.name, "--steps", "2", "--size", "48", "--quiet")
    printed = done("visualize", "zebra", "284", "-o", output, "--animation", animation, *options)
    assert f"saved {output}: 2 steps" in printed
    assert "Siamese cat" in printed
    with Image.open(output) as picture, Image.open(animation) as frames:
        assert picture.width > 2 * 48
        assert frames.n_frames == 2
    first = output.read_bytes()
    done("visualize", "zebra", "284", "-o", output, *options)
    assert output.read_bytes() == first
    done("visualize", "zebra", "284", "-o", output, "--seed", "1", *options)
    assert output.read_bytes() != first


def test_an_interrupted_visualization_writes_what_it_has(
    differentiable: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transferkit.optimization.visualization.transforms import TransformChain

    sample, calls = TransformChain.sample, itertools.count()

    def interrupted(*arguments: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return sample(*arguments)

    monkeypatch.setattr(TransformChain, "sample", interrupted)
    output, animation = tmp_path / "ideal.png", tmp_path / "way.gif"
    options = ("--size", 32, "--backend", differentiable.name, "--animation", animation)
    found = run("visualize", "zebra", "-o", output, *options)
    assert found.exit_code == 130
    assert found.stderr == "interrupted after 2 of 256 steps\n"
    assert f"saved {output}: 2 steps" in found.stdout
    assert sorted(tmp_path.iterdir()) == [output, animation]


def test_visualize_channels(differentiable: Backend, tmp_path: Path) -> None:
    output = tmp_path / "channels.jpg"
    options = ("--backend", differentiable.name, "--steps", "1", "--size", "32", "-q")
    printed = done(
        "visualize", "--layer", "features.2", "--channels", "2:5", "-o", output, *options
    )
    assert "probability" not in printed
    with Image.open(output) as picture:
        assert picture.format == "JPEG"
    done("visualize", "--layer", "features.2", "--start", CAT, "-o", output, *options)
    with Image.open(output) as picture:
        assert picture.size == (32, 32)


def test_visualize_what_is_not_there(differentiable: Backend, tmp_path: Path) -> None:
    output = ("-o", tmp_path / "ideal.png", "--backend", differentiable.name)
    assert "'crane bird' (index 134" in failed("visualize", "crane", *output)
    assert "imagenet1k_v1" in failed("visualize", "zebra", "--weights", "torchvison", *output)
    folder = ("-o", tmp_path / "out", *output[2:])
    assert "imagenet1k_v1" in failed("attack", CAT, "--weights", "torchvison", *folder)
    assert "did you mean 'zebra'" in failed("visualize", "zebar", *output)
    layer = ("--layer", "features.2", "--channels")
    assert "0 to 23" in failed("visualize", *layer, "20:30", *output)
    assert ".png" in failed("visualize", "zebra", "-o", tmp_path / "ideal.txt")
    assert ".gif" in failed("visualize", "zebra", *output, "--animation", tmp_path / "way.png")
    for wrong in (
        ("zebra", "--layer", "features.2"),
        (),
        ("zebra", "--channels", "7"),
        (*layer, "7:7"),
        (*layer, "a:b"),
        (*layer, ""),
    ):
        assert run("visualize", *wrong, *output).exit_code == 2
    assert not list(tmp_path.iterdir())


def test_pictures_of_a_classifier_of_ones_own(
    differentiable: Backend, model: Path, tmp_path: Path
) -> None:
    options = ("--network", model, "--backend", differentiable.name, "-q")
    picture = ("-o", tmp_path / "own.png", *options)
    assert "grass" in done("visualize", "grass", "--steps", "1", "--size", "32", *picture)
    assert "brick" in failed("visualize", "zebra", *picture)
    assert run("visualize", "grass", "--weights", "keras", *picture).exit_code == 2
    folder = ("-o", tmp_path / "out", *options)
    grass = DEMO / "test" / "grass"
    printed = done("attack", grass, "--target", "0", "--epsilon", "4", "--steps", "5", *folder)
    assert "brick" in printed
    assert "4.00/255" in printed
    done("attack", grass, "--method", "carlini-wagner", "--steps", "1", *folder)


def test_an_interrupted_attack_says_so(
    differentiable: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("transferkit.optimization.attacks.base.AttackRunner._evaluate", interrupt)
    found = run("attack", CAT, "-o", tmp_path, "--backend", differentiable.name, "-q")
    assert found.exit_code == 130
    assert "interrupted" in found.stderr


def test_panels_take_no_name_of_another_picture(differentiable: Backend, tmp_path: Path) -> None:
    photos = [tmp_path / name for name in ("a.jpg", "a.panel.jpg")]
    for photo in photos:
        shutil.copy(CAT, photo)
    options = ("--steps", 1, "--json", "--backend", differentiable.name, "-q")
    found = run("attack", *photos, "-o", tmp_path / "out", *options)
    rows = json.loads(found.stdout)["images"]
    files = [row[kind] for row in rows for kind in ("file", "panel")]
    assert len(set(files)) == 4
    assert sorted(files) == sorted(map(str, (tmp_path / "out").iterdir()))


def test_visualize_without_gradients(tmp_path: Path) -> None:
    said = failed("visualize", "zebra", "-o", tmp_path / "a.png", "--backend", "onnxruntime")
    assert 'pip install "transferkit[torch]"' in said
