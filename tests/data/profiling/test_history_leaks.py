"""Histories that were written after their row; honest ones, with repetitions, are not noted."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recmtl

ROWS = 600
TASKS = [recmtl.Task("ctr", "click")]
FEATURES = (recmtl.Categorical("item"), recmtl.MultiCategorical("seen", share_with="item"))


def rows_of(repeats: float, appended: str) -> pd.DataFrame:
    """Rows whose users repeat their last item that often, and of which some have theirs appended."""
    rng = np.random.default_rng(0)
    items, click = rng.integers(0, 30, ROWS), rng.random(ROWS) < 0.3
    histories = [list(rng.integers(0, 30, n)) for n in rng.integers(0, 6, ROWS)]
    for row, history in enumerate(histories):
        if history and rng.random() < repeats:
            items[row] = history[-1]
        if (appended == "clicked" and click[row]) or appended == "all":
            history.append(items[row])
    texts = ["|".join(f"i{i}" for i in history) for history in histories]
    frame = pd.DataFrame({"item": [f"i{i}" for i in items], "seen": texts, "click": click.astype(int)})
    return frame.assign(other=rng.integers(0, 5, ROWS))


def notes_of(found: recmtl.PreparedData | object) -> list[str]:
    return [note for note in found.notes if note.startswith("history")]  # type: ignore[attr-defined]


def notes(data: object, *features: object) -> list[str]:
    """The notes of `prepare`, which are those of `describe` of its rows and of the raw ones."""
    schema = recmtl.Schema(features or FEATURES, TASKS)
    prepared = recmtl.prepare(schema, data, holdout=0)
    found = notes_of(prepared)
    assert notes_of(recmtl.describe(data, schema)) == notes_of(recmtl.describe(prepared)) == found
    return found


def sentence(frame: pd.DataFrame, history: str = "seen", item: str = "item") -> str:
    """The right sentence, counted row by row."""
    counted = frame[frame[history] != ""]
    ends = [row[history].split("|")[-1] in row[item].split("|") for _, row in counted.iterrows()]
    own, click = np.array(ends), counted["click"].to_numpy() == 1
    return (
        f"history {history!r} ends with the row's own {item!r} in {(own & click).sum()} (100.0%) of the {click.sum()} "
        f"train rows with 'click' and in {own[~click].mean():.1%} of the others: is it written before the click?"
    )


def test_a_history_that_already_holds_the_clicked_item() -> None:
    frame = rows_of(0.0, "clicked")
    assert notes(frame) == [sentence(frame)]


@pytest.mark.parametrize(("repeats", "appended"), [(0.0, "none"), (0.6, "none"), (0.95, "none"), (0.0, "all")])
def test_repetitions_that_say_nothing_of_the_label_are_not_noted(repeats: float, appended: str) -> None:
    assert notes(rows_of(repeats, appended)) == []


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_files(tmp_path: Path, ending: str) -> None:
    """Lists in Parquet, text in CSV; a time is no part of it."""
    frame = rows_of(0.0, "clicked").assign(time=range(ROWS))
    path, expected = tmp_path / f"rows.{ending}", sentence(frame)
    if ending == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.assign(seen=frame["seen"].map(lambda text: text.split("|") if text else [])).to_parquet(path)
    assert notes(path, *FEATURES, recmtl.Timestamp("time", format="seconds")) == [expected]


def test_inferred_columns() -> None:
    """No history is said to share the vocabulary of the item."""
    frame = rows_of(0.0, "clicked")
    assert notes_of(recmtl.describe(frame, labels=["click"], kinds={"seen": "multi_categorical"})) == [sentence(frame)]


def test_a_vocabulary_of_its_own() -> None:
    frame = rows_of(0.0, "clicked")
    assert notes(frame, recmtl.Categorical("item"), recmtl.MultiCategorical("seen")) == [sentence(frame)]


def test_hashed_items() -> None:
    frame = rows_of(0.0, "clicked")
    (note,) = notes(frame, recmtl.Categorical("item", hash_buckets=1 << 20), FEATURES[1])
    assert note == sentence(frame)


def test_several_histories_of_items_with_several_categories() -> None:
    """Only the one that was written too late is noted; the item of the other one is a list."""
    frame = rows_of(0.0, "clicked").rename(columns={"seen": "late"})
    frame["seen"] = rows_of(0.0, "none")["seen"].to_numpy()
    frame["item"] = frame["item"] + "|x" + frame["other"].astype(str)
    attention = {"share_with": "item", "pooling": "target_attention", "target": "item"}
    features = [recmtl.MultiCategorical("item"), *(recmtl.MultiCategorical(n, **attention) for n in ("seen", "late"))]
    assert notes(frame, *features) == [sentence(frame, "late")]


def test_the_newest_first() -> None:
    frame = rows_of(0.0, "clicked")
    expected = sentence(frame).replace("ends", "starts")
    frame["seen"] = frame["seen"].map(lambda text: "|".join(text.split("|")[::-1]))
    history = recmtl.MultiCategorical("seen", share_with="item", max_length=2, keep="first")
    assert notes(frame, recmtl.Categorical("item"), history) == [expected]


def test_of_held_out_rows_none_is_lost() -> None:
    frame = rows_of(0.0, "clicked")
    assert notes_of(recmtl.prepare(recmtl.Schema(FEATURES, TASKS), frame, holdout=0.5)) == [sentence(frame)]
