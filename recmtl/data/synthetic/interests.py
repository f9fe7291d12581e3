"""Planted interests: a click depends on whether the history holds items that are like the candidate."""

import numpy as np
import numpy.typing as npt

from recmtl.data.synthetic.problem import TASKS, TwoLabels, category_effects, draw_categories, draw_numbers
from recmtl.data.synthetic.truth import Array, Columns
from recmtl.schema import Categorical, MultiCategorical, Numeric, Schema

CLUSTERS, CLUSTER_ITEMS = 40, 8
INTERESTS = 6  # clusters of a row's user
MEAN_LENGTH, MAX_LENGTH = 15, 50
OWN_SHARE = 0.5  # of the candidates are like an item of the history
MATCH = (2.4, 1.6)  # log-odds of a match, by task
SIZES = {"gender": 3, "city": 20, "device": 4, "hour": 24, "slot": 6}
NUMBERS = ("quality", "price")
SCALE = 0.2  # the standard deviation, in log-odds, of the effect of a column
ITEM, HISTORY, MATCHED = "item", "history", "matched"


class Interests(TwoLabels):
    r"""Rows with a history of items and a candidate.

    Items belong to 40 clusters that no column shows. A user has six of them as interests; each item of the history is
    drawn from one. The candidate is like a random item of the history in half of the rows, and of none of the user's
    interests in the others; in both kinds of rows each item is equally likely, and so are histories. With $m = 1$ if
    the history $h$ holds an item of the candidate's cluster, else 0, the log-odds of task $t$ are

    $$
    b_t + \sum_j f_{tj}(x_j) + \text{strength} \cdot w_t \, m(h, \text{item})
    $$

    Neither the candidate nor the history alone tells anything of $m$. A mean of the history's embeddings has to keep
    six clusters apart, and the layers behind it have to compare them with the candidate; attention compares each item
    with the candidate.
    """

    schema = Schema(
        [
            Categorical(ITEM),
            MultiCategorical(HISTORY, share_with=ITEM, max_length=MAX_LENGTH),
            *map(Categorical, SIZES),
            *map(Numeric, NUMBERS),
        ],
        TASKS,
        description="Generated rows with a history of items and a candidate, whose clusters no column shows.",
    )

    def build(self, rng: np.random.Generator) -> None:
        """Draw the items of each cluster and the effects of the columns."""
        items = CLUSTERS * CLUSTER_ITEMS
        self._items = rng.permutation(items).reshape(CLUSTERS, CLUSTER_ITEMS)
        self._main = {name: category_effects(rng, len(TASKS), size) for name, size in (SIZES | {ITEM: items}).items()}

    def features(self, rng: np.random.Generator, rows: int) -> dict[str, npt.NDArray[np.generic]]:
        """Draw a user's interests, the history and the candidate, and other columns."""
        clusters = rng.random((rows, CLUSTERS)).argsort(axis=1)  # [n, CLUSTERS]: the first are the interests
        lengths = np.minimum(rng.geometric(1 / MEAN_LENGTH, size=rows), MAX_LENGTH)
        ends = lengths.cumsum()
        row = np.repeat(np.arange(rows), lengths)  # [T]
        of_item = clusters[row, rng.integers(INTERESTS, size=len(row))]  # [T]
        history = self._items[of_item, rng.integers(CLUSTER_ITEMS, size=len(row))]  # [T]
        words = history.astype(str).tolist()
        text = ["|".join(words[end - length : end]) for end, length in zip(ends, lengths, strict=True)]
        matched = rng.random(rows) < OWN_SHARE
        like = of_item[ends - 1 - rng.integers(lengths)]  # the cluster of a random item of the history
        unlike = clusters[np.arange(rows), rng.integers(INTERESTS, CLUSTERS, size=rows)]
        item = self._items[np.where(matched, like, unlike), rng.integers(CLUSTER_ITEMS, size=rows)]
        columns: dict[str, npt.NDArray[np.generic]] = {ITEM: item, HISTORY: np.array(text), MATCHED: matched}
        return columns | draw_categories(rng, rows, SIZES) | draw_numbers(rng, rows, NUMBERS)

    def effects(self, columns: Columns) -> tuple[Array, Array]:
        """Return the log-odds of the columns and of a match."""
        parts = [effect[:, columns[name].astype(np.int64)] for name, effect in self._main.items()]  # [2, n] each
        numbers: Array = np.sum([columns[name].astype(np.float64) for name in NUMBERS], axis=0)
        main: Array = np.sum(parts, axis=0) + numbers
        return SCALE * main.T, np.outer(columns[MATCHED].astype(np.float64), MATCH)
