"""Every shipped configuration: loads, saves and loads equal, builds on the meta device, and takes a step when small."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from sclds.batch import SampleViews, pack, recipe_of
from sclds.config import Config
from sclds.config.errors import ConfigError
from sclds.config.reading import DATA_SETS, dump_config, load_config, parse_config
from sclds.config.shipped import shipped_configs
from sclds.costs.counts import packed_forward, published_forward
from sclds.data.prepare.sources import READY, SOURCES, row_name
from sclds.losses.communicator import SingleProcess
from sclds.losses.objectives import GlobalFeatures, features_of, step_loss
from sclds.model.scl import SCLModel
from sclds.tasks import TASKS
from sclds.tasks.loader import ExampleViews, TaskAssembler
from sclds.tasks.loss import with_task
from sclds.tasks.model import TaskModel
from sclds.train.startup import checked_start

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
PAD = 1
TOWERS = {
    "siglip2": ["model.vision.type=siglip2", "model.vision.layer_norm_eps=1e-6"],
    "perception_encoder": ["model.vision.type=perception_encoder", "data.video_size=48"],
    "xlm_roberta": ["model.text.type=xlm_roberta"],
}


def tiny(config: Config) -> Config:
    """The same settings with few and narrow layers: what a CPU can step in a second."""
    tree = config.model_dump(mode="json")
    for part in ("vision", "text", "fusion"):
        tree["model"][part] |= {"width": 32, "heads": 2, "layers": 2}
    tree["model"]["vision"]["mlp_width"] = 0
    tree["model"]["text"]["vocab_size"] = 100
    return parse_config(tree)


def sample(config: Config, number: int, kind: str) -> SampleViews:
    rng = np.random.default_rng(number)
    size = config.data.video_size if kind == "video" else config.data.image_size
    grid = size // config.model.vision.patch_size
    text = np.concatenate(([0], rng.integers(5, 90, 3 + number), [2]))
    masked = text.copy()
    masked[2] = 99
    return SampleViews(
        dropout_key=number,
        sample_id=str(number),
        caption="",
        kind=kind,
        frames=config.data.frames if kind == "video" else 1,
        grid=grid,
        text=text,
        text_mlm=masked,
        mlm_positions=np.array([2]),
        mlm_labels=text[2:3],
        text_scl=masked,
        scl_positions=np.array([2]),
        keep=np.sort(rng.permutation(grid**2)[: int(grid**2 * (1 - config.masking.scl_vision_ratio))]),
        replaced=rng.permutation(grid**2)[: int(grid**2 * config.masking.mltc_vision_ratio)],
        itm_partner=number ^ 1,
        itm_label=0,
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_config_survives_saving(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    saved = tmp_path / "config.yaml"
    saved.write_text(dump_config(config))
    assert load_config(saved) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_config_builds_at_full_size(path: Path) -> None:
    config = load_config(path)
    with torch.device("meta"):
        model = SCLModel(config.model, config.model.text.vocab_size or 4096)
    assert sum(p.numel() for p in model.parameters()) > 1e6


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "pretrain").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_cost_in_the_head_is_what_is_counted(path: Path) -> None:
    config, head = load_config(path), path.read_text().partition("\nname:")[0]
    vocabulary = config.model.text.vocab_size
    for kind in {row.kind for row in config.data.train}:
        counted = [packed_forward(config, kind, 12, vocabulary)]
        if kind == "video" or "video" not in path.stem:  # of images in a video run, the published cost is left out
            counted.append(published_forward(config, kind, vocabulary))
        for parts in counted:
            assert re.search(rf"\b{sum(parts.values()) / 1e9:.0f}\b", head), (kind, sum(parts.values()) / 1e9)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_tiny_variant_takes_a_step(path: Path) -> None:
    takes_a_step(tiny(load_config(path)))


@pytest.mark.parametrize("tower", TOWERS)
def test_the_quickstart_with_another_tower_takes_a_step(tower: str) -> None:
    local = ["losses.mltc_image=0.2", "losses.mltc_text=0.2"]
    takes_a_step(tiny(load_config(QUICKSTART, [*TOWERS[tower], *local])))


def takes_a_task_step(config: Config) -> None:
    """A fine-tuning's step, with as many classes as VQAv2 has at most."""
    assert config.task is not None
    task = TASKS[config.task.name]
    kind, two = config.data.train[0].kind, task.images == 2
    views: list[SampleViews] = [sample(config, i, kind) for i in range(4)]
    if not task.reads_captions:
        own = [{name: getattr(view, name) for name in SampleViews.__dataclass_fields__} for view in views]
        views = [ExampleViews(**fields, scores=((i % 2, 10),), images=task.images) for i, fields in enumerate(own)]
    rows = sum(v.frames * v.grid**2 for v in views) * task.images
    config = config.model_copy(update={"batch": config.batch.model_copy(update={"group_size": 2})})
    classes = len(task.classes or "") or 3129
    assembler = TaskAssembler.__new__(TaskAssembler)
    assembler._config, assembler._recipe = config, replace(recipe_of(config, PAD), group_size=2)
    assembler.classes = classes
    batch = assembler._pack(views, torch.randn(rows, 3 * config.model.vision.patch_size**2))
    assert two == bool(batch.second.any())
    model = TaskModel(config.model, 100, task, classes)
    model.initialize(config.seed)
    outputs = model(batch)
    features = GlobalFeatures.gather([features_of(outputs, batch)], [batch], config.losses, SingleProcess())
    total, terms = step_loss(outputs, batch, features, 0, config.losses)
    loss, terms = with_task(total, terms, outputs, batch, len(views), config.task.name)
    loss.backward()
    assert torch.isfinite(loss)
    assert config.task.name in terms
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def takes_a_step(config: Config) -> None:
    if config.task is not None:
        takes_a_task_step(config)
        return
    kinds = {d.kind for d in config.data.train}
    views = [sample(config, i, sorted(kinds)[i % len(kinds)]) for i in range(2)]
    rows = sum(v.frames * v.grid**2 for v in views)
    patches = torch.randn(rows, 3 * config.model.vision.patch_size**2)
    batch = pack(views, patches, replace(recipe_of(config, PAD), group_size=2))
    model = SCLModel(config.model, 100, config.engine.activation_checkpointing)
    model.initialize(config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    outputs = model(batch)
    features = GlobalFeatures.gather([features_of(outputs, batch)], [batch], config.losses, SingleProcess())
    loss, terms = step_loss(outputs, batch, features, 0, config.losses)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert {"contrastive", "itm", "mlm", "mvsc", "mlsc"} <= set(terms)
    idle = [name for name, p in model.named_parameters() if p.grad is None]
    assert idle == [], "under ZeRO-3 every parameter must take part on every rank"
    assert not torch.equal(before["itm_score.weight"], model.itm_score.weight)


@pytest.mark.parametrize("name", ["easy_vqa", "retrieval_embedded"])
def test_small_finetunings_start_from_what_the_quickstart_leaves(name: str) -> None:
    tuned, start = load_config(ROOT / "configs" / "finetune" / f"{name}.yaml"), load_config(QUICKSTART)
    assert tuned.model == start.model
    assert tuned.data.image_size % tuned.model.vision.patch_size == 0, (
        "small shapes are shown larger than in pre-training"
    )
    for key in ("tokenizer", "mean", "std"):
        assert getattr(tuned.data, key) == getattr(start.data, key), key


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("losess.mlm=1", ["losess", "did you mean 'losses'"]),
        ("data.imagesize=3", ["data.imagesize", "did you mean 'image_size'"]),
        ("schedule.steps=abc", ["schedule.steps='abc'", "integer"]),
        ("model.text.dropout=3", ["model.text.dropout=3", "less than 1"]),
        ("batch.global_size=100", ["batch.global_size=100", "batch.group_size=16", "use 96"]),
        ("batch.max_micro_size=2", ["batch.max_micro_size=2", "group"]),
        ("data.frames=9", ["data.frames=9", "model.vision.max_frames"]),
        ("data.image_size=65", ["data.image_size=65", "use 64"]),
        ("model.text.width=130", ["model.text.width=130", "heads"]),
        ("model.min_temperature=0.3", ["model.initial_temperature=0.2 is below model.min_temperature=0.3"]),
        ("losses.published_world_size=8", ["no effect"]),
        ("losses={itm: 0, itm_negatives: hard}", ["losses.itm_negatives=hard", "no effect with losses.itm=0"]),
        ("losses={mlm: 0, mlm_view: t2}", ["losses.mlm_view=t2", "no effect with losses.mlm=0"]),
        ("evaluation.share=0.5", ["evaluation.share=0.5", "no effect with evaluation.every=0"]),
        ("checkpoint.best=heldout/a/total", ["checkpoint.best=heldout/a/total", "evaluation.every"]),
        ("schedule.steps", ["not of the form key=value"]),
        ("data.heldout.0.phrase_dropout=0.5", ["phrase_dropout=0.5 of 'pictures-heldout'", "no effect"]),
        ("data.heldout.0.name=pictures", ["two data sets are named 'pictures'"]),
    ],
)
def test_faults_are_sentences(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as fault:
        load_config(QUICKSTART, [override])
    assert all(word in str(fault.value) for word in words)


def test_a_ratio_that_economy_does_not_use_is_refused() -> None:
    economy = ["losses.mlm_view=t2", "masking.mlm_ratio=0.3"]
    with pytest.raises(ConfigError, match=r"masking\.mlm_ratio=0\.3 has no effect with losses\.mlm_view=t2"):
        load_config(QUICKSTART, economy)
    assert load_config(QUICKSTART, economy[:1]).losses.mlm_view == "t2"


def test_measuring_without_held_out_sets_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.every=5 has no effect with data\.heldout=\[\]"):
        load_config(QUICKSTART, ["evaluation.every=5", "data.heldout=[]"])


def test_an_optimizer_that_would_not_run_is_refused() -> None:
    overrides = ["engine.zero_stage=0", "engine.precision=fp32", "optimizer.implementation=apex"]
    with pytest.raises(ConfigError, match=r"optimizer\.implementation=apex has no effect with engine\.zero_stage=0"):
        load_config(QUICKSTART, overrides)


def test_several_faults_come_at_once() -> None:
    with pytest.raises(ConfigError) as fault:
        load_config(QUICKSTART, ["losess.mlm=1", "data.frames=-1", "batch.global_size=100"])
    assert len(fault.value.problems) == 3


def test_what_cannot_be_read_comes_with_what_is_not_valid(tmp_path: Path) -> None:
    """Numbers, data sets, overrides and values are looked at one after the other; none of them hides the next."""
    file = tmp_path / "a.yaml"
    file.write_text("name: a\nseed: 010\ndata: {train: [{name: nothing-known}]}\nschedule: {stpes: 3}\n")
    given = ["batch.globl=3", "losses.mlm=x", "optimizer"]
    told = []
    for read in (lambda: load_config(file, given), lambda: checked_start(file, given, 1)):
        with pytest.raises(ConfigError) as fault:
            read()
        told.append(fault.value.problems)
    for problems in told:
        assert len(problems) == len(set(problems))
        for said in (
            *(
                "010 is 8 to YAML",
                "'nothing-known' is not in",
                "'optimizer' is not of the form",
                "batch.globl: unknown",
            ),
            *("losses.mlm='x'", "schedule.stpes: unknown key"),
        ):
            assert len([problem for problem in problems if said in problem]) == 1, said


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("schedule: {steps: 010}", "line 2: 010 is 8 to YAML; write the number in full, or quote"),
        ("schedule: {steps: 1:40}", "line 2: 1:40 is 100 to YAML"),
        ("run_dir: 2024_01_15", "line 2: 2024_01_15 is 20240115 to YAML"),
        ("schedule: {steps: true}", "schedule.steps=True: expected a number, got a switch"),
        ("engine: {zero_stage: on}", "engine.zero_stage=True: expected a number, got a switch"),
        ("losses: {itm: no}", "losses.itm=False: expected a number, got a switch"),
        (
            "data: {train: [{name: a, shards: b, weight: on}]}",
            "data.train.0.weight=True: expected a number, got a switch",
        ),
        ("data: {crop_area: [true, 1]}", "data.crop_area.0=True: expected a number, got a switch"),
    ],
)
def test_what_yaml_takes_for_another_value_is_refused(tmp_path: Path, line: str, told: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"name: a\n{line}\n")
    with pytest.raises(ConfigError) as fault:
        load_config(file)
    assert told in str(fault.value)


