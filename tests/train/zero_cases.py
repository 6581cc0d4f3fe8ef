"""Cases of `test_zero.py`: what each configures, and the processes of `zero_worker.py` that train them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from sclds.benchmarks.engine import BASE_DEPTH
from tests.train.synthetic import tiny_config

ROOT = Path(__file__).resolve().parents[2]
ACCUMULATED = {"batch": {"max_micro_size": 4}}
GLSCL = {"losses": {"mltc_image": 0.2, "mltc_text": 0.2}}
HARD = {"losses": {"itm_negatives": "hard"}}


def with_tower(kind):
    """Changes that give the model another vision tower; fewer patches are hidden, so that v1 keeps one of four."""
    model = tiny_config().model_dump(mode="json")["model"]
    model["vision"]["type"] = kind
    return {"model": model, "masking": {"scl_vision_ratio": 0.7}}


SAME_AS_PLAIN = {
    "zero3": {"config": {}, "make_up": "mixed"},
    "zero3_siglip2": {"config": with_tower("siglip2"), "make_up": "pictures_beside_clips"},
    "zero3_perception_encoder": {"config": with_tower("perception_encoder"), "make_up": "mixed"},
    "zero3_accumulated": {"config": ACCUMULATED, "make_up": "mixed"},
    "zero3_recompute": {"config": {"engine": {"activation_checkpointing": True}}, "make_up": "mixed"},
    "zero3_glscl": {"config": GLSCL, "make_up": "mixed"},
    "zero3_hard_negatives": {"config": HARD, "make_up": "mixed"},
    "zero3_hard_negatives_accumulated": {"config": HARD | ACCUMULATED, "make_up": "mixed"},
    "zero3_economy": {"config": {"losses": {"mlm_view": "t2"}}, "make_up": "mixed"},
    "zero2": {"config": {"engine": {"zero_stage": 2}}, "make_up": "mixed"},
    "zero1": {"config": {"engine": {"zero_stage": 1}}, "make_up": "mixed"},
    "zero0": {"config": {"engine": {"zero_stage": 0}}, "make_up": "mixed"},
    "pictures_beside_clips": {"config": {}, "make_up": "pictures_beside_clips"},
    "pictures_beside_clips_accumulated": {"config": ACCUMULATED | GLSCL, "make_up": "pictures_beside_clips"},
    "no_masked_word_on_one_rank": {"config": {}, "make_up": "no_masked_word_on_one_rank"},
    "clips_only_in_one_of_four": {"config": ACCUMULATED, "make_up": "clips_only_in_one_of_four"},
}
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
SAME_AS_PLAIN |= {
    f"zero{stage}_{name}": {
        "config": {"engine": {"zero_stage": stage, "deepspeed": {"zero_optimization": zero}}},
        "make_up": "mixed",
    }
    for name, stage, zero in (
        ("offload", 2, OFFLOAD),
        ("offload", 3, OFFLOAD | {"offload_param": {"device": "cpu"}}),
        ("hpz", 3, {"zero_hpz_partition_size": 2}),
    )
}
"""The settings of docs/engine.md that need no GPU."""
STAGES = {"zero3": 3, "zero2": 2, "zero1": 1, "zero0": 0}
POISONED = {
    f"poisoned_{name}": {"config": {"engine": {"zero_stage": stage}}, "make_up": "mixed", "poison": 1}
    for name, stage in STAGES.items()
}
BF16 = {
    f"bf16_{name}": {"config": {"engine": {"zero_stage": stage, "precision": "bf16"}}, "make_up": "mixed"}
    for name, stage in STAGES.items()
}
OLD = {f"old_{name}": BF16[f"bf16_{name}"] | {"old": True, "steps": 2} for name in ("zero0", "zero1")}
"""Of versions whose bf16 optimizers at these stages were others."""
MANY = {
    "batch": {"global_size": 32, "max_micro_size": 2, "group_size": 2},
    "losses": {"negatives": "micro_batch"},
    "optimizer": {"clip_norm": 0, "learning_rate": 1e-3},
}
GRADIENTS = {
    f"gradient_{name}": {"config": MANY | {"engine": engine}, "make_up": "mixed", "steps": 1, "gradient": True}
    for name, engine in {
        "fp32": {"precision": "fp32", "zero_stage": 0},
        **{name: {"precision": "bf16", "zero_stage": stage} for name, stage in STAGES.items()},
        "zero3_added_in_bf16": {"precision": "bf16", "zero_stage": 3, "gradient_precision": "bf16"},
    }.items()
}
"""Two processes × 8 accumulation steps."""
FLIPPED = (*STAGES, *BF16, "zero3_accumulated")


def with_messages(**zero):
    """A case whose messages are counted, with settings of DeepSpeed's over ours."""
    return {"config": {"engine": {"deepspeed": {"zero_optimization": zero}}}, "make_up": "mixed", "count": True}


