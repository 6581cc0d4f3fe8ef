"""Hard negatives for image-text matching: which wrong image a text is shown with, drawn by contrastive similarity.

As in ALBEF (arXiv 2107.07651, §3.2), but among the members of the text's group instead of the process's batch, so that
the result does not depend on how the global batch is split. Candidates may be wrong partners (`wrong_partners`) and are
as large as the image that the host packed: every length of the batch stays, and only row numbers change, on the device.

Shape suffixes: B samples, P projection channels, G members of a group.
"""

from dataclasses import replace

import torch
from torch import Tensor

from sclds.batch import ITM_DRAWS, Batch
from sclds.batch.types import HardNegatives


def hard_partners(text_BP: Tensor, vision_BP: Tensor, temperature: Tensor, negatives: HardNegatives) -> Tensor:
    """Return the sample whose image or video each text is shown with, (B,) int64.

    A member of the group is drawn with the softmax of its similarity, by the counter `negatives.draw`. Matched texts
    keep their own. Splits whose similarities differ in the last bit draw alike unless the counter hits it.
    """
    text, vision = (torch.nn.functional.normalize(x.detach().double(), dim=1) for x in (text_BP, vision_BP))
    members, allowed = negatives.members, negatives.allowed
    similarity = (text[:, None] * vision[members]).sum(2) / temperature.detach().double()
    # a diverged run goes on to the check for finite gradients, which all ranks make together
    similarity = similarity.nan_to_num(0.0).masked_fill(~allowed, torch.finfo(torch.float64).min)
    cumulative = (similarity.softmax(1) * allowed).cumsum(1)
    threshold = negatives.draw.double() / ITM_DRAWS * cumulative[:, -1]
    drawn = (cumulative <= threshold[:, None]).sum(1, keepdim=True).clamp(max=members.shape[1] - 1)
    return torch.where(allowed.any(1), members.gather(1, drawn).squeeze(1), negatives.partner)


def with_hard_negatives(text_BP: Tensor, vision_BP: Tensor, temperature: Tensor, batch: Batch) -> Batch:
    """Return the batch, where the ITM pairs show the partners of `hard_partners`; nothing else differs."""
    negatives = batch.negatives
    if negatives is None:
        return batch
    partner = hard_partners(text_BP, vision_BP, temperature, negatives)
    shown = negatives.vision_start[partner][negatives.row_sample] + negatives.row_offset
    first, rows = negatives.first_row, batch.pairs.vision_rows
    rows = torch.cat((rows[:first], shown, rows[first + len(shown) :]))
    return replace(batch, pairs=replace(batch.pairs, vision_rows=rows))
