"""RandAugment: every operation does what Pillow or a line of numpy does, drawn by key, the same on all frames."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from sclds.config.errors import ConfigError
from sclds.data.keys import generator
from sclds.data.media.augment import NOTHING, OPERATIONS, TRANSLATE_SHARE, Augmentation, draw_augmentation
from sclds.data.media.decode import Decoder, Encoded
from sclds.data.media.geometry import WHOLE
from sclds.data.media.inspection import inspect

from ..synthetic import image_members, picture, timed_clip

SIDE, PATCH, MAGNITUDE = 64, 8, 12
STRENGTH = MAGNITUDE / 30
FIRST = np.zeros(1, np.int32)
GREY = (128, 128, 128)


@pytest.fixture
def config(make_config):
    settings = {"image_size": SIDE, "video_size": SIDE, "randaugment_operations": 2, "randaugment_magnitude": MAGNITUDE}
    return make_config([image_members(["a", "b"])], [], {"global_size": 2, "group_size": 2}, **settings)


def chosen(*names: str, negated: tuple[int, ...] = (0, 0)) -> Augmentation:
    numbers = [OPERATIONS.index(name) for name in names]
    return Augmentation(np.array(numbers, np.int32), np.array(negated[: len(numbers)], np.int32))


def shown(config, samples: list[Encoded], frames: int = 1) -> np.ndarray:
    """(n, F, side, side, 3) uint8."""
    grid = SIDE // PATCH
    patches = Decoder(config, len(samples))(samples).reshape(len(samples), frames, grid, grid, 3, PATCH, PATCH).numpy()
    pixels = patches.transpose(0, 1, 2, 5, 3, 6, 4).reshape(len(samples), frames, SIDE, SIDE, 3)
    return np.rint((pixels * np.array(config.data.std) + np.array(config.data.mean)) * 255).astype(np.uint8)


def affine(source: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return source.transform(source.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY)


def equalized(source: Image.Image) -> np.ndarray:
    """Spread each channel's histogram, as OpenCV does."""
    pixels = np.asarray(source)
    channels = []
    for k in range(3):
        counts = np.bincount(pixels[..., k].ravel(), minlength=256).cumsum()
        first = counts[counts > 0][0]
        channels.append(np.rint((counts - first) / (counts[-1] - first) * 255)[pixels[..., k]])
    return np.stack(channels, -1)


def expected(name: str, source: Image.Image, sign: int) -> np.ndarray:
    """The operation at the tests' magnitude, in Pillow."""
    enhanced = 1 + sign * 0.9 * STRENGTH
    moved, sheared = sign * STRENGTH * round(TRANSLATE_SHARE * SIDE), sign * STRENGTH * 0.3
    found = {
        "identity": lambda: source,
        "auto_contrast": lambda: ImageOps.autocontrast(source),
        "equalize": lambda: equalized(source),
        "rotate": lambda: source.rotate(sign * STRENGTH * 30, Image.Resampling.BILINEAR, fillcolor=GREY),
        "solarize": lambda: ImageOps.solarize(source, round(256 * (1 - STRENGTH))),
        "color": lambda: ImageEnhance.Color(source).enhance(enhanced),
        "posterize": lambda: ImageOps.posterize(source, round(8 - 4 * STRENGTH)),
        "contrast": lambda: ImageEnhance.Contrast(source).enhance(enhanced),
        "brightness": lambda: ImageEnhance.Brightness(source).enhance(enhanced),
        "sharpness": lambda: ImageEnhance.Sharpness(source).enhance(enhanced),
        "shear_x": lambda: affine(source, (1, -sheared, 0, 0, 1, 0)),
        "shear_y": lambda: affine(source, (1, 0, 0, -sheared, 1, 0)),
        "translate_x": lambda: affine(source, (1, 0, -moved, 0, 1, 0)),
        "translate_y": lambda: affine(source, (1, 0, 0, 0, 1, -moved)),
    }[name]()
    return np.asarray(found, np.float32)


def textured() -> bytes:
    """A picture with fine detail, so that sharpening shows."""
    smooth = np.asarray(Image.open(io.BytesIO(picture(8, size=(SIDE, SIDE)))).convert("RGB")).astype(int)
    noise = np.random.default_rng(0).integers(-20, 21, (SIDE, SIDE, 1))
    buffer = io.BytesIO()
    Image.fromarray((smooth // 2 + 60 + noise).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_operation_is_what_pillow_computes(config):
    content = textured()
    source = Image.open(io.BytesIO(content))
    info = inspect("image", content)
    cases = [(name, negated) for name in OPERATIONS for negated in (0, 1)]
    samples = [Encoded("image", content, info, FIRST, WHOLE, chosen(name, negated=(sign,))) for name, sign in cases]
    for (name, negated), found in zip(cases, shown(config, samples)[:, 0].astype(np.float32), strict=True):
        difference = np.abs(found - expected(name, source, -1 if negated else 1)).max(2)
        changed = np.abs(found - np.asarray(source)).mean()
        assert (changed > 1) == (name != "identity"), name
        if name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
            # where the picture ends, DALI mixes it with the grey around it and Pillow does not
            assert (difference > 2).mean() < 0.05, (name, negated)
        elif name == "sharpness":
            assert difference[1:-1, 1:-1].max() <= 1, "Pillow leaves the outermost pixels alone"
        else:
            assert difference.max() <= 1, (name, negated)


def test_rounds_follow_each_other_and_all_frames_of_a_clip_get_the_same(config):
    clip = timed_clip([0, 40, 80], "libvpx-vp9", "webm")
    info = inspect("video", clip)
    still = np.array([1, 1, 1], np.int32)
    both = chosen("translate_x", "solarize", negated=(0, 1))
    samples = [Encoded("video", clip, info, still, WHOLE, a) for a in (both, chosen("translate_x"), NOTHING)]
    found, moved, plain = shown(config, samples, frames=3)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    inverted = np.where(moved < 256 * (1 - STRENGTH), moved, 255 - moved.astype(int))
    assert np.abs(found.astype(int) - inverted).max() <= 1
    assert np.abs(moved.astype(int) - plain).mean() > 10


def test_operations_follow_from_their_key_and_all_occur(config):
    drawn = [draw_augmentation(config.data, generator(0, "randaugment", k)) for k in range(300)]
    again = [draw_augmentation(config.data, generator(0, "randaugment", k)) for k in range(300)]
    assert all(np.array_equal(a.operations, b.operations) for a, b in zip(drawn, again, strict=True))
    assert all(np.array_equal(a.negated, b.negated) for a, b in zip(drawn, again, strict=True))
    counts = np.bincount(np.concatenate([one.operations for one in drawn]), minlength=len(OPERATIONS))
    assert counts.sum() == 600
    assert counts.min() > 20
    assert 240 < sum(one.negated.sum() for one in drawn) < 360


def test_settings_without_effect_are_refused(make_config):
    images, batch = [image_members(["a", "b"])], {"global_size": 2, "group_size": 2}
    for key, value in (("randaugment_magnitude", 5), ("hw_decoder_load", 0.5), ("nvdec", False)):
        with pytest.raises(ConfigError, match=f"{key}.*no effect"):
            make_config(images, [], batch, **{key: value})
