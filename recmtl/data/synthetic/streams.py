"""The independent streams of random numbers of a seed: equal arguments give equal rows."""

import numpy as np

CHUNK_ROWS = 50_000  # in memory at a time; part of the seed, so another value gives other rows
STREAMS = {"train": 0, "valid": 1, "test": 2, "calibration": 3, "effects": 4, "days": 5}


def stream(seed: int, name: str, *parts: int) -> np.random.Generator:
    """Return the generator of one part of a stream: a chunk, a day, or a chunk of a day."""
    return np.random.default_rng([seed, STREAMS[name], *(parts or (0,))])
