"""What would start and then end in a traceback is refused before any process group, engine or folder exists."""

from pathlib import Path

import pytest
import torch

from sclds.config.errors import ConfigError
from sclds.config.rules import LOSS_WEIGHTS
from sclds.objectives.table import OBJECTIVES
from sclds.train.deepspeed_settings import REFUSED, deepspeed_problems, deepspeed_settings, offload_problems, overriding
from sclds.train.optimizer import build_optimizer
from sclds.train.startup import checked_start
from tests.train.synthetic import tiny_config

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
NO_LOSS = [f"losses.{name}=0" for name in LOSS_WEIGHTS]
ZERO = "engine.deepspeed.zero_optimization"
REFUSALS = {
    "no_loss": (NO_LOSS, "losses: all weights are 0"),
    "no_masked_words": (["masking.mlm_ratio=0"], "losses.mlm=1.0 has nothing to learn from with masking.mlm_ratio=0.0"),
    "no_hidden_patches": (["masking.scl_vision_ratio=0"], "losses.mvsc=1.0 has nothing to learn from"),
    "no_replaced_patches": (
        ["losses.mltc_image=1", "masking.mltc_vision_ratio=0.02"],
        "losses.mltc_image=1.0 has nothing to learn from with masking.mltc_vision_ratio=0.02, which hides none of 36",
    ),
    "batch_of_one": (
        [*NO_LOSS[1:], "losses.contrastive=1", "batch.global_size=1", "batch.group_size=1"],
        "losses.contrastive=1.0 compares the samples of a batch, and batch.global_size=1 leaves one",
    ),
    "micro_batch_of_one": (
        ["losses.itm=0", "losses.negatives=micro_batch", "batch.group_size=1", "batch.max_micro_size=1"],
        "losses.mlsc=1.0 compares the samples of a batch, and batch.max_micro_size=1 with",
    ),
    "positions_too_few": (
        ["model.text.max_positions=33"],
        "model.text.max_positions=33 has no row for every position of data.max_text_tokens=32, which takes 34",
    ),
    "words_too_few": (
        ["model.text.vocab_size=4095"],
        "model.text.vocab_size=4095 has fewer rows than data.tokenizer=embedded has ids, 4096",
    ),
    "token_types_too_few": (["model.fusion.token_types=1"], "model.fusion.token_types=1: input should be greater"),
    "set_too_often": (["data.train.0.weight=1e308"], "data.train.0.weight='1e308': input should be less than"),
    "pixels_up_to_255": (
        ["data.mean=[123.7,116.3,103.5]"],
        "data.mean.0=123.7: input should be less than or equal to 1",
    ),
    "deviation_of_0": (["data.std=[0,0.2,0.2]"], "data.std.0=0: input should be greater than 0"),
    "deviation_below_0": (["data.std=[0.2,-0.2,0.2]"], "data.std.1=-0.2: input should be greater than 0"),
    "norm_without_eps": (["model.fusion.layer_norm_eps=-1"], "model.fusion.layer_norm_eps=-1: input should be greater"),
    "crop_backwards": (["data.crop_area=[0.9,0.2]"], "data.crop_area=[0.9, 0.2] is no range of shares"),
    "heldout_weight": (["data.heldout.0.weight=2"], "data.heldout: weight=2.0 of 'pictures-heldout' has no effect"),
    "empty_name": (["data.train=[{name: '', shards: a}]"], "data.train.0.name='': string should have at least 1"),
    "rate_of_0": (["optimizer.learning_rate=0"], "optimizer.learning_rate=0: input should be greater than 0"),
    "rate_of_inf": (["optimizer.learning_rate=inf"], "optimizer.learning_rate='inf': input should be a finite number"),
    "rate_of_nan": (["optimizer.learning_rate=nan"], "optimizer.learning_rate='nan': input should be"),
    "rate_too_large": (
        ["optimizer.learning_rate=1e300", "optimizer.heads_multiplier=1e300"],
        "optimizer.heads_multiplier=1e+300 times optimizer.learning_rate=1e+300 is no number",
    ),
    "weight_of_inf": (["losses.mlm=inf"], "losses.mlm='inf': input should be a finite number"),
    "eps_below_fp32": (["optimizer.eps=1e-60"], "optimizer.eps=1e-60: input should be greater"),
    "clip_of_inf": (["optimizer.clip_norm=inf"], "optimizer.clip_norm='inf'"),
    "batch_not_of_groups": (["batch.global_size=100"], "batch.global_size=100 is not a multiple"),
    "batch_not_divisible": (["batch.global_size=112"], "batch.global_size=112 cannot be split over 3 processes"),
    "more_processes_than_samples": (
        ["batch.global_size=16", "batch.group_size=16"],
        "batch.global_size=16 cannot be split over 3 processes",
    ),
    "fused_at_stage_0": (
        ["engine.zero_stage=0", "engine.precision=bf16", "optimizer.implementation=deepspeed"],
        "optimizer.implementation=deepspeed has no effect with engine.zero_stage=0",
    ),
    "unknown_stage": (["engine.zero_stage=4"], "engine.zero_stage=4"),
    "fp16": (["engine.precision=fp16"], "engine.precision='fp16'"),
    "gradients_of_fp32": (
        ["engine.precision=fp32", "engine.gradient_precision=bf16"],
        "engine.gradient_precision=bf16 has no effect with engine.precision=fp32",
    ),
    "gradients_of_stage_0": (
        ["engine.precision=bf16", "engine.zero_stage=0", "engine.gradient_precision=bf16"],
        "engine.gradient_precision=bf16 has no effect with engine.zero_stage=0",
    ),
    "deepspeed_unknown": (
        [f"{ZERO}.reduce_bucket_siz=5"],
        f"{ZERO}.reduce_bucket_siz: unknown key of DeepSpeed; did you mean 'reduce_bucket_size'?",
    ),
    "deepspeed_unknown_section": (
        ["engine.deepspeed.zero_optimisation.stage=1"],
        "engine.deepspeed.zero_optimisation: unknown key of DeepSpeed; did you mean 'zero_optimization'?",
    ),
    "deepspeed_wrong_type": ([f"{ZERO}.reduce_bucket_size=many"], f"{ZERO}.reduce_bucket_size='many': input should be"),
    "deepspeed_without_effect": (
        ["engine.zero_stage=0", f"{ZERO}.reduce_bucket_size=5"],
        f"{ZERO} has no effect with engine.zero_stage=0",
    ),
    "deepspeed_never_prints": (
        ["engine.deepspeed.steps_per_print=0"],
        "engine.deepspeed.steps_per_print=0: input should",
    ),
    "deepspeed_divides": (
        ["engine.deepspeed.gradient_predivide_factor=2"],
        "engine.deepspeed.gradient_predivide_factor is refused: losses are already shares of the global batch",
    ),
    "deepspeed_monitor": (["engine.deepspeed.comet.enabled=true"], "engine.deepspeed.comet needs comet_ml, which is"),
}
"""Overrides of the quickstart, and the beginning of what is told."""
if not torch.cuda.is_available():
    REFUSALS["decoding_without_gpu"] = (["data.device=mixed"], "data.device=mixed decodes on a CUDA device and this")


