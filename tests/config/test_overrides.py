"""Settings of a command line mean what they say: text stays text, and what cannot be read is named as it was typed."""

import json
import re
from pathlib import Path
from typing import get_args, get_origin

import pytest
from omegaconf import OmegaConf

from sclds.config import Config, DataConfig, ModelConfig, Section
from sclds.config.errors import ConfigError
from sclds.config.overrides import apply_overrides, bare_type, literal, replaced
from sclds.config.reading import dump_config, load_config, override_section

NASTY = (
    *("2024_01_15", "007", "1.10", "on", "off", "1e3", "0x10", "0o7", "12:30", "2024-01-15", "1_000", ".nan", "~"),
    *(
        "null",
        "None",
        "true",
        "yes",
        "@a",
        "${name}",
        "${",
        "${oc.env:HOME}",
        "\\${x}",
        "\\\\${x}",
        "${a}${b}",
        "}}${{",
    ),
    *(
        "{00000..00331}",
        "/d/{00000..00331}.tar",
        "s3://b/{0..3}.tar",
        "#",
        "a # b",
        "#a",
        "a: b",
        ": ",
        " a ",
        "a ",
        " ",
    ),
    *("a,b", '"a"', "'a'", "'", '"', "C:\\new\\table", "a\\", "\\", "[a]", "[a", "{a: b}", "{a", "- a", "|", ">", "%a"),
    *(
        "`a`",
        "!a",
        "&a",
        "*.tar",
        "=",
        "a=b",
        "==",
        "<<",
        "<<: a",
        "---",
        "...",
        "$HOME",
        "é☃",
        "\t",
        "x\ny",
        "?",
        "a?b",
    ),
)
"""What YAML, OmegaConf or a shell could see something in."""


def text_settings(section: type[Section], prefix: str = "") -> list[str]:
    """Return the keys of all settings of a section that are text, in the first element of lists too."""
    keys = []
    for name, field in section.model_fields.items():
        kind, _ = bare_type(field.annotation)
        kind, key = (get_args(kind)[0], f"{prefix}{name}.0") if get_origin(kind) is list else (kind, f"{prefix}{name}")
        if kind is str:
            keys.append(key)
        elif isinstance(kind, type) and issubclass(kind, Section):
            keys += text_settings(kind, f"{key}.")
    return keys


TEXTS = text_settings(Config)


def overridden(*overrides: str) -> dict:
    """Return what overrides make of a small file."""
    settings = {"data": {"train": [{}], "heldout": [{}]}}
    apply_overrides(settings, overrides, Config)
    return OmegaConf.to_container(OmegaConf.create(settings), resolve=True)


def at(place: object, key: str) -> object:
    for part in key.split("."):
        place = place[int(part)] if isinstance(place, list) else place[part]  # type: ignore[index]
    return place


def test_every_text_setting_is_walked():
    wanted = {"name", "run_dir", "data.tokenizer", "data.train.0.shards", "data.heldout.0.name", "model.init_from"}
    assert wanted <= set(TEXTS)


MAY_BE_NONE = ("model.init_from", "checkpoint.best", "log.wandb", "log.mlflow", "log.trackio", "evaluation.align_bench")


@pytest.mark.parametrize("key", TEXTS)
def test_text_stays_text(key):
    # what may be none is none
    values = [value for value in NASTY if not (value == "null" and key in MAY_BE_NONE)]
    assert [value for value in values if at(overridden(f"{key}={value}"), key) != value] == []


def test_text_survives_the_whole_way_and_a_saved_configuration(tmp_path):
    rows = ", ".join(f"{{name: set{i}, shards: x}}" for i in range(len(NASTY)))
    shards = [f"data.train.{i}.shards={value}" for i, value in enumerate(NASTY)]
    saved = tmp_path / "config.yaml"
    for text in ("2024_01_15", "a${b}", "\\${name}"):
        more = [f"name={text}", f"model.init_from={text}", f"data.tokenizer={text}"]
        config = load_config("quickstart", [f"data.train=[{rows}]", *shards, *more])
        assert [row.shards for row in config.data.train] == list(NASTY)
        assert (config.name, config.run_dir, config.model.init_from) == (text, f"runs/{text}", text)
        saved.write_text(dump_config(config))
        assert load_config(saved) == config


@pytest.mark.parametrize("value", NASTY)
def test_text_inside_a_list_is_what_its_quotes_hold(value):
    quoted = value.replace("'", "''")
    if "\n" in value:
        return  # YAML folds lines inside quotes
    rows = overridden(f"data.train=[{{name: '{quoted}', shards: x}}]")["data"]["train"]
    assert rows == [{"name": value, "shards": "x"}]


@pytest.mark.parametrize(
    "value",
    [
        "007",
        "1.10",
        "on",
        "1e3",
        "null",
        "~",
        "2024_01_15",
        "/d/{00000..00331}.tar",
        "${oc.env:HOME}/x",
        "C:\\a",
        "a#b",
    ],
)
def test_text_inside_a_list_needs_no_quotes_where_it_is_clear(value):
    assert overridden(f"data.train=[{{name: a, shards: {value}}}]")["data"]["train"] == [{"name": "a", "shards": value}]


