"""Seeds that follow from a position, and random numbers that follow from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def mix(*parts: int | str) -> int:
    """A 63-bit seed hashed from all ``parts``."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator inside the block, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which would reseed the accelerators of the training process too
        torch.default_generator.manual_seed(seed)
        yield
