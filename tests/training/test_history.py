from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pickle
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from transferkit.errors import OutputError, ParameterError, UnknownNameError, UnsupportedError
from transferkit.training import Candidate, EpochRecord, History, StepRecord, Trial
from transferkit.training.history import PROBE, epoch_name

NUMBERS = st.floats()
COUNTS = st.integers(1, 10**9)
STEPS = st.builds(StepRecord, COUNTS, COUNTS, *[NUMBERS] * 5)
EPOCHS = st.builds(EpochRecord, COUNTS, *[NUMBERS] * 2, *[NUMBERS | st.none()] * 2, *[NUMBERS] * 3)
CANDIDATES = st.builds(Candidate, st.text(), NUMBERS | st.none(), NUMBERS | st.none())
TRIALS = st.builds(Trial, NUMBERS, NUMBERS, NUMBERS)
SCALARS = st.none() | st.booleans() | st.integers() | NUMBERS | st.text()
CHOICES = st.dictionaries(st.text(), SCALARS | st.lists(SCALARS))


@st.composite
def histories(draw: st.DrawFn) -> History:
    candidates = draw(st.lists(CANDIDATES, max_size=3))
    names = [candidate.name for candidate in candidates]
    return History(
        draw(st.lists(STEPS, max_size=3)),
        draw(st.lists(EPOCHS, max_size=3)),
        candidates,
        draw(st.sampled_from([None, *names])),
        draw(st.lists(TRIALS, max_size=3)),
        draw(CHOICES),
        draw(st.booleans()),
    )


def history(
    epochs: int = 3, *, length: int = 4, further: int = 0, validation: bool = True, **entries: Any
) -> History:
    """A training of some epochs of several steps, and further steps of an incomplete epoch."""
    steps = [
        StepRecord(
            step=step,
            epoch=(step - 1) // length + 1,
            loss=1 / step,
            accuracy=1 - 1 / (step + 1),
            learning_rate=1e-3 / step,
            gradient_norm=2.0,
            seconds=0.5 * step,
        )
        for step in range(1, epochs * length + further + 1)
    ]
    records = [
        EpochRecord(
            epoch=epoch,
            loss=1 / epoch,
            accuracy=1 - 1 / (epoch + 1),
            validation_loss=1.5 / epoch if validation else None,
            validation_accuracy=0.9 - 0.2 / epoch if validation else None,
            learning_rate=1e-3 / epoch,
            gradient_norm=2.0,
            seconds=0.5 * epoch * length,
        )
        for epoch in range(1, epochs + 1)
    ]
    candidates = [Candidate(PROBE, 0.8, 0.6) if validation else Candidate(PROBE, None, None)]
    candidates += [
        Candidate(epoch_name(record.epoch), record.validation_loss, record.validation_accuracy)
        for record in records
    ]
    given = {"steps": steps, "epochs": records, "candidates": candidates, **entries}
    return History(**given)


@given(histories())
def test_a_history_is_the_same_after_json(given: History) -> None:
    text = json.dumps(given.to_dict(), allow_nan=False)
    restored = History.from_dict(json.loads(text))
    # NaN is not equal to itself, but has one repr.
    assert repr(dataclasses.astuple(restored)) == repr(dataclasses.astuple(given))
    assert restored.to_dict() == given.to_dict()


@given(histories())
def test_a_history_can_be_pickled(given: History) -> None:
    copy = pickle.loads(pickle.dumps(given))
    assert repr(dataclasses.astuple(copy)) == repr(dataclasses.astuple(given))


def test_values_of_numpy_become_those_of_python() -> None:
    record = StepRecord(
        np.int64(1), np.int64(1), np.float32(np.inf), np.float32(0.5), 0.1, 2.0, 3.0
    )  # type: ignore[arg-type]
    choices = {"flip": np.bool_(True), "rates": (np.float32(0.5), 1)}
    data = History([record], choices=choices).to_dict()
    assert History.from_dict(json.loads(json.dumps(data))) == History(
        [StepRecord(1, 1, math.inf, 0.5, 0.1, 2.0, 3.0)],
        choices={"flip": True, "rates": [0.5, 1]},
    )


def test_a_choice_that_json_cannot_express_is_an_error() -> None:
    with pytest.raises(ParameterError, match=r"choices\['x'\] is array\(\[1, 2\]\); exp"):
        History(choices={"x": np.array([1, 2])}).to_dict()


def test_later_changes_of_the_lists_do_not_change_a_history() -> None:
    trials = [Trial(0.1, 0.5, 0.5)]
    given = History(trials=trials)
    trials.clear()
    assert given == History(trials=(Trial(0.1, 0.5, 0.5),))