def refusal(overrides, world_size):
    with pytest.raises(ConfigError) as fault:
        checked_start(QUICKSTART, overrides, world_size)
    assert not torch.distributed.is_initialized()
    return fault.value.problems


@pytest.mark.parametrize("name", REFUSALS)
def test_it_is_refused_before_anything_starts(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    overrides, told = REFUSALS[name]
    processes = 3 if "processes" in told else 1
    problems = refusal([f"run_dir={tmp_path / 'run'}", *overrides], processes)
    assert any(problem.startswith(told) for problem in problems), problems
    assert not (tmp_path / "run").exists()


def test_all_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "file").touch()
    overrides = [
        f"run_dir={tmp_path / 'file'}",
        *NO_LOSS,
        "optimizer.eps=1e-60",
        "engine.deepspeed.optimizer.type=Adam",
        f"{ZERO}.stag=1",
    ]
    told = "\n".join(refusal(overrides, 1))
    for part in (
        "losses: all weights",
        "optimizer.eps",
        "deepspeed.optimizer is refused",
        "did you mean 'stage'",
        "file",
    ):
        assert part in told, told


@pytest.mark.parametrize("key", REFUSED)
def test_keys_that_would_break_a_run_are_refused_with_what_to_do_instead(key):
    tree = 1
    for part in reversed(key.split(".")):
        tree = {part: tree}
    [problem] = deepspeed_problems(tiny_config(engine={"deepspeed": tree}).engine)
    assert problem == f"engine.deepspeed.{key} is refused: {REFUSED[key]}"


