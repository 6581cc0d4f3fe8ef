"""`sclds explore`: a page of what a model completes on held-out data, and where its words look."""

import io
import math
from collections.abc import Mapping, Sequence
from html import escape

import torch
from PIL import Image
from torch import Tensor

from sclds.batch.unpacking import GREY
from sclds.evaluation.completion import CONDITIONS, GALLERIES, RECALLS, Completion, Condition, Gallery
from sclds.report.explore_style import SCRIPT, STYLE
from sclds.report.explored import Example, Explored, ExploredKind
from sclds.report.page import document, webp_uri

_SMALL = 128
"""Frames up to so many pixels a side are kept without loss, and shown with sharp pixels."""
_LISTED = 3
"""Retrieved captions that are shown."""
_HEAT = (216, 27, 96)
_STRONGEST = 230
"""Opacity of the patch that a word attends to most, of 255."""
_GAINS: Mapping[str, str] = {"earlier": "earlier", "alike": "same rank", "later": "later"}
_BESIDE: Mapping[str, Mapping[Condition, str]] = {
    "vision": {"own": "its caption", "wrong": "another's caption", "none": "no caption"},
    "text": {"own": "its {kind}", "wrong": "another's {kind}", "none": "a blank {kind}"},
}
_TITLES = {
    "vision": "A masked {kind}, recovered with its caption",
    "text": "A masked caption, recovered with its {kind}",
}
_GALLERIES: Mapping[str, Mapping[Gallery, str]] = {
    "vision": {
        "trained": "Complete {kind}s beside masked captions, as trained",
        "alone": "Complete {kind}s alone",
    },
    "text": {
        "trained": "Complete captions beside masked {kind}s, as trained",
        "alone": "Complete captions alone",
    },
}
_GAINS_NOTE = (
    "The recovered [CLS] feature looks for its complete one among those of all samples of its kind. Beside its own "
    "partner it should find it earlier than beside another sample's, or beside none (an empty caption, a blank one).",
    "Training compares with complete features that have seen the partner, too, masked. So a caption may help by being "
    "found again itself, whatever the picture shows. Among features that have seen no partner, only what both mean can "
    "help. Samples that say or show the same count as right; a tie counts against the model.",
)
_EXAMPLES_NOTE = (
    "At even distances through the held-out sets, not chosen by result. What is found is shown as training compares; "
    "the right one is framed or in green, and beside its rank stands the one among features made alone.",
    "Where words look is the cross-attention of the last fusion layer's text stream to the patches of the whole image "
    "or video, mean over heads, of a word the mean over its tokens. Red is what gets more than an even share: in full "
    "where it gets most, if that is at least twice the share. Point at a word, or tap it.",
)


def page(found: Explored, images: Mapping[str, str]) -> str:
    """Return the whole page.

    Args:
        found: What a model completes.
        images: A data: URI by sample id, of samples that are retrieved; those without one are shown by name.
    """
    body = [
        f"<header><h1>What {escape(found.name)} completes</h1><p class=lead>{escape(_lead(found))}</p></header>",
        _untrained(found),
        "<h2>Does the other modality help?</h2>",
        _notes(_GAINS_NOTE),
        '<div class="gains">',
        *(_gain(of, way) for of in found.kinds for way in ("vision", "text")),
        "</div>",
    ]
    if any(of.examples for of in found.kinds):
        body.append(f"<h2>Examples</h2>{_notes(_EXAMPLES_NOTE)}")
        body += [_example(one, of, images) for of in found.kinds for one in of.examples]
    return document(f"{found.name}: completion", "".join(body), STYLE, SCRIPT)


def _notes(paragraphs: Sequence[str]) -> str:
    return "".join(f'<p class="note">{escape(one)}</p>' for one in paragraphs)


