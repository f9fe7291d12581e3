"""The columns of AliExpress: one CSV with a header (processed), or a user file and an item file without one (raw)."""

CATEGORICAL = tuple(f"categorical_{i}" for i in range(1, 17))
NUMERICAL = tuple(f"numerical_{i}" for i in range(1, 64))
USER_CATEGORICAL, USER_NUMERICAL = 9, 23  # so many of each kind, the first ones, are constant within a search

SEARCH_ID, CLICK, CONVERSION = "search_id", "click", "conversion"
HEADER = (SEARCH_ID, *CATEGORICAL, *NUMERICAL, CLICK, CONVERSION)

LABEL = "label"  # of the raw layout: 0 shown, 1 clicked, 2 bought
USER_COLUMNS = (
    SEARCH_ID,
    *CATEGORICAL[:7],
    *NUMERICAL[:USER_NUMERICAL],
    *CATEGORICAL[7:USER_CATEGORICAL],
)
ITEM_COLUMNS = (
    SEARCH_ID,
    *NUMERICAL[23:40], CATEGORICAL[9],
    *NUMERICAL[40:54], *CATEGORICAL[10:13],
    *NUMERICAL[54:57], *CATEGORICAL[13:16],
    *NUMERICAL[57:63], LABEL,
)  # fmt: skip
