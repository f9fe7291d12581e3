"""The hash of text that puts categories into `hash_buckets`: SipHash-2-4, mixed once more, as pandas computes it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

MASK = (1 << 64) - 1
KEY = (int.from_bytes(b"01234567", "little"), int.from_bytes(b"89123456", "little"))
FEW = 16  # texts that are hashed one by one
CACHED = 1 << 16  # texts whose hash is kept


def stable_hashes(texts: Sequence[str]) -> list[int]:
    """Return the hash of each text, of 64 bits."""
    if len(texts) <= FEW:
        return [_hash_of(text) for text in texts]
    encoded = [text.encode() for text in texts]
    by_blocks: dict[int, list[int]] = {}
    for place, data in enumerate(encoded):
        by_blocks.setdefault(len(data) // 8 + 1, []).append(place)
    hashes = [0] * len(texts)
    for blocks, places in by_blocks.items():
        padded = b"".join(_padded(encoded[place]) for place in places)
        words = np.frombuffer(padded, "<u8").reshape(len(places), blocks).astype(np.uint64)
        for place, found in zip(places, _siphash(list(words.T)).tolist(), strict=True):
            hashes[place] = found
    return hashes


@lru_cache(CACHED)
def _hash_of(text: str) -> int:
    padded = _padded(text.encode())
    return int(_siphash([int.from_bytes(padded[i : i + 8], "little") for i in range(0, len(padded), 8)]))


def _padded(data: bytes) -> bytes:
    """Return bytes with zeros up to a last block that ends with their length."""
    return data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])


def _siphash(words: Sequence[Any]) -> Any:
    """Return the mixed SipHash-2-4 (Aumasson, 2012) of blocks of 64 bits: integers, or arrays ``[texts]``."""
    state = [KEY[0] ^ 0x736F6D6570736575, KEY[1] ^ 0x646F72616E646F6D]
    state += [KEY[0] ^ 0x6C7967656E657261, KEY[1] ^ 0x7465646279746573]
    if isinstance(words[0], np.ndarray):
        state = [_constant(value, len(words[0])) for value in state]  # type: ignore[misc]
    v0, v1, v2, v3 = state
    for word in words:
        v3 = v3 ^ word
        v0, v1, v2, v3 = _round(*_round(v0, v1, v2, v3))
        v0 = v0 ^ word
    v2 = v2 ^ 0xFF
    for _ in range(4):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return _mixed(v0 ^ v1 ^ v2 ^ v3)


def _mixed(value: Any) -> Any:
    """Return 64 bits mixed once more, as pandas does with all hashes (the finalizer of SplitMix64)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def _constant(value: int, count: int) -> npt.NDArray[np.uint64]:
    return np.full(count, value, np.uint64)


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
