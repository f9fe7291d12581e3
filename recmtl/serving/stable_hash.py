"""The hash of text that puts categories into `hash_buckets`: SipHash-2-4, mixed once more, as pandas computes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

MASK = (1 << 64) - 1
KEY = (int.from_bytes(b"01234567", "little"), int.from_bytes(b"89123456", "little"))
FEW, SHORT = 16, 1 << 10  # texts that are hashed one by one; characters of those that are hashed together
CACHED = 1 << 16  # texts whose hash is kept


def stable_hashes(texts: Sequence[str]) -> list[int]:
    """Return the hash of each text, of 64 bits."""
    if len(texts) <= FEW:
        return [_hash_of(text) if len(text) <= SHORT else _hash_alone(text) for text in texts]
    long = {place: _hash_alone(text) for place, text in enumerate(texts) if len(text) > SHORT}
    if long:
        others = iter(stable_hashes([text for place, text in enumerate(texts) if place not in long]))
        return [long[place] if place in long else next(others) for place in range(len(texts))]
    padded = [_padded(text.encode()) for text in texts]
    order = sorted(range(len(texts)), key=lambda place: -len(padded[place]))
    blocks = np.array([len(padded[place]) // 8 for place in order])
    starts = np.cumsum(blocks) - blocks
    words = np.frombuffer(b"".join([padded[place] for place in order]), "<u8").astype(np.uint64)
    hashes = np.empty(len(texts), np.uint64)
    hashes[order] = _siphash(_block_of_each(words, starts, blocks), len(texts))
    return hashes.tolist()


def _block_of_each(words: Words, starts: npt.NDArray[Any], blocks: npt.NDArray[Any]) -> Iterator[Words]:
    """Yield the first block of each text, the second of those that have one, and so on; the longest text is first."""
    for place in range(blocks[0]):
        longer = int(np.searchsorted(-blocks, -place))
        yield words[starts[:longer] + place]


def _hash_alone(text: str) -> int:
    padded = _padded(text.encode())
    return int(_siphash(int.from_bytes(padded[i : i + 8], "little") for i in range(0, len(padded), 8)))


_hash_of = lru_cache(CACHED)(_hash_alone)


def _padded(data: bytes) -> bytes:
    """Return bytes with zeros up to a last block that ends with their length."""
    return data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])


def _siphash(blocks: Iterable[Any], texts: int | None = None) -> Any:
    """Return the mixed SipHash-2-4 (Aumasson, 2012) of blocks of 64 bits: the integers of one text, or arrays.

    The arrays ``[up to texts]`` hold a block of each text that is long enough, and become shorter.
    """
    state: list[Any] = [KEY[0] ^ 0x736F6D6570736575, KEY[1] ^ 0x646F72616E646F6D]
    state += [KEY[0] ^ 0x6C7967656E657261, KEY[1] ^ 0x7465646279746573]
    if texts is not None:
        state = [np.full(texts, value, np.uint64) for value in state]
    v0, v1, v2, v3 = state
    for block in blocks:
        if texts is not None and len(block) < len(v0):  # the shorter texts have ended
            for values, own in zip(state, (v0, v1, v2, v3), strict=True):
                values[: len(own)] = own
            v0, v1, v2, v3 = (values[: len(block)] for values in state)
        v3 = v3 ^ block
        v0, v1, v2, v3 = _round(*_round(v0, v1, v2, v3))
        v0 = v0 ^ block
    if texts is not None:
        for values, own in zip(state, (v0, v1, v2, v3), strict=True):
            values[: len(own)] = own
        v0, v1, v2, v3 = state
    v2 = v2 ^ 0xFF
    for _ in range(4):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return _mixed(v0 ^ v1 ^ v2 ^ v3)


def _mixed(value: Any) -> Any:
    """Return 64 bits mixed once more, as pandas does with all hashes (the finalizer of SplitMix64)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def _round(v0: Any, v1: Any, v2: Any, v3: Any) -> tuple[Any, Any, Any, Any]:
    v0 = (v0 + v1) & MASK
    v1 = _rotated(v1, 13) ^ v0
    v0 = _rotated(v0, 32)
    v2 = (v2 + v3) & MASK
    v3 = _rotated(v3, 16) ^ v2
    v0 = (v0 + v3) & MASK
    v3 = _rotated(v3, 21) ^ v0
    v2 = (v2 + v1) & MASK
    v1 = _rotated(v1, 17) ^ v2
    return v0, v1, _rotated(v2, 32), v3


def _rotated(value: Any, bits: int) -> Any:
    return ((value << bits) | (value >> (64 - bits))) & MASK