def _lead(found: Explored) -> str:
    counts = " and ".join(_counted(len(of.sample_ids), f"held-out {of.kind}") for of in found.kinds)
    left_out = f" Left out as unusable: {_counted(found.unusable, 'sample')}." if found.unusable else ""
    return (
        f"{found.source[:1].upper()}{found.source[1:]}, on {counts}. {found.vision_ratio:.0%} of the patches of an "
        f"image are dropped, or up to {found.text_ratio:.0%} of the tokens of a caption masked; out of the other "
        f"modality the meaning of the whole is to be recovered.{left_out}"
    )


def _untrained(found: Explored) -> str:
    if not found.untrained:
        return ""
    names = " and ".join(f"losses.{name}" for name in found.untrained)
    what = "was 0, so it" if len(found.untrained) == 1 else "were 0, so they"
    return f'<p class="card warn">{escape(names)} {what} taught this model nothing of what this page asks.</p>'


def _gain(of: ExploredKind, way: str) -> str:
    """Return the card of one kind and modality: for each gallery bars, and the figures behind them."""
    names = {condition: said.format(kind=of.kind) for condition, said in _BESIDE[way].items()}
    title = f"{_TITLES[way].format(kind=of.kind)}: {len(of.sample_ids):,}"
    galleries = "".join(
        f"<section><h4>{escape(said.format(kind=of.kind))}</h4>{_searched(getattr(of, way)[gallery], names)}</section>"
        for gallery, said in _GALLERIES[way].items()
    )
    return f'<div class="card gain"><h3>{escape(title)}</h3><div class="halves">{galleries}</div></div>'


def _searched(done: Completion, names: Mapping[Condition, str]) -> str:
    """Return the bars and the table of one gallery."""
    bars = "".join(_bar(done, over, names) for over in CONDITIONS if over != "own")
    n = len(done.ranks["own"])
    head = "".join(f"<th>R@{k}</th>" for k in RECALLS)
    rows = "".join(
        f"<tr><td>with {escape(names[condition])}</td>"
        + "".join(f'<td data-label="R@{k}">{_told(done.recall(condition, k), ".1%")}</td>' for k in RECALLS)
        + f'<td data-label="median rank">{_told(done.median(condition), "g")}</td></tr>'
        for condition in CONDITIONS
    )
    chance = "".join(f'<td data-label="R@{k}"><small>{min(1, k / n):.1%}</small></td>' for k in RECALLS)
    rows += f'<tr><td>chance</td>{chance}<td data-label="median rank"><small>{(n + 1) / 2:g}</small></td></tr>'
    return f"{bars}<table><thead><tr><th></th>{head}<th>median rank</th></tr></thead><tbody>{rows}</tbody></table>"


def _bar(done: Completion, over: Condition, names: Mapping[Condition, str]) -> str:
    gain = done.gain(over)
    if not gain.samples:
        return f"<p>{escape(names['own'])} against {escape(names[over])}: no sample has one.</p>"
    counts = {name: getattr(gain, name) for name in _GAINS}
    told = "found " + ", ".join(f"{_GAINS[name]} {count}" for name, count in counts.items())
    parts = "".join(
        f'<span class="{name}" style="flex:{count} 0 0" title="{_GAINS[name]}: {count:,}"></span>'
        for name, count in counts.items()
        if count
    )
    rows = "".join(
        f'<li><i class="{name}"></i>{_GAINS[name]} <b>{_percent(count / gain.samples)}</b></li>'
        for name, count in counts.items()
    )
    return (
        f"<p>{escape(names['own'])} against {escape(names[over])}, {_counted(gain.samples, 'sample')}</p>"
        f'<div class="stack" role="img" aria-label="{told}">{parts}</div><ul class="counts">{rows}</ul>'
    )


def _percent(share: float) -> str:
    return "&lt;1%" if 0 < share < 0.005 else f"{share:.0%}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _told(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)  # NaN: nothing was compared


