"""Categories of every kind from a file to the rows that training moves: those of the file's categories, no others."""

import datetime as dt
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import recmtl
from recmtl.data import Loader
from recmtl.features import PlainNumbers
from recmtl.schema import Categorical, MultiCategorical, Timestamp
from recmtl.schema.features import Feature
from recmtl.train import Optimization, Step
from recmtl.train import step as step_module

LARGE = [2**53, 2**53 + 1, 2**62 + 1, 2**53]
# The training rows' values, those of the step, and the rows of the table that these reach: 0 unknown, 1 missing.
CASES: dict[str, tuple[Feature, list[object], list[object], set[int]]] = {
    "text": (Categorical("c"), ["b", "a", "a", "c"], ["c", "a", "new"], {0, 2, 4}),
    "missing": (Categorical("c"), ["a", "b", None, ""], [None, "b", "b"], {1, 3}),
    "integers": (Categorical("c"), LARGE, [2**53 + 1, 2**62 + 1, 2**62 + 2], {0, 3, 4}),
    "neighbours": (Categorical("c"), LARGE, [2**53, 2**53, 2**53], {2}),
    "booleans": (Categorical("c"), [True, True, False, True], [False, False, False], {3}),
    "rare": (Categorical("c", min_count=2), ["a", "a", "b", "c"], ["a", "b", "b"], {0, 2}),
    "cut off": (Categorical("c", max_vocabulary=1), ["a", "a", "b", "c"], ["a", "c", "c"], {0, 2}),
    "hashed": (Categorical("c", hash_buckets=1000), ["a", "a", "b", None], ["item", "true", None], {1, 422, 765}),
    "separator": (MultiCategorical("c", separator=";"), ["a;b", "b", "c", ""], ["b;c", "", "new"], {0, 1, 2, 4}),
    "lists": (MultiCategorical("c"), [["a", "b"], ["b"], [], None], [["b"], ["b", "a"], None], {1, 2, 3}),
    "numbered lists": (MultiCategorical("c"), [[7, 8], [8], [], None], [[8], [8, 9], [8]], {0, 2}),
    "dates": (
        Timestamp("c", parts=("weekday", "month")),  # of 9 and of 14 rows
        [dt.date(2024, 1, 1), dt.date(2024, 2, 6)] * 2,
        [dt.date(2024, 2, 29), dt.date(2024, 2, 29), dt.date(2024, 12, 31)],
        {2 + 3, 2 + 1, 9 + 2 + 1, 9 + 2 + 11},
    ),
    "times": (
        Timestamp("c", parts=("hour",)),
        [*(dt.datetime(2024, 1, 1, hour) for hour in range(4)), None],
        [dt.datetime(2024, 1, 1, 23, 59), None, dt.datetime(2024, 1, 1, 0, 1)],
        {1, 2, 25},
    ),
}


def prepared(feature: Feature, values: list[object], step: list[object], path: Path) -> recmtl.PreparedData:
    """Training rows in a file, and those of the step in another."""
    for name, column in (("train", values), ("valid", step)):
        table = {"c": pa.array(column), "x": range(len(column)), "y": [i % 2 for i in range(len(column))]}
        if path.suffix == ".csv":
            pd.DataFrame(table | {"c": pd.Series(column, dtype=object)}).to_csv(path.with_stem(name), index=False)
        else:
            pq.write_table(pa.table(table), path.with_stem(name))
    schema = recmtl.Schema([feature, recmtl.Numeric("x")], [recmtl.Task("t", "y")])
    return recmtl.prepare(schema, path.with_stem("train"), path.with_stem("valid"))


@pytest.mark.parametrize("row_mode", [False, True])
@pytest.mark.parametrize(
    ("case", "suffix"), [(c, s) for c in CASES for s in (".csv", ".parquet") if "lists" not in c or s == ".parquet"]
)
def test_a_step_updates_the_rows_of_its_categories_only(
    case: str, suffix: str, row_mode: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feature, values, rows, expected = CASES[case]
    monkeypatch.setattr(step_module, "ROW_MODE", 0 if row_mode else 1 << 40)
    data = prepared(feature, values, rows, tmp_path / f"x{suffix}")
    torch.manual_seed(0)
    model = recmtl.SharedBottom(data.schema)
    (table,) = model.encoder.tables
    before = table.weight.detach().clone()
    options = Optimization(optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    trainer = recmtl.Trainer(model, recmtl.Sum(), optimization=options)
    Step(model, trainer.balancer, options, 1)(next(Loader(data.valid, 8).epoch()))
    moved = (table.weight != before).any(1).nonzero().flatten().tolist()
    assert set(moved) == expected


def test_an_item_and_its_history_share_a_row(tmp_path: Path) -> None:
    features = [Categorical("item"), MultiCategorical("seen", share_with="item"), recmtl.Numeric("x")]
    (tmp_path / "a.csv").write_text("item,seen,x,y\na,b|c,0,1\nb,a|a,1,0\nc,,2,0\nc,b,3,1\n")
    data = recmtl.prepare(recmtl.Schema(features, [recmtl.Task("t", "y")]), tmp_path / "a.csv", holdout=0)
    encoder = recmtl.FeatureEncoder(data.schema, 2, numeric=PlainNumbers)
    table = encoder.tables[0]
    assert len(table.weight) == 2 + 3
    a, b, c = table.weight[2:]  # three times each
    x = encoder(next(Loader(data.train, 4).epoch()))[:, :4]
    torch.testing.assert_close(x[0], torch.cat([a, (b + c) / 2]))
    torch.testing.assert_close(x[1], torch.cat([b, a]))
    torch.testing.assert_close(x[2], torch.cat([c, table.weight[1]]))
    x[0, :2].sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.sum(1).tolist() == [0, 0, 2, 0, 0]