@pytest.mark.parametrize("line", ["data: {max_pixels: 1_000_000}", "name: '007'", "# 010\nname: a-010", "seed: 0"])
def test_what_yaml_takes_for_what_it_says_is_not_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(line if "name" in line else f"name: a\n{line}\n")
    with pytest.raises(ConfigError) as fault:
        load_config(file)
    assert fault.value.problems == ["data: is required and missing"] or "max_pixels" in line
    assert "to YAML" not in str(fault.value)


def test_a_file_without_a_name_is_told_so(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("seed: 1\n")
    with pytest.raises(ConfigError) as fault:
        load_config(file)
    assert "name: is required and missing" in fault.value.problems


def test_missing_file_and_broken_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder; give a YAML file"):
        load_config(tmp_path)
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,\nb: {")
    with pytest.raises(ConfigError, match="YAML"):
        load_config(broken)


def test_a_shipped_configuration_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart") == load_config(QUICKSTART)
    assert load_config("pretrain/scl_base_video").name == "scl_base_video"
    assert {ROOT / "configs" / f"{name}.yaml" for name in shipped_configs()} == set(CONFIGS)
    (tmp_path / "quickstart").write_text("name: own\ndata: {train: [{name: x, shards: y}]}")
    assert load_config("quickstart").name == "own", "a file comes before a name"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("quikstart", "quickstart"),
        ("scl_base_image", "pretrain/scl_base_image"),
        ("configs/quickstart.yaml", "quickstart"),
        ("pretrain/scl_bas_video", "pretrain/scl_base_video"),
        ("zzz", "quickstart"),
    ],
)
def test_an_unknown_name_tells_the_nearest(
    name: str, nearest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="does not exist") as fault:
        load_config(name)
    assert nearest in str(fault.value).split("named: ")[1].split(", ")


