"""Decoded patches agree with Pillow's; frames and windows follow from their arguments; one bad sample is named."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sclds.batch.patches import patchify
from sclds.config.errors import ConfigError
from sclds.data.keys import generator
from sclds.data.media.decode import BadMediaError, Decoder, Encoded
from sclds.data.media.geometry import WHOLE, Region, Window, training_window
from sclds.data.media.inspection import inspect
from sclds.data.media.media_info import MediaInfo
from sclds.data.media.pipeline import DYNAMIC, _definition, feeds
from sclds.data.storage.shards import BadSampleError

from ..synthetic import WIDE, clip, image_members, picture, timed_clip

SIZE, PATCH = 32, 8
FIRST = np.zeros(1, np.int32)


@pytest.fixture
def config(make_config):
    return make_config([image_members(["a", "b"])], [], {"global_size": 2, "group_size": 2})


def image(content: bytes, window: Window = WHOLE) -> Encoded:
    return Encoded("image", content, inspect("image", content), FIRST, window)


def pixels(config, patches: torch.Tensor, frames: int = 1) -> np.ndarray:
    """Undo patches and normalization: (F, size, size, 3) in [0, 255]."""
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
    rows = patchify(picture, 4).flatten(1, 2)
    assert rows.shape == (2, 2 * 2 * 4, 48)
    for n, f, y, x in [(0, 0, 0, 0), (1, 1, 1, 3), (0, 1, 0, 2)]:
        expected = picture[n, f, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        assert torch.equal(rows[n, (f * 2 + y) * 4 + x], expected.flatten())


def test_patches_have_memory_of_their_own():
    """Also a single patch, which is in order already: what DALI wrote is overwritten by its next run."""
    pixels = torch.ones(1, 1, 3, 8, 8)
    rows = patchify(pixels, 8)
    pixels.zero_()
    assert rows.min() == 1


def test_windows_move_cut_and_mirror(config):
    content = picture(5, size=(SIZE, SIZE))
    whole = pillow(content)
    samples = [
        image(content, Window(down=4, right=-4)),
        image(content, Window(mirrored=True)),
        image(content, Window(Region(8, 16, 16, 16))),
        image(content, Window(down=4, right=-4, mirrored=True)),
    ]
    moved, mirrored, cut, both = (pixels(config, part)[0] for part in Decoder(config, 4)(samples).chunk(4))
    assert np.abs(moved[4:, :-4] - whole[:-4, 4:]).max() < 1
    assert np.abs(moved[:4, :-4] - whole[:1, 4:]).max() < 1, "what comes in repeats the edge"
    assert np.abs(mirrored - whole[:, ::-1]).max() < 1
    assert np.array_equal(both, moved[:, ::-1])
    boxed = Image.open(io.BytesIO(content)).crop((16, 8, 32, 24)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert np.abs(cut - np.asarray(boxed, np.float32)).max() < 1.5


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libx264"])
def test_a_clip_is_cut_as_one_tube(config, codec):
    content = timed_clip([0, 40, 80], codec, "webm" if "vpx" in codec else "mp4")
    bars = WIDE // 8
    window = Window(Region(10, 2 * bars, 40, 2 * bars))  # bars 2 and 3: numbers 0 to 2 leave them dark, 4 lights bar 2
    sample = Encoded("video", content, inspect("video", content), np.array([0, 2], np.int32), window)
    assert pixels(config, Decoder(config, 1)([sample]), frames=2).max() < 60
    lit = timed_clip([40 * k for k in range(13)], codec, "webm" if "vpx" in codec else "mp4")
    frames = np.array([4, 8, 12], np.int32)
    tube = pixels(config, Decoder(config, 1)([Encoded("video", lit, inspect("video", lit), frames, window)]), frames=3)
    left, right = tube[:, :, 2:14].mean((1, 2, 3)), tube[:, :, 18:30].mean((1, 2, 3))
    assert (left > 128).tolist() == [True, False, True]
    assert (right > 128).tolist() == [False, True, True]


def encoded(picture: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def sixteen_bit(colors: np.ndarray) -> bytes:
    """A 16-bit RGB PNG, which Pillow reads and does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    high, wide, _ = colors.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colors.astype(np.uint16) * 257)
    header = struct.pack(">IIBBBBB", wide, high, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def varieties() -> dict[str, bytes]:
    """One picture in every way of storing it that people meet."""
    color = Image.open(io.BytesIO(picture(6, size=(50, 34)))).convert("RGB")
    grey, layered, exif = color.convert("L"), color.convert("RGBA"), Image.Exif()
    layered.putalpha(Image.linear_gradient("L").resize(color.size))
    found = {}
    for turned in range(1, 9):
        exif[0x0112] = turned
        found[f"JPEG turned {turned}"] = encoded(color, "JPEG", quality=95, exif=exif)
        found[f"PNG turned {turned}"] = encoded(color, "PNG", exif=exif)
        found[f"WEBP turned {turned}"] = encoded(color, "WEBP", lossless=True, exif=exif)
    return found | {
        "CMYK JPEG": encoded(color.convert("CMYK"), "JPEG", quality=95),
        "grey JPEG": encoded(grey, "JPEG"),
        "progressive JPEG": encoded(color, "JPEG", progressive=True),
        "grey PNG": encoded(grey, "PNG"),
        "16-bit RGB PNG": sixteen_bit(np.asarray(color)),
        "palette PNG": encoded(color.quantize(60), "PNG"),
        "black and white PNG": encoded(color.convert("1"), "PNG"),
        "RGBA PNG": encoded(layered, "PNG"),
        "grey with alpha PNG": encoded(layered.convert("LA"), "PNG"),
        "RGBA WEBP": encoded(layered, "WEBP", lossless=True, exact=True),
        "TIFF": encoded(color, "TIFF"),
        "BMP": encoded(color, "BMP"),
    }


@pytest.mark.parametrize("name", varieties())
def test_every_way_of_storing_a_picture_comes_out_as_pillow_shows_it(config, name):
    """Turned by EXIF, in RGB; transparency is dropped, so that the colors below it show."""
    content = varieties()[name]
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    high, wide = shown.height - 9, shown.width - 7
    samples = [image(content), image(content, Window(Region(3, 5, high, wide)))]
    whole, part = (pixels(config, half)[0] for half in Decoder(config, 2)(samples).chunk(2))
    for found, seen in ((whole, shown), (part, shown.crop((5, 3, 5 + wide, 3 + high)))):
        expected = np.asarray(seen.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)
        assert np.abs(found - expected).max() <= 1.5


def test_sixteen_bit_grey_keeps_its_brightness(config):
    grey = np.asarray(Image.open(io.BytesIO(picture(6))).convert("L"))
    wide = encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    found, expected = (Decoder(config, 1)([image(c)]) for c in (wide, encoded(Image.fromarray(grey), "PNG")))
    assert torch.allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("augmentation", ["random_resized_crop", "shift", "resize"])
def test_training_windows_follow_from_their_key(config, augmentation):
    data = config.data.model_copy(update={"augmentation": augmentation, "shift_pixels": 4})
    windows = [training_window(data, 60, 40, generator(0, "window", k)) for k in range(200)]
    assert windows == [training_window(data, 60, 40, generator(0, "window", k)) for k in range(200)]
    for window in windows:
        if augmentation == "random_resized_crop":
            top, left, high, wide = window.region
            assert 0.48 <= high * wide / (60 * 40) <= 1
            assert 0.72 <= wide / high <= 1.5
            assert 0 <= top <= 40 - high
            assert 0 <= left <= 60 - wide
        elif augmentation == "shift":
            assert window.region is None
            assert max(abs(window.down), abs(window.right)) <= 4
        else:
            assert window == WHOLE
    assert not any(window.mirrored for window in windows)
    mirroring = data.model_copy(update={"flip": True})
    mirrored = [training_window(mirroring, 60, 40, generator(0, "window", k)).mirrored for k in range(200)]
    assert 70 < sum(mirrored) < 130


def test_a_crop_of_a_strip_is_its_middle(config):
    data = config.data.model_copy(update={"augmentation": "random_resized_crop", "crop_area": (0.9, 1.0)})
    assert training_window(data, 400, 30, generator(0)).region == (0, 180, 30, 40)
    assert training_window(data, 3, 400, generator(0)).region == (198, 0, 4, 3)


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


@pytest.mark.parametrize("nvdec", [True, False])
@pytest.mark.parametrize("source", ["image", "still", "video", "frames"])
def test_the_pipeline_for_a_gpu_can_be_defined_without_one(config, source, nvdec):
    """DALI checks operators and their arguments when a pipeline is defined; running it takes a GPU."""
    settings = {"device": "mixed", "hw_decoder_load": 0.5, "nvdec": nvdec, "randaugment_operations": 2}
    data = config.data.model_copy(update=settings)
    options = {"batch_size": 2, "num_threads": 1, "device_id": 0, **DYNAMIC}
    assert _definition()(source, data, SIZE, **options) is not None
    content = timed_clip([0, 40], "libvpx-vp9", "webm")
    film = Encoded("video", content, inspect("video", content), FIRST, Window(Region(4, 8, 16, 32), right=8))
    given = feeds(source, data, SIZE, [film], [content])
    # an image is decoded to its region, others whole; all move by a quarter of what is seen
    expected = [0, -1 / 4] if source == "image" else [4 / 64, (8 - 32 / 4) / 96]
    assert given["start"][0] == pytest.approx(expected)
    assert [len(given[name][0]) for name in ("operations", "negated")] == [2, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_decodes_what_the_cpu_does(config):
    moving = clip(12)
    window = Window(Region(2, 3, 25, 20), mirrored=True)
    film = Encoded("video", moving, inspect("video", moving), np.array([1, 3, 6, 9], np.int32), window)
    samples = [image(picture(k, format), window) for k, format in enumerate(("PNG", "JPEG", "WEBP"))] + [film]
    on_gpu = config.model_copy(update={"data": config.data.model_copy(update={"device": "mixed"})})
    found, expected = Decoder(on_gpu, 4, 0)(samples), Decoder(config, 4)(samples)
    assert found.is_cuda
    difference = np.abs(pixels(config, found.cpu(), frames=7) - pixels(config, expected, frames=7))
    assert difference.mean() < 2
    assert difference.max() < 24
