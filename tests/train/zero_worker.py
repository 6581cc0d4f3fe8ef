"""One of several processes that train the tiny model: `python -m tests.train.zero_worker CASES.json OUT.pt`."""

import json
import sys
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from unittest.mock import patch

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

from sclds.batch.split import split_batch
from sclds.benchmarks.engine_worker import measure, steps_of
from sclds.config.errors import CheckpointError
from sclds.data.tokenizer import load_tokenizer
from sclds.run.checkpoints import newest_checkpoint
from sclds.train.checkpoint import load_checkpoint
from sclds.train.corruption import PARTS, MemoryCheck, resident
from sclds.train.deepspeed_settings import deepspeed_settings
from sclds.train.distributed import ProcessGroup, counted_messages
from sclds.train.engine import InitialWeights, build_engine, count_parameters, fill_parameters, model_outline
from sclds.train.flat_blocks import layout_of, materialize
from sclds.train.measures import StepMeasures
from sclds.train.optimizer import build_optimizer
from sclds.train.saved_state import SavedState
from sclds.train.saver import CheckpointSaver
from sclds.train.slow_ranks import SlowRanks
from sclds.train.spikes import CLIENT_STATE
from sclds.train.step import train_step
from tests.train.deepspeed_waits import waits_that_run
from tests.train.flat import split_flat
from tests.train.synthetic import MAKE_UPS, batch_of, tiny_config

STEPS = 3
SPIKED = {CLIENT_STATE: {"values": [3.5, 3.25], "last_good": 2, "windows": [[1, 200]]}}
"""What a guard of spikes leaves in a checkpoint, for whichever processes go on."""


def run_case(case, group):
    """Run one case; what it counts is counted until its end."""
    if "benchmark" in case:
        return measure(steps_of(case["benchmark"], group), rounds=1)
    if "slow" in case:
        return measure_case(case, group)
    with ExitStack() as stack:
        if case.get("weights_apart"):  # as versions before flat blocks
            stack.enter_context(patch("sclds.train.engine.flatten_blocks"))
        return train_case(case, group, stack)


def count_by_phase(engine, stack):
    """Count DeepSpeed's messages in every forward, backward and step from now on; return where they are found."""
    sent = stack.enter_context(counted_messages())
    owners = [m for m in engine.module.modules() if list(m.parameters(recurse=False))]
    own_part = sum(p.ds_tensor.nbytes for p in engine.module.parameters() if hasattr(p, "ds_tensor"))
    found = {"own_part": own_part, "modules": len(owners), "forward": [], "backward": [], "step": []}

    def counted(phase, real):
        def call(*args):
            before = sent()
            if phase == "backward":
                found["forward"].append(before._asdict())
            result = real(*args)
            found[phase].append(sent()._asdict())
            return result

        return call

    for phase in ("backward", "step"):
        setattr(engine, phase, counted(phase, getattr(engine, phase)))
    return found


def note_state(engine):
    """Note, before every step of the optimizer, the bytes that are resident; of weights, of the memory they lie in."""
    found, real = {}, engine.step

    def step():
        parts = resident(engine)
        found.update({part: sum(tensor.nbytes for tensor in tensors) for part, tensors in parts.items()})
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in parts["weights"]}
        found["weights"] = sum(storage.nbytes() for storage in storages.values())
        if hasattr(engine.optimizer, "fp32_groups_gradients_flat"):  # of which a rank's own part is resident state
            found["gradients"] = sum(tensor.nbytes for tensor in engine.optimizer.fp32_groups_gradients_flat)
        return real()

    engine.step = step
    return found


def train_case(case, group, stack):
    """Train `STEPS` steps through the real engine and step; return summed losses and the full weights."""
    config = tiny_config(**case["config"])
    split = split_batch(config.batch, group.world_size)
    folder = Path(case["folder"]) if "folder" in case else None
    checkpoint = newest_checkpoint(folder) if folder else None
    build = old_engine if case.get("old") else build_engine
    engine = build(config, load_tokenizer("embedded"), split, group)
    saver = CheckpointSaver(engine, folder, config, group) if folder else None
    if checkpoint is not None:
        try:
            client = load_checkpoint(engine, checkpoint, config, group)
        except CheckpointError as fault:
            engine.destroy()
            return {"refused": str(fault)}
    saved = SavedState(checkpoint.folder, checkpoint.layout) if checkpoint else None
    restored = is_restored(engine, saved) if checkpoint else None
    started = start_of(engine, group) if checkpoint is None and not case.get("old") else None
    messages = count_by_phase(engine, stack) if case.get("count") else None
    state = note_state(engine) if case.get("count") else None
    kinds, words = (by_place * 2 for by_place in MAKE_UPS[case["make_up"]])
    history = []
    memory = Flipping(engine, group)
    memory.begin(0)
    for step in range(checkpoint.step if checkpoint else 0, case.get("steps", STEPS)):
        batches = []
        for a in range(split.accumulation):
            first = (a * group.world_size + group.rank) * split.micro
            batches.append(batch_of(config, step, range(first, first + split.micro), kinds, words))
        if case.get("poison") == step and group.rank == 0:
            batches[0].vision.patches[0] = float("nan")
        with waits_that_run() if case.get("waits") else nullcontext(()) as waits:
            report = train_step(memory, batches, step, config, split, group)
        terms = {name: group.all_reduce_sum(value.float()).item() for name, value in sorted(report.terms.items())}
        history.append({"terms": terms, "norm": float(engine.get_global_grad_norm()), "applied": report.applied})
    if folder and checkpoint is None:
        saver.save(case["steps"], SPIKED)
        saver.wait()
    gradient = gradient_of(engine, config) if case.get("gradient") else None
    weights = {name: weight.float() for name, weight in held_weights(engine).items()}
    found = [memory.found(len(history))]
    for part in PARTS if case.get("flip") else ():
        memory.part = part
        train_step(memory, batches, len(history), config, split, group)
        found.append(memory.found(len(history)))
    if saver:
        saver.close()
    engine.destroy()
    results = {"history": history, "weights": weights, "start": started, "gradient": gradient, "messages": messages}
    kept = checkpoint and all(client[key] == value for key, value in SPIKED.items())
    results |= {"restored": restored, "kept": kept, "found": found, "waits": sorted(waits)}
    return results | {"state": state, "split": list(vars(split).values())}


