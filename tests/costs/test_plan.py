import json
import re
from pathlib import Path

import pytest

from sclds.cli.main import main
from sclds.config.errors import ConfigError, UserError
from sclds.config.reading import load_config
from sclds.costs import plan, stages

PRETRAIN = Path(__file__).parents[2] / "configs" / "pretrain"
CONFIGS = sorted(PRETRAIN.glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_json_names_what_people_rely_on(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["flops"]["forward_per_sample"] > 0
    assert result["memory"]["bytes_per_gpu"] < result["memory"]["gpu_bytes"]
    assert result["communication"]["bytes_per_step"] > 0
    assert result["samples_per_second"] > 0
    assert set(result["assumptions"]["estimated"]) >= {"samples_per_second", "days", "memory.bytes_per_gpu"}


def test_tables_fit_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--config", str(CONFIGS[0]), "--gpus", "32", "--gpu", "a100"])
    out = capsys.readouterr().out
    assert "32 × A100" in out
    assert "estimate" in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_sharding_saves_memory_and_costs_traffic() -> None:
    for precision in ("fp32", "bf16"):
        config = load_config(CONFIGS[0], [f"engine.precision={precision}"])
        rows = plan.plan(config, 64, "h100", 0.4, 12)["zero_stages"]
        memory, traffic = ([s[key] for s in rows] for key in ("bytes_per_gpu", "bytes_per_step"))
        assert memory[:3] == sorted(memory[:3], reverse=True)  # stage 3 holds all of so small a model gathered
        # DeepSpeed sums gradients on all GPUs at stages 1 and 2, which brings twice what stage 3's scatter does
        assert traffic[3] < 1.001 * traffic[0] < traffic[2] == pytest.approx(traffic[1], rel=1e-3)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_heads_of_configurations_say_which_stage_is_faster(path: Path) -> None:
    result = plan.plan(load_config(path), 64, "h100", 0.4, 12)
    told, head = result["faster_stage"], path.read_text(encoding="utf-8").split("\nname:")[0]
    assert told is not None
    found = re.search(r"(\S+) is faster: it fits \((\S+) of .* receives (\S+) GB a step instead of (\S+),", told)
    assert found is not None
    setting, needed, sent, now = found.groups()
    assert f"{setting} is faster: {sent} GB received a step instead of {now}, in {needed} GB" in head
    assert f"Stage 3 pays from {result['stage_3_pays_from'] / 1e9:.3g} G parameters on" in head


def test_no_stage_is_advised_that_does_not_fit_or_to_who_chose_one() -> None:
    config = load_config(PRETRAIN / "scl_huge_image.yaml")
    split = plan.possible_splits(config, 64)[0]
    assert "zero_stage=2" in (plan.faster_stage(config, split, 80 * 10**9) or "")
    assert plan.faster_stage(config, split, 45 * 10**9) is None
    assert (
        plan.faster_stage(load_config(PRETRAIN / "scl_huge_image.yaml", ["engine.zero_stage=1"]), split, 10**12) is None
    )


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("world_size", [1, 2, 64])
@pytest.mark.parametrize("free", [10**9, 40 * 10**9, 10**12])
def test_the_largest_model_is_the_one_whose_state_just_fits(stage: int, world_size: int, free: int) -> None:
    config = load_config(CONFIGS[0], [f"engine.zero_stage={stage}"])
    found = stages.largest_model(config, world_size, free)
    assert sum(stages.state_bytes(config, found, world_size).values()) == pytest.approx(free, rel=1e-6)


def test_stage_3_saves_nothing_while_the_whole_model_may_stay_gathered() -> None:
    """P > L·W/(W - 1), the module's own formula."""
    least = stages.MAX_LIVE_PARAMETERS * 8 / 7
    for parameters, pays in ((0.99 * least, False), (1.01 * least, True)):
        second, third = (
            sum(stages.state_bytes(load_config(CONFIGS[0], [f"engine.zero_stage={s}"]), int(parameters), 8).values())
            for s in (2, 3)
        )
        assert (third < second) == pays


def test_accumulation_and_recomputation_cost_forwards() -> None:
    config = load_config(CONFIGS[0])
    assert plan.step_factor(config, 1) == 3
    assert plan.step_factor(config, 2) == 4
    checkpointed = load_config(CONFIGS[0], ["engine.activation_checkpointing=true"])
    assert plan.step_factor(checkpointed, 1) == 4


def test_small_memory_takes_a_smaller_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plan.GPUS, "small", plan.Gpu(1e14, 12 * 10**9, 1e10))
    result = plan.plan(load_config(PRETRAIN / "scl_base_image.yaml"), 8, "small", 0.4, 12)
    assert result["split"]["micro_batch"] < 64
    assert result["memory"]["bytes_per_gpu"] < 12 * 10**9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((64, "abacus", 0.4, 12), "abacus is not known"),
        ((64, "h100", 1.4, 12), "not a share"),
        ((64, "h100", 0.4, 60), "outside 3"),
    ],
)
def test_wrong_arguments(arguments: tuple[int, str, float, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan.plan(load_config(CONFIGS[0]), *arguments)


def test_gpus_that_do_not_divide_the_batch() -> None:
    with pytest.raises(ConfigError, match="cannot be split over 7"):
        plan.plan(load_config(CONFIGS[0]), 7, "h100", 0.4, 12)


@pytest.mark.parametrize(
    ("gpu", "overrides", "vision", "text"),
    [
        ("h100", [], ["flash_attn_3", "flash_attn_4", "flash_attn", "torch_varlen", "sdpa"], ["flash_attn", "sdpa"]),
        ("a100", [], ["flash_attn", "torch_varlen", "sdpa"], ["flash_attn", "sdpa"]),
        ("a100", ["model.text.attention_dropout=0"], *[["flash_attn", "torch_varlen", "sdpa"]] * 2),
        ("h100", ["engine.precision=fp32"], ["sdpa"], ["sdpa"]),
        ("h100", ["engine.attention=flash_attn"], ["flash_attn"], ["flash_attn"]),
    ],
)
def test_the_plan_says_which_attention_there_is_on_a_gpu(gpu, overrides, vision, text):
    found = plan.attention_on(load_config(PRETRAIN / "scl_base_image.yaml", overrides), plan.GPUS[gpu])
    assert (found["vision"], found["text"]) == (vision, text)


def test_a_plan_with_attention_that_is_not_to_be_had_there_is_refused():
    config = load_config(PRETRAIN / "scl_base_image.yaml", ["engine.attention=flash_attn_3"])
    with pytest.raises(ConfigError, match=r"9\.x, and this device has 8\.0"):
        plan.attention_on(config, plan.GPUS["a100"])
