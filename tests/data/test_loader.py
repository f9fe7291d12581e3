import numpy as np
import pandas as pd
import pytest
import torch

from recmtl.data import Loader, prepare
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
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
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
def test_values_are_the_prepared_ones(seed, device):
    data = rows(weight="w")
    packed = data.packed()
    for batch in Loader(data, 6, device, seed).epoch(1):
        number = batch.numeric[:, 0].long().cpu()
        assert batch.ids.dtype == torch.int32
        assert batch.ids.shape == (len(batch), 3)
        torch.testing.assert_close(batch.ids.cpu(), packed[number, :3], rtol=0, atol=0)
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


def test_epochs_do_not_depend_on_those_before():
    loader = Loader(rows(), 5, seed=1)
    first = order(loader, 2)
    order(loader, 0)
    assert order(loader, 2) == first


def test_global_randomness_is_left_alone():
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
