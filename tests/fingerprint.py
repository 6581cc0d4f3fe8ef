"""Hashes of packed batches, to hold a change against the code before it: `python -m tests.fingerprint [COUNT]`.

Packs the training batches of the quickstart under several sets of objectives and hashes every index and pixel that
packing produces, by name; equal hashes mean equal batches.
"""

import hashlib
import sys

import torch

from sclds.config.reading import load_config
from sclds.data.loader import TrainingBatches
from sclds.data.tokenizer import load_tokenizer
from tests.batch.leaves import leaves

SETTINGS = {
    "default": [],
    "local": ["losses.mltc_image=0.2", "losses.mltc_text=0.2"],
    "economy": ["losses.mlm_view=t2"],
    "hard": ["losses.itm_negatives=hard"],
    "shuffled": ["batch.layout=shuffled"],
}


def fingerprint(batch) -> bytes:
    """Return a hash of what a batch holds beside its attention plans, whatever the names of the fields are."""
    parts = []
    for name, value in leaves(batch).items():
        if "attention" in name or "objectives" in name:
            continue
        if isinstance(value, torch.Tensor):
            content = f"{value.dtype}{tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes()
        else:
            content = repr(value).encode("utf-8", "surrogatepass")
        parts.append(hashlib.sha256(content).digest())
    return b"".join(sorted(set(parts)))


def main() -> None:
    """Print one hash per setting and one of all."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    whole = hashlib.sha256()
    for name, overrides in SETTINGS.items():
        config = load_config("configs/quickstart.yaml", overrides)
        batches = iter(TrainingBatches(config, load_tokenizer("embedded"), 0, 2, 64, 1))
        digest = hashlib.sha256()
        for _ in range(count // len(SETTINGS)):
            digest.update(fingerprint(next(batches)[0]))
        batches.close()
        print(name, digest.hexdigest()[:32], flush=True)
        whole.update(digest.digest())
    print("all", whole.hexdigest()[:32])


if __name__ == "__main__":
    main()
