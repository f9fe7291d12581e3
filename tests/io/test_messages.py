"""Objects are received as they were sent, whatever the size of their arrays."""

import tempfile
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recmtl.errors import DataError
from recmtl.io.messages import LARGE_BYTES, Message, pack, receive, send


def received(message: Message) -> Any:
    """Send a message and receive it."""
    ours, theirs = Pipe()
    with ours, theirs:
        sender = Thread(target=send, args=(theirs, message))
        sender.start()
        found = receive(ours)
        sender.join()
    return found


def test_arrays_of_all_sizes_are_received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sizes = [0, 1, LARGE_BYTES // 8 - 1, LARGE_BYTES // 8, LARGE_BYTES + 13]
    arrays = [np.random.default_rng(size).normal(size=size) for size in sizes]
    matrix = np.asfortranarray(arrays[-1][: 1 << 16].reshape(16, -1))
    table = pa.table({"text": [f"value {i}" for i in range(30_000)], "number": np.arange(30_000)})
    found, found_matrix, found_table, words = received(pack((arrays, matrix, table, {"a": "b"})))
    assert not list(tmp_path.iterdir())
    for array, own in zip(arrays, found, strict=True):
        np.testing.assert_array_equal(own, array, strict=True)
    np.testing.assert_array_equal(found_matrix, matrix, strict=True)
    assert found_table.equals(table)
    assert words == {"a": "b"}


def test_what_is_received_can_be_changed() -> None:
    array = np.zeros(LARGE_BYTES)
    found = received(pack(array))
    found += 1
    assert found.sum() == LARGE_BYTES
    assert not array.any()


def test_small_objects_need_no_file() -> None:
    message = pack((True, np.arange(10)))
    assert message.file is None
    good, values = received(message)
    assert good
    assert values.tolist() == list(range(10))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(open, "/dev/full", "wb"))
    with pytest.raises(DataError, match=r"results of a worker cannot be written to .*, which TMPDIR names: No space"):
        pack(np.zeros(LARGE_BYTES))
