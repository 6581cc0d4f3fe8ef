"""Weights out of shards: one at a time, so that memory does not grow with the checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sclds.config.errors import CheckpointError
from sclds.interop.weights_file import write_weights
from sclds.run.checkpoints import ENGINE_TAG, STATE_FILE
from sclds.train.consolidate import SavedWeights, consolidated_weights

RANKS = 3


def own_memory():
    """Return the bytes of memory that lie in no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def stage_3(folder, weights, moments=False):
    """Write what `RANKS` ranks of stage 3 write; each parameter is padded to a multiple of them."""
    engine = folder / ENGINE_TAG
    engine.mkdir(parents=True)
    (folder / STATE_FILE).write_text(json.dumps({"step": 1, "world_size": RANKS, "config": {}}))
    shapes = [{name: weight.shape for name, weight in weights.items()}]
    for rank in range(RANKS):
        pieces = []
        for weight in weights.values():
            size = -(-weight.numel() // RANKS)
            piece = weight.flatten()[rank * size : (rank + 1) * size]
            pieces.append(torch.nn.functional.pad(piece, (0, size - len(piece))))
        flat = torch.cat(pieces)
        state = {"step": torch.tensor(4.0), "exp_avg": flat + 1, "exp_avg_sq": flat + 2} if moments else {}
        optimizer = {"state": {0: state}, "param_groups": [{"lr": 1.0}]}
        shard = {"zero_stage": 3, "fp32_flat_groups": [flat], "optimizer_state_dict": optimizer}
        name = f"zero_pp_rank_{rank}_mp_rank_00"
        torch.save({"optimizer_state_dict": shard}, engine / f"{name}_optim_states.pt")
        torch.save({"module": {}, "param_shapes": shapes, "dp_world_size": RANKS}, engine / f"{name}_model_states.pt")
    return folder


def test_memory_holds_one_weight_of_a_large_checkpoint(tmp_path):
    """320 MB come out of it, and into a file; a weight is 16 MB, and not all that is freed is given back at once."""
    shape = (2000, 2000)
    weights = {f"block.{i}": torch.full(shape, float(i)) for i in range(20)}
    folder = stage_3(tmp_path / "step-0000001", weights)
    del weights
    before, most = own_memory(), 0
    found = SavedWeights(folder)
    for i, (name, weight) in enumerate(found.items()):
        assert name == f"block.{i}"
        assert weight[0, 0] == weight[-1, -1] == i
        most = max(most, own_memory() - before)
    write_weights(tmp_path / "model.safetensors", found)
    most = max(most, own_memory() - before)
    assert most < 130e6
    assert (tmp_path / "model.safetensors").stat().st_size > 320e6


def test_awkward_shapes_come_back(tmp_path):
    weights = {f"w{n}": torch.randn(shape) for n, shape in enumerate([(1,), (2,), (), (7, 11), (0,), (3, 1, 5)])}
    folder = stage_3(tmp_path / "step-0000001", weights, moments=True)
    found = consolidated_weights(folder)
    assert found.keys() == weights.keys()
    write_weights(tmp_path / "file", SavedWeights(folder).only(list(weights)[1:]))
    read = load_file(tmp_path / "file")
    assert read.keys() == weights.keys() - {"w0"}
    for name, weight in weights.items():
        assert torch.equal(found[name], weight), name
        assert name == "w0" or torch.equal(read[name], weight), name
    saved = SavedWeights(folder)._saved
    assert saved.optimizer_step == 4
    for name, weight in weights.items():
        for kind, more in (("fp32", 0), ("exp_avg", 1), ("exp_avg_sq", 2)):
            for start in range(weight.numel() + 1):
                for stop in range(start, weight.numel() + 1, 5):
                    expected = weight.flatten()[start:stop] + more
                    assert torch.equal(saved.read(name, kind, start, stop), expected), (name, kind, start, stop)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_library_reads_what_is_written(tmp_path, dtype):
    weights = {
        "é": torch.randn(3, 5, dtype=dtype).T,
        "b": torch.tensor(2, dtype=dtype),
        "c": torch.zeros(0, dtype=dtype),
    }
    write_weights(tmp_path / "file", weights)
    read = load_file(tmp_path / "file")
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weight) and read[name].dtype == dtype for name, weight in weights.items())


def test_a_rank_that_is_missing_is_told(tmp_path):
    folder = stage_3(tmp_path / "step-0000001", {"a": torch.ones(9)})
    next((folder / ENGINE_TAG).glob("*_rank_1_*_optim_states.pt")).unlink()
    with pytest.raises(CheckpointError, match="of 3 shards that of rank 1 is missing"):
        consolidated_weights(folder)
