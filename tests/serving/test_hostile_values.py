"""The reader of an exported model takes linear time for any text, and refuses any value in one sentence."""

import time
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recmtl.errors import RequestError
from recmtl.serving.request_encoder import RequestEncoder
from recmtl.serving.stable_hash import stable_hashes
from tests.serving.test_reader_values import by_reader, encoder_of, fitted_schema

N = 200_000
HOSTILE: dict[str, list[Any]] = {
    "knots": ["1" * N + "x", "." * N, " " * N + "x", "1" * N, int("9" * 4000), "1e" + "1" * N, "inf" * (N // 3)],
    "binned": ["1" * N + "x", "+" * N],
    "seconds": ["1" * N + "x", "0" * N + "1", " " * N + "1717171717", "1717171717." + "0" * N],
    "dates": [f"2024-01-05{' ' * N}x", f"2024-01-05T10{':0' * N}", "T00" * N, f"2024-01-05{' ' * N}Z", " 0" * N],
    "zone": [f"2024-05-10T07:08:09{' ' * N}x", ":00" * N, " " * N, f"2024-05-10T07:08:09.{'1' * N}Zx"],
    "format": [f"06.05.2024{' ' * N}07:08", "0" * N],
    "list": [
        f"['a', b+{' ' * N}c]", "{" + "'\\" * N + "x}", "{'a'" + "\"'" * N + "\\}", f"['a'{' ' * N},'b'{' ' * N}x']",
        "[" + "1" * N + "x]", "[" + "1 " * N + "x]", "['" + "\\" * N, "(" * N + ")" * N, "['a' " + "nan " * N + "]",
        "[" + "] " * N + "x", "{a" + "'\\" * N + ", b}", "|" * N, "['a'" * (N // 4) + "]",
    ],
    "text": ["0" * N + "." + "0" * N, "9" * N + ".0", "a" * N, "1." + "0" * N + "e18"],
    "buckets": ["a" * N, "0" * N + ".0", "é" * N],
    "list of buckets": ["a" * N + "|b", "|".join(map(str, range(N // 7)))],
}  # fmt: skip


def seconds_of_reader(encoder: RequestEncoder, row: dict[str, Any]) -> float:
    """Return the least CPU time of three tries to encode a row, or to refuse it."""
    tries = []
    for _ in range(3):
        start = time.thread_time()
        with suppress(RequestError):
            encoder.encode_rows([row])
        tries.append(time.thread_time() - start)
        if tries[-1] < LONGEST_READ:
            break
    return min(tries)


LONGEST_READ = 1.0  # seconds of CPU for some 200,000 characters, which quadratic time exceeds a hundredfold


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_text_takes_linear_time(case: str, tmp_path: Path) -> None:
    encoder = encoder_of(fitted_schema(case), tmp_path / "model")
    others = {name: None for name in encoder.fields if name != "x"}
    rows = [{"x": text} | others for text in HOSTILE[case]]
    rows += [{"x": None, name: 1} | others for name in ("x" * N, "xy" * N)]
    slow = {
        place: seconds for place, row in enumerate(rows) if (seconds := seconds_of_reader(encoder, row)) > LONGEST_READ
    }
    assert not slow


def test_texts_of_any_lengths_are_hashed_as_by_pandas() -> None:
    texts = [chr(97 + place % 500) * length for place, length in enumerate([*range(300), 7, 2000, 0, 1024, 1025, 9000])]
    expected = pd.util.hash_array(np.array(texts, object), categorize=False).tolist()
    assert stable_hashes(texts) == expected
    assert [stable_hashes([text])[0] for text in texts] == expected


def test_a_number_is_read_alike_whatever_stands_beside_it(tmp_path: Path) -> None:
    for case in ("knots", "binned"):
        encoder = encoder_of(fitted_schema(case), tmp_path / case)
        values = [2**70, None, -(2**64), 2**63, 1.5, "1180591620717411303424"]
        alone = [by_reader(encoder, [value])[0] for value in values]
        assert None not in alone
        assert by_reader(encoder, values) == alone
        assert alone[0] == alone[-1]


@pytest.mark.parametrize(
    ("case", "value", "message"),
    [
        ("text", ([1],), "column 'x': ([1],) is not one category"),
        ("text", Decimal("sNaN"), "column 'x': Decimal('sNaN') is not one category"),
        ("buckets", ([1],), "column 'x': ([1],) is not one category"),
        ("knots", Decimal("sNaN"), "column 'x': Decimal('sNaN') is not a number"),
        ("binned", Decimal("sNaN"), "column 'x': Decimal('sNaN') is not a number"),
        ("knots", ([1],), "column 'x': ([1],) is not a number"),
        ("knots", 10**5000, "column 'x': an integer of 16610 bits is not a finite number"),
        ("text", 10**5000, "column 'x': an integer of 16610 bits is not an integer of 64 bits"),
        ("knots", np.float64(np.inf), "column 'x': inf is not a finite number"),
    ],
    ids=range(9),
)
@pytest.mark.parametrize("rows", [1, 40])
def test_a_refused_value_is_shown(case: str, value: Any, message: str, rows: int, tmp_path: Path) -> None:
    encoder = encoder_of(fitted_schema(case), tmp_path / "model")
    with pytest.raises(RequestError) as caught:
        encoder.encode({"x": [None] * (rows - 1) + [value]})
    assert str(caught.value).startswith(message)
    assert caught.value.row == rows - 1
