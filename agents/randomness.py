"""Global random generators for third-party code: seeded while it runs, and afterwards as they were.

Libraries draw from the global generators of torch, numpy and Python.  Easy to get wrong: seeding torch's CPU generator
by `torch.manual_seed` also seeds every GPU's, even one that is first used later.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Within, the global generators follow from `numbers` (each 0 or more); afterwards they are as before."""
    import torch

    word = int(np.random.default_rng(list(numbers)).integers(2**63))
    # The old generator is what third-party code draws from.
    python, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(word)
        if devices:
            torch.cuda.manual_seed_all(word)
        np.random.seed(word % 2**32)
        random.seed(word)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)