def test_the_name_of_the_command_line_is_that_of_the_run_folder():
    assert load_config("quickstart", ["name=007"]).run_dir == "runs/007"
    assert load_config("quickstart", ["name=a${b}"]).run_dir == "runs/a${b}"


def test_null_unsets_what_may_be_none_and_is_text_elsewhere():
    assert load_config("quickstart", ["model.init_from=null"]).model.init_from is None
    assert load_config("quickstart", ["model.vision.activation=null"]).model.vision.activation is None
    assert load_config("quickstart", ["name=null"]).name == "null"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("schedule.steps=100", 100),
        ("schedule.steps=1e3", 1000),
        ("schedule.steps=007", 7),
        ("optimizer.learning_rate=1e-4", 1e-4),
        ("optimizer.learning_rate=3", 3.0),
        ("losses.itm=.5", 0.5),
        ("engine.zero_stage=2", 2),
        ("data.flip=true", True),
        ("data.flip=on", True),
        ("data.flip=no", False),
        ("data.crop_area=[0.2, 1]", (0.2, 1.0)),
        ("data.crop_area.0=0.2", (0.2, 1.0)),
        ("optimizer.betas.1=0.95", (0.9, 0.95)),
        ("evaluation.tasks=[losses]", ["losses"]),
        ('evaluation.tasks=["losses"]', ["losses"]),
        ("evaluation.tasks.1=losses", ["losses", "losses"]),
        ("data.train[0].weight=2", 2.0),
        ("data.train.0={weight: 2}", 2.0),
        ('losses={"itm": 0.5}', 0.5),
        ("seed=9223372036854775807", 2**63 - 1),
    ],
)
def test_other_settings_are_read_by_their_type(override, value):
    key = override.split("=")[0].replace("[0]", ".0")
    config = load_config("quickstart", [override])
    found = config.model_dump()
    if "{" in override:
        key = f"{key}.itm" if key == "losses" else f"{key}.weight"
    *sections, last = [part for part in key.split(".") if not (part.isdecimal() and "train" not in key)]
    for part in sections:
        found = found[int(part)] if isinstance(found, list) else found[part]
    assert found[last] == value


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["schedule.steps"], ["'schedule.steps' is not of the form key=value"]),
        (["configs/quickstart.yaml"], ["--config configs/quickstart.yaml"]),
        (["--schedule.steps=3"], ["has no dashes before it", "give schedule.steps=3"]),
        (["name="], ["name= gives no value"]),
        (["=3"], ["=3", "the key ''"]),
        (["name =a"], ["'name =a'", "the key 'name '"]),
        (["data..train=3"], ["data..train"]),
        (["seed=1", "seed=2"], ["seed is given twice, seed=1 and seed=2", "shell"]),
        ([f"data.train.0.shards=a{i}.tar" for i in range(4)], ["data.train.0.shards is given twice", "quotes"]),
        (["data.train[0].name=a", "data.train.0.name=b"], ["data.train.0.name is given twice"]),
        (["losses={itm: 1}", "losses.itm=2"], ["losses.itm is given twice"]),
        (["data.train.0.name=a", "data.train=[{name: b, shards: c}]"], ["replaces what data.train.0.name=a set"]),
        (["data.train.7.name=a"], ["data.train is a list and has no element '7'; it has 0 to 1"]),
        (["data.train.-1.name=a"], ["has no element '-1'"]),
        (["data.train.name=a"], ["has no element 'name'"]),
        (["name.first=a"], ["name.first=a: name is", "no settings of its own"]),
        (["data.train=[{name: a, shards: b # c}]"], ["data.train=[{name: a, shards: b # c}]", "#"]),
        (["losses={itm: 1} # less"], ["losses={itm: 1} # less", "comment"]),
        (["data.train=[{name: a, shards: *.tar}]"], ["*.tar", "quote"]),
        (["data.train=[{name: a, shards: &x b}]"], ["anchors"]),
        (["data.train=[{name: a, shards: !x b}]"], ["tags"]),
        (["data.train=[{name: a"], ["data.train=[{name: a: cannot be read"]),
        (["data.train=[{name: a, name: b, shards: c}]"], ["'name' is given twice"]),
        (["data.train=[{name: , shards: c}]"], ["no value"]),
        (["losses={}"], ["losses={} gives no setting"]),
        (["losses=3"], ["losses='3': expected a section", "losses.contrastive"]),
        (["data.train=abc"], ["data.train='abc'", "list"]),
        (["schedule.steps=5 # five"], ["schedule.steps='5 # five'", "integer"]),
        (["schedule.steps=-007"], ["schedule.steps='-007'"]),
        (["schedule.steps=12:30"], ["schedule.steps='12:30'"]),
        (["engine.zero_stage=03"], ["engine.zero_stage='03'"]),
        (["optimizer.eps=nan"], ["optimizer.eps='nan'"]),
        (["model.vision.layer_norm_eps=inf"], ["model.vision.layer_norm_eps='inf'"]),
        (["data.trian.0.name=3"], ["data.trian", "did you mean 'train'"]),
        (["losses.itm=x", "seed="], ["seed="]),
    ],
)
def test_what_cannot_be_read_is_named_as_it_was_typed(overrides, words):
    with pytest.raises(ConfigError) as fault:
        load_config("quickstart", overrides)
    assert [word for word in words if word not in str(fault.value)] == []
    assert "quickstart.yaml" not in str(fault.value).replace("--config configs/quickstart.yaml", "").replace(
        "'configs/quickstart.yaml'", ""
    )