def _example(one: Example, of: ExploredKind, images: Mapping[str, str]) -> str:
    small = " small" if one.frames.shape[-1] <= _SMALL else ""
    caption, name = of.captions[one.number], of.sample_ids[one.number]
    return (
        f'<article class="card example {of.kind}{small}"><header><b>{escape(caption)}</b>'
        f'<span class="id">{escape(name)}</span></header>'
        f'<div class="halves">{_vision_half(one, of, images)}{_text_half(one, of, images)}</div>'
        f"{_looks(one)}</article>"
    )


def _vision_half(one: Example, of: ExploredKind, images: Mapping[str, str]) -> str:
    """Return the masked image, and what its recovered feature finds."""
    hidden = int(one.hidden[0].sum())
    rows = []
    captions: dict[Condition, str | None] = {
        "own": of.captions[one.number],
        "wrong": of.captions[of.wrong[one.number]] if of.wrong[one.number] >= 0 else None,
        "none": "",
    }
    for condition, caption in captions.items():
        if caption is None:
            continue
        said = f" <em>“{escape(caption)}”</em>" if condition == "wrong" else ""
        hits = "".join(
            _hit(of.sample_ids[at], images, at == one.number)
            for at in of.vision["trained"].found[condition][one.number].tolist()
        )
        head = _what(f"with {escape(_BESIDE['vision'][condition])}{said}", of.vision, condition, one.number, of)
        rows.append(f'<div class="try">{head}<div class="hits">{hits}</div></div>')
    left = one.hidden[0].numel() - hidden
    return (
        f'<section class="half"><h3>Most of the {of.kind} hidden</h3><div class="seen">'
        f"{_strip(one.frames, 'whole')}{_strip(_grayed(one), f'{left} of {left + hidden} patches kept')}</div>"
        f"{''.join(rows)}</section>"
    )


def _text_half(one: Example, of: ExploredKind, images: Mapping[str, str]) -> str:
    """Return the masked caption, and what its recovered feature finds."""
    wrong = of.wrong[one.number]
    shown: dict[Condition, str | None] = {
        "own": _picture(of.sample_ids[one.number], images),
        "wrong": _picture(of.sample_ids[wrong], images) if wrong >= 0 else None,
        "none": '<span class="blank"></span>',
    }
    rows = []
    for condition, picture in shown.items():
        if picture is None:
            continue
        found = of.text["trained"].found[condition][one.number, :_LISTED].tolist()
        said = "".join(
            f"<li{' class=right' if at == one.number else ''}>{escape(of.captions[at])}</li>" for at in found
        )
        label = f"{picture}<span>with {escape(_BESIDE['text'][condition].format(kind=of.kind))}</span>"
        head = _what(label, of.text, condition, one.number, of, plain=False)
        rows.append(f'<div class="try">{head}<ol class="said">{said}</ol></div>')
    return (
        f'<section class="half"><h3>Much of the caption hidden</h3><p class="masked">{_masked(one)}</p>'
        f"{''.join(rows)}</section>"
    )


def _what(
    label: str,
    done: Mapping[Gallery, Completion],
    condition: Condition,
    number: int,
    of: ExploredKind,
    plain: bool = True,
) -> str:
    """Return the line above what was found: beside what, and the rank of the right one."""
    rank, alone = (int(done[gallery].ranks[condition][number]) for gallery in GALLERIES)
    first = " first" if rank == 1 else ""
    shown = f"<span>{label}</span>" if plain else label
    of_all = f"rank {rank:,} of {len(of.sample_ids):,}"
    return f'<p class="what">{shown}<span class="rank{first}">{of_all}<small>alone {alone:,}</small></span></p>'


def _hit(sample_id: str, images: Mapping[str, str], right: bool) -> str:
    shown = images.get(sample_id)
    content = f'<img src="{shown}" alt="{escape(sample_id)}">' if shown else "no image"
    return f'<div class="hit{" right" if right else ""}" title="{escape(sample_id)}">{content}</div>'


def _picture(sample_id: str, images: Mapping[str, str]) -> str:
    shown = images.get(sample_id)
    return f'<img src="{shown}" alt="{escape(sample_id)}">' if shown else '<span class="blank"></span>'


def _masked(one: Example) -> str:
    """Return the caption word by word; a mask carries the piece that it hides."""
    parts, plain = [], ""
    for piece, hidden in (*one.masked, ("", True)):
        if hidden or piece[:1].isspace():
            parts += [f"<span>{escape(plain.strip())}</span>"] if plain.strip() else []
            plain = ""
        if hidden:
            parts += [f"<span><i>mask</i><small>{escape(piece.strip())}</small></span>"] if piece else []
        else:
            plain += piece
    return "".join(parts)


def _strip(frames: Tensor, what: str) -> str:
    drawn = "".join(f'<img src="{_uri(frame)}" alt="{escape(what)}">' for frame in frames)
    return f'<figure><div class="strip">{drawn}</div><figcaption>{escape(what)}</figcaption></figure>'


def _grayed(one: Example) -> Tensor:
    patch = one.frames.shape[-1] // one.hidden.shape[-1]
    cover = one.hidden.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]
    return torch.where(cover, torch.full_like(one.frames, GREY), one.frames)


def _looks(one: Example) -> str:
    """Return the attention of the whole caption and of every word over every frame."""
    frames = "".join(f"--f{number}:url({_uri(frame)});" for number, frame in enumerate(one.frames))
    told = ["<b>whole caption</b> ([CLS])", *(f"<b>{escape(word)}</b>" for word in one.words)]
    names = ["[CLS]", *one.words]
    tiles, first = [], ""
    for place, (weights, label, name) in enumerate(zip(one.attention, told, names, strict=True)):
        said = f"{label}: up to {float(weights.max()):.1%} on a patch; even share {float(weights.mean()):.1%}"
        cells = _cells(_above_even(weights))
        first = first or f'<div class="cells">{cells}</div><figcaption aria-live="polite">{said}</figcaption>'
        tiles.append(
            f'<button type="button" data-told="{escape(said)}" aria-pressed="{"false" if place else "true"}"'
            f'{"" if place else " class=all"}><span class="cells">{cells}</span><b>{escape(name)}</b></button>'
        )
    return (
        f'<section class="looks"><h3>Where its words look</h3><div class="look" style="{frames}">'
        f'<figure class="large">{first}</figure><div class="words">{"".join(tiles)}</div></div></section>'
    )


def _above_even(weights: Tensor) -> Tensor:
    """Return (F, g, g) attention on the scale of the page: 0 up to an even share, 1 at the most, or at twice that."""
    even = weights.mean()
    return ((weights - even) / (weights.max() - even).clamp(min=float(even))).clamp(0, 1)


def _cells(weights: Tensor) -> str:
    """Return the frames under (F, g, g) weights in [0, 1] as cells."""
    drawn = []
    for number, frame in enumerate(weights):
        heat = torch.tensor(_HEAT, dtype=torch.uint8).expand(*frame.shape, 3)
        opacity = (frame * _STRONGEST).round().byte()[..., None]
        uri = _saved(Image.fromarray(torch.cat((heat, opacity), dim=-1).numpy(), "RGBA"), lossless=True)
        drawn.append(f'<span class="cell" style="background-image:var(--f{number})"><img src="{uri}" alt=""></span>')
    return "".join(drawn)


def _uri(frame: Tensor) -> str:
    """Return a (3, H, W) image in [0, 1] as an address that the page carries."""
    pixels = (frame * 255).round().byte().permute(1, 2, 0).numpy()
    return _saved(Image.fromarray(pixels), lossless=frame.shape[-1] <= _SMALL)


def _saved(image: Image.Image, lossless: bool) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=lossless, quality=90, exact=True)
    return webp_uri(buffer.getvalue())
