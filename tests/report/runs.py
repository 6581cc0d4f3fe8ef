"""A run folder as training leaves it, without training: real held-out samples, made-up figures."""

import json
import math
import random
from pathlib import Path

from sclds.config.reading import dump_config, load_config
from sclds.data.storage.shards import ShardReader, open_index
from sclds.evaluation.record import SETTINGS, set_identity
from sclds.run.environment import Git, Host, Start
from sclds.run.folder import RunFolder

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


SETS = {"pictures-heldout": 420, "clips-heldout": 64}
NCE = ("contrastive", "mvsc", "mlsc")
LEVELS = {"itm": math.log(2), "mlm": 5.85} | dict.fromkeys(NCE, 2 * math.log(128))
HELDOUT_LEVELS = {"itm": math.log(2)} | dict.fromkeys(NCE, 2 * math.log(64))


def start(first: int, last: int, ended: str | None) -> Start:
    return Start(
        started="2026-01-02T03:04:05+00:00",
        last_seen="2026-01-02T03:44:05+00:00",
        ended=ended,
        outcome="finished" if ended else "",
        first_step=first,
        last_step=last,
        versions={"python": "3.11.7", "torch": "2.13.0+cpu", "deepspeed": "0.19.8"},
        git=Git(commit="0123456789abcdef0123456789abcdef01234567", dirty=True),
        hosts=[Host(name="worker-1", processes=2, cpu="AMD EPYC", cores=2, gpu="NVIDIA H100", gpus=2)],
        world_size=2,
        parameters=3_200_000,
        peak_host_bytes=1_234_000_000,
        peak_device_bytes=9_876_000_000,
    )


def make_run(folder: Path, steps: int = 400) -> Path:
    folder.mkdir(parents=True)
    config = load_config(QUICKSTART)
    (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    draw = random.Random(0)
    lines = []
    for step in range(5, steps + 1, 5):
        fall = math.exp(-step / 120)
        loss = {
            name: low + (high - low) * fall + draw.gauss(0, 0.04 * high)
            for name, high, low in (
                ("contrastive", 9.7, 4.1),
                ("itm", 0.69, 0.41),
                ("mlm", 7.6, 4.2),
                ("mvsc", 9.7, 1.4),
                ("mlsc", 9.7, 2.2),
            )
        }
        seconds = {"data": 0.05, "forward": 0.27, "backward": 0.48, "optimizer": 0.06, "total": 0.88}
        loss["total"] = sum(loss.values())
        line = {"step": step, "loss": loss, "samples_per_second": 145.0, "seconds": seconds, "skipped": 0}
        line |= {"lr": 1.5e-3 * min(step / 40, (steps - step) / 360), "grad_norm": 3 * fall + 1, "levels": LEVELS}
        if step % 50 == 0:
            for name, n in SETS.items():
                line |= {f"heldout/{name}/{term}": value - 0.5 + n / 800 for term, value in loss.items()}
                line |= {f"heldout/{name}/text_to_vision_r10": 10 / n + 0.2 * (1 - fall)}
                line |= {f"heldout/{name}/vision_to_text_r10": 10 / n + 0.25 * (1 - fall)}
                line |= {f"heldout/{name}/candidates": n}
        lines.append(line)
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4', encoding="utf-8"
    )
    index, reader = open_index(config.data.heldout), ShardReader()
    examples = []
    for kind in ("image", "video"):
        of_kind = index.of_kind(kind).tolist()
        for turn in range(4):
            places = [index.locate(i) for i in draw.sample(of_kind, 5)]
            right = places[2] if turn % 2 else index.locate(of_kind[turn * 7])
            examples.append(
                {
                    "kind": kind,
                    "sample_id": right[0].sample_id(right[1]),
                    "caption": reader.captions(*right)[0],
                    "rank": 3 if turn % 2 else 23,
                    "of": len(of_kind),
                    "retrieved": [shard.sample_id(row) for shard, row in places],
                }
            )
    row = {"n": 420, "r1": 0.081, "r5": 0.214, "r10": 0.312, "median_rank": 31.0, "chance_r10": 10 / 420}
    clips = {"n": 64, "r1": 0.094, "r5": 0.281, "r10": 0.438, "median_rank": 13.0, "chance_r10": 10 / 64}
    losses = {
        "initial": {"contrastive": 8.4, "itm": 0.7, "mlm": 7.7, "mvsc": 8.4, "mlsc": 8.3, "itm_accuracy": 0.5},
        "final": {"contrastive": 4.9, "itm": 0.52, "mlm": 5.1, "mvsc": 1.9, "mlsc": 2.8, "itm_accuracy": 0.7},
    }
    of_set = {"losses": losses, "levels": HELDOUT_LEVELS, "loss_samples": 64}
    ranked = {
        "image": {"text_to_vision": row, "vision_to_text": {**row, "r10": 0.335}},
        "video": {"text_to_vision": clips, "vision_to_text": clips},
    }
    sets = {
        d.name: {"kind": d.kind, "samples": SETS[d.name], "index": set_identity(d, config)}
        | of_set
        | {"retrieval": ranked[d.kind]}
        for d in config.data.heldout
    }
    results = {
        "retrieval": ranked,
        "losses": losses,
        "sets": sets,
        "evaluation": {key: getattr(config.evaluation, key) for key in SETTINGS},
        "steps": steps,
        "examples": examples,
        "profile": {"processes": 2, "peak_flops": 1.2e11, "text_tokens": 12, "flops_per_sample": 4.0e8},
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    RunFolder(folder).write_starts([start(0, 200, None), start(200, steps, "2026-01-02T03:44:05+00:00")])
    return folder
