"""Rows with hostile names and values."""

import numpy as np
import pandas as pd

SCRIPT = "<script>alert(1)</script>"
SHOPS = (SCRIPT, "$x^$", "_under & over", 'a "quoted" name that is far too long for an axis', "plain")
USAGE = {"ctr": [0.6, 0.38, 0.02], "cvr": [0.5, 0.1, 0.4]}
CARD = """
description: Rows with <b>markup</b>.
features:
- {categorical: shop}
- {multi_categorical: genres}
- {numeric: price}
- {numeric: count}
tasks:
- {name: ctr, label: click}
- {name: cvr, label: buy, given: click}
- {name: stay, label: stay, kind: regression}
group: search
"""


def rows(count: int, seed: int) -> pd.DataFrame:
    """Return rows in which the price acts the other way round in the first shop: its AUC is the lowest of all shops."""
    rng = np.random.default_rng(seed)
    shop, price = rng.integers(0, len(SHOPS), count), rng.normal(size=count)
    slope = np.where(shop == 0, -1, 1)
    click = (rng.random(count) < 1 / (1 + np.exp(1 - slope * price - 0.5 * shop))).astype(int)
    return pd.DataFrame(
        {
            "search": np.arange(count) // 4,
            "shop": np.array(SHOPS, object)[shop],
            "genres": ["|".join(rng.choice(list("abc"), rng.integers(0, 3), replace=False)) for _ in range(count)],
            "price": price,
            "count": rng.integers(0, 4, count),
            "click": click,
            "buy": click * (rng.random(count) < 0.4),
            "stay": rng.exponential(size=count),
        }
    )
