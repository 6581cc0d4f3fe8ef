"""The one switch: what it accepts, whom it reaches, what it refuses."""

import pytest
import torch

from scl_kernels import gather_rows, get_backend, infonce_single, set_backend
from scl_kernels.backend import resolve

ROWS, INDEX = torch.zeros(2, 3), torch.tensor([0])


@pytest.fixture(autouse=True)
def _restore(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    yield
    set_backend("auto")


def test_auto_is_torch_on_cpu():
    assert get_backend() == "auto"
    assert resolve("auto", ROWS) == "torch"


def test_the_process_wide_choice_reaches_calls_that_say_nothing():
    set_backend("triton")
    with pytest.raises(ValueError, match="'triton' was demanded for tensors on cpu; it needs CUDA tensors"):
        gather_rows(ROWS, INDEX)
    with pytest.raises(ValueError, match="'triton' was demanded"):
        infonce_single(ROWS, ROWS, 0.1)
    assert gather_rows(ROWS, INDEX, backend="torch").shape == (1, 3)


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="backend is 'cuda'; choose one of auto, triton, torch"):
        set_backend("cuda")
    with pytest.raises(ValueError, match="backend is 'cuda'"):
        gather_rows(ROWS, INDEX, backend="cuda")


def test_triton_refuses_fp64(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=r"torch\.float64; wanted float16, bfloat16 or float32"):
        resolve("triton", ROWS.double())