def test_a_row_without_shards_is_that_of_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_ROOT", "/elsewhere")
    rows = "[{name: webvid, weight: 0.5}, {name: own, shards: /own}]"
    config = load_config("pretrain/scl_base_image", [f"data.train={rows}", "data.train.0.kind=image"])
    assert [row.model_dump() for row in config.data.train] == [
        {
            "name": "webvid",
            "shards": "/elsewhere/webvid/train",
            "kind": "image",
            "key_ends": "first_dot",
            "weight": 0.5,
            "phrase_dropout": 0.0,
        },
        {
            "name": "own",
            "shards": "/own",
            "kind": "image",
            "key_ends": "first_dot",
            "weight": 1.0,
            "phrase_dropout": 0.0,
        },
    ]
    assert config.data.heldout[0].shards == "/elsewhere/coco/val"


@pytest.mark.parametrize(("name", "hint"), [("cocoo", "did you mean 'coco'?"), ("zzz", "it has coco, coco-val")])
def test_a_row_that_is_in_no_catalogue_needs_shards(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.train\.0: gives no shards") as fault:
        load_config(QUICKSTART, [f"data.train=[{{name: {name}}}]"])
    assert hint in str(fault.value)


def test_the_catalogue_is_what_prepare_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_ROOT", raising=False)
    rows = OmegaConf.to_container(OmegaConf.load(DATA_SETS), resolve=True)
    assert rows == {
        row_name(name, split): {"shards": f"/data/{name}/{split}", "kind": source.kind}
        for name, source in SOURCES.items()
        for split in source.splits
    } | {name: {"shards": f"/data/{place}", "kind": "image"} for name, place in READY.items()}
