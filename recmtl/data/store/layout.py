"""TODO."""

from __future__ import annotations

IDS, NUMERIC, LABELS, WEIGHT = "ids", "numeric", "labels", "weight"  # the columns of a prepared table


KEY_PREFIX = "key:"  # before the name of a column that is carried through
