"""`sclds data show`: a page with the first samples of a training batch as the model sees them.

Images and texts are taken out of the packed batch of the given step, with the crops, masks and ITM partners that
training has at that step, on any number of processes.
"""

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sclds.batch import Batch
from sclds.batch.unpacking import Seen, grayed, sample_of
from sclds.config import Config
from sclds.config.errors import UserError
from sclds.data.loader import TrainingBatches
from sclds.data.quarantine import Quarantine
from sclds.data.tokenizer import Tokenizer, load_tokenizer
from sclds.report.page import document, webp_uri, write_page

_SHOWN = 16
"""Most samples that a page shows."""
_SMALL = 128
"""Images up to so many pixels a side are kept without loss."""
_NO_LIMIT = 1 << 20

STYLE = """
.samples{display:grid;grid-auto-flow:dense;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));
gap:14px;margin-top:22px}
.sample{padding:14px 16px;display:flex;flex-direction:column;gap:10px;min-width:0}.sample.video{grid-column:1/-1}
.sample header{display:flex;gap:10px;align-items:baseline;flex-wrap:wrap}.sample header b{font-size:15px}
.set{background:var(--blue);color:#fff;border-radius:5px;padding:1px 8px;font-size:12.5px}
.sample.video .set{background:var(--violet)}.id{color:var(--faint);font-size:12.5px;word-break:break-all}
.views{display:grid;gap:10px}.sample.image .views{grid-template-columns:repeat(auto-fit,minmax(120px,1fr))}
figure{margin:0;min-width:0}figcaption{color:var(--soft);font-size:12.5px;margin-top:4px}
.strip{display:grid;grid-auto-flow:column;grid-auto-columns:1fr;gap:6px}.sample.image .strip{max-width:230px}
.strip img{width:100%;border-radius:5px;display:block;border:1px solid var(--line)}.small img{image-rendering:pixelated}
.sample.video .views{max-width:760px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:6px 12px;margin:0;align-items:baseline}
dt{color:var(--soft);font-size:12.5px}dd{margin:0;min-width:0}
.mark{display:inline-flex;flex-direction:column;align-items:center;vertical-align:baseline;margin:0 1px;line-height:1.3}
.mark b{font-weight:400;border-radius:4px;padding:0 5px}.mark small{font-size:11px;color:var(--soft)}
.masked b{background:var(--ink);color:var(--card)}.random b{background:var(--amber);color:#111}
.kept b{border-bottom:2px solid var(--teal);border-radius:0;padding:0 2px}
.key{display:flex;flex-wrap:wrap;gap:6px 22px;align-items:baseline;color:var(--soft);font-size:13.5px}
.key i{width:13px;height:13px;border-radius:3px;background:#808080;display:inline-block;vertical-align:-1px}
.partner{display:flex;gap:10px;align-items:center;margin-top:auto;padding-top:10px;border-top:1px solid var(--line);
font-size:13.5px;color:var(--soft)}.partner img{height:44px;border-radius:4px;border:1px solid var(--line)}
.yes{color:var(--right);font-weight:600}.no{color:var(--amber);font-weight:600}
"""


def write_batch_page(config: Config, step: int, out: Path) -> None:
    """Write the page of a step's batch.

    Raises:
        UserError: The run has no such step, its data cannot be used, or the page cannot be written.
    """
    if not 0 <= step < config.schedule.steps:
        raise UserError(f"--step is {step}: this run has steps 0 to {config.schedule.steps - 1}")
    tokenizer, quarantine = load_tokenizer(config.data.tokenizer), Quarantine()
    batch = first_batch(config, tokenizer, step, quarantine)
    write_page(out, page(batch, config, tokenizer, step, quarantine.bad), "give another --out")


