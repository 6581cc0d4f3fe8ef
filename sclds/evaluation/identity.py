"""What a measurement follows from, as a hash: weights, settings, samples, this program and the device."""

import hashlib
from pathlib import Path

import torch
from torch import nn

import sclds
from sclds.config import Config
from sclds.costs.utilization import gpu_name
from sclds.data.storage.shards import shard_files
from sclds.data.tokenizer import Tokenizer
from sclds.evaluation.record import set_identity
from sclds.machine.description import code_digest


def key_of(config: Config, model: nn.Module, tokenizer: Tokenizer, device: torch.device) -> str:
    """Return a hash of all that the parts of a measurement follow from.

    Raises:
        DataError: A held-out set is gone.
    """
    digest = hashlib.sha256(config.model_dump_json(exclude={"name", "run_dir", "log", "limits"}).encode())
    digest.update(f"\n{torch.__version__} {device.type} {gpu_name(device)}\n".encode())
    digest.update(tokenizer.to_json().encode())
    digest.update(f"\n{code_digest(Path(sclds.__file__).parent)}\n".encode())
    for dataset in config.data.heldout:
        digest.update(f"\n{set_identity(dataset, config)}\n".encode())
        for file in shard_files(dataset):  # whose images may have changed where names and sizes have not
            digest.update(f"{file.size} {file.stamp}\n".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
