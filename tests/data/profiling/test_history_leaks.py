"""Histories that were written after their row; honest ones, with repetitions, are not noted."""

import numpy as np
import pandas as pd
import pytest

import recmtl

ROWS = 3000


def notes(repeats: float, appended: str) -> list[str]:
    """The notes on rows whose users repeat their last item that often, and of which some have theirs appended."""
    rng = np.random.default_rng(0)
    items, click = rng.integers(0, 30, ROWS), rng.random(ROWS) < 0.3
    histories = [list(rng.integers(0, 30, n)) for n in rng.integers(0, 6, ROWS)]
    for row, history in enumerate(histories):
        if history and rng.random() < repeats:
            items[row] = history[-1]
        if (appended == "clicked" and click[row]) or appended == "all":
            history.append(items[row])
    texts = ["|".join(map(str, history)) for history in histories]
    frame = pd.DataFrame({"item": items.astype(str), "seen": texts, "click": click.astype(int)})
    features = [recmtl.Categorical("item"), recmtl.MultiCategorical("seen", share_with="item")]
    data = recmtl.prepare(recmtl.Schema(features, [recmtl.Task("ctr", "click")]), frame, holdout=0)
    return [note for note in recmtl.describe(data).notes if note.startswith("history")]


def test_a_history_that_already_holds_the_clicked_item() -> None:
    (note,) = notes(repeats=0.0, appended="clicked")
    assert note.startswith("history 'seen' ends with the row's own 'item' in 100.0% of the ")
    assert note.endswith("% of the others: is it written before the click?")


@pytest.mark.parametrize(("repeats", "appended"), [(0.0, "none"), (0.6, "none"), (0.95, "none"), (0.0, "all")])
def test_repetitions_that_say_nothing_of_the_label_are_not_noted(repeats: float, appended: str) -> None:
    assert notes(repeats, appended) == []
