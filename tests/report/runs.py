"""A run folder as training leaves it, without training: real held-out samples, made-up figures."""

import json
import math
import random
from pathlib import Path

from sclds.config.reading import dump_config, load_config
from sclds.data.storage.shards import ShardReader, open_index

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


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
        lines.append({"step": step, "loss": loss, "samples_per_second": 145.0, "seconds": seconds})
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
    results = {
        "retrieval": {
            "image": {"text_to_vision": row, "vision_to_text": {**row, "r10": 0.335}},
            "video": {"text_to_vision": clips, "vision_to_text": clips},
        },
        "losses": {
            "initial": {"contrastive": 8.4, "itm": 0.7, "mlm": 7.7, "mvsc": 8.4, "mlsc": 8.3},
            "final": {"contrastive": 4.9, "itm": 0.52, "mlm": 5.1, "mvsc": 1.9, "mlsc": 2.8},
        },
        "examples": examples,
        "profile": {"processes": 2, "peak_flops": 1.2e11, "text_tokens": 12, "flops_per_sample": 4.0e8},
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder
