"""A model for use from Python: texts, images and videos in, features and matching scores out. `sclds.load` is the door.

Files are decoded as held-out evaluation decodes them and texts are cleaned and cut as there, so that features are those
behind a run's results. The model itself is the plain definition, which runs on any device.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from sclds.config import Config
from sclds.config.errors import DataError, UserError
from sclds.config.reading import parse_config
from sclds.data.captions import clean_caption
from sclds.data.media.decode import Decoder
from sclds.data.media.encoded import Encoded
from sclds.data.media.geometry import WHOLE
from sclds.data.media.inspection import inspect
from sclds.data.media.scaling import PatchLayout, scale
from sclds.data.media.videos import choose_frames
from sclds.data.storage.shards import BadSampleError, Kind
from sclds.interop.fine_tuned import class_logits
from sclds.interop.folder import AnswerHead, ModelFolder
from sclds.interop.preprocessing import Preprocessing, files_of, tokenizer_in
from sclds.reference.standalone.parameters_scl import PlainSCL

BATCH = 64
"""Samples computed at once by default."""
Media: TypeAlias = Any
"""A path, a Pillow image, or a uint8 array or tensor."""
_FIRST = np.zeros(1, np.int32)


@dataclass(frozen=True)
class Fused:
    """A text and an image or video after fusion, C channels each, on the CPU."""

    text: Tensor
    """(T, C) its tokens, [CLS] first."""
    cls: Tensor
    """(F, C) the [CLS] of every frame; F is 1 for an image."""
    patches: Tensor
    """(F, L, C) patches, row by row."""


class LoadedModel:
    """A model that takes files, images and texts.

    Args:
        folder: Weights, architecture, preprocessing and tokenizer.
        device: Where it computes, such as `cpu` or `cuda`.

    Raises:
        UserError: The folder does not say how its weights were shown data, or its tokenizer is not to be had.
    """

    def __init__(self, folder: ModelFolder, device: str | torch.device = "cpu"):
        self._settings = _decoding(folder)
        assert folder.preprocessing is not None
        shown: Preprocessing = folder.preprocessing
        rows = folder.config.text.vocab_size
        files = folder.tokenizer or files_of(shown.tokenizer, shown.max_text_tokens, rows)
        self.config, self.preprocessing, self.device = folder.config, shown, torch.device(device)
        self.tokenizer = tokenizer_in(files, shown.tokenizer)
        self._layout = PatchLayout(folder.config.vision.patch_size, shown.mean, shown.std)
        self._decoders: dict[int, Decoder] = {}
        self.model = PlainSCL(folder.config.model_dump(mode="json"), self.tokenizer.pad_id)
        head = folder.answers
        self.model.load_state_dict(folder.weights, strict=head is None)
        if head is not None:
            head = replace(head, weights={name: tensor.to(self.device) for name, tensor in head.weights.items()})
        self._head = head
        self.model.eval().requires_grad_(False).to(self.device)

    def encode_text(self, texts: str | Sequence[str], batch_size: int = BATCH) -> Tensor:
        """Return the features of texts.

        Args:
            texts: One text or several.
            batch_size: Texts computed at once.

        Returns:
            (N, P) float32 on the CPU, of length 1: the product of two features is their cosine. N is 1 for one text.

        Raises:
            UserError: A text shows nothing.
        """
        self._refuse_answering("encode_text")
        chosen = [texts] if isinstance(texts, str) else list(texts)
        return self._features(chosen, batch_size, lambda part: self.model.project_text(*self._encoded_texts(part)))

    def encode_image(self, images: Media | Sequence[Media], batch_size: int = BATCH) -> Tensor:
        """Return the features of images, as `encode_text` does.

        Args:
            images: One or several: paths, Pillow images, or uint8 arrays or tensors (H, W), (H, W, 3) or (3, H, W); an
                array (N, H, W, 3) is several.
            batch_size: Images computed at once.

        Raises:
            UserError: An image cannot be used; it is named by its path or its number.
        """
        self._refuse_answering("encode_image")
        return self._vision_features(_several(images, 3), "image", batch_size)

    def encode_video(self, videos: Media | Sequence[Media], batch_size: int = BATCH) -> Tensor:
        """Return the features of videos, as `encode_text` does.

        Args:
            videos: One or several: paths, arrays of frames in order (n, H, W, 3) or (n, 3, H, W), or lists of images;
                the frames at the middle of equal stretches are taken.
            batch_size: Videos computed at once.

        Raises:
            UserError: A video cannot be used; it is named by its path or its number.
        """
        self._refuse_answering("encode_video")
        return self._vision_features(_several(videos, 4), "video", batch_size)

    def match(
        self, texts: str | Sequence[str], images: Media = None, videos: Media = None, batch_size: int = BATCH
    ) -> Tensor:
        """Return how likely text i describes image or video i, as the image-text matching head says after fusion.

        Args:
            texts: One text or several.
            images: As `encode_image` takes them; one text beside several, or the other way round, is repeated.
            videos: As `encode_video` takes them, instead of images.
            batch_size: Pairs computed at once.

        Returns:
            (N,) float32 probabilities on the CPU.

        Raises:
            UserError: Texts and images are not equally many, or one cannot be used.
        """
        self._refuse_answering("match")
        found = []
        for text, mask, vision, frames in self._fused(texts, images, videos, batch_size):
            found.append(self.model.match(text, mask, vision, frames).float().softmax(1)[:, 1].cpu())
        return torch.cat(found) if found else torch.zeros(0)

    def fuse(
        self, texts: str | Sequence[str], images: Media = None, videos: Media = None, batch_size: int = BATCH
    ) -> list[Fused]:
        """Return what fusion makes of text i beside image or video i; arguments and errors as of `match`."""
        found = []
        for text, mask, vision, frames in self._fused(texts, images, videos, batch_size):
            for words, real, shown in zip(text.float().cpu(), mask.cpu(), vision.float().cpu(), strict=True):
                found.append(Fused(words[real], shown[:frames], shown[frames:].unflatten(0, (frames, -1))))
        return found

    @torch.inference_mode()
    def answer(
        self, texts: str | Sequence[str], images: Media, seconds: Media = None, batch_size: int = BATCH
    ) -> list[str]:
        """Return what a fine-tuned model answers to question or statement i about image i.

        Args:
            texts: One question or statement or several.
            images: As `match` takes them.
            seconds: The second image of each statement, for `nlvr2` alone.
            batch_size: Questions answered at once.

        Returns:
            N answers: the names of the task's classes.

        Raises:
            UserError: The model was not fine-tuned for answers, or texts and images cannot be used.
        """
        head = self._head
        if head is None:
            raise UserError("this model has no head that answers; fine-tune it with `sclds finetune` (docs/tasks.md)")
        if (seconds is not None) != (head.images == 2):
            raise UserError(f"{head.task} is about {head.images} image{'s' * (head.images > 1)} beside a text")
        logits = self._class_logits(head, texts, (images, seconds)[: head.images], batch_size)
        return [head.classes[number] for number in logits.argmax(dim=1).tolist()]

    def _class_logits(
        self, head: AnswerHead, texts: str | Sequence[str], images: Sequence[Media], batch_size: int
    ) -> Tensor:
        """Return (N, classes) float32 logits of texts beside the first images, and the second ones."""
        pooled = [
            torch.cat([self._pooled(part, second) for part in self._pairs(texts, shown, None, batch_size)])
            for second, shown in enumerate(images)
        ]
        return class_logits(head.weights, torch.cat(pooled, dim=1), self.config.text.layer_norm_eps).float()

    def _pooled(self, pair: tuple[Tensor, Tensor, Tensor, int], second: int) -> Tensor:
        """Return what a head reads of encoded pairs (B, 2C), of first images or of second ones, which have a type."""
        text, mask, vision, frames = pair
        types: Any = self.model.token_type_embeddings
        fused = self.model.fuse(text, mask, vision + types.weight[1 + second] - types.weight[1])
        return self.model.pool(fused[0], mask, fused[1], frames)

    def _refuse_answering(self, call: str) -> None:
        if self._head is not None:
            raise UserError(
                f"`{call}` reads heads of pre-training, and this model was fine-tuned for {self._head.task}, which "
                f"leaves them out: it has `answer`, `fuse` and `attention`"
            )

    def attention(
        self, texts: str | Sequence[str], images: Media = None, videos: Media = None, batch_size: int = BATCH
    ) -> list[Tensor]:
        """Return what the tokens of text i attend to in image or video i; arguments and errors as of `match`.

        Returns:
            N times (heads, T, F + F·L) float32 on the CPU: weights of the last fusion layer's text → vision
            cross-attention, from the text's tokens, [CLS] first, to the [CLS] of every frame, then to patches frame
            by frame, row by row. Every row sums to 1.
        """
        found: list[Tensor] = []
        with torch.inference_mode():
            for text, mask, vision, _ in self._pairs(texts, images, videos, batch_size):
                weights = self.model.attention(text, mask, vision).cpu()
                found += [one[:, real] for one, real in zip(weights, mask.cpu(), strict=True)]
        return found

    @torch.inference_mode()
    def _features(self, items: list[Any], batch_size: int, encode: Callable[[list[Any]], Tensor]) -> Tensor:
        parts = [encode(items[i : i + batch_size]).float() for i in range(0, len(items), batch_size)]
        if not parts:
            return torch.zeros(0, self.config.projection)
        return functional.normalize(torch.cat(parts), dim=1).cpu()

    def _vision_features(self, items: list[Media], kind: Kind, batch_size: int) -> Tensor:
        numbered = list(enumerate(items))

        def encode(part: list[tuple[int, Media]]) -> Tensor:
            return self.model.project_vision(*self._encoded_media(part, kind, batch_size))

        return self._features(numbered, batch_size, encode)

    @torch.inference_mode()
    def _fused(
        self, texts: str | Sequence[str], images: Media, videos: Media, batch_size: int
    ) -> list[tuple[Tensor, Tensor, Tensor, int]]:
        """Return, batch by batch, both fused streams, the mask of real tokens, and the frames."""
        found = []
        for text, mask, vision, frames in self._pairs(texts, images, videos, batch_size):
            text, vision = self.model.fuse(text, mask, vision)
            found.append((text, mask, vision, frames))
        return found

    def _pairs(
        self, texts: str | Sequence[str], images: Media, videos: Media, batch_size: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
        """Yield, batch by batch, encoded texts, their mask, encoded images or videos, and their frames."""
        if (images is None) == (videos is None):
            raise UserError("expected images or videos beside the texts, got both or neither")
        kind: Kind = "image" if videos is None else "video"
        words = [texts] if isinstance(texts, str) else list(texts)
        media = list(enumerate(_several(images, 3) if videos is None else _several(videos, 4)))
        count = max(len(words), len(media))
        words, media = (words * count if len(words) == 1 else words), (media * count if len(media) == 1 else media)
        if len(words) != len(media):
            raise UserError(f"expected as many texts as {kind}s, or one of either, got {len(words)} and {len(media)}")
        for start in range(0, count, batch_size):
            part = slice(start, start + batch_size)
            text, mask = self._encoded_texts(words[part])
            yield text, mask, *self._encoded_media(media[part], kind, batch_size)

    def _encoded_texts(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return encoded texts (B, T, C) and where they are real (B, T)."""
        cleaned = [clean_caption(text) for text in texts]
        if not all(cleaned):
            raise DataError("expected texts that show something, got an empty one")
        return self.encode_tokens([self.tokenizer.encode(t, self.preprocessing.max_text_tokens)[0] for t in cleaned])

    def encode_tokens(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return encoded texts (B, T, C) of the token ids of each, beginning and end included, and where they are real.

        (B, T) bool, False where a text is shorter than the longest; both lie on the model's device.
        """
        padded = torch.full((len(ids), max(map(len, ids))), self.tokenizer.pad_id)
        mask = torch.zeros(padded.shape, dtype=torch.bool)
        for row, own in enumerate(ids):
            padded[row, : len(own)] = torch.as_tensor(own)
            mask[row, : len(own)] = True
        mask = mask.to(self.device)
        return self.model.encode_text(padded.to(self.device), mask), mask

    def _encoded_media(self, items: list[tuple[int, Media]], kind: Kind, batch_size: int) -> tuple[Tensor, int]:
        """Return encoded images or videos (B, V, C) and their frames."""
        frames = 1 if kind == "image" else self.preprocessing.frames
        files = {row: _encoded(item, kind, frames) for row, item in enumerate(items) if _is_path(item[1])}
        if batch_size not in self._decoders and files:
            self._decoders[batch_size] = Decoder(self._settings, batch_size)
        decoded = self._decoders[batch_size].each(list(files.values())) if files else []
        patches: dict[int, Tensor] = {}
        for row, found in zip(files, decoded, strict=True):
            if found is None:
                raise DataError(f"{items[row][1]}: its {kind} cannot be decoded")
            patches[row] = found
        for row, (number, media) in enumerate(items):
            if row not in patches:
                patches[row] = self._patches(media, kind, frames, f"{kind} {number}")
        stacked = torch.stack([patches[row].unflatten(0, (frames, -1)) for row in range(len(items))])
        if self._head is not None and not self._head.use_image:
            stacked = torch.zeros_like(stacked)  # as it was trained
        return self.model.encode_vision(stacked.to(self.device), kind == "video"), frames

    def _patches(self, media: Media, kind: Kind, frames: int, name: str) -> Tensor:
        """Return the patches (F · L, 3 · p · p) of an image or of frames that are decoded already."""
        size = self.preprocessing.image_size if kind == "image" else self.preprocessing.video_size
        if kind == "image":
            shown = [media]
        else:
            if not len(media):
                raise DataError(f"{name}: expected at least one frame, got none")
            shown = [media[number] for number in choose_frames(range(len(media) + 1), frames, None).tolist()]
        try:
            scaled = np.concatenate([scale(_rgb(one)[None], WHOLE, size) for one in shown])
        except (ValueError, OSError) as fault:
            raise DataError(f"{name}: {fault}") from fault
        rows = np.empty((frames * (size // self.config.vision.patch_size) ** 2, self._pixels), np.float32)
        self._layout.write(scaled, rows)
        return torch.from_numpy(rows)

    @property
    def _pixels(self) -> int:
        return 3 * self.config.vision.patch_size**2


def settings_of(folder: ModelFolder) -> dict[str, Any]:
    """Return the sections of a configuration under which held-out evaluation shows the model what it was shown.

    Raises:
        UserError: The folder does not say how its weights were shown data.
    """
    if folder.preprocessing is None:
        raise UserError("the folder does not say how its weights were shown data; convert the run again")
    data = folder.preprocessing.model_dump(mode="json") | {"train": [{"name": "none", "shards": "none"}]}
    return {"name": "loaded", "data": data, "model": folder.config.model_dump(mode="json")}


def _decoding(folder: ModelFolder) -> Config:
    """Return settings of which decoding reads sizes and normalization."""
    tree = settings_of(folder)
    # nothing is hidden, so that no image is too small for it
    whole = {"masking": {"scl_vision_ratio": 0}, "losses": {"mvsc": 0}}
    return parse_config(tree | whole | {"data": tree["data"] | {"tokenizer": "embedded"}})


def _several(media: Media, single: int) -> list[Media]:
    """Return one or several as a list; an array of `single` dimensions or fewer, and a list of frames, is one."""
    if _is_path(media) or isinstance(media, Image.Image):
        return [media]
    if hasattr(media, "ndim"):
        return [media] if media.ndim <= single else list(media)
    items = list(media)
    of_frames = single == 4 and bool(items) and not _is_path(items[0])
    is_frame = of_frames and (isinstance(items[0], Image.Image) or getattr(items[0], "ndim", 4) < 4)
    return [items] if is_frame else items


def _is_path(media: Media) -> bool:
    return isinstance(media, str | Path)


def _encoded(item: tuple[int, Media], kind: Kind, frames: int) -> Encoded:
    """Return what is to be decoded of a file: the whole image, or the middle frames of a video."""
    path = Path(item[1])
    try:
        content = path.read_bytes()
        info = inspect(kind, content)
    except OSError as fault:
        raise DataError(f"{path} cannot be read ({fault.strerror}); name a file with one {kind}") from fault
    except BadSampleError as fault:
        raise DataError(f"{path}: {fault}") from fault
    numbers = _FIRST if kind == "image" else choose_frames(info.times, frames, None)
    return Encoded(kind, content, info, numbers)


def _rgb(image: Media) -> np.ndarray:
    """Return an image (H, W, 3) uint8, as an exported folder's processor makes it."""
    from sclds.reference.standalone.image_processing_scl import rgb

    return rgb(image.cpu() if isinstance(image, Tensor) else image)
