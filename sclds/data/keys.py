"""The only source of randomness of the data: generators that depend on a key and on nothing else.

A draw is named by what it is for, such as (seed, "mlm", epoch, sample id). So it is the same in any process, at any
time, for any world size, and after a restart.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


class _Digest(ISeedSequence):
    """A key that is used as it is; given any other way, numpy first asks the system for entropy that nobody uses."""

    def __init__(self, digest: bytes):
        self._digest = digest

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        return np.frombuffer(self._digest, dtype, n_words)


def _digest_of(seed: int, words: tuple[str | int, ...], size: int) -> bytes:
    # every word carries its type and length, so that no two keys run together
    text = "".join([f"{type(word).__name__}{len(shown := str(word))}:{shown};" for word in (seed, *words)])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


def seed_of(seed: int, *words: str | int) -> int:
    """Return a seed below 2^63 for a key, for generators that take a number; see `generator`."""
    return int.from_bytes(_digest_of(seed, words, 8), "big") >> 1


def generator(seed: int, *words: str | int) -> np.random.Generator:
    """Return a fresh generator for a key.

    Args:
        seed: The run's seed.
        words: What the draw is for. 1 and "1" are different words.

    Returns:
        A counter-based (Philox) generator; equal keys give equal sequences.
    """
    key: Any = _Digest(_digest_of(seed, words, 16))  # numpy's stubs know no seed sequence but their own
    return np.random.Generator(np.random.Philox(key))
