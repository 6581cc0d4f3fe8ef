"""Memory of a micro-batch: what autograd keeps for backward, what the step holds beside it, and working memory."""

from collections.abc import Sequence

from sclds.batch.split import Split
from sclds.config import Config
from sclds.costs.counts import Kind
from sclds.costs.layers import micro_batch_work
from sclds.costs.operators import Counted
from sclds.costs.rows import micro_batch_rows
from sclds.costs.stages import value_bytes
from sclds.costs.state import exact_state


def activation_bytes(
    config: Config, samples: int, kind: Kind, text_tokens: int, vocab_size: int, fused: bool = True
) -> dict[str, int]:
    """Return the bytes of activations of a micro-batch at its peak, which is where backward begins, by part.

    With activation checkpointing a part keeps the inputs of its layers, and one layer is kept in full at a time.

    Args:
        config: The run.
        samples: Of the micro-batch, all of one kind.
        kind: Of samples.
        text_tokens: Of a caption, BOS and EOS included.
        vocab_size: Rows of the word embedding.
        fused: Whether our kernels run, or PyTorch's operators.

    Returns:
        Parts of the model, `losses`, `outputs` (what the step holds until the next micro-batch: encoded views and
        logits) and `working` (gradients of the layer whose backward runs, and what it computed again).
    """
    rows, value = micro_batch_rows(config, {kind: samples}, text_tokens), value_bytes(config)
    parts = micro_batch_work(Counted(config, rows, vocab_size, value, fused))
    recompute = config.engine.activation_checkpointing
    kept = {name: part.kept_inputs() if recompute else part.kept() for name, part in parts.items()}
    fusion = config.model.fusion
    outputs = value * ((rows.text + rows.vision) * fusion.width + rows.words * vocab_size)
    again = max(part.largest_layer() for part in parts.values()) if recompute else 0
    working = max(part.working() for part in parts.values())
    return kept | {"outputs": outputs, "working": again + working}


def memory_per_gpu(
    config: Config, split: Split, kinds: Sequence[Kind], text_tokens: int, vocab_size: int
) -> dict[str, int]:
    """Return bytes of model state and activations of one GPU, by part; activations are those of the larger kind."""
    activations = max(
        sum(activation_bytes(config, split.micro, kind, text_tokens, vocab_size).values()) for kind in kinds
    )
    return exact_state(config, vocab_size, split.world_size) | {"activations": activations}
