"""The web application, called in this process: what it answers, and that bad requests disturb nothing."""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from recmtl.serving.server import watch
from recmtl.serving.server.app import ScoreServer, create_app
from recmtl.serving.server.logs import Log
from recmtl.serving.server.request import Limits
from recmtl.serving.server.watch import ModelWatcher, UnfitModelError
from tests.serving import fuzz
from tests.serving.asgi import JSON, Answer, ask, call
from tests.serving.fake import FIELDS, FakeScorer, write_model

ROW = {"user": "u", "time": 31, "item": "a", "price": 2.5}
USER, ITEMS = {"user": "u", "time": 31}, [{"item": "a", "price": 2.5}, {"item": "b", "price": None}]
GOOD = {"user": USER, "items": ITEMS}
Build = Callable[..., ScoreServer]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Return a function that builds the application; its log is in `log` of the same folder."""

    def make(load: Any = FakeScorer, **settings: Any) -> ScoreServer:
        folder = tmp_path / "model"
        if not folder.exists():
            write_model(folder)
        log = Log(descriptor=os.open(tmp_path / "log", os.O_CREAT | os.O_APPEND | os.O_WRONLY))
        return create_app(folder, load=load, log=log, **settings)

    return make


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()]


def test_rows_and_candidates_are_scored_in_their_order(build: Build) -> None:
    app = build()
    rows = ask(app, {"rows": [ROW, {**ROW, "price": 7}]})
    assert (rows.status, rows.json["tasks"]) == (200, {"ctr": [2.5, 7.0], "cvr": [2.5, 7.0]})
    candidates = ask(app, GOOD, headers=[(b"content-type", b'Application/JSON; charset="UTF-8"')])
    assert candidates.json["tasks"]["ctr"] == [2.5, None]  # JSON has no NaN
    assert candidates.json["model"] == rows.json["model"] == app.watcher.current.version
    assert ask(app, {"user": USER, "items": []}).json["tasks"] == {"ctr": [], "cvr": []}
    split = orjson.dumps(GOOD)
    assert ask(app, [split[:9], b"", split[9:]]).body == candidates.body


def row(**changes: Any) -> dict[str, Any]:
    return {"rows": [ROW, {**ROW, **changes}]}


LACKING = {name: value for name, value in ROW.items() if name != "item"}
DEEP = b'{"a":' * 500 + b"1" + b"}" * 500
BAD: dict[str, tuple[Any, int, str | None, int | None, str]] = {
    "unknown field": (row(colour="red"), 422, "colour", 1, "colour"),
    "missing field": ({"rows": [ROW, LACKING]}, 422, "item", 1, "item"),
    "wrong type": (row(price="cheap"), 422, "price", 1, "cheap"),
    "field in both": ({"user": ROW, "items": [{"price": 1}]}, 422, "price", 0, "price"),
    "broken": (b'{"rows": [', 400, None, None, "not JSON"),
    "empty": (b"", 400, None, None, "not JSON"),
    "no UTF-8": (b'{"rows": [{"user": "\xff"}]}', 400, None, None, "not valid UTF-8"),
    "UTF-16": ('{"rows": []}'.encode("utf-16"), 400, None, None, "not JSON"),
    "NaN": (b'{"rows": [{"price": NaN}]}', 400, None, None, "not JSON"),
    "Infinity": (b'{"rows": [{"price": -Infinity}]}', 400, None, None, "not JSON"),
    "overflow": (b'{"rows": [{"price": 1e999}]}', 400, None, None, "infinity"),
    "deep": (b"[" * 100_000, 400, None, None, "not JSON"),
    "deep value": (
        b'{"user": {"user": "u", "time": 1, "item": "a"}, "items": [{"price": ' + DEEP + b"}]}",
        422,
        "price",
        0,
        "price",
    ),
    "name twice": (b'{"rows": [{"price": 1, "user": "a:", "price": 2}]}', 400, "price", None, "twice"),
    "escaped name twice": (b'{"rows": [{"price": 1, "pr\\u0069ce": 2, "c": ":\\u003a"}]}', 400, "price", None, "twice"),
    "part twice": (b'{"rows": [], "rows": []}', 400, "rows", None, "twice"),
    "no object": (b"[{}]", 422, None, None, "must be a JSON object"),
    "no parts": ({}, 422, None, None, "none of them"),
    "unknown part": ({"rows": [], "row": []}, 422, "row", None, "unknown part 'row'"),
    "all parts": ({"rows": [], **GOOD}, 422, None, None, "`rows` alone"),
    "no items": ({"user": USER}, 422, "items", None, "`items`"),
    "rows no list": ({"rows": ROW}, 422, "rows", None, "must be a list of objects, not an object"),
    "user no object": ({"user": None, "items": ITEMS}, 422, "user", None, "`user` must be an object, not null"),
    "row no object": ({"rows": [ROW, "x"]}, 422, "rows", 1, "row 1 of `rows` must be an object, not text"),
    "million": (b'{"rows":[' + b"{}," * 999_999 + b"{}]}", 413, "rows", None, "has 1,000,000 rows"),
    "large": (b" " * (9 << 20), 413, None, None, "bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_gets_one_sentence_with_its_field(name: str, build: Build) -> None:
    app = build()
    body, status, field, number, phrase = BAD[name]
    answer = ask(app, body)
    assert (answer.status, answer.json["field"], answer.json["row"]) == (status, field, number), answer.json
    assert phrase in answer.json["error"]
    fuzz.check(answer)
    assert ask(app, GOOD).status == 200


@pytest.mark.parametrize(
    ("settings", "status", "phrase"),
    [
        ({"headers": []}, 415, "must be 'application/json'"),
        ({"headers": [(b"content-type", b"text/csv")]}, 415, "not 'text/csv'"),
        ({"headers": [(b"content-type", b"application/json;charset=latin-1")]}, 415, "UTF-8"),
        ({"headers": [*JSON, (b"content-encoding", b"gzip")]}, 415, "compressed"),
        ({"headers": [*JSON, (b"content-length", b"99999999999")]}, 413, "99,999,999,999 bytes"),
        ({"method": "GET"}, 405, "POST"),
        ({"path": "/model/manifest.json"}, 404, "no such address"),
        ({"path": "/score/"}, 404, "no such address"),
        ({"path": "/health", "method": "DELETE"}, 405, "method"),
    ],
)
def test_a_request_that_is_refused_by_its_head(build: Build, settings: Any, status: int, phrase: str) -> None:
    answer = ask(build(), GOOD, **settings)
    assert (answer.status, answer.headers[b"content-type"]) == (status, b"application/json")
    assert phrase in answer.json["error"]


def test_a_body_without_an_end_is_refused_by_size_and_by_time(build: Build) -> None:
    app = build(limits=Limits(body=1000, seconds=0.05))
    large = ask(app, [b" " * 600, b" " * 600], ends=False)
    assert (large.status, large.headers[b"connection"]) == (413, b"close")
    slow = ask(app, [b'{"rows"'], ends=False)
    assert (slow.status, slow.headers[b"connection"]) == (408, b"close")
    assert "within 0.05 seconds" in slow.json["error"]
    assert ask(app, GOOD).status == 200


def test_a_client_that_leaves_gets_nothing(build: Build) -> None:
    app, messages = build(), []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {"type": "http", "method": "POST", "path": "/score", "headers": list(JSON)}
    asyncio.run(app(scope, receive, send))
    assert messages == []
    assert b'recmtl_requests_total{status="499"} 1.0' in app.metrics.page()


async def together(app: ScoreServer, bodies: list[Any]) -> list[Answer]:
    answers = await asyncio.gather(*(call(app, orjson.dumps(body)) for body in bodies))
    return [answer for answer in answers if answer is not None]


def test_requests_that_wait_are_scored_together_and_a_bad_one_alone_is_refused(build: Build) -> None:
    app = build()
    scorer: Any = app.watcher.current.model
    large = {"user": USER, "items": [{"item": "c", "price": 9}] * 300}  # more than the event loop scores itself
    bodies: list[Any] = [row(price=1), GOOD, large, row(price=3), {"user": USER, "items": []}, GOOD]
    answers = asyncio.run(together(app, bodies))
    assert scorer.calls == [4, 300, 4]
    assert [answer.json["tasks"]["ctr"] for answer in answers] == [
        [2.5, 1],
        [2.5, None],
        [9] * 300,
        [2.5, 3],
        [],
        [2.5, None],
    ]
    history = {"user": {**USER, "user": "a|" * 100}, "items": ITEMS}  # is not encoded for each candidate anew
    asyncio.run(together(app, [GOOD, history, GOOD]))
    assert scorer.calls[3:] == [2, 2, 2]
    bad = asyncio.run(together(app, [row(price=1), row(price="x"), {"user": ROW, "items": [{"price": 1}]}, GOOD]))
    assert [answer.status for answer in bad] == [200, 422, 422, 200]
    assert bad[1].json["row"] == 1  # of its own request
    assert bad[3].body == answers[1].body


def test_too_many_requests_are_told_to_come_back(build: Build) -> None:
    app = build(limits=Limits(waiting=3))
    statuses = [
        (answer.status, answer.headers.get(b"retry-after")) for answer in asyncio.run(together(app, [GOOD] * 5))
    ]
    assert statuses == [(200, None)] * 3 + [(503, b"1")] * 2
    unread = build(limits=Limits(waiting=2, seconds=0.05))

    async def read_and_ask() -> list[Answer | None]:
        endless = [call(unread, [b"{"], ends=False) for _ in range(4)]
        return await asyncio.gather(*endless, call(unread, orjson.dumps(GOOD)))

    found = [answer.status for answer in asyncio.run(read_and_ask()) if answer is not None]
    assert found == [408, 408, 408, 408, 503]
    full = build(limits=Limits(bodies=3 * len(orjson.dumps(GOOD))))  # an own body is always taken
    answers = asyncio.run(together(full, [GOOD] * 4))
    assert [(answer.status, answer.headers.get(b"retry-after")) for answer in answers] == [(200, None)] * 3 + [
        (503, b"1")
    ]
    bad = {"rows": [ROW] * 20}
    assert [answer.status for answer in asyncio.run(together(full, [bad]))] == [200]
    assert [answer.status for answer in asyncio.run(together(full, [GOOD] * 3))] == [200] * 3  # none is left counted
    late = build(limits=Limits(seconds=0.01), batch_wait=0.05)  # the time is over before the call
    assert [answer.status for answer in asyncio.run(together(late, [GOOD]))] == [503]


def test_an_error_of_ours_is_logged_and_not_shown(build: Build, tmp_path: Path) -> None:
    class Broken(FakeScorer):
        def score(self, rows: Any = None, **parts: Any) -> Any:
            raise OSError(2, "No such file", str(tmp_path))

    answer = ask(build(Broken), GOOD)
    assert (answer.status, answer.json["field"]) == (500, None)
    assert str(tmp_path) not in answer.json["error"]
    failure = logged(tmp_path)[-1]
    assert failure["event"] == "request failed"
    assert "Traceback" in failure["traceback"]


def test_mutated_requests_are_scored_or_refused(build: Build) -> None:
    app = build(limits=Limits(rows=200))
    for seed, base in enumerate((row(user="a:b"), GOOD)):
        statuses = asyncio.run(fuzz.run(app, orjson.dumps(base), seed, 120))
        assert set(statuses) == {200, 400, 413, 415, 422}


def test_pages(build: Build) -> None:
    app = build(log_requests=True)
    ask(app, GOOD)
    ask(app, b"x")

    def get(path: str) -> Answer:
        return ask(app, method="GET", path=path)

    assert get("/health").json == {"status": "ok", "model": app.watcher.current.version}
    assert get("/metadata").json["version"] == app.watcher.current.version
    api = get("/openapi.json").json
    body = api["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["oneOf"][0]["properties"]["rows"]["items"]["required"] == list(FIELDS)
    known = body["oneOf"][1]["properties"]["items"]["items"]
    assert (known["additionalProperties"], list(known["properties"])) == (False, [*FIELDS, "click"])
    assert [known["properties"][name]["type"][0] for name in FIELDS] == ["string", "string", "array", "number"]
    assert ask(app, body["example"]).status == 200
    page = get("/docs").body.decode()
    assert "<td>price<td>numeric" in page
    assert not re.search(r"https?://", page)  # nothing is loaded from elsewhere
    metrics = get("/metrics").body.decode()
    for line in ('requests_total{status="200"} 2.0', 'requests_total{status="400"} 1.0', "request_rows_sum 3.0"):
        assert f"recmtl_{line}" in metrics
    app.stopping = True
    assert (get("/health").status, ask(app, GOOD).headers[b"connection"]) == (503, b"close")


def test_field_names_of_a_model_are_escaped(tmp_path: Path) -> None:
    app = create_app(write_model(tmp_path, fields={"<script>": "numeric"}), load=FakeScorer)
    assert "<td><script>" not in ask(app, method="GET", path="/docs").body.decode()


def test_a_new_model_is_taken_over_and_an_unfit_one_refused(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SETTLED", 0.01)
    app, folder = build(watch=0.01), tmp_path / "model"
    first = app.watcher.current.version

    async def next_event(count: int) -> dict[str, Any]:
        """Wait for a line of the log, with requests all the while; each must be scored by one whole model."""
        while len(found := logged(tmp_path)) < count:
            answers = await together(app, [row(price=1), {"rows": [{**ROW, "price": 1}] * 300}])
            for answer in answers:
                price = answer.json["tasks"]["ctr"][-1]
                assert (price == 1) == (answer.json["model"] == first)
                assert answer.json["tasks"]["ctr"][1:] == [price] * (len(answer.json["tasks"]["ctr"]) - 1)
            await asyncio.sleep(0)
        return found[-1]

    async def run() -> None:
        watching = asyncio.create_task(app.watcher.watch(0.01))
        (folder / "manifest.json").write_text('{"layout": 1, "requ')
        assert (await next_event(1))["event"] == "model refused"
        for number, (changes, reason) in enumerate(
            [
                ({"fields": {**FIELDS, "colour": "categorical"}}, "needs the field 'colour'"),
                (
                    {"fields": {name: kind for name, kind in FIELDS.items() if name != "time"}},
                    "not know the field 'time'",
                ),
                ({"fields": {**FIELDS, "time": "categorical"}}, "field 'time' is categorical"),
                ({"fields": {**FIELDS, "item": {**FIELDS["item"], "separator": ";"}}}, "is ';', clients write '|'"),
                ({"fields": {**FIELDS, "time": {**FIELDS["time"], "format": "hours"}}}, "is 'hours', clients write 's"),
                ({"fields": {**FIELDS, "time": {"kind": "timestamp"}}}, "format of its field 'time' is the default"),
                ({"fields": {**FIELDS, "price": {"kind": "numeric", "decimal": ","}}}, "decimal of its field 'price'"),
                ({"tasks": {"ctr": "binary"}}, "no task 'cvr'"),
                ({"tasks": {"ctr": "binary", "cvr": "regression"}}, "task 'cvr' is regression, clients read binary"),
                ({"ignored": ["buy"]}, "refuses the field 'click'"),
            ]
        ):
            write_model(folder, 3.0, **changes)
            event = await next_event(number + 2)
            assert (event["event"], event["still"]) == ("model refused", first)
            assert reason in event["reason"]
        shutil.rmtree(folder)
        assert (await next_event(12))["event"] == "model gone"
        await asyncio.sleep(0.05)  # which is said once
        write_model(
            tmp_path / "next",
            2.0,
            tasks={"cvr": "binary", "more": "regression", "ctr": "binary"},
            ignored=["buy", "click"],
        )
        folder.symlink_to(tmp_path / "next")
        event = await next_event(13)
        assert (event["event"], event["model"], event["before"]) == ("model taken", app.watcher.current.version, first)
        answer = await call(app, orjson.dumps(row(price=1)))
        assert answer is not None
        assert answer.json["tasks"]["more"] == [5.0, 2.0]
        watching.cancel()

    asyncio.run(run())
    page = app.metrics.page().decode()
    assert 'recmtl_model_changes_total{outcome="refused"} 11.0' in page
    assert f'recmtl_workers{{model="{first}"}} 0.0' in page


def test_a_worker_that_starts_later_refuses_what_the_others_refuse(build: Build, tmp_path: Path) -> None:
    contract = build().watcher.contract
    write_model(tmp_path / "other", fields={"price": "numeric"})
    with pytest.raises(UnfitModelError, match="does not know the field"):
        ModelWatcher(tmp_path / "other", FakeScorer, Log(), contract)
