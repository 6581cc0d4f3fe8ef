"""Thousands of damaged samples go the whole way: each is used or named, and nothing crashes, hangs or leaks."""

import gc
import json
import os
import re
from collections import Counter

import numpy as np
import pytest
import torch

from sclds.config import DatasetConfig
from sclds.data.keys import generator
from sclds.data.loader import Quarantine, TrainingBatches, heldout_batches
from sclds.data.storage.shards import open_index
from sclds.data.tokenizer import load_tokenizer

from .faults import WORDS, Sample, write_shard
from .faulty_media import photo, saved
from .synthetic import clip, picture
from .test_faults import config_over

PICTURES, CLIPS = 1600, 600
ROUNDS = 4
"""Parts of equal make-up, in which memory and open files are compared."""


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage bytes as disks, networks and programs do."""
    damaged, at, length = bytearray(content), int(rng.integers(len(content))), int(rng.integers(1, 64))
    ways = ("cut", "flip", "head", "zero", "noise", "insert", "delete", "repeat")
    way = ways[rng.integers(len(ways))]
    if way == "cut":
        del damaged[at:]
    elif way == "flip":
        for place in rng.integers(len(damaged), size=rng.integers(1, 5)):
            damaged[place] ^= 1 << rng.integers(8)
    elif way == "head":
        damaged[rng.integers(min(200, len(damaged)))] ^= 1 << rng.integers(8)
    elif way == "zero":
        damaged[at : at + length] = bytes(len(damaged[at : at + length]))
    elif way == "noise":
        damaged[at : at + length] = rng.bytes(len(damaged[at : at + length]))
    elif way == "insert":
        damaged[at:at] = rng.bytes(length)
    elif way == "delete":
        del damaged[at : at + length]
    else:
        damaged[at:at] = damaged[at : at + length]
    return bytes(damaged)


def whole_pictures() -> list[bytes]:
    plain = [picture(7, format, (64, 48)) for format in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")]
    image = photo(size=(64, 48))
    return [
        *plain,
        saved(image, "JPEG", progressive=True),
        saved(image.convert("CMYK"), "JPEG"),
        saved(image, "WEBP", lossless=True),
        saved(image.quantize(64), "PNG"),
        saved(image, "TIFF", compression="tiff_lzw"),
        saved(image, "GIF"),
        saved(image, "JPEG2000"),
    ]


def whole_clips() -> list[bytes]:
    forms = [
        ("libvpx-vp9", "webm"),
        ("libvpx", "webm"),
        ("libvpx-vp9", "mp4"),
        ("libx264", "mp4"),
        ("libx264", "matroska"),
        ("mpeg4", "avi"),
    ]
    return [clip(8, codec, container) for codec, container in forms]


def damaged(whole: list[bytes], extension: str, count: int, turn: int) -> dict[str, Sample]:
    """Samples of which four in five have a damaged image or video, the others a damaged caption."""
    samples: dict[str, Sample] = {}
    for k in range(count):
        rng = generator(turn, "mutation", extension, k)
        media, words = whole[k % len(whole)], WORDS
        media, words = (mutated(media, rng), words) if k % 5 else (media, mutated(words, rng))
        samples[f"{k:04d}"] = [(extension, media), (".json", words)]
    return samples


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_damaged_sample_is_used_or_named(tmp_path):
    tokenizer, memory, files = load_tokenizer("embedded"), [], []
    tally: Counter[str] = Counter()
    for turn in range(ROUNDS):
        folder = tmp_path / str(turn)
        pictures = damaged(whole_pictures(), ".jpg", PICTURES // ROUNDS, turn)
        moving = damaged(whole_clips(), ".mp4", CLIPS // ROUNDS, turn)
        heldout = [
            DatasetConfig(name="pictures", shards=str(write_shard(folder / "p.tar", pictures))),
            DatasetConfig(name="clips", shards=str(write_shard(folder / "c.tar", moving)), kind="video"),
        ]
        quarantine = Quarantine(folder / "quarantine.jsonl")
        used: list[str] = []
        for batch in heldout_batches(config_over(heldout), tokenizer, quarantine=quarantine):
            assert batch.vision.patches.isfinite().all()
            used += batch.samples.ids
        lines = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
        named = [line["sample"] for line in lines]
        index = open_index(heldout)
        ids = [part.sample_id(row) for part, row in map(index.locate, range(len(index)))]
        assert sorted(used + named) == sorted(ids), "none is lost, none counts twice"
        assert quarantine.seen == len(ids)
        assert quarantine.bad == len(named)
        for line in lines:
            assert line["sample"].startswith(line["dataset"])
            assert line["shard"].endswith(f"{line['dataset'][0]}.tar")
            assert line["reason"].startswith("its ")
        tally += Counter(re.sub(r"\d+", "N", line["reason"]) for line in lines)
        tally["used"] += len(used)
        gc.collect()
        memory.append(resident())
        files.append(open_files())
    assert sum(tally.values()) == PICTURES + CLIPS >= 2000
    assert min(tally["used"], sum(tally.values()) - tally["used"]) > 500, tally
    assert len(set(files[1:])) == 1, files
    # the first round loads codecs; what follows may only jitter
    assert memory[-1] - memory[1] < 32 << 20, [size >> 20 for size in memory]


@pytest.mark.timeout(120)
def test_any_number_of_ranks_makes_the_same_batches_of_damaged_data(tmp_path):
    """Replacements follow from the place in the global batch, whoever computes it."""
    pictures = damaged(whole_pictures(), ".jpg", 90, 9)
    pictures |= {f"good{k}": [(".jpg", picture(k)), (".json", WORDS)] for k in range(30)}
    moving = damaged(whole_clips(), ".mp4", 30, 9)
    moving |= {f"good{k}": [(".mp4", clip(3)), (".json", WORDS)] for k in range(4)}
    train = [
        {"name": "pictures", "shards": str(write_shard(tmp_path / "p.tar", pictures))},
        {"name": "clips", "shards": str(write_shard(tmp_path / "c.tar", moving)), "kind": "video"},
    ]
    config = config_over([], train=train)
    tokenizer, steps, found = load_tokenizer("embedded"), 16, {}
    for world in (1, 2, 4):
        ranks = []
        for rank in range(world):
            quarantine = Quarantine(tmp_path / f"{world}.jsonl")
            iterator = iter(TrainingBatches(config, tokenizer, rank, world, 8 // world, 1, 0, quarantine))
            ranks.append([next(iterator)[0] for _ in range(steps)])
            iterator.close()
        found[world] = [
            (sum((part.samples.ids for part in parts), ()), torch.cat([part.vision.patches for part in parts]))
            for parts in zip(*ranks, strict=True)
        ]
    for world in (2, 4):
        for (ids, patches), (other_ids, other_patches) in zip(found[1], found[world], strict=True):
            assert ids == other_ids
            assert torch.equal(patches, other_patches)
    lines = [json.loads(line) for line in (tmp_path / "4.jsonl").read_text().splitlines()]
    names = [(line["sample"], line["reason"]) for line in lines]
    assert len(names) == len(set(names)) > 20, "four ranks name each sample once"
