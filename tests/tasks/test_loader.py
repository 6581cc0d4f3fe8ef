"""What a batch of a task holds: every question with its own words, answer and dropout, beside its images."""

import io
import json

import pytest
from PIL import Image

from sclds.data.loader import HeldoutChunk
from sclds.data.tokenizer import load_tokenizer
from sclds.tasks import TASKS
from sclds.tasks.annotations import classes_of, open_examples, write_classes
from sclds.tasks.loader import ExampleReader, TaskBatches
from tests.data.synthetic import write_tar
from tests.tasks.test_annotations import config_of, question

WORDS = ("red", "blue", "yes", "no")


def plain_image(level):
    """A picture of one gray, by which it is known again after any crop."""
    buffer = io.BytesIO()
    Image.new("RGB", (24, 24), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(name):
    """Return the members of six samples, and by example the text, the number of its class and its images' grays."""
    members, expected = {}, {}
    for n in range(6):
        grays = [20 + 30 * n, 35 + 30 * n][: TASKS[name].images]
        for role, gray in zip(("left.", "right.") if len(grays) == 2 else ("",), grays, strict=True):
            members[f"s{n}.{role}png"] = plain_image(gray)
        asked, labels = range(1 + n % 3), [(n + k) % 4 if name == "vqa" else (n + k) % 2 for k in range(1 + n % 3)]
        texts = [f"is it {WORDS[k]} or {WORDS[n % 4]}?" for k in asked]
        if name == "vqa":
            record = {"questions": [question(10 * n + k, texts[k], (WORDS[labels[k]],) * 10) for k in asked]}
        else:
            said = [{"identifier": str(10 * n + k), "sentence": texts[k], "label": bool(labels[k])} for k in asked]
            record = {"statements": said}
        members[f"s{n}.{TASKS[name].member}"] = json.dumps(record).encode()
        expected |= {str(10 * n + k): (texts[k], labels[k], grays) for k in asked}
    return members, expected


def contents(batch, tokenizer, config, images):
    """Return of every example of a batch, out of its buffers, what `shard` put in; and its dropout key."""
    channel = batch.vision.patches.view(len(batch.samples.ids), -1, 3, config.model.vision.patch_size**2)[:, :, 0]
    seen = 255 * (channel.mean((1, 2)) * config.data.std[0] + config.data.mean[0])
    gray = dict(zip(batch.samples.ids[::images], seen.round().int().view(-1, images).tolist(), strict=True))
    image_of = {name.rpartition("/")[2].partition(":")[0]: values for name, values in gray.items()}
    found, keys = [], []
    for row, name in enumerate(batch.example_ids):
        start = int(batch.text.cls[row])
        words = batch.text.ids[start:].tolist()
        words = words[: words.index(tokenizer.eos_id) + 1]
        [label] = batch.scores[row].nonzero().flatten().tolist()
        found.append((name, words, label, image_of[f"s{int(name) // 10}"]))
        keys.append(int(batch.dropout_keys.text[start]))
    return found, keys


@pytest.mark.parametrize("together", [1, 2, 9])
@pytest.mark.parametrize("name", ["vqa", "nlvr2"])
def test_a_question_stands_with_its_own_image_and_answer(name, together, tmp_path):
    members, put_in = shard(name)
    for split in ("train", "val"):
        write_tar(tmp_path / split / "0.tar", members)
    own = {"min_answer_count": 1} if name == "vqa" else {}
    config = config_of(tmp_path, name, heldout=True, questions_per_image=together, **own)
    write_classes(config)
    tokenizer, classes = load_tokenizer("embedded"), classes_of(config)
    names = WORDS if name == "vqa" else ("False", "True")
    expected = {
        key: (tokenizer.encode(text, 50)[0], classes.index(names[label]), grays)
        for key, (text, label, grays) in put_in.items()
    }
    examples = open_examples(config, config.data.heldout, learns=False).examples
    reader = ExampleReader(config, tokenizer, 4)
    heldout = [
        reader(HeldoutChunk(config.data.heldout[0], n, min(n + 4, len(examples)))) for n in range(0, len(examples), 4)
    ]
    reader.close()
    training = TaskBatches(config, tokenizer, 0, 1, config.batch.global_size, 1, own_process=False)
    learned = [batch for _, batches in zip(range(3), training, strict=False) for batch in batches]
    for batches in (heldout, learned):
        for batch in batches:
            found, keys = contents(batch, tokenizer, config, TASKS[name].images)
            assert len(set(keys)) == len(keys), "each question draws its own dropout"
            said = " ".join(put_in[key][0] for key in batch.example_ids)
            assert " ".join(batch.samples.captions) == said, "what pages show"
            for key, *content in found:
                assert tuple(content) == expected[key], key
    assert [key for batch in heldout for key in batch.example_ids] == list(expected), "each once, in order"
