"""A file of safetensors, written tensor by tensor: the library's own writer wants all of them in memory at once."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""The format's names of the types that weights have."""
_ALIGNMENT = 8


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights as the format has it: length of the header, header in JSON, values in the header's order.

    Args:
        path: Of the new file.
        weights: By name; each is asked for twice, and let go before the next.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in weights.items():
        begin, end = end, end + math.prod(tensor.shape) * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in weights.values():
            file.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