def test_all_that_is_wrong_comes_at_once():
    with pytest.raises(ConfigError) as fault:
        load_config("quickstart", ["seed=1", "seed=2", "name=", "schedule.steps"])
    assert len(fault.value.problems) == 3


def test_a_list_is_refined_after_it_was_given_and_a_section_is_merged():
    rows = ["data.train=[{name: a, shards: b}]", "data.train.0.kind=video", "losses={itm: 0.25}", "losses.mlm=0.5"]
    config = load_config("quickstart", rows)
    assert config.data.train[0].kind == "video"
    assert (config.losses.itm, config.losses.mlm) == (0.25, 0.5)


def test_a_section_by_itself_is_read_likewise():
    assert (
        override_section(ModelConfig, {"text": {"width": 64}}, ["text.heads=4", "init_from=${x}"]).init_from == "${x}"
    )
    with pytest.raises(ConfigError, match=r"text\.haeds: unknown key; did you mean 'heads'"):
        override_section(ModelConfig, {}, ["text.haeds=4"])


def test_what_is_replaced_is_given_once():
    given = ["run_dir=a", "data.heldout.0.name=x", "data.train.0.name=y"]
    assert replaced(given, ["run_dir=b", "data.heldout=[]"]) == ["data.train.0.name=y", "run_dir=b", "data.heldout=[]"]


def test_a_file_that_holds_no_text_where_text_is_wanted_says_to_quote_it(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("name: 20240115\ndata: {train: [{name: on, shards: x}]}")
    with pytest.raises(ConfigError, match="put it in quotes") as fault:
        load_config(file)
    assert len(fault.value.problems) == 2
    file.write_text("- a\n")
    with pytest.raises(ConfigError, match="holds a list"):
        load_config(file)


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["x.y=200000000", "x.z=2e8", "x.w=-1"], {"x": {"y": 200000000, "z": 2e8, "w": -1}}),
        (["a=true", "b=False", "c=null"], {"a": True, "b": False, "c": None}),
        (["a=007", "b=nan", "c=a ${b} # c", "e=1e999"], {"a": "007", "b": "nan", "c": "a ${b} # c", "e": "1e999"}),
        (["a={b: true, c: '007', d: '1', e: 1}", "a.f=x"], {"a": {"b": True, "c": "007", "d": "1", "e": 1, "f": "x"}}),
        (["a=[1, '1', {b: null}]"], {"a": [1, "1", {"b": None}]}),
    ],
)
def test_settings_of_another_library_are_read_as_json(overrides, found):
    """`engine.deepspeed` takes keys that the schema does not know, so that no type of it tells how to read them."""
    read = load_config("quickstart", [f"engine.deepspeed.{one}" for one in overrides]).engine.deepspeed
    assert json.dumps(read) == json.dumps(found)


def test_literal_text_is_resolved_to_itself_in_depth():
    values = {"a": ["${x}", {"b": "\\${y}"}], "c": 3}
    assert OmegaConf.to_container(OmegaConf.create(literal(values)), resolve=True) == values
    assert DataConfig.model_fields["tokenizer"].annotation is str


PAGE = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text()
GIVEN, REFUSED = (
    re.findall(
        r"^\| `([^|]+)` \| (.*) \|$", PAGE.partition(f"| given | {head} |")[2].partition("\n\n")[0], re.MULTILINE
    )
    for head in ("means", "refused")
)


@pytest.mark.parametrize(("given", "meant"), GIVEN, ids=[row[0] for row in GIVEN])
def test_the_page_says_what_a_setting_means(given, meant):
    config = load_config("quickstart", [given]).model_dump(mode="json")
    key = given.partition("=")[0].removesuffix(".0") if "crop_area" in given else given.partition("=")[0]
    found = at(config, key)
    if key == "losses":
        assert (found["itm"], found["mlm"], found["mlsc"]) == (0.0, 0.5, 1.0)
    elif key == "data.train":
        assert [(row["name"], row["shards"]) for row in found] == [("007", "/d/{0..3}.tar")]
    else:
        shown = found if isinstance(found, str) else json.dumps(found)
        assert f"`{shown}`" in meant


@pytest.mark.parametrize(("given", "told"), REFUSED, ids=[row[0] for row in REFUSED])
def test_the_page_says_what_is_refused(given, told):
    overrides = given.split() if given.startswith("data.train.0.shards=a0") else [given]
    with pytest.raises(ConfigError) as fault:
        load_config("quickstart", overrides)
    (words, *_) = re.findall(r"`([^`]+)`", told)
    assert words in str(fault.value)


def test_the_page_has_rows():
    assert min(len(GIVEN), len(REFUSED)) > 8