BUCKETS = ("reduce_bucket_size", "stage3_prefetch_bucket_size")
MESSAGES = {
    "messages": with_messages(),
    # as a model that is larger than what may stay gathered: a block is released when its forward ends
    "messages_released": with_messages(
        stage3_max_reuse_distance=0, stage3_prefetch_bucket_size=0, reduce_bucket_size=50_000
    ),
}
PARTLY_KEPT = {
    f"messages_{name}": with_messages(stage3_prefetch_bucket_size=20_000, **zero)
    for name, zero in (
        ("reused_within_half", {"stage3_max_reuse_distance": 66_805}),
        ("half_there", {"stage3_max_reuse_distance": 133_611, "stage3_max_live_parameters": 66_805}),
    )
}
"""As models of more weights than may stay gathered; this one has 133,611."""

AS_COUNTED = ("zero3_accumulated", "zero3_recompute", *STAGES, *BF16)
"""Cases whose messages and state are those of `sclds.costs`."""
FOUR = {
    f"four_{name}": {"config": {"engine": engine, **more}, "make_up": "mixed", "count": True}
    for name, engine, more in (
        ("stage_0", {"zero_stage": 0}, {}),
        ("stage_1", {"zero_stage": 1}, {}),
        ("stage_2", {"zero_stage": 2, "precision": "bf16"}, {"batch": {"max_micro_size": 2, "group_size": 2}}),
        ("stage_3", {"zero_stage": 3, "precision": "bf16"}, {}),
        (
            "stage_3_buckets",
            {"deepspeed": {"zero_optimization": dict.fromkeys(BUCKETS, 20_000)}},
            {"batch": {"max_micro_size": 2, "group_size": 2}, "losses": {"negatives": "micro_batch"}},
        ),
    )
}
"""For four processes; two of them accumulate."""

BENCHMARK = {
    "benchmark": {"benchmark": BASE_DEPTH | dict.fromkeys(("vision_layers", "text_layers", "fusion_layers"), 1)}
}

MEASURED = {
    f"measured_zero{stage}": {"config": {"engine": {"zero_stage": stage}}, "make_up": "mixed", "slow": 0.8}
    for stage in (0, 3)
}


def processes(count, cases, folder):
    """Run the cases in `count` processes and return what rank 0 found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    command = [sys.executable, "-m", "tests.train.zero_worker", folder / "cases.json", folder / "out.pt"]
    shared = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    logs = [folder / f"rank{rank}.log" for rank in range(count)]
    children = []
    for rank, log in enumerate(logs):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        with log.open("w", encoding="utf-8") as file:
            environment = os.environ | shared | own
            children.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file))
    try:
        codes = [child.wait(timeout=500) for child in children]
    finally:
        for child in children:
            child.kill()
    assert codes == [0] * count, "\n".join(log.read_text(encoding="utf-8")[-3000:] for log in logs)
    return torch.load(folder / "out.pt", weights_only=True)
