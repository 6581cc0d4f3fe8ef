"""A fine-tuning from annotated shards to accuracy, predictions and page, and what is refused on the way."""

import json
import socket
import tarfile
from pathlib import Path

import pytest
import torch

import sclds
from sclds.cli.main import main
from sclds.config.errors import ConfigError, UserError
from sclds.config.reading import load_config
from sclds.data.tokenizer import load_tokenizer
from sclds.evaluation.tasks import evaluate, figure_names, higher_is_better
from sclds.interop.folder import ModelFolder, Origin, build_model, write_folder
from sclds.losses.communicator import SingleProcess
from sclds.run.checkpoints import newest_checkpoint
from sclds.run.manifest import MANIFEST_FILE
from sclds.tasks import TASKS
from sclds.tasks.annotations import classes_of, write_classes
from sclds.tasks.model import TaskModel
from sclds.train.task import prepare_data
from tests.data.synthetic import picture, write_tar
from tests.losses.threads import run_ranks
from tests.tasks.test_annotations import question, vqa_members
from tests.train.one_process import OneProcess

CONFIG = Path(__file__).parents[2] / "configs" / "finetune" / "easy_vqa.yaml"
TINY = [
    *("data.image_size=16", "data.video_size=16", "model.vision.pretrained_image_size=16", "model.projection=16"),
    *("model.vision={width: 32, heads: 2, layers: 1}", "model.text={width: 32, heads: 2, layers: 1}"),
    *("model.fusion={width: 32, heads: 2, layers: 2}", "task.min_answer_count=1", "evaluation.batch_size=4"),
    *("batch={global_size: 8, max_micro_size: 4, group_size: 4}", "schedule.steps=3", "log.every=1"),
]