def test_best_is_a_candidate() -> None:
    with pytest.raises(ParameterError, match=r"best is 'epoch 4'; .* a candidate: 'probe, epoch 1"):
        history(best="epoch 4")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["unknown"], 1, r"history: missing entries: none; unknown: \['unknown'\]"),
        (["steps"], [], r"steps is \[\]; expected a mapping"),
        (["steps", "loss"], 3, r"steps\['loss'\] is 3; expected a list"),
        (["steps", "loss"], [0.5], r"steps: lists of lengths \[1, 12\]; expected one"),
        (["steps", "loss", 0], "high", r"steps\['loss'\] has 'high'; expected numbers"),
        (["steps", "loss", 0], True, r"steps\['loss'\] has True; expected numbers"),
        (["steps", "loss", 0], None, r"steps\['loss'\] has None; expected numbers"),
        (["steps", "loss", 0], 10**400, r"steps\['loss'\] has 10+\.\.\.; expected a float"),
        (["steps", "loss", 0], {"float": "1"}, r"is \{'float': '1'\}; expected nan, inf or -inf"),
        (["steps", "loss", 0], {"float": ["nan"]}, "expected nan, inf or -inf"),
        (["steps", "loss", 0], {"int": "1"}, r"missing entries: float; unknown: \['int'\]"),
        (["steps", "step", 0], 0, r"steps\['step'\] is 0; expected an integer of at least 1"),
        (["epochs", "epoch", 0], 1.0, r"epochs\['epoch'\] is 1.0; expected an integer"),
        (["candidates", "name", 0], 3, r"candidates\['name'\] is 3; expected text"),
        (["best"], 3, "best is 3; expected text"),
        (["best"], "epoch 9", "best is 'epoch 9'"),
        (["choices"], [1], r"choices is \[1\]; expected a mapping"),
        (["choices", "x"], {"a": 1}, r"choices\['x'\]: missing entries: float"),
        (["interrupted"], "no", "interrupted is 'no'; expected True or False"),
    ],
)
def test_damaged_data_is_an_error(path: list[Any], value: object, message: str) -> None:
    data = history().to_dict()
    inner: Any = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ParameterError, match=message):
        History.from_dict(data)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(History)])
def test_a_missing_entry_is_an_error(name: str) -> None:
    data = history().to_dict()
    del data[name]
    with pytest.raises(ParameterError, match=f"history: missing entries: {name}; unknown: "):
        History.from_dict(data)
    with pytest.raises(ParameterError, match="history is 3; expected a mapping"):
        History.from_dict(3)  # type: ignore[arg-type]


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_arbitrary_data_is_read_or_a_parameter_error(value: Any) -> None:
    data = history().to_dict()
    for name in data:
        for changed in (data | {name: value}, data | {name: {"x": value}}):
            with contextlib.suppress(ParameterError):
                History.from_dict(changed)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (History(), "History(0 epochs)"),
        (history(1), "History(1 epoch, training accuracy 0.5000)"),
        (history(best="epoch 2"), "History(3 epochs, best: epoch 2, validation accuracy 0.8000)"),
        (
            history(validation=False, best="epoch 3", interrupted=True),
            "History(3 epochs, best: epoch 3, training accuracy 0.7500, interrupted)",
        ),
    ],
)
def test_repr(given: History, expected: str) -> None:
    assert repr(given) == expected


def test_records_are_converted_to_data_frames() -> None:
    pytest.importorskip("pandas")
    given = history(validation=False, trials=[Trial(0.1, math.nan, 0.5)])
    steps, epochs = given.to_pandas("steps"), given.to_pandas()
    assert steps["step"].tolist() == list(range(1, 13))
    assert steps.columns.tolist() == [field.name for field in dataclasses.fields(StepRecord)]
    np.testing.assert_array_equal(steps["loss"], 1 / np.arange(1, 13))
    assert epochs["epoch"].tolist() == [1, 2, 3]
    assert epochs["epoch"].dtype == np.int64
    assert epochs["validation_loss"].dtype == np.float64
    assert epochs["validation_loss"].isna().all()
    assert given.to_pandas("candidates")["name"].tolist()[:2] == ["probe", "epoch 1"]
    assert given.to_pandas("trials")["learning_rate"].tolist() == [0.1]
    assert History().to_pandas("candidates").shape == (0, 3)
    with pytest.raises(UnknownNameError, match="a history has no table 'step'; did you mean 'ste"):
        given.to_pandas("step")


