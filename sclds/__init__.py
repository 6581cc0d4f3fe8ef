"""Vision-language pre-training with Semantic Completion Learning under DeepSpeed ZeRO-3."""

__version__ = "0.1.0"
