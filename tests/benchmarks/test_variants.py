"""Variants side by side: in turn, each in processes of its own; one that cannot run says why, and the others go on."""

import csv
import json

import pytest
import torch

from sclds.benchmarks import published_run, variants
from sclds.config.reading import load_config
from sclds.data.tokenizer import load_tokenizer
from sclds.losses.communicator import SingleProcess
from sclds.losses.objectives import GlobalFeatures, features_of, step_loss
from sclds.model.scl import SCLModel
from sclds.reference.published_schedule import published_step

KEYS = {
    *("name", "overrides", "steps", "samples_per_second", "tokens_per_second", "seconds", "quantiles", "mfu"),
    *("mfu_measured", "hfu", "flops_per_step", "peak_flops", "wire_bytes", "memory_bytes", "padding_avoided"),
    *("overlap", "host_seconds", "failed"),
}
"""Of an entry of `profile.json`."""


def found(rate, phase=0.5):
    """Return what a process of a variant writes."""
    variant = dict.fromkeys(variants.FIGURES, None) | {
        "name": "configured",
        "overrides": [],
        "steps": 3,
        "samples_per_second": rate,
        "wire_bytes": 10.0,
        "seconds": {"fusion": phase},
        "quantiles": {"fusion": [phase - 0.1, phase + 0.1]},
        "step_seconds": [1.0, 2.0, 3.0],
        "failed": None,
    }
    return {"environment": {"processes": 1}, "config": {"name": "x"}, "variant": variant}


@pytest.fixture
def asked():
    names = variants.chosen(["zero_0", "attention_flash_attn", "zero_0"])
    return variants.Comparison("quickstart", ("engine.zero_stage=2", "seed=1"), names, 3, 2, None, 60.0)


def test_variants_take_turns_and_a_failure_is_said_once(asked, monkeypatch, tmp_path):
    commands, said, kept = [], [], []
    rates = iter([8.0, 10.0, 18.0, 12.0])

    def run(command, *rest):
        commands.append(command)
        if "engine.attention=flash_attn" in command:
            return "attention is not there; install it"
        file = command[command.index("--into") + 1]
        with open(file, "w", encoding="utf-8") as opened:
            json.dump(found(next(rates)), opened)
        return None

    monkeypatch.setattr(variants, "run_part", run)
    monkeypatch.delenv("RANK", raising=False)
    profile = variants.compare(asked, said.append, kept.append)
    assert [[one["name"] for one in part["variants"]] for part in kept[:3]] == [
        ["configured"],
        ["configured", "zero_0"],
        ["configured", "zero_0", "attention_flash_attn"],
    ], "what stops a comparison costs the variant that runs"
    assert kept[0]["variants"][0]["round_rates"] == [8.0]
    assert kept[-1] == profile
    settings = [[word for word in command if word.startswith("engine.")] for command in commands]
    zero_2, zero_0, flash = (
        ["engine.zero_stage=2"],
        ["engine.zero_stage=0"],
        ["engine.zero_stage=2", "engine.attention=flash_attn"],
    )
    assert settings == [zero_2, zero_0, flash, zero_0, zero_2], "there and back, and what failed is not tried again"
    configured, other, failed = profile["variants"]
    assert [one.keys() >= KEYS for one in profile["variants"]] == [True] * 3
    assert (configured["samples_per_second"], other["samples_per_second"]) == (10.0, 14.0)
    assert configured["round_rates"] == [8.0, 12.0]
    assert other["overrides"] == ["engine.zero_stage=0"]
    assert failed["failed"] == "attention is not there; install it"
    assert [line for line in said if "cannot run" in line] == [
        "attention_flash_attn cannot run here: attention is not there; install it"
    ]
    first, second, third = variants.ratios(profile["variants"])
    assert (first[0], second[0], third) == (1.0, pytest.approx((10 / 8 + 18 / 12) / 2), None)
    variants.write_table(profile["variants"], tmp_path / "profile.csv")
    rows = list(csv.DictReader((tmp_path / "profile.csv").open(encoding="utf-8")))
    assert [row["variant"] for row in rows] == ["configured", "zero_0", "attention_flash_attn"]
    assert rows[2]["failed"].startswith("attention")
    assert rows[1]["mfu"] == ""


def test_ranks_of_a_launcher_meet_at_ports_of_their_own(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    ports = [variants._environment(number)["MASTER_PORT"] for number in range(3)]
    assert ports == ["29501", "29502", "29503"]
    assert "TORCHELASTIC_USE_AGENT_STORE" not in variants._environment(0)


def test_the_published_schedule_sees_the_same_samples():
    """Both lay out the same draws: with equal weights they give the same loss."""
    small = ["batch.global_size=16", "batch.group_size=8", "batch.max_micro_size=16"]
    config, tokenizer = load_config("configs/quickstart.yaml", small), load_tokenizer("embedded")
    batches = iter(published_run.PublishedBatches(config, tokenizer, 0, 1, 16, 1))
    [batch] = next(batches)
    batches.close()
    model = SCLModel(config.model, tokenizer.vocab_size)
    model.initialize(0)
    with torch.no_grad():
        outputs = model(batch)
        features = GlobalFeatures.gather([features_of(outputs, batch)], [batch], config.losses, SingleProcess())
        packed = step_loss(outputs, batch, features, 0, config.losses)[0]
        moved = published_run._moved(batch.padded, torch.device("cpu"), torch.float32)
        published = published_step(model, moved, config.losses)["total"]
    torch.testing.assert_close(packed, published, rtol=1e-4, atol=1e-4)
