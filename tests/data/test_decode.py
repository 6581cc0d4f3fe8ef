"""Decoded patches agree with Pillow's; frames and windows follow from their arguments; one bad sample is named."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from sclds.data.decode import BadMediaError, Decoder, Encoded, patchify
from sclds.data.geometry import WHOLE, Window, training_window
from sclds.data.keys import generator
from sclds.data.media import inspect
from sclds.data.media_info import MediaInfo
from sclds.data.shards import BadSampleError
from sclds.errors import ConfigError

from .synthetic import clip, image_members, picture

SIZE, PATCH = 32, 8
FIRST = np.zeros(1, np.int32)


@pytest.fixture
def config(make_config):
    return make_config([image_members(["a", "b"])], [], {"global_size": 2, "group_size": 2})


def image(content: bytes, window: Window = WHOLE) -> Encoded:
    return Encoded("image", content, inspect("image", content), FIRST, window)


def pixels(config, patches: torch.Tensor, frames: int = 1) -> np.ndarray:
    """Undo patches and normalisation: (F, size, size, 3) in [0, 255]."""
    grid = SIZE // PATCH
    cut = patches.reshape(frames, grid, grid, 3, PATCH, PATCH).permute(0, 1, 4, 2, 5, 3)
    std, mean = (torch.tensor(v) for v in (config.data.std, config.data.mean))
    return ((cut.reshape(frames, SIZE, SIZE, 3) * std + mean) * 255).numpy()


def pillow(content: bytes) -> np.ndarray:
    opened = Image.open(io.BytesIO(content)).convert("RGB")
    return np.asarray(opened.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(40, 30), (32, 32), (150, 97), (20, 11)])
def test_a_picture_is_what_pillow_makes_of_it(config, format, size):
    content = picture(3, format, size)
    found = pixels(config, Decoder(config, 2)([image(content)]))[0]
    difference = np.abs(found - pillow(content))
    assert difference.mean() < 1
    assert difference.max() < 8


def test_patchify_is_channel_major_and_row_major():
    picture = torch.arange(2 * 2 * 3 * 8 * 16.0).reshape(2, 2, 3, 8, 16)
    rows = patchify(picture, 4)
    assert rows.shape == (2, 2 * 2 * 4, 48)
    for n, f, y, x in [(0, 0, 0, 0), (1, 1, 1, 3), (0, 1, 0, 2)]:
        expected = picture[n, f, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        assert torch.equal(rows[n, (f * 2 + y) * 4 + x], expected.flatten())


def test_windows_move_cut_and_mirror(config):
    content = picture(5, size=(SIZE, SIZE))
    whole = pillow(content)
    eighth = 4 / SIZE
    samples = [
        image(content, Window(-eighth, eighth, 1 - eighth, 1 + eighth)),
        image(content, Window(0, 1, 1, 0)),
        image(content, Window(0.25, 0.5, 0.75, 1.0)),
    ]
    moved, mirrored, cut = (pixels(config, part)[0] for part in Decoder(config, 3)(samples).chunk(3))
    assert np.abs(moved[4:, :-4] - whole[:-4, 4:]).max() < 1
    assert np.abs(moved[:4, :-4] - whole[:1, 4:]).max() < 1, "what lies outside repeats the edge"
    assert np.abs(mirrored - whole[:, ::-1]).max() < 1
    boxed = Image.open(io.BytesIO(content)).resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=(16, 8, 32, 24))
    assert np.abs(cut - np.asarray(boxed, np.float32))[1:-1, 1:-1].max() < 6


@pytest.mark.parametrize("augmentation", ["random_resized_crop", "shift", "resize"])
def test_training_windows_follow_from_their_key(config, augmentation):
    data = config.data.model_copy(update={"augmentation": augmentation, "shift_pixels": 4})
    windows = [training_window(data, SIZE, 60, 40, generator(0, "window", k)) for k in range(200)]
    assert windows == [training_window(data, SIZE, 60, 40, generator(0, "window", k)) for k in range(200)]
    for window in windows:
        high, wide = window.bottom - window.top, window.right - window.left
        if augmentation == "random_resized_crop":
            assert 0.5 - 1e-9 <= high * wide <= 1
            assert 3 / 4 - 1e-9 <= wide * 60 / (high * 40) <= 1.5 + 1e-9
            assert window.top >= 0
            assert window.right <= 1 + 1e-9
        elif augmentation == "shift":
            assert high == pytest.approx(1)
            assert abs(window.top * SIZE) <= 4
        else:
            assert window == WHOLE


@pytest.mark.parametrize(("codec", "container"), [("libvpx-vp9", "webm"), ("mpeg4", "mp4")])
def test_the_frames_asked_for_are_decoded(config, codec, container):
    content = clip(12, codec, container)
    numbers = np.array([0, 4, 4, 11], np.int32)
    sample = Encoded("video", content, inspect("video", content), numbers)
    assert sample.info.frames == 12
    found = pixels(config, Decoder(config, 2)([sample]), frames=4)
    assert found.mean((1, 2, 3)) == pytest.approx(20 * numbers, abs=4)


def test_pictures_and_clips_of_one_batch_keep_their_order(config):
    content, moving = picture(1), clip(3)
    film = Encoded("video", moving, inspect("video", moving), np.array([0, 2], np.int32))
    mixed = Decoder(config, 3)([image(content), film, image(content)])
    patches = (SIZE // PATCH) ** 2
    assert mixed.shape == (4 * patches, 3 * PATCH * PATCH)
    assert torch.equal(mixed[:patches], mixed[-patches:])
    assert torch.equal(mixed[patches : 3 * patches], Decoder(config, 1)([film]))


def test_the_bad_samples_of_a_batch_are_named_and_the_decoder_goes_on(config):
    decoder, good = Decoder(config, 8), [image(picture(k)) for k in range(6)]
    damaged = bytearray(picture(9, "PNG", (200, 200)))
    damaged[200:400] = bytes(200)  # headers and end are whole, so only decoding can tell
    samples = [*good, image(bytes(damaged))]
    samples.insert(2, image(bytes(damaged)))
    with pytest.raises(BadMediaError) as caught:
        decoder(samples)
    assert caught.value.rows == [2, 7]
    assert decoder(good).shape[0] == 6 * (SIZE // PATCH) ** 2


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_truncated_pictures_are_found_before_decoding(format):
    whole = picture(2, format, (120, 90))
    assert inspect("image", whole) == MediaInfo(120, 90, 1, format)
    for share in (0.1, 0.5, 0.95):
        with pytest.raises(BadSampleError):
            inspect("image", whole[: int(len(whole) * share)])


def test_trailing_bytes_are_harmless(config):
    content = picture(2, "JPEG") + bytes(500)
    assert Decoder(config, 1)([image(content)]).shape[0] == (SIZE // PATCH) ** 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_decoding_on_a_gpu_needs_one(config):
    data = config.data.model_copy(update={"device": "mixed"})
    with pytest.raises(ConfigError, match=r"data\.device=mixed"):
        Decoder(config.model_copy(update={"data": data}), 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_decodes_what_the_cpu_does(config):
    moving = clip(12)
    film = Encoded("video", moving, inspect("video", moving), np.array([1, 3, 6, 9], np.int32))
    samples = [image(picture(k, format)) for k, format in enumerate(("PNG", "JPEG", "WEBP"))] + [film]
    on_gpu = config.model_copy(update={"data": config.data.model_copy(update={"device": "mixed"})})
    found, expected = Decoder(on_gpu, 4, 0)(samples), Decoder(config, 4)(samples)
    assert found.is_cuda
    difference = np.abs(pixels(config, found.cpu(), frames=7) - pixels(config, expected, frames=7))
    assert difference.mean() < 2
    assert difference.max() < 24
