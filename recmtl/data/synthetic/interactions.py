"""Planted interactions: products of the effects of two columns beside weak effects of single ones."""

import numpy as np
import numpy.typing as npt

from recmtl.data.synthetic.problem import TASKS, TwoLabels, category_effects, draw_categories, draw_numbers
from recmtl.data.synthetic.truth import Array, Columns
from recmtl.schema import Categorical, Numeric, Schema

SIZES = {"user_type": 40, "age_band": 8, "category": 40, "brand": 40, "context": 40, "hour": 24, "city": 40, "slot": 6}
NUMBERS = ("quality", "price")
BOTH = (("user_type", "category"),)  # pairs of columns whose products have an effect on both tasks
ALONE = ((("context", "hour"),), (("city", "brand"),))  # on each task alone
RANK = 2  # products of a pair
MAIN, PRODUCT = 0.18, 0.8  # the standard deviation, in log-odds, of the effect of a column, and of a pair


class Interactions(TwoLabels):
    r"""Rows whose labels depend on products of categories.

    For task $t$ the log-odds are

    $$
    b_t + \sum_j f_{tj}(x_j) + \text{strength}
    \sum_{(j, k) \in P_t} \sum_{r=1}^{2} u_{jkr}(x_j) \, v_{jkr}(x_k)
    $$

    with weak effects $f$ of all columns and two pairs $P_t$ of columns with categories, of which both tasks share one.
    The mean of $u$ and of $v$ over the categories is 0, and the columns are independent: no column alone tells anything
    of a product. Most pairs of categories are seen a few times only, so that their products cannot be counted.
    """

    schema = Schema(
        [*map(Categorical, SIZES), *map(Numeric, NUMBERS)],
        TASKS,
        description="Generated rows whose labels depend on products of the effects of two categories.",
    )

    def build(self, rng: np.random.Generator) -> None:
        """Draw the effects of the categories of a column, and the factors of each pair."""
        self._main = {name: category_effects(rng, len(TASKS), size) for name, size in SIZES.items()}
        pairs = dict.fromkeys([*BOTH, *(pair for own in ALONE for pair in own)])
        self._factors = {pair: [category_effects(rng, RANK, SIZES[name]) for name in pair] for pair in pairs}

    def features(self, rng: np.random.Generator, rows: int) -> dict[str, npt.NDArray[np.generic]]:
        """Draw independent columns."""
        return draw_categories(rng, rows, SIZES) | draw_numbers(rng, rows, NUMBERS)

    def effects(self, columns: Columns) -> tuple[Array, Array]:
        """Return the log-odds of the columns and of the products."""
        ids = {name: columns[name].astype(np.int64) for name in SIZES}
        numbers: Array = np.sum([columns[name].astype(np.float64) for name in NUMBERS], axis=0)
        main: Array = np.sum([effect[:, ids[name]] for name, effect in self._main.items()], axis=0) + numbers  # [2, n]
        products = {
            pair: (factors[0][:, ids[pair[0]]] * factors[1][:, ids[pair[1]]]).sum(axis=0) / RANK**0.5
            for pair, factors in self._factors.items()
        }
        both = [np.sum([products[pair] for pair in (*BOTH, *own)], axis=0) for own in ALONE]
        return MAIN * main.T, PRODUCT * np.stack(both, axis=1)
