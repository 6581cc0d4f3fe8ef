"""Which encoded images DALI decodes: those whose pixels it was shown to make as Pillow does, judged by their headers.

Pillow's pixels are the definition. Whatever is not known here to be the same is decoded by Pillow, on any device:
images to be turned, CMYK, more than 8 bits a channel, moving PNGs, BMP and TIFF.
"""

from PIL import Image, JpegImagePlugin

_SIGNATURE, _DEPTH = 8, 24
"""Places in a PNG: behind the signature, and the bits of a sample."""


def dali_decodes(image: Image.Image, content: bytes) -> bool:
    """Return whether DALI's pixels of an image are Pillow's.

    Args:
        image: The image as opened; one that has to be turned is none for DALI, whatever this returns.
        content: Its bytes.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):  # and MPO, of which the first image is taken
        return _common_colors(image)
    if image.format == "PNG":
        return content[_DEPTH] <= 8 and not _moves(content)
    return image.format == "WEBP"


def _common_colors(image: JpegImagePlugin.JpegImageFile) -> bool:
    """Return whether a JPEG is grey or YCbCr, by whatever an application may go by: markers, numbers of components."""
    if image.layers != 3:
        return image.layers == 1
    names = [component[0] for component in image.layer]
    return image.info.get("adobe_transform", 1) == 1 and names in ([1, 2, 3], [0, 1, 2])


def _moves(content: bytes) -> bool:
    """Return whether a PNG is animated, of which Pillow and others choose different first images."""
    at = _SIGNATURE
    while at + 8 <= len(content) and (kind := content[at + 4 : at + 8]) != b"IDAT":
        if kind == b"acTL":
            return True
        at += 12 + int.from_bytes(content[at : at + 4], "big")
    return False
