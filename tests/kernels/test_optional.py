"""Optional libraries are told apart by their modules; Apex is tested with a stand-in of the same signature."""

import sys

import pytest
import torch

from scl_kernels.norms import layer_norm
from scl_kernels.optional import optional_libraries

STAND_IN = """
import torch
calls = []
def fused_layer_norm_affine(input, weight, bias, normalized_shape, eps=1e-6, memory_efficient=False):
    calls.append(normalized_shape)
    return torch.nn.functional.layer_norm(input, normalized_shape, weight, bias, eps)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that puts a package `apex` with the given files on the path."""

    def put(*files):
        for name, text in files:
            path = tmp_path / "apex" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))

    yield put
    for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
        del sys.modules[name]


def named(name):
    return next(library for library in optional_libraries() if library.name == name)


def test_the_unrelated_package_of_the_same_name_is_told_apart(install):
    install(("__init__.py", "raise ImportError('looking must not import')"))
    apex = named("NVIDIA Apex")
    assert not apex.present
    assert "it is another one: it has no optimizers and no normalization" in apex.why
    assert apex.remedy.startswith("pip uninstall apex; then build it from github.com/NVIDIA/apex")


def test_apex_is_found_and_its_layer_norm_called(install):
    install(
        ("__init__.py", ""),
        ("optimizers/__init__.py", ""),
        ("normalization/__init__.py", ""),
        ("normalization/fused_layer_norm.py", STAND_IN),
    )
    assert named("NVIDIA Apex").present
    x, weight, bias = torch.randn(2, 3, 4), torch.randn(4), torch.randn(4)
    torch.testing.assert_close(layer_norm(x, weight, bias, 1e-5, "apex"), layer_norm(x, weight, bias, 1e-5))
    assert sys.modules["apex.normalization.fused_layer_norm"].calls == [(4,)]


def test_a_missing_or_unknown_implementation_is_refused():
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="implementation is 'fast'; choose torch or apex"):
        layer_norm(x, x[0], x[0], 1e-5, "fast")
    if not named("NVIDIA Apex").present:
        with pytest.raises(RuntimeError, match="NVIDIA Apex is missing"):
            layer_norm(x, x[0], x[0], 1e-5, "apex")
