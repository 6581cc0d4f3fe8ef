"""What a micro-batch of the packed step really launches, moves, multiplies and keeps, counted while it runs."""

import sys
from functools import partial
from types import ModuleType

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from scl_kernels.backend import get_backend, set_backend
from sclds.batch import SampleViews, grids_of, pack
from sclds.batch.packing import Recipe
from sclds.costs.counts import views_of
from sclds.costs.traffic import ByteCounter
from sclds.losses.communicator import SingleProcess
from sclds.losses.objectives import FeatureGather, StepSizes, step_loss
from sclds.machine.attention import AttentionBackends
from sclds.model.scl import SCLModel

VOCABULARY = 50265
META = torch.device("meta")


class FlashAttention(torch.autograd.Function):
    """Stands in for flash-attention: tensors of its shapes, and what it keeps, its output and a log-sum-exp."""

    launches = 0
    flops = 0

    @staticmethod
    def forward(ctx, width, *rows):
        out = rows[0].new_empty(rows[0].shape[0], *rows[0].shape[-2:])
        ctx.save_for_backward(*rows, out, rows[0].new_empty(out.shape[1], out.shape[0], dtype=torch.float32))
        FlashAttention.launches += 1
        return out

    @staticmethod
    def backward(ctx, gradient):
        FlashAttention.launches += 1
        return None, *(torch.empty_like(rows) for rows in ctx.saved_tensors[:-2])


def flash_attention():
    """Return a module that has the functions of flash-attn 2."""
    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = lambda q, k, v, *segments, **more: FlashAttention.apply(None, q, k, v)
    module.flash_attn_varlen_qkvpacked_func = lambda qkv, *segments, **more: FlashAttention.apply(None, qkv)
    module.flash_attn_varlen_kvpacked_func = lambda q, kv, *segments, **more: FlashAttention.apply(None, q, kv)
    return module


def sample(config, kind, number, tokens):
    """Return a sample whose views are as large as the counts have them, half of them matched."""
    views, losses = views_of(config, kind, tokens), config.losses
    grid = round(views.patches["v0"] ** 0.5)
    text = np.arange(tokens) + 5
    hidden = np.arange(1, 1 + views.completed)
    words = np.arange(1, 1 + views.predicted) if losses.mlm_view == "t1" else hidden
    return SampleViews(
        dropout_key=number,
        sample_id=str(number),
        caption=str(number),
        kind=kind,
        frames=views.frames,
        grid=grid,
        text=text,
        text_mlm=text,
        mlm_positions=words,
        mlm_labels=text[words],
        text_scl=text,
        scl_positions=hidden,
        keep=np.arange(views.patches["v1"]),
        replaced=np.arange(int(grid**2 * config.masking.mltc_vision_ratio)),
        itm_partner=number,
        itm_label=1 - number % 2,
    )


def packed(config, kinds, tokens, attention="flash_attn", device=META, dtype=torch.bfloat16):
    """Pack samples of these kinds, with pixels that nobody reads."""
    views = [sample(config, kind, number, tokens) for number, kind in enumerate(kinds)]
    vision = config.model.vision
    rows = sum(view.frames * view.grid**2 for view in views)
    patches = torch.zeros(rows, 3 * vision.patch_size**2, device=device if device == META else None)
    recipe = Recipe(
        1,
        config.losses,
        grids_of(config),
        config.batch.group_size,
        config.model.fusion.layers,
        AttentionBackends.all(attention),
        vision.max_frames,
        vision.pools_frames,
    )
    return pack(views, patches, recipe).to(device, dtype)


def run(model, batch, losses):
    """Take forward, loss and backward of a micro-batch as the step takes them; yield between the two passes."""
    sizes = StepSizes.gather([batch], SingleProcess())
    gather = FeatureGather(losses, SingleProcess(), sizes)
    send = partial(gather.send, 0, batch)
    outputs = model(batch, send)
    send(outputs)
    loss, _ = step_loss(outputs, batch, gather.wait(), 0, losses)
    yield
    loss.backward()


class Kept(torch.autograd.graph.saved_tensors_hooks):
    """Adds up what autograd saves, each storage once, without weights and what the batch brings."""

    def __init__(self, *known):
        self.storages = {}
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.storages[storage._cdata] = storage
        return tensor

    @property
    def bytes(self):
        return sum(storage.nbytes() for storage in self.storages.values())


def measured(config, kinds, tokens, fused=True, dtype=torch.bfloat16):
    """Return launches and bytes of either pass, FLOPs of products and kept bytes, on tensors without data."""
    before, sys.modules["flash_attn"] = get_backend(), flash_attention()
    set_backend("triton" if fused else "torch")
    try:
        batch = packed(config, kinds, tokens, dtype=dtype)
        with META:
            model = SCLModel(config.model, VOCABULARY, sigmoid=config.losses.sigmoid > 0).to(dtype).train()
        kept = Kept(*model.parameters())
        passes, FlashAttention.launches = [], 0
        with FlopCounterMode(display=False) as products:
            with kept, ByteCounter() as counted:
                steps = run(model, batch, config.losses)
                next(steps)
            passes.append((sum(counted.launches.values()) + FlashAttention.launches, counted.total))
            FlashAttention.launches = 0
            with ByteCounter() as counted:
                next(steps, None)
            passes.append((sum(counted.launches.values()) + FlashAttention.launches, counted.total))
        return {"passes": passes, "kept": kept.bytes, "flops": products.get_total_flops(), "by": counted}
    finally:
        set_backend(before)
        del sys.modules["flash_attn"]
