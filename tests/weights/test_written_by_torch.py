"""Files written by PyTorch are read as PyTorch reads them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as from_numpy

from transferkit.errors import FileFormatError
from transferkit.weights.torch_file import read_torch

KINDS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@st.composite
def _tensors(draw: st.DrawFn) -> torch.Tensor:
    """Draw a tensor of any dtype, possibly permuted, strided, expanded or part of a larger one."""
    shape = draw(from_numpy.array_shapes(min_dims=1, max_dims=4, max_side=4))
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    tensor = tensor.to(draw(st.sampled_from(KINDS)))
    tensor = tensor.permute(draw(st.permutations(range(tensor.ndim))))
    if draw(st.booleans()):
        tensor = tensor[draw(st.integers(0, 1)) :: draw(st.integers(1, 2))]
    if draw(st.booleans()):
        tensor = tensor.unsqueeze(0).expand(2, *tensor.shape)
    return torch.nn.Parameter(tensor) if draw(st.booleans()) else tensor


@pytest.mark.parametrize("zipped", [True, False])
@given(tensors=st.lists(_tensors(), min_size=1, max_size=3))
def test_all_kinds_of_tensors_are_read(
    zipped: bool, tensors: list[torch.Tensor], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "file.pth"
    state = OrderedDict((f"name.{index}", tensor) for index, tensor in enumerate(tensors))
    state["shared"] = state["name.0"].detach()[:1]
    state["norm.num_batches_tracked"] = torch.tensor(7)
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    found = read_torch(path)
    assert list(found) == [name for name in state if not name.endswith("tracked")]
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, state[name].detach().float().numpy())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_model_is_rejected(zipped: bool, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x", _use_new_zipfile_serialization=zipped)
    with pytest.raises(FileFormatError, match=r"Linear.*torch.save\(model.state_dict\(\), path\)"):
        read_torch(tmp_path / "x")


def test_a_torchscript_program_is_rejected(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "x")
    with pytest.raises(FileFormatError, match="TorchScript"):
        read_torch(tmp_path / "x")