def test_a_data_frame_needs_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UnsupportedError, match="pip install pandas"):
        history().to_pandas()


def colors(path: Path) -> Counter[Any]:
    """The number of pixels of each color in an image file."""
    with Image.open(path) as image:
        return Counter(image.convert("RGB").get_flattened_data())


BLUE, ORANGE, RED, GRAY = (31, 119, 180), (255, 127, 14), (214, 39, 40), (102, 102, 102)


def test_the_plot_shows_training_validation_probe_and_kept_weights(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "history.png"
    # A few pixels of text may have the gray of the probe.
    shown: dict[str, Counter[Any]] = {}
    for name, plotted in {
        "all": history(best="epoch 2"),
        "no validation": history(validation=False, best="epoch 3"),
        "no best": history(),
        "no probe": history(candidates=[]),
    }.items():
        plotted.plot(path)
        shown[name] = colors(path)
        assert shown[name][BLUE] > 500
    assert min(shown["all"][color] for color in (ORANGE, RED, GRAY)) > 100
    assert max(shown["no validation"][color] for color in (ORANGE, RED, GRAY)) < 50
    assert shown["no best"][RED] < 50
    assert shown["no best"][GRAY] > 100
    assert shown["no probe"][GRAY] < 50
    assert [file.name for file in tmp_path.iterdir()] == ["history.png"]


def drawn(given: History, quantity: str) -> tuple[str, dict[str, tuple[list[float], list[float]]]]:
    """The unit of the horizontal axis, and each curve of a panel by its label."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    given._draw(quantity, axes)
    curves = {line.get_label(): line for line in axes.get_lines()}
    return given._positions()[0], {
        name: (list(line.get_xdata()), list(line.get_ydata())) for name, line in curves.items()
    }


def test_curves_of_a_panel() -> None:
    unit, curves = drawn(history(2, further=2, best="epoch 1"), "loss")
    assert unit == "epoch"
    # The third epoch has two of four steps.
    assert curves["training, each step"] == (
        [step / 4 for step in range(1, 11)],
        [1 / step for step in range(1, 11)],
    )
    assert curves["training, mean of the epoch"] == ([0.5, 1.5], [1.0, 0.5])
    assert curves["validation"] == ([1, 2], [1.5, 0.75])
    assert curves["validation, probe"][1] == [0.8, 0.8]
    assert curves["kept: epoch 1"] == ([1], [1.5])
    _, curves = drawn(history(2, further=2, best="epoch 1"), "accuracy")
    assert curves["kept: epoch 1"] == ([1], [0.9 - 0.2])
    assert curves["validation, probe"][1] == [0.6, 0.6]
    _, curves = drawn(history(2, validation=False, best="epoch 2"), "loss")
    assert list(curves) == ["training, each step", "training, mean of the epoch"]


def test_weights_of_several_epochs_are_marked_at_the_end() -> None:
    soup = Candidate("soup of epochs " + ", ".join(map(str, range(1, 30))), 0.25, 0.9)
    _, curves = drawn(history(candidates=[soup], best=soup.name), "loss")
    assert curves["kept: soup of epochs 1, 2, 3, 4, 5, 6, ..."] == ([3], [0.25])
    _, curves = drawn(history(best=PROBE), "loss")
    assert curves["kept: probe"] == ([0], [0.8])


def test_an_interruption_in_the_first_epoch_is_plotted_over_steps(tmp_path: Path) -> None:
    unit, curves = drawn(history(0, further=3), "loss")
    assert unit == "step"
    assert curves["training, each step"] == ([1, 2, 3], [1, 1 / 2, 1 / 3])
    History().plot(tmp_path / "empty.png")
    assert colors(tmp_path / "empty.png")


def test_losses_that_are_not_finite_are_gaps() -> None:
    steps = [
        dataclasses.replace(step, loss=loss)
        for step, loss in zip(history(1).steps, [1.0, math.inf, math.nan, 2.0], strict=True)
    ]
    _, curves = drawn(history(1, steps=steps), "loss")
    np.testing.assert_array_equal(curves["training, each step"][1], [1.0, math.nan, math.nan, 2.0])


def test_a_plot_is_a_png_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(OutputError, match=r"expected a file name that ends in \.png"):
        history().plot(tmp_path / "history.svg")
    with pytest.raises(OutputError, match="does not exist"):
        history().plot(tmp_path / "missing" / "history.png")


def test_a_plot_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnsupportedError, match=r'pip install "transferkit\[plots\]"'):
        history().plot(tmp_path / "history.png")
    assert list(tmp_path.iterdir()) == []
