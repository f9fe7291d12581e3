from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch

import recmtl
from recmtl.cli.main import main
from recmtl.data import Loader
from recmtl.features import FeatureEncoder
from recmtl.train import Optimization
from recmtl.train import step as step_module

VECTORS = {"b": [1.0, 2.0, 3.0], "zzz": [7.0, 7.0, 7.0], "a": [-4.0, 5.0, 0.5]}
ITEMS = ["a", "b", "c", "b", None, "a", "d", "d"] * 4
SCHEMA = recmtl.Schema(
    [
        recmtl.Categorical("item"),
        recmtl.MultiCategorical("seen", share_with="item"),
        recmtl.Categorical("h", 1, None, 9),
    ],
    [recmtl.Task("t", "y")],
)


@pytest.fixture
def data() -> recmtl.PreparedData:
    seen = ["a|b", "", "c", "d|a"] * 8
    frame = pd.DataFrame({"item": ITEMS, "seen": seen, "h": ITEMS, "y": [0, 1, 1, 0] * 8})
    return recmtl.prepare(SCHEMA, frame, valid=frame)


def write(path: Path, vectors: dict[str, list[float]] = VECTORS) -> Path:
    table = pa.table({"category": list(vectors), "vector": list(vectors.values())})
    if path.suffix == ".csv":
        pd.DataFrame(vectors).T.to_csv(path)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(table, path)
    elif path.stem == "flat":
        pd.DataFrame(vectors).T.rename(columns=str).reset_index().to_parquet(path)
    else:
        pq.write_table(table, path)
    return path


def rows_by_category(encoder: FeatureEncoder, data: recmtl.PreparedData) -> dict[str, list[float]]:
    categories = ["unknown", "missing", *data.schema.vocabularies["item"].to_pylist()]
    rows = encoder.tables[-1].rows_of(data.schema.id_blocks[0])  # a frozen table is the last
    return dict(zip(categories, rows.tolist(), strict=True))


@pytest.mark.parametrize("name", ["flat.parquet", "a.csv"])
def test_numbers_of_a_vector_are_never_missing(tmp_path: Path, name: str) -> None:
    schema = recmtl.Schema([recmtl.Categorical("item")], SCHEMA.tasks, nulls=["1", "-4"])
    rows = recmtl.prepare(schema, pd.DataFrame({"item": ITEMS, "y": [0, 1] * 16}))
    encoder = FeatureEncoder(rows.schema, 3, pretrained={"item": str(write(tmp_path / name))})
    assert rows_by_category(encoder, rows)["b"] == VECTORS["b"]


@pytest.mark.parametrize("name", ["a.parquet", "flat.parquet", "a.csv", "a.feather"])
@pytest.mark.parametrize("freeze", [False, True])
def test_vectors_take_the_place_of_the_rows_of_their_categories(
    tmp_path: Path, data: recmtl.PreparedData, name: str, freeze: bool
) -> None:
    torch.manual_seed(0)
    plain = rows_by_category(FeatureEncoder(data.schema, 3), data)
    torch.manual_seed(0)
    encoder = FeatureEncoder(data.schema, 3, {"item": write(tmp_path / name)}, freeze)
    found = rows_by_category(encoder, data)
    assert encoder.found == {"item": 0.5}
    assert {c: found[c] for c in "ab"} == {c: VECTORS[c] for c in "ab"}
    assert all(abs(x) < 0.1 for c in ("missing", "c", "d") for x in found[c])
    assert freeze or {c: found[c] for c in ("missing", "c", "d")} == {c: plain[c] for c in ("missing", "c", "d")}
    assert found["unknown"] == [0, 0, 0]
    batch = next(Loader(data.train, 1).epoch())  # item a, seen a|b
    x = encoder(batch)
    means = np.mean([VECTORS["a"], VECTORS["b"]], axis=0).tolist()
    start = 3 if freeze else 0  # the frozen table comes after
    assert x[0, start : start + 3].tolist() == VECTORS["a"]
    assert x[0, 6:9].tolist() == means


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("c,x,y\na,1,2\n", r"a\.csv must have vectors of 3 numbers, the width of the embeddings, got 2"),
        ("c,x,y,z\nq,1,2,3\n", r"a\.csv has no vector for any category of feature 'item'"),
        ("c,x,y,z\na,1,2,3\nb,1,2,3\na,1,2,3\n", r"a\.csv has the category 'a' twice"),
        ("c,x,y,z\na,1,2,3\nb,1,,3\n", r"a\.csv, line 3, column 'y': None is not a number"),
        ("c,x,y,z\na,1,2,3\nb,1,two,3\n", r"a\.csv, line 3, column 'y': 'two' is not a number"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, data: recmtl.PreparedData, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(recmtl.DataError, match=message):
        FeatureEncoder(data.schema, 3, {"item": tmp_path / "a.csv"})


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([1.0, 2.0], r"a\.parquet must have vectors of 3 numbers, the width of the embeddings, got 2"),
        ([1.0, None, 2.0], r"a\.parquet, row 2, column 'vector': None is not a number"),
        ([1.0, float("inf"), 2.0], r"a\.parquet, row 2, column 'vector': inf is not a finite number"),
    ],
)
def test_lists_that_do_not_fit(tmp_path: Path, data: recmtl.PreparedData, vector: list[float], message: str) -> None:
    file = write(tmp_path / "a.parquet", {"a": [1.0, 2.0, 3.0], "b": vector})
    with pytest.raises(recmtl.DataError, match=message):
        FeatureEncoder(data.schema, 3, {"item": file})


