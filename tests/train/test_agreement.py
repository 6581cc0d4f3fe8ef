"""A machine with another version or other settings is named before the first step."""

import threading

import pytest
import torch

from sclds.config.errors import UserError
from sclds.machine import implementations
from sclds.machine.attention import Machine
from sclds.machine.packages import DISTRIBUTIONS
from sclds.train import agreement
from tests.losses.threads import Threads
from tests.train.synthetic import tiny_config


def compared(records, monkeypatch):
    """Return what each rank is told."""
    world = len(records)
    shared = ([None] * world, threading.Barrier(world, timeout=30))
    told = [None] * world

    def work(rank):
        group = Threads(rank, world, shared)
        group.device = torch.device("cpu")
        try:
            agreement.refuse_strangers(rank, group)
        except UserError as fault:
            told[rank] = str(fault)

    monkeypatch.setattr(agreement, "own_record", records.__getitem__)
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def test_processes_that_are_alike_may_start(monkeypatch):
    own = agreement.own_record(tiny_config())
    assert own["torch"] == torch.__version__.split("+")[0] or own["torch"] == torch.__version__
    assert compared([own, own | {"host": "other"}], monkeypatch) == [None, None]


@pytest.mark.parametrize(
    "key", [*agreement.PACKAGES, "CUDA of torch", "attention", "the code of sclds", "the configuration"]
)
def test_the_host_that_differs_is_named_on_every_rank(key, monkeypatch):
    own = agreement.own_record(tiny_config()) | {"host": "a"}
    told = compared([own, own, own | {"host": "b", key: "other"}], monkeypatch)
    assert told[0] == told[1] == told[2]
    assert f"b has {key} other, where most have {own[key]}" in told[0]
    assert "a has" not in told[0]


def test_every_library_that_the_machine_is_described_by_is_compared():
    """But for those that hold files and neither read nor compute."""
    described = {distribution for known in DISTRIBUTIONS.values() for distribution in known}
    assert described - set(agreement.PACKAGES) == {"transformers"}


def test_hosts_whose_gpus_have_other_attention_are_named(monkeypatch):
    """`auto` takes what each host can have: ranks of one run would differ in what they compute, and drop."""
    config, records = tiny_config(engine={"precision": "bf16"}), []
    for host, capability in (("a", (8, 0)), ("b", (9, 0))):
        machine = Machine(True, capability, frozenset({"flash_attn_3", "flash_attn", "sdpa"}))
        monkeypatch.setattr(implementations, "this_machine", lambda machine=machine: machine)
        records.append(agreement.own_record(config) | {"host": host})
    told = compared(records, monkeypatch)
    assert told[0] == told[1]
    assert "b has attention " in told[0]
    assert "flash_attn_3" in told[0]
    assert told[0].endswith("or set engine.attention to what all of them have")


def test_settings_count():
    records = [agreement.own_record(tiny_config(seed=seed)) for seed in (0, 1)]
    assert [line.split(" has ")[1].split(",")[0] for line in agreement.differences(records)] == [
        f"the configuration {records[1]['the configuration']}"
    ]


def test_code_that_was_changed_without_its_version_counts(tmp_path):
    (tmp_path / "step.py").write_text("a = 1", encoding="utf-8")
    before = agreement.code_digest(tmp_path)
    (tmp_path / "step.py").write_text("a = 2", encoding="utf-8")
    assert agreement.code_digest(tmp_path) != before
