import json
import re
from pathlib import Path
from typing import Any

import pytest

from sclds.cli.main import main
from sclds.config import Config
from sclds.config.errors import ConfigError, UserError
from sclds.config.reading import load_config
from sclds.costs import plan, stages
from sclds.costs.clusters import Kind, cluster_of, known_kinds
from sclds.costs.search import Outcome, as_configured, possible_splits, search
from sclds.costs.step import step_factor

PRETRAIN = Path(__file__).parents[2] / "configs" / "pretrain"
CONFIGS = sorted(PRETRAIN.glob("*.yaml"))
KINDS = known_kinds()


def planned(config: Config, gpus: int = 64, gpu: str = "h100") -> dict[str, Any]:
    return plan.plan(config, cluster_of(KINDS, gpu, gpus), KINDS, 12)


def small(memory: float) -> dict[str, Kind]:
    return KINDS | {"small": KINDS["h100"].model_copy(update={"memory": memory})}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_json_names_what_people_rely_on(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["flops"]["forward_per_sample"] > 0
    assert result["memory"]["bytes_per_gpu"] < result["memory"]["gpu_bytes"]
    assert result["communication"]["bytes_per_step"] > 0
    assert result["samples_per_second"] > 0
    assert result["fits"]
    assert result["gpu_hours"] == pytest.approx(result["days_with_failures"] * 24 * 64)
    assert set(result["assumptions"]["estimated"]) >= {"samples_per_second", "days", "memory.bytes_per_gpu"}
    assert result["assumptions"]["sources"]["memory_bandwidth"] == "NVIDIA H100 Tensor Core GPU data sheet, SXM"


def test_tables_fit_a_terminal_and_the_answer_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--config", str(CONFIGS[0]), "--gpus", "32", "--gpu", "a100"])
    out = capsys.readouterr().out
    assert "32 × A100-80 (4 machines)" in out
    assert "a100 is taken as a100-80" in out
    first = out[: out.index("Best of")]
    assert all(word in first for word in ("Fits", "samples/s", "GPU-hours", "Limited by", "estimate"))
    assert max(len(line) for line in out.splitlines()) <= 80


def test_sharding_saves_memory_and_changes_traffic() -> None:
    for precision in ("fp32", "bf16"):
        rows = planned(load_config(CONFIGS[0], [f"engine.precision={precision}"]))["zero_stages"]
        memory, traffic = ([row[key] for row in rows] for key in ("bytes_per_gpu", "bytes_per_step"))
        assert memory[:3] == sorted(memory[:3], reverse=True)  # stage 3 holds all of so small a model gathered
        # DeepSpeed sums gradients on all GPUs at stages 1 and 2, which brings twice what stage 3's scatter does
        assert traffic[3] < 1.001 * traffic[0] < traffic[2] == pytest.approx(traffic[1], rel=1e-3)


def test_the_search_holds_the_best_that_fits_and_says_why_others_do_not() -> None:
    config = load_config(PRETRAIN / "scl_base_image.yaml")
    mix, cluster = plan.mix_of(config), cluster_of(small(20e9), "small", 64)
    found = search(config, cluster, mix)
    fit = [outcome for outcome in found if outcome.fits]
    assert 0 < len(fit) < len(found)
    assert found[: len(fit)] == fit
    assert fit[0].samples_per_second == max(outcome.samples_per_second for outcome in fit)
    assert {(o.config.engine.zero_stage, o.config.engine.activation_checkpointing) for o in found} == {
        (stage, again) for stage in range(4) for again in (False, True)
    }
    for outcome in found[len(fit) :]:
        assert outcome.needed > 0.9 * 20e9
        assert re.fullmatch(r"needs \S+ GB of a GPU, \S+ of them .+; 18 of 20 GB are free for it", outcome.why or "")
    # what the search proposes is what the configuration with these settings is
    best = load_config(PRETRAIN / "scl_base_image.yaml", fit[0].settings(config))
    again = as_configured(best, cluster, mix)
    assert (again.split, again.time) == (fit[0].split, fit[0].time)


def test_negatives_of_a_micro_batch_keep_the_micro_batch_as_it_is_configured() -> None:
    config = load_config(PRETRAIN / "scl_base_image.yaml", ["losses.negatives=micro_batch"])
    cluster = cluster_of(KINDS, "h100", 16)
    assert max(o.split.micro for o in search(config, cluster, plan.mix_of(config))) == config.batch.max_micro_size


@pytest.mark.parametrize(
    ("memory", "says"),
    [(16e9, "only with batch.max_micro_size="), (3e9, "What fits: engine.zero_stage="), (1e9, "No setting fits")],
)
def test_what_does_not_fit_is_told(
    memory: float, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "kinds.yaml"
    # sizes of state at stage 0, which is more than 3 GB
    file.write_text(f"kinds: {{small: {{like: h100, memory: {memory}, sources: {{memory: made up}}}}}}")
    line = ["plan", "--config", str(PRETRAIN / "scl_base_image.yaml"), "--clusters", str(file), "--gpu", "small"]
    assert main([*line, "engine.zero_stage=0"]) == 0
    assert says in " ".join(capsys.readouterr().out.split())


def test_no_stage_is_advised_that_does_not_fit_or_to_who_chose_one() -> None:
    config = load_config(PRETRAIN / "scl_huge_image.yaml")
    split = possible_splits(config, 64)[0]
    assert "engine.zero_stage=" in (plan.faster_stage(config, split, 80 * 10**9) or "")
    assert plan.faster_stage(config, split, 30 * 10**9) is None
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


def test_stage_3_pays_later_with_more_memory_and_smaller_micro_batches() -> None:
    rows = planned(load_config(CONFIGS[0]))["stage_3_table"]
    by_place = {(row["gpu_bytes"], row["micro_batch"]): row["parameters"] for row in rows}
    sizes, micros = (sorted({key[i] for key in by_place}) for i in (0, 1))
    assert sizes == [40e9, 80e9, 141e9, 180e9]
    for micro in micros:
        column = [by_place[size, micro] for size in sizes]
        assert column == sorted(column)
    for size in sizes:
        line = [by_place[size, micro] for micro in micros]
        assert line == sorted(line, reverse=True)


def test_accumulation_and_recomputation_cost_forwards() -> None:
    config = load_config(CONFIGS[0])
    assert step_factor(config, 1) == 3
    assert step_factor(config, 2) == 4
    checkpointed = load_config(CONFIGS[0], ["engine.activation_checkpointing=true"])
    assert step_factor(checkpointed, 1) == 4


def test_small_memory_takes_a_smaller_micro_batch() -> None:
    config = load_config(PRETRAIN / "scl_base_image.yaml")
    found = as_configured(config, cluster_of(small(12e9), "small", 8), plan.mix_of(config))
    assert found.split.micro < 64
    assert found.needed < 12e9


def test_what_a_step_has_follows_the_configuration() -> None:
    """Twice the depth is about twice the products; a stage with hooks asks more of the host; one GPU sends nothing."""
    base = load_config(PRETRAIN / "scl_base_image.yaml")
    deep = load_config(PRETRAIN / "scl_base_image.yaml", ["model.vision.layers=22"])
    cluster, one = cluster_of(KINDS, "h100", 64), cluster_of(KINDS, "h100", 1)
    split, mix = possible_splits(base, 64)[0], plan.mix_of(base)
    first, second = (Outcome(config, split, cluster, mix) for config in (base, deep))
    vision = sum(p.flops for p in second.work.products) - sum(p.flops for p in first.work.products)
    # vision is 65 of 178 GFLOP of the forward (docs/costs.md)
    assert vision / sum(p.flops for p in first.work.products) == pytest.approx(65 / 178, rel=0.1)
    sharded = load_config(PRETRAIN / "scl_base_image.yaml", ["engine.zero_stage=1"])
    assert Outcome(sharded, split, cluster, mix).time.host < first.time.host
    assert as_configured(base, one, mix).time.communication == 0
    assert first.work.core_seconds == pytest.approx(64 * 2.4e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "abacus"], "abacus is not known"),
        (["--gpu", "h10"], "did you mean h100"),
        (["--text-tokens", "60"], "outside 3"),
        (["--gpus", "10", "--nodes", "4"], "give 8 or 12 GPUs, or 2 nodes of 5"),
        (["--plot", "figure.txt"], "ends in .png, .svg, .pdf"),
        (["--calibrate", "nowhere"], "there is no nowhere"),
        (["--clusters", "nowhere"], "cannot be read as YAML"),
        (["--gpus", "7"], "cannot be split over 7"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", str(CONFIGS[0]), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_text_longer_than_the_longest_is_refused() -> None:
    with pytest.raises(UserError, match="outside 3"):
        plan.mix_of(load_config(CONFIGS[0]), 60)


@pytest.mark.parametrize(
    ("gpu", "overrides", "vision", "text"),
    [
        ("h100", [], ["flash_attn_3", "flash_attn_4", "flash_attn", "torch_varlen", "sdpa"], ["flash_attn", "sdpa"]),
        ("a100-80", [], ["flash_attn", "torch_varlen", "sdpa"], ["flash_attn", "sdpa"]),
        ("a100-80", ["model.text.attention_dropout=0"], *[["flash_attn", "torch_varlen", "sdpa"]] * 2),
        ("h100", ["engine.precision=fp32"], ["sdpa"], ["sdpa"]),
        ("h100", ["engine.attention=flash_attn"], ["flash_attn"], ["flash_attn"]),
    ],
)
def test_the_plan_says_which_attention_there_is_on_a_gpu(gpu, overrides, vision, text):
    found = plan.attention_on(load_config(PRETRAIN / "scl_base_image.yaml", overrides), KINDS[gpu])
    assert (found["vision"], found["text"]) == (vision, text)


def test_a_plan_with_attention_that_is_not_to_be_had_there_is_refused():
    config = load_config(PRETRAIN / "scl_base_image.yaml", ["engine.attention=flash_attn_3"])
    with pytest.raises(ConfigError, match=r"9\.x, and this device has 8\.0"):
        plan.attention_on(config, KINDS["a100-80"])


def milliseconds(stage: dict[str, Any]) -> str:
    return f"{1000 * stage['seconds_per_step']:.0f}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_heads_of_configurations_say_what_stages_need(path: Path) -> None:
    result = planned(load_config(path))
    needed = [f"{row['bytes_per_gpu'] / 1e9:.3g}" for row in result["zero_stages"]]
    head = " ".join(path.read_text(encoding="utf-8").split("\nname:")[0].replace("#", "").split())
    assert f"needs {needed[3]} GB per GPU on 64 GPUs of 80 GB; stage 1 needs {needed[1]}." in head
    here, many = result["zero_stages"], planned(load_config(path), 512)["zero_stages"]
    best = min(many, key=lambda row: row["seconds_per_step"])
    faster = " (engine.zero_stage=1 is faster)" if result["faster_stage"] else ""
    assert (
        f"Predicted on 64 H100: {milliseconds(here[3])} ms a step, at stage 1 {milliseconds(here[1])}{faster}; "
        f"on 512: {milliseconds(many[3])}, at stage {best['stage']} {milliseconds(best)}."
    ) in head
    assert f"Stage 3 pays from {result['stage_3_pays_from'] / 1e9:.3g} G parameters on" in head