@pytest.mark.parametrize("name", ["gone", "seen", "h"])
def test_only_features_with_a_vocabulary_of_their_own_have_vectors(data: recmtl.PreparedData, name: str) -> None:
    with pytest.raises(
        ValueError, match=f"`pretrained` must name features with a vocabulary of their own .* got '{name}'"
    ):
        FeatureEncoder(data.schema, 3, {name: "a.csv"})


@pytest.mark.parametrize("row_mode", [False, True])
@pytest.mark.parametrize("balancer", [recmtl.MetaBalance, recmtl.GradNorm], ids=lambda c: c.__name__)
def test_frozen_rows_stay_and_all_others_move(
    tmp_path: Path, data: recmtl.PreparedData, row_mode: bool, balancer: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_module, "ROW_MODE", 0 if row_mode else 1 << 40)
    file = write(tmp_path / "a.parquet")
    torch.manual_seed(0)
    model = recmtl.SharedBottom(data.schema, encoder=lambda s: FeatureEncoder(s, 3, {"item": file}, freeze=True))
    trained, frozen = (table.weight for table in model.encoder.tables)
    before = trained.detach().clone(), frozen.detach().clone()
    options = Optimization(batch_size=16, optimizer=lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5))
    recmtl.Trainer(model, balancer(), epochs=1, optimization=options).fit(data.train)
    assert torch.equal(frozen, before[1])
    assert not torch.equal(trained, before[0])


def test_from_a_recipe_and_without_the_file_afterwards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"item": ITEMS, "seen": ITEMS, "h": ITEMS, "y": [0, 1, 1, 0] * 8}).to_csv("rows.csv", index=False)
    SCHEMA.save("card.yaml")
    file = write(tmp_path / "item-vectors.parquet")
    options = "train --data.card card.yaml --data.train rows.csv --model SharedBottom --trainer.epochs 1 --run run"
    encoder = '{"class_path": "FeatureEncoder", "init_args": {"width": 3, "freeze": true}}'
    given = ["--model.encoder", encoder, "--model.encoder.pretrained", '{"item": "item-vectors.parquet"}']
    assert main([*options.split(), *given]) == 0, capsys.readouterr().err
    assert main(["train", "--config", "run/recipe.yaml", "--run", "again"]) == 0
    file.unlink()
    model = recmtl.load_run("run").model
    rows = rows_by_category(model.encoder, recmtl.PreparedData(model.schema, {}))
    assert rows["a"] == VECTORS["a"]
    assert main(["evaluate", "run", "--rows", "rows.csv"]) == 0
    assert main(["train", "--config", "run/recipe.yaml", "--run", "third"]) == 2
    assert "item-vectors.parquet" in capsys.readouterr().err
