import threading

import numpy as np
import pandas as pd
import pytest
import torch

from recmtl.data import Loader, prepare, row_order
from recmtl.data import loader as loader_module
from recmtl.schema import Categorical, MultiCategorical, Numeric, Schema, Task

ROWS = 23
FRAME = pd.DataFrame(
    {
        "row": np.arange(ROWS, dtype=float),
        "c": np.arange(ROWS) % 7,
        "m": ["a|b" if i % 2 else "b" for i in range(ROWS)],
        "y": [None if i % 5 == 0 else i % 2 for i in range(ROWS)],
        "w": np.arange(ROWS) / 4,
    }
)
FEATURES = [Categorical("c"), Numeric("row", transform="none"), MultiCategorical("m")]
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.gpu),
]


def rows(**roles):
    return prepare(Schema(FEATURES, [Task("t", "y")], **roles), FRAME, holdout=0).train


def order(loader, epoch=0):
    return [int(value) for batch in loader.epoch(epoch) for value in batch.numeric[:, 0]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize(("size", "lengths"), [(10, [10, 10, 3]), (23, [23]), (100, [23]), (1, [1] * 23)])
def test_each_row_once_in_batches_of_the_size(size, lengths, seed, device):
    loader = Loader(rows(), size, device, seed)
    assert [len(batch) for batch in loader.epoch(3)] == lengths
    assert len(loader) == len(lengths)
    assert sorted(order(loader, 3)) == list(range(ROWS))
    assert all(batch.ids.device.type == device for batch in loader.epoch())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", [None, 5])
def test_batches_hold_the_prepared_values(seed, device):
    data = rows(weight="w")
    packed = data.packed()
    for batch in Loader(data, 6, device, seed).epoch(1):
        number = batch.numeric[:, 0].long().cpu()
        assert batch.ids.dtype == torch.int32
        assert batch.ids.shape == (len(batch), 1)
        torch.testing.assert_close(batch.ids.cpu(), packed[number, :1], rtol=0, atol=0)
        labels = torch.tensor(data.labels["y"], dtype=torch.float32)[number, None]
        torch.testing.assert_close(batch.labels.cpu(), labels, rtol=0, atol=0, equal_nan=True)
        assert batch.weight is not None
        torch.testing.assert_close(batch.weight.cpu(), number / 4, rtol=0, atol=0)


def test_order():
    data = rows()
    plain = Loader(data, 5)
    assert order(plain) == order(plain, 1) == list(range(ROWS))
    loader = Loader(data, 5, seed=1)
    assert order(loader, 0) == order(Loader(data, 5, seed=1), 0)
    assert order(loader, 0) == order(Loader(data, 9, seed=1), 0)  # whatever the batch size
    orders = {tuple(order(Loader(data, 5, seed=seed), epoch)) for seed in (1, 2) for epoch in (0, 1, 2)}
    assert len(orders) == 6
    assert tuple(range(ROWS)) not in orders


def test_an_epoch_does_not_depend_on_earlier_ones():
    loader = Loader(rows(), 5, seed=1)
    first = order(loader, 2)
    order(loader, 0)
    assert order(loader, 2) == first


def test_the_global_generator_is_not_used():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    order(Loader(rows(), 5, seed=1))
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_without_weights_and_without_categories():
    (batch,) = Loader(rows(), 100).epoch()
    assert batch.weight is None
    data = prepare(Schema([Numeric("row")], [Task("t", "y")]), FRAME, holdout=0).train
    (batch,) = Loader(data, 100).epoch()
    assert batch.ids.shape == (ROWS, 0)
    assert batch.numeric.shape == (ROWS, 1)


def test_batch_size_is_checked():
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        Loader(rows(), 0)
    with pytest.raises(ValueError, match="`window` must be at least 1, got 0"):
        Loader(rows(), 1, window=0)


@pytest.fixture
def _blocks_of_two(monkeypatch):
    monkeypatch.setattr(row_order, "BLOCK_ROWS", 2)
    monkeypatch.setattr(row_order, "LANE_ROWS", 2)


@pytest.mark.usefixtures("_blocks_of_two")
@pytest.mark.parametrize("window", [1, 4, 7, 22])
@pytest.mark.parametrize("size", [1, 2, 3, 10, 22, 100])
def test_windows_hold_each_row_once(window, size):
    data = rows(weight="w")
    whole, loader = Loader(data, size, seed=3), Loader(data, size, seed=3, window=window)
    assert [len(batch) for batch in loader.epoch(1)] == [len(batch) for batch in whole.epoch(1)]
    assert sorted(order(loader, 1)) == list(range(ROWS))
    assert order(loader, 1) == order(Loader(data, size, seed=3, window=window), 1) != order(loader, 2)
    assert order(Loader(data, size, window=window)) == list(range(ROWS))
    for batch in loader.epoch(1):
        torch.testing.assert_close(batch.weight, batch.numeric[:, 0] / 4, rtol=0, atol=0)


@pytest.mark.usefixtures("_blocks_of_two")
def test_windows_shuffle_blocks_and_then_rows():
    loader = Loader(rows(), 1, seed=0, window=8)
    found = [order(loader, epoch) for epoch in range(200)]
    assert len({tuple(o) for o in found}) == 200
    firsts = np.bincount([o[0] for o in found], minlength=ROWS)
    assert (firsts > 0).all()  # any row can be the first
    for o in found:
        assert len({row // 2 for row in o[:8]}) <= 5  # those of four blocks, one of which may be the last, of one row


@pytest.mark.usefixtures("_blocks_of_two")
def test_a_single_window_is_read_ahead(monkeypatch):
    data, read = rows(), []
    monkeypatch.setattr(
        data, "packed", lambda spans, _: read.append(threading.current_thread()) or type(data).packed(data, spans)
    )
    batches = Loader(data, 4, window=4).epoch()
    for number in range(1, 5):
        next(batches)
        assert number <= len(read) <= number + 1
    batches.close()
    assert threading.main_thread() not in read


def test_rows_that_do_not_fit_are_read_in_windows(monkeypatch):
    data = rows()
    bound = int(2 * ROWS * data.bytes_per_row)
    for free, window in ((bound + 2, ROWS), (bound - 2, 4), (0, 1)):
        monkeypatch.setattr(loader_module, "available_memory", lambda free=free: free)
        loader = Loader(data, 5, seed=0)
        assert loader.window == window
        assert sorted(order(loader)) == list(range(ROWS))


@pytest.mark.usefixtures("_blocks_of_two")
@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("window", [None, 4, 7])
def test_skipped_batches_are_not_read(monkeypatch, window, seed):
    data = rows(weight="w")
    loader = Loader(data, 4, seed=seed, window=window)
    whole, read = list(loader.epoch(2)), []
    monkeypatch.setattr(data, "packed", lambda numbers, _: read.extend(numbers) or type(data).packed(data, numbers))
    for done in range(len(loader) + 1):
        read.clear()
        left = list(loader.epoch(2, done))
        assert len(left) == len(whole) - done
        for mine, theirs in zip(left, whole[done:], strict=True):
            assert all(torch.equal(getattr(mine, n), getattr(theirs, n)) for n in ("ids", "numeric", "weight"))
        if window:
            assert len(read) == len({*read}) == max(0, ROWS - 4 * done)
