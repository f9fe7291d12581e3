"""The independent streams of random numbers of a seed: equal arguments give equal rows."""

import numpy as np

CHUNK_ROWS = 50_000  # in memory at a time; part of the seed, so another value gives other rows
STREAMS = {"train": 0, "valid": 1, "test": 2, "calibration": 3, "effects": 4}


def stream(seed: int, name: str, chunk: int = 0) -> np.random.Generator:
    """Return the generator of one chunk of a stream."""
    return np.random.default_rng([seed, STREAMS[name], chunk])
