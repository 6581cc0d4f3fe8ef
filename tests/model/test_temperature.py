"""The contrastive temperature above its lowest value, and an optimizer that would go past it."""

import pytest
import torch

from sclds.model.heads import Temperature


def temperature(value: float, minimum: float) -> Temperature:
    made = Temperature(value, minimum)
    made.value.data.fill_(value)
    return made


@pytest.mark.parametrize(
    ("value", "seen", "slope"), [(0.5, 0.5, 1), (0.25, 0.25, 1), (0.125, 0.375, -1), (-0.5, 1.0, -1)]
)
def test_below_the_lowest_value_it_is_mirrored_there(value, seen, slope):
    """In binary fractions, so exactly; from the lowest value up nothing changes, not a bit."""
    made = temperature(value, 0.25)
    found = made()
    found.backward()
    assert found.item() == seen
    assert made.value.grad.item() == slope


def test_a_step_past_the_bound_is_taken_back():
    """Adam pushes it down for long, then up: it stays within some steps' length of the bound, and leaves it at once."""
    made = temperature(0.2, 0.1)
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.01, weight_decay=0)

    def steps(count, direction):
        seen = []
        for _ in range(count):
            optimizer.zero_grad()
            (direction * made()).backward()
            optimizer.step()
            seen.append(made().item())
        return seen

    down = steps(200, 1.0)
    assert min(down) >= 0.1 - 1e-6
    assert max(down[60:]) < 0.16
    assert steps(60, -1.0)[-1] > 0.2