SCALE = {
    "offload_optimizer.device=nvme is refused": (3, {"offload_optimizer": {"device": "nvme", "nvme_path": "/x"}}),
    "offload_param has no effect with engine.zero_stage=2": (2, {"offload_param": {"device": "cpu"}}),
    "zero_hpz_partition_size has no effect with engine.zero_stage=1": (1, {"zero_hpz_partition_size": 8}),
    "zero_quantized_weights needs a CUDA device": (3, {"zero_quantized_weights": True}),
    "zero_quantized_gradients needs a CUDA device": (3, {"zero_quantized_gradients": True}),
}


@pytest.mark.parametrize("told", SCALE)
def test_settings_for_many_gpus_say_what_they_lack(told, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stage, zero = SCALE[told]
    [problem] = deepspeed_problems(
        tiny_config(engine={"zero_stage": stage, "deepspeed": {"zero_optimization": zero}}).engine
    )
    assert problem.startswith(f"engine.deepspeed.zero_optimization.{told}")


def test_offloaded_state_takes_an_optimizer_that_runs_there():
    engine = {"deepspeed": {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}}
    assert offload_problems(tiny_config(engine=engine)) == []
    fused = tiny_config(engine=engine, optimizer={"implementation": "apex"})
    assert "use optimizer.implementation=torch" in offload_problems(fused)[0]
    assert offload_problems(tiny_config(optimizer={"implementation": "apex"})) == []


def test_other_keys_come_last_and_those_that_replace_ours_are_named():
    theirs = {"zero_optimization": {"reduce_bucket_size": 7, "contiguous_gradients": False}, "steps_per_print": 3}
    config = tiny_config(engine={"deepspeed": theirs})
    from sclds.batch.split import Split

    settings = deepspeed_settings(config, Split(8, 2, 1), 100)
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["zero_optimization"]["reduce_bucket_size"] == 7
    assert settings["zero_optimization"]["contiguous_gradients"] is False
    assert settings["gradient_accumulation_steps"] == 2
    assert overriding(config.engine, 100) == [
        "engine.deepspeed.zero_optimization.reduce_bucket_size=7 replaces 25000000",
        "engine.deepspeed.zero_optimization.contiguous_gradients=False replaces True",
        f"engine.deepspeed.steps_per_print=3 replaces {10**12}",
    ]
    assert overriding(tiny_config().engine, 100) == []


def test_the_weights_of_losses_are_those_of_the_objectives():
    assert set(LOSS_WEIGHTS) == {objective.name for objective in OBJECTIVES}


def test_a_model_without_anything_to_train_is_refused():
    with pytest.raises(ConfigError, match="no parameter to train"):
        build_optimizer(torch.nn.Linear(2, 2).requires_grad_(False), tiny_config().optimizer)


def test_a_folder_of_checkpoints_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "checkpoints").touch()
    problems = refusal([f"run_dir={tmp_path}"], 1)
    assert any(f"{tmp_path / 'checkpoints'} is a file" in problem for problem in problems)
