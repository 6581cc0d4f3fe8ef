"""A wait for data that lasts is told once, and again only after it had ended."""

from sclds.train.data_wait import SHARE, STEPS, DataWait


def spoken(waits: DataWait, share: float, steps: int) -> list[str]:
    return [told for told in (waits.add(share, 1.0) for _ in range(steps)) if told is not None]


def test_a_lasting_wait_is_told_once():
    waits = DataWait()
    assert spoken(waits, 0.5, STEPS - 1) == []
    (sentence,) = spoken(waits, 0.5, 4 * STEPS)
    assert "50% of the last 50 steps" in sentence
    assert "data.decode_threads" in sentence


def test_it_is_told_again_after_it_had_ended():
    waits = DataWait()
    assert len(spoken(waits, 0.5, 2 * STEPS)) == 1
    assert spoken(waits, SHARE / 2, 2 * STEPS) == []
    assert len(spoken(waits, 0.5, 2 * STEPS)) == 1


def test_a_slow_start_is_not_told():
    waits = DataWait()
    waits.add(3.0, 4.0)
    assert spoken(waits, 0.01, 3 * STEPS) == []