@pytest.fixture
def as_one_process(monkeypatch):
    """Set what a launcher sets, so that it is gone afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    values = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def settings(tmp_path):
    """Shards of a few questions, and the settings of a run over them."""
    answers = ("red", "blue", "yes")
    for split, count in (("train", 12), ("test", 7)):
        images = {
            f"{split}{n}": [
                question(10 * n + k, f"what is {k}?", (answers[(n + k) % 3],) * 10) for k in range(1 + n % 3)
            ]
            for n in range(count)
        }
        write_tar(tmp_path / split / "0.tar", vqa_members(images))
    write_tar(tmp_path / "captions" / "0.tar", {"a.png": picture(1), "a.json": b'{"caption": "a cat"}'})
    rows = [f"data.train.0.shards={tmp_path / 'train'}", f"data.heldout.0.shards={tmp_path / 'test'}"]
    return [*TINY, *rows, f"run_dir={tmp_path / 'run'}"]


@pytest.mark.usefixtures("as_one_process")
def test_from_shards_to_results(settings, tmp_path, capsys):
    settings += ["task.questions_per_image=2"]
    run, line = tmp_path / "run", ["finetune", "--config", str(CONFIG), *settings]
    assert main(line) == 0
    results = json.loads((run / "results.json").read_text())
    found = results["sets"]["easy_vqa-test"]
    assert found["samples"] == found["vqa"]["accuracy"]["n"] == 13
    assert json.loads((run / "answers.json").read_text()) == ["blue", "red", "yes"]
    predictions = json.loads((run / "predictions-easy_vqa-test.json").read_text())
    assert sorted(one["question_id"] for one in predictions) == sorted(
        10 * n + k for n in range(7) for k in range(1 + n % 3)
    )
    assert {one["answer"] for one in predictions} <= {"blue", "red", "yes"}
    metrics = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert [sorted(one["loss"]) for one in metrics] == [["total", "vqa", "vqa_accuracy"]] * 3
    page = (run / "report.html").read_text()
    assert "Question answering" in page
    assert "of 13 examples" in page, "the accuracy stands in the head"
    capsys.readouterr()
    assert main(line) == 0
    assert "This run is done" in capsys.readouterr().out
    assert_answers_from_python(run, tmp_path, {one["question_id"]: one["answer"] for one in predictions})
    out = tmp_path / "again.json"
    assert main(["evaluate", str(run), "--out", str(out)]) == 0
    assert json.loads(out.read_text())["sets"] == results["sets"]
    assert json.loads((tmp_path / "predictions-easy_vqa-test.json").read_text()) == predictions
    assert_other_answers_are_refused(run, line, capsys)
    assert_other_shards_are_said(run, line, tmp_path)
    assert_what_cannot_be_measured_is_said(run, tmp_path, capsys)
    newest_checkpoint(run / "checkpoints").folder.joinpath(MANIFEST_FILE).unlink()
    capsys.readouterr()
    assert main(line) == 0
    assert "step-0000003 is damaged: its manifest.json is missing; remove it, and the same" in capsys.readouterr().out


def assert_other_answers_are_refused(run, line, capsys):
    """Weights have learned the order of the answers: those of another run would make every answer a wrong one."""
    answers = run / "answers.json"
    learned = answers.read_text()
    answers.write_text(json.dumps(json.loads(learned)[::-1]))
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 2
    assert "other answers, or another order of them, than" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match="every answer would be taken for another one"):
        sclds.load(run)
    answers.write_text(learned)


def assert_other_shards_are_said(run, line, root):
    """A run that goes on with other shards says so: their order is another one, and samples may come twice."""
    config, checkpoint = load_config(CONFIG, line[3:]), newest_checkpoint(run / "checkpoints")
    said = []
    prepare_data(config, checkpoint, OneProcess(), said.append)
    assert said == []
    more = write_tar(root / "train" / "1.tar", vqa_members({"more": [question(900, "what is 0?", ("red",) * 10)]}))
    prepare_data(config, checkpoint, OneProcess(), said.append)
    more.unlink()
    [sentence] = said
    assert "differ in names, sizes or number from those that step-0000003 was trained on" in sentence


def assert_what_cannot_be_measured_is_said(run, root, capsys):
    """Annotations that are left out, images that do not decode, a set that is cut; ids need not be numbers."""
    images = {"a": [question(1), question("own-2"), question(1)], "lost": [question(3)], "cut": [question(4)]}
    members = vqa_members(images | {"b": [question(5)]}) | {"cut.png": b"no image"}
    members.pop("lost.png")
    write_tar(root / "own" / "0.tar", members)
    line = ["evaluate", str(run), "--data", f"own={root / 'own'}", "--out", str(root / "out" / "own.json")]
    capsys.readouterr()
    assert main(line) == 0
    told = capsys.readouterr().out
    assert "Left out of data set 'own': " in told
    assert "1: its id stands there twice (the first: 1)" in told
    assert "1: its image is missing (the first: lost)" in told
    assert "1 samples that cannot be used, so that nothing is measured on them: own/0/cut:4: its image cannot" in told
    predictions = json.loads((root / "out" / "predictions-own.json").read_text())
    assert [one["question_id"] for one in predictions] == [1, "own-2", 5]
    assert main([*line, "evaluation.max_samples=2"]) == 0
    assert "Of data set 'own' the first 2 of 3 samples are measured" in capsys.readouterr().out


def assert_answers_from_python(run, root, predictions):
    """`sclds.load` gives the predictions of the evaluation, and says what such a model has not."""
    with tarfile.open(root / "test" / "0.tar") as tar:
        tar.extractall(root / "files", filter="data")
    asked = [(root / "files" / f"test{n}.png", f"what is {k}?", 10 * n + k) for n in range(7) for k in range(1 + n % 3)]
    images, questions, ids = zip(*asked, strict=True)
    model = sclds.load(run)
    assert model.answer(questions, images, batch_size=5) == [predictions[number] for number in ids]
    assert model.answer(questions[0], images[0]) == [predictions[ids[0]]]
    assert len(model.fuse(questions[:2], images[:2])) == 2
    for call in (lambda: model.encode_text("a"), lambda: model.match("a", images[0]), lambda: model.encode_image([])):
        with pytest.raises(UserError, match="fine-tuned for vqa, which leaves them out: it has `answer`"):
            call()
    with pytest.raises(UserError, match="vqa is about 1 image beside a text"):
        model.answer("a", images[0], images[0])
    assert main(["convert", "huggingface", str(run), str(root / "hub")]) == 2


def test_any_number_of_ranks_answers_alike(settings):
    config = load_config(CONFIG, [*settings, "task.use_image=false"])
    write_classes(config)
    tokenizer = load_tokenizer("embedded")
    model = TaskModel(config.model, tokenizer.vocab_size, TASKS["vqa"], len(classes_of(config)))
    model.initialize(0)

    def found(communicator):
        return evaluate(model.eval(), config, tokenizer, torch.device("cpu"), communicator)

    alone = found(SingleProcess())
    assert all(one == alone for one in run_ranks(3, found))
    assert len(alone["predictions"]["easy_vqa-test"]) == 13
    assert figure_names(config) == ["heldout/easy_vqa-test/vqa_accuracy"]
    assert higher_is_better("heldout/easy_vqa-test/vqa_accuracy")
    assert higher_is_better("heldout/x/nlvr2_consistency")


def test_every_question_gets_its_own_answer_however_many_are_asked_together(settings):
    """As each asked by itself, by a model whose answers differ from question to question and from image to image."""
    settings = [word for word in settings if not word.startswith("evaluation.batch_size")]
    config, tokenizer = load_config(CONFIG, settings), load_tokenizer("embedded")
    write_classes(config)
    model = TaskModel(config.model, tokenizer.vocab_size, TASKS["vqa"], len(classes_of(config))).eval()
    generator, logits = torch.Generator().manual_seed(1), []
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.5, generator=generator)

    def asked(batch_size, together, ranks=1):
        sizes = [f"evaluation.batch_size={batch_size}", f"task.questions_per_image={together}"]
        sized = load_config(CONFIG, [*settings, *sizes])

        def measured(communicator):
            return evaluate(model, sized, tokenizer, torch.device("cpu"), communicator)

        found = measured(SingleProcess()) if ranks == 1 else run_ranks(ranks, measured)[-1]
        answers = {one["question_id"]: one["answer"] for one in found["predictions"]["easy_vqa-test"]}
        return answers, found["sets"]["easy_vqa-test"]

    hook = model.task_head.register_forward_hook(lambda module, given, made: logits.append(made))
    asked(1, 1)
    hook.remove()
    with torch.no_grad():  # so that no answer is given always
        model.task_head.out.bias -= torch.cat(logits).mean(0)
    alone, row = asked(1, 1)
    assert len(alone) == 13
    assert len({alone[10 * n] for n in range(7)}) > 1, "the same question about different images"
    assert any(alone[10 * n] != alone[10 * n + 1] for n in (1, 2, 4, 5)), "different questions about an image"
    for case in ((4, 1), (4, 2), (3, 9), (2, 2, 3)):
        assert asked(*case) == (alone, row), case


@pytest.mark.usefixtures("as_one_process")
def test_weights_that_do_not_fit_are_sentences(settings, tmp_path, capsys):
    """Of another width, and of pre-training where a fine-tuned model is measured."""
    others = [word for word in settings if not word.startswith("model.fusion")]
    model = load_config(CONFIG, [*others, "model.fusion={width: 64, heads: 2, layers: 2}"]).model
    model = model.model_copy(update={"text": model.text.model_copy(update={"vocab_size": 4096})})
    write_folder(tmp_path / "wide", ModelFolder(model, dict(build_model(model).named_parameters()), Origin("test")))
    line = ["--config", str(CONFIG), *settings]
    assert main(["finetune", *line, f"model.init_from={tmp_path / 'wide'}"]) == 2
    assert "model.fusion.width=32 differs from 64" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "wide"), *line]) == 2
    told = capsys.readouterr().err
    assert "was not fine-tuned for task.name=vqa: it has no task_head" in told
    assert "model.init_from" in told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("task.name=qa", "task.name='qa'"),
        ("task.min_count=3", "did you mean 'min_answer_count'"),
        ("losses.mlm=1", "losses.mlm=1.0 has no effect with task.name=vqa"),
        ("losses.contrastive=1", "losses.contrastive=1.0 has no effect with task.name=vqa"),
        ("task={name: retrieval, questions_per_image: 2}", "task.questions_per_image has no effect with task.name=ret"),
        ("task={name: snli_ve, min_answer_count: 3}", "task.min_answer_count has no effect with task.name=snli_ve"),
        (
            "task={name: retrieval, min_answer_count: 9} batch.group_size=1",
            "leaves task.name=retrieval no other caption",
        ),
        ("masking.mlm_ratio=0.3", "masking has no effect with task.name=vqa"),
        ("batch.layout=shuffled", "batch.layout=shuffled has no effect with task.name=vqa"),
        ("data.train.0.phrase_dropout=0.5", "phrase_dropout=0.5 of 'easy_vqa' has no effect with task.name=vqa"),
        ("evaluation.tasks=[nlvr2]", "nlvr2 is measured of a model that was fine-tuned for it; set task.name=nlvr2"),
        ("evaluation.tasks=[vqa,losses]", "evaluation.tasks: losses is not measured of a model for task.name=vqa"),
        ("evaluation.rerank=5", "evaluation.rerank=5 has no effect without retrieval in evaluation.tasks"),
        ("evaluation.frames=9", "evaluation.frames=9 exceeds model.vision.max_frames=8"),
    ],
)
def test_settings_that_contradict_each_other_are_sentences(change, words):
    key, space, rest = change.partition(" batch")
    with pytest.raises(ConfigError) as fault:
        load_config(CONFIG, [key, f"batch{rest}"] if space else [change])
    assert words in str(fault.value)


def test_a_pretraining_is_no_finetuning(tmp_path, capsys):
    assert main(["finetune", "--config", "quickstart", f"run_dir={tmp_path / 'other'}"]) == 2
    assert "names no task, so it is a pre-training" in capsys.readouterr().err


@pytest.mark.parametrize(("task", "heldout"), [("vqa", True), ("retrieval", False), ("qa", None)])
def test_a_misspelled_setting_does_not_make_a_task_a_pretraining(task, heldout, settings, tmp_path, capsys):
    """Shards are held against the task all the same: questions are not refused as having no captions."""
    changes = [f"task.name={task}", "batch.globalsize=8", f"data.heldout.0.shards={tmp_path / 'captions'}"]
    changed = {change.partition("=")[0] for change in changes}
    line = [word for word in settings if word.partition("=")[0] not in changed]
    assert main(["finetune", "--config", str(CONFIG), *line, *changes]) == 2
    told = capsys.readouterr().err
    assert "batch.globalsize: unknown key" in told
    assert ("holds questions about images" in told) == (heldout is False)
    assert ("holds no .vqa.json, which task.name=vqa reads" in told) == (heldout is True)


def test_captions_are_no_questions(settings, tmp_path, capsys):
    shards = [word for word in settings if not word.startswith("data.train")]
    assert main(["finetune", "--config", str(CONFIG), *shards, f"data.train.0.shards={tmp_path / 'captions'}"]) == 2
    assert "holds no .vqa.json, which task.name=vqa reads" in capsys.readouterr().err
