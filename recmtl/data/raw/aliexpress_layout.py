"""Column names of AliExpress: one CSV with a header (processed), or user and item files without one (raw)."""

CATEGORICAL = tuple(f"categorical_{i}" for i in range(1, 17))
NUMERICAL = tuple(f"numerical_{i}" for i in range(1, 64))
USER_CATEGORICAL, USER_NUMERICAL = 9, 23  # the first columns of each kind, constant within a search

SEARCH_ID, CLICK, CONVERSION = "search_id", "click", "conversion"
PROCESSED_COLUMNS = (SEARCH_ID, *CATEGORICAL, *NUMERICAL, CLICK, CONVERSION)

RAW_LABEL = "label"  # of the raw layout: 0 shown, 1 clicked, 2 bought
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
    *NUMERICAL[57:63], RAW_LABEL,
)  # fmt: skip
