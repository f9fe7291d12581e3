"""Mutated requests: from each seed the same ones.

python -m tests.serving.fuzz 10000 model/
"""

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest

from recmtl.serving.server.app import create_app
from recmtl.serving.server.logs import Log
from recmtl.serving.server.request import Limits
from tests.serving.asgi import JSON, Answer, call

Headers = Sequence[tuple[bytes, bytes]]
NUMBERS = (0, -1, 2**63, 2**64, -(2**63), 1e308, -0.0, 5e-324)
TEXTS = ("", " ", "nan", "Infinity", "1e999", "٣", "\x00", "a" * 5000, "é", "\ud7ff", "💥", ":", '":', "\\")
HOSTILE = ("../../etc/passwd", "<script>", "{{7*7}}", "%s%n", "'; --")
NESTED = ([], [None], [[1]], [1, "a", None], {}, {"a": {"b": 1}})
ODD: tuple[Any, ...] = (None, True, False, *NUMBERS, *TEXTS, *HOSTILE, *NESTED)
TYPES = (
    b"",
    b"text/plain",
    b"application/json; charset=latin-1",
    b"application/JSON; charset=utf-8",
    b"multipart/form-data",
    b"\xff",
)
LEAKS = (b"Traceback", b"/tmp", b"/work", b".py", b"site-packages", b"line 1, in", b"recmtl.", b"onnxruntime")


def mutated(base: bytes, seed: int, count: int) -> Iterator[tuple[bytes | list[bytes], Headers]]:
    """Yield bodies, in one piece or several, and headers."""
    draw = random.Random(seed)
    for _ in range(count):
        kind = draw.randrange(9)
        headers: list[tuple[bytes, bytes]] = list(JSON)
        body: bytes | list[bytes] = base
        if kind < 4:
            found = orjson.loads(base)
            for _ in range(draw.randint(1, 3)):
                change_value(found, draw)
            body = json.dumps(found).encode()[:1_000_000]
        elif kind < 7:
            body = change_bytes(base, draw)
        elif kind == 7:
            headers = [
                (b"content-type", draw.choice(TYPES)),
                (b"content-encoding", draw.choice((b"gzip", b"identity"))),
            ]
            headers += [(b"content-length", draw.choice((b"", b"-1", b"999999999999", b"x", b"1e9")))]
        else:
            cut = sorted(draw.randrange(len(base)) for _ in range(3))
            body = [base[a:b] for a, b in zip([0, *cut], [*cut, len(base)], strict=True)]
        yield body, headers


def change_value(found: Any, draw: random.Random) -> None:
    """Replace, add, move or drop something somewhere in a request."""
    place = found
    for _ in range(draw.randrange(4)):
        inner = [
            value
            for value in (place.values() if isinstance(place, dict) else place)
            if value and isinstance(value, dict | list)
        ]
        if not inner:
            break
        place = draw.choice(inner)
    if isinstance(place, list):
        action = draw.randrange(3)
        if action == 0 or not place:
            place.append(deepcopy(draw.choice(ODD)))
        elif action == 1:
            place[draw.randrange(len(place))] = deepcopy(draw.choice(ODD))
        else:
            place *= draw.randint(2, 30) if len(place) < 1000 else 1
        return
    names = list(place)
    name = draw.choice(names) if names else "rows"
    action = draw.randrange(4)
    if action == 0:
        place[name] = deepcopy(draw.choice(ODD))
    elif action == 1:
        place.pop(name, None)
    elif action == 2:
        place[draw.choice(("rows", "user", "items", name.upper(), "", "é", "a" * 300, "a\x00"))] = place.get(name)
    else:
        place[draw.choice(names) if names else "user"] = place.get(name)


def change_bytes(base: bytes, draw: random.Random) -> bytes:
    """Damage the text of a request."""
    body = bytearray(base)
    for _ in range(draw.randint(1, 4)):
        spot = draw.randrange(len(body) + 1)
        piece = draw.choice(
            (
                b'"',
                b"{",
                b"}",
                b"[",
                b"]",
                b",",
                b":",
                b"NaN",
                b"-Infinity",
                b"1e999",
                b"\xff",
                b"\x00",
                b"\\u0000",
                b"\\ud800",
            )
        )
        action = draw.randrange(5)
        if action == 0:
            body[spot:spot] = piece
        elif action == 1:
            del body[spot : spot + draw.randint(1, 20)]
        elif action == 2:
            body[spot : spot + 1] = bytes([draw.randrange(256)])
        elif action == 3:
            start = draw.randrange(len(body) + 1)
            body[spot:spot] = body[start : start + draw.randint(1, 60)]
        else:
            body[spot:spot] = draw.choice((b"[", b'{"a":')) * draw.randint(1, 3000)
        body = body or bytearray(b"{")
    return bytes(body)


def check(answer: Answer | None) -> int:
    """Check that an answer is scores, or one sentence that tells nothing of the server, and return its status."""
    assert answer is not None
    found = answer.json
    if answer.status == 200:
        assert found.keys() == {"tasks", "model"}
        return 200
    assert 400 <= answer.status < 500, (answer.status, answer.body)
    assert found.keys() == {"error", "field", "row"}
    assert found["error"]
    assert "\n" not in found["error"]
    assert len(answer.body) < 2000
    # A client's own text may come back, shortened, in the message.
    shown = answer.body.replace(b"../../etc/passwd", b"")
    assert not any(leak in shown for leak in LEAKS), answer.body
    return answer.status


async def run(app: Any, base: bytes, seed: int, count: int) -> Counter[int]:
    """Send mutated requests, eight at a time, and after each eight a good one; return how often each status came."""
    statuses: Counter[int] = Counter()
    good = await call(app, base)
    assert good is not None
    assert good.status == 200
    requests = mutated(base, seed, count)
    while some := list(islice(requests, 8)):
        sent = [call(app, body, headers) for body, headers in some]
        *answers, last = await asyncio.gather(*sent, call(app, base))
        statuses.update(map(check, answers))
        assert last is not None
        assert last.json["model"] == good.json["model"]
        assert last.json["tasks"] == {
            task: pytest.approx(scores, abs=1e-6) for task, scores in good.json["tasks"].items()
        }
    return statuses


def fuzz_model(folder: Path, count: int) -> list[Counter[int]]:
    """Fuzz an exported model by its own sample rows, as complete rows and as two users with candidates.

    Each field is in `user` once and in `items` once. Returns how often each status came, of each kind of request.
    """
    app = create_app(folder, limits=Limits(rows=200), log=Log())
    rows = json.loads((folder / "probe.json").read_text(encoding="utf-8"))["rows"][:3]
    half = len(rows[0]) // 2
    parts = [({k: row[k] for k in [*row][:half]}, {k: row[k] for k in [*row][half:]}) for row in rows]
    (first, second), items = parts[0], [[part[place] for part in parts] for place in (0, 1)]
    bases = ({"rows": rows}, {"user": first, "items": items[1]}, {"user": second, "items": items[0]})
    return [asyncio.run(run(app, orjson.dumps(base), seed, count // 3)) for seed, base in enumerate(bases)]


if __name__ == "__main__":
    for statuses in fuzz_model(Path(sys.argv[2]), int(sys.argv[1])):
        sys.stdout.write(f"{dict(statuses)}\n")