def measure_case(case, group):
    """Take steps of which each is a line of the metrics; the last rank is slow where its vision encoder computes."""
    config = tiny_config(**case["config"])
    split = split_batch(config.batch, group.world_size)
    engine = build_engine(config, load_tokenizer("embedded"), split, group)
    if group.rank == group.world_size - 1:
        engine.module.vision_encoder.register_forward_pre_hook(lambda *_: time.sleep(case["slow"]))
    kinds, words = (by_place * 2 for by_place in MAKE_UPS[case["make_up"]])
    hosts = [f"host{rank}" for rank in range(group.world_size)]
    measures, slow = StepMeasures(config, split, group, hosts, peak_flops=1e9), SlowRanks(config.log.slow_rank)
    lines, said = [], []
    for step in range(STEPS):
        first = group.rank * split.micro
        batch = batch_of(config, step, range(first, first + split.micro), kinds, words)
        begun = time.perf_counter()
        measures.clock.begin()
        train_step(engine, [batch], step, config, split, group)
        measures.clock.end()
        wall = time.perf_counter() - begun
        measures.add([batch])
        own = sum(measures.table()[0])
        lines.append(measures.figures(16.0) | {"wall": wall, "own": own})
        said.append(slow.add(measures.ranks))
    parameters = count_parameters(engine.module)
    engine.destroy()
    return {"lines": lines, "said": said, "parameters": parameters}


class Flipping(MemoryCheck):
    """Flips the lowest bit of one number on the last rank, once, after a backward pass."""

    part = None

    def backward(self, loss):
        super().backward(loss)
        if self.part and self._group.rank == self._group.world_size - 1:
            tensor = resident(self._engine)[self.part][-1].view(-1)
            words = tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16)
            words[len(words) // 2] ^= 1
        self.part = None


def old_engine(config, tokenizer, split, group):
    """Return the engine of versions that left bf16 at stages 0 and 1 to optimizers of DeepSpeed's choice."""
    settings = deepspeed_settings(config, split, largest_block=0) | {"bf16": {"enabled": True}}
    settings.pop("data_types", None)
    settings.pop("communication_data_type", None)
    with patch("sclds.train.engine.flatten_blocks"):
        model = model_outline(config, tokenizer)
    materialize(model, settings, sharded=False)
    fill_parameters(model, InitialWeights(config, model), group, sharded=False)
    model.to(torch.bfloat16)
    optimizer = build_optimizer(model, config.optimizer)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)[0]


def start_of(engine, group):
    """Return the steps that the optimizer has taken, on any rank, and the full fp32 weights that it starts from."""
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    taken = max([float(state["step"]) for state in inner.state.values() if "step" in state], default=0.0)
    steps = group.all_gather(torch.tensor(taken)).max().item()
    return {"steps": steps, "masters": fp32_weights(engine), "held": held_weights(engine)}


def held_weights(engine):
    """Return the full weights that the model computes with, by their names in `SCLModel`."""
    held = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            held[name] = parameter.detach().clone()
    return apart(held, engine)


def apart(tensors, engine):
    """Return tensors of parameters by the names of the weights in them, each with memory of its own."""
    return {name: tensor.clone() for name, tensor in split_flat(tensors, layout_of(engine.module)).items()}


def is_restored(engine, saved):
    """Return whether fp32 weights and Adam's moments are those of a checkpoint, bit for bit."""
    found = {"fp32": fp32_weights(engine), "exp_avg": moments(engine, "exp_avg")}
    found["exp_avg_sq"] = moments(engine, "exp_avg_sq")
    return all(
        torch.equal(value.flatten(), saved.read(name, kind)) for kind, of in found.items() for name, value in of.items()
    )


def moments(engine, key):
    """Return one of Adam's full moments by name."""
    if hasattr(engine.optimizer, "masters"):
        return {n: engine.optimizer.state[p][key] for n, p in engine.optimizer.masters().items()}
    if hasattr(engine.optimizer, "_hp_optimizer_states_linked"):
        # DeepSpeed links the states when the first group has stepped, and those of the others are not there yet
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    return apart({n: safe_get_full_optimizer_state(p, key) for n, p in engine.module.named_parameters()}, engine)


def gradient_of(engine, config):
    """Return the gradient that the first step used, which is what Adam's first moment holds of it."""
    share = 1 - config.optimizer.betas[0]
    assert engine.was_step_applied()
    return {name: moment / share for name, moment in moments(engine, "exp_avg").items()}


def fp32_weights(engine):
    """Return the full weights in fp32 by name, of which the model's are copies."""
    own = getattr(engine.optimizer, "masters", None)
    if own is not None:
        return {name: parameter.detach().clone() for name, parameter in own().items()}
    return apart({name: safe_get_full_fp32_param(p).detach() for name, p in engine.module.named_parameters()}, engine)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        cases = json.load(file)
    group = ProcessGroup()
    results = {name: run_case(case, group) for name, case in cases.items()}
    if group.rank == 0:
        torch.save(results, sys.argv[2])
    group.barrier()
    group.close()


if __name__ == "__main__":
    main()