def first_batch(config: Config, tokenizer: Tokenizer, step: int, quarantine: Quarantine) -> Batch:
    """Return the packed batch of the first samples of a step; only these are decoded.

    Raises:
        DataError: Shards are missing or unreadable.
    """
    size, group = config.batch.global_size, config.batch.group_size
    micro = max((m for m in range(group, _SHOWN + 1, group) if size % m == 0), default=group)
    # which samples the first process gets does not depend on how many there are, so imagine as many as possible
    batches = iter(TrainingBatches(config, tokenizer, 0, size // micro, micro, 1, step, quarantine))
    (batch,) = next(batches)
    batches.close()  # type: ignore[attr-defined]  # a generator
    return batch


def page(batch: Batch, config: Config, tokenizer: Tokenizer, step: int, set_aside: int) -> str:
    """Return the whole page.

    Args:
        batch: A packed batch.
        config: The run.
        tokenizer: That encoded it.
        step: For the headline.
        set_aside: Samples that could not be used and were replaced.
    """
    batch = batch.to(torch.device("cpu"))
    seen = [sample_of(batch, row, config) for row in range(len(batch.samples.ids))][:_SHOWN]
    labels = batch.labels.itm.tolist()
    cards = "".join(_card(row, seen, int(labels[row]), config, tokenizer) for row in range(len(seen)))
    replaced = f" {set_aside} unusable samples were replaced by others." if set_aside else ""
    lead = (
        f"Step {step:,} of {config.schedule.steps:,}, seed {config.seed}: the first {len(seen)} samples of a global "
        f"batch of {config.batch.global_size:,}, as packed for the model.{replaced}"
    )
    body = f"<header><h1>{escape(config.name)}</h1><p class=lead>{escape(lead)}</p>{_key(config)}</header>"
    return document(f"{config.name}, step {step}", f'{body}<div class="samples">{cards}</div>', STYLE)


def _key(config: Config) -> str:
    """Return what the marks mean."""
    masking = config.masking
    marks = [
        "<span><i></i> patch that this view does not show</span>",
        f"<span>{_mark('masked', 'mask', 'word')} hidden: t1 {masking.mlm_ratio:.0%} of the words, to be predicted; "
        f"t2 up to {masking.scl_text_ratio:.0%} of the tokens</span>",
        f"<span>{_mark('random', 'other', 'word')} replaced at random</span>",
        f"<span>{_mark('kept', 'word', '')} predicted though shown</span>",
    ]
    return f'<div class="key">{"".join(marks)}</div>'


def _card(row: int, seen: Sequence[Seen], label: int, config: Config, tokenizer: Tokenizer) -> str:
    """Return one sample's card."""
    one = seen[row]
    dataset, _, name = one.sample_id.partition("/")
    frames = f", {len(one.frames)} frames" if one.kind == "video" else ""
    return (
        f'<article class="card sample {one.kind}"><header><b>{row + 1}</b><span class="set">{escape(dataset)}</span>'
        f'<span class="note">{one.kind}{frames}, {one.frames.shape[-1]} px</span>'
        f'<span class="id">{escape(name)}</span></header>'
        f'<div class="views">{_views(one)}</div><dl>{_texts(one, config, tokenizer)}</dl>'
        f"{_partner(row, seen, label)}</article>"
    )


def _views(one: Seen) -> str:
    """Return the vision views that are in use, each with its frames in a row."""
    shown = [("v0, whole", one.frames)]
    for name, hidden in one.hidden.items():
        patches, gone = hidden[0].numel(), int(hidden[0].sum())
        said = f"{patches - gone} of {patches} kept" if name == "v1" else f"{gone} of {patches} replaced"
        shown.append((f"{name}, {said}", grayed(one, hidden)))
    small = " small" if one.frames.shape[-1] <= _SMALL else ""
    return "".join(
        f'<figure><div class="strip{small}">{"".join(_image(frame, what) for frame in frames)}</div>'
        f"<figcaption>{what}</figcaption></figure>"
        for what, frames in shown
    )


def _image(frame: Tensor, what: str) -> str:
    """Return a (3, H, W) image in [0, 1] as an element that holds its own bytes."""
    buffer = io.BytesIO()
    pixels = (frame * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=frame.shape[-1] <= _SMALL, quality=90)
    return f'<img src="{webp_uri(buffer.getvalue())}" alt="{escape(what)}">'


def _texts(one: Seen, config: Config, tokenizer: Tokenizer) -> str:
    """Return the text views; a mask carries the word that it hides."""
    limit = config.data.max_text_tokens
    whole = len(tokenizer.encode(one.caption, _NO_LIMIT)[0])
    cut = f" of {whole}" if whole > limit else ""
    text = one.texts["t0"]
    rows = [(f"t0, {len(text)} tokens{cut}", escape("".join(tokenizer.pieces(text[1:-1].tolist())).strip()))]
    for name, purpose in (("t1", "words"), ("t2", "meaning")):
        if name in one.texts:
            predicted = set(one.mlm) if name == config.losses.mlm_view else set()
            rows.append((f"{name}, {purpose}", _marked(one.texts[name].tolist(), one, predicted, tokenizer)))
    return "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in rows)


def _marked(ids: list[int], one: Seen, predicted: set[int], tokenizer: Tokenizer) -> str:
    """Return a text view with its changed and predicted tokens marked."""
    truth = one.texts["t0"].tolist()
    said, hidden = tokenizer.pieces(ids[1:-1]), tokenizer.pieces(truth[1:-1])
    parts = []
    for position, (now, was) in enumerate(zip(said, hidden, strict=True), 1):
        space = " " if was[:1].isspace() else ""
        if ids[position] == tokenizer.mask_id:
            parts.append(space + _mark("masked", "mask", was.strip()))
        elif ids[position] != truth[position]:
            parts.append(space + _mark("random", now.strip() or "·", was.strip()))
        elif position in predicted:
            parts.append(space + _mark("kept", now.strip() or "·", ""))
        else:
            parts.append(escape(now))
    return "".join(parts).strip()


def _mark(style: str, shown: str, truth: str) -> str:
    under = f"<small>{escape(truth)}</small>" if truth else ""
    return f'<span class="mark {style}"><b>{escape(shown)}</b>{under}</span>'


def _partner(row: int, seen: Sequence[Seen], label: int) -> str:
    """Return whose image ITM shows beside the caption."""
    partner = seen[row].itm_partner
    if partner is None:
        return ""
    if partner == row:
        said = f"ITM shows its own {seen[row].kind}"
    else:
        said = f"ITM shows the {seen[partner].kind} of {partner + 1} beside this caption"
    verdict = '<span class="yes">match</span>' if label else '<span class="no">no match</span>'
    return f'<div class="partner">{_image(seen[partner].frames[0], said)}<span>{said}: {verdict}</span></div>'
