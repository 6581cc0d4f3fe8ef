"""How captions are cleaned: here `sclds.data.captions`, whose file an export has under this name."""

from sclds.data.captions import clean_caption

__all__ = ["clean_caption"]
