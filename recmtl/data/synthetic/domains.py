"""Planted domains: half of the effects are shared by all domains, the other half is of each domain alone."""

import numpy as np
import numpy.typing as npt

from recmtl.data.synthetic.problem import TASKS, TwoLabels, category_effects, draw_categories, draw_numbers
from recmtl.data.synthetic.truth import Array, Columns
from recmtl.schema import Categorical, Numeric, Schema

DOMAIN = "domain"
SHARES = (0.34, 0.25, 0.17, 0.12, 0.08, 0.04)  # of the rows, by domain
SHARED = {"user_type": 20, "category": 20, "brand": 30}
OWN = {"page": 12, "weekday": 7, "layout": 10}
SHARED_NUMBERS, OWN_NUMBERS = ("quality",), ("price",)
SIGNS = (1, -1, 1, -1, 1, -1)  # of the slope of each number of `OWN_NUMBERS`, by domain
SCALE = 0.45  # the standard deviation, in log-odds, of the effect of a column


class Domains(TwoLabels):
    r"""Rows of six domains of unequal size.

    For domain $d$ and task $t$ the log-odds are

    $$
    b_{t} + \sum_{j \in \text{shared}} f_{tj}(x_j) + \text{strength} \sum_{j \in \text{own}} g_{tdj}(x_j)
    $$

    with four shared columns (`user_type`, `category`, `brand`, `quality`) and four whose effects are drawn anew for
    each domain (`page`, `weekday`, `layout`, `price`); the slope of `price` has the opposite sign in every other one.
    All effects have the same variance. One model for all domains without their interactions averages what is of each
    domain alone to nearly nothing; one model per domain learns what is shared from few rows.
    """

    schema = Schema(
        [*(Categorical(name) for name in (DOMAIN, *SHARED, *OWN)), *map(Numeric, (*SHARED_NUMBERS, *OWN_NUMBERS))],
        TASKS,
        domain=DOMAIN,
        description="Generated rows of six domains, which share half of their effects.",
    )

    def build(self, rng: np.random.Generator) -> None:
        """Draw the effects of each category of a column: of all domains, or of each."""
        tasks, domains = len(TASKS), len(SHARES)
        self._shared = {name: category_effects(rng, tasks, size) for name, size in SHARED.items()}
        self._own = {name: category_effects(rng, tasks, domains, size) for name, size in OWN.items()}

    def features(self, rng: np.random.Generator, rows: int) -> dict[str, npt.NDArray[np.generic]]:
        """Draw the domain and the other columns, which do not depend on it."""
        domain = rng.choice(len(SHARES), size=rows, p=SHARES)
        columns = {DOMAIN: domain, **draw_categories(rng, rows, SHARED | OWN)}
        return columns | draw_numbers(rng, rows, (*SHARED_NUMBERS, *OWN_NUMBERS))

    def effects(self, columns: Columns) -> tuple[Array, Array]:
        """Return the log-odds of the effects of all domains and of those of each alone."""
        domain = columns[DOMAIN].astype(np.int64)
        ids = {name: columns[name].astype(np.int64) for name in (*SHARED, *OWN)}
        numbers = {name: columns[name].astype(np.float64) for name in (*SHARED_NUMBERS, *OWN_NUMBERS)}
        sign = np.array(SIGNS)[domain]  # [n]
        shared: Array = np.sum([effect[:, ids[name]] for name, effect in self._shared.items()], axis=0)  # [2, n]
        own: Array = np.sum([effect[:, domain, ids[name]] for name, effect in self._own.items()], axis=0)
        shared = shared + np.sum([numbers[name] for name in SHARED_NUMBERS], axis=0)
        own = own + np.sum([sign * numbers[name] for name in OWN_NUMBERS], axis=0)
        return SCALE * shared.T, SCALE * own.T
