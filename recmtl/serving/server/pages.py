"""The answers of a server that are no scores: health, manifest, metrics, and an example of a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from html import escape
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from recmtl._version import __version__
from recmtl.serving.server.metrics import ServerMetrics
from recmtl.serving.server.openapi import describe_api, example_request
from recmtl.serving.server.served import ServedModel

JSON = "application/json"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>recmtl serve</title><style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse}}td,th{{border:1px solid #ccc;padding:.2rem .6rem;text-align:left}}
textarea{{width:100%;height:12rem;font:14px monospace}}pre{{background:#f4f4f4;padding:1rem;overflow:auto}}</style>
<h1>Scores</h1><p>Model {version}, recmtl {release}. <a href="openapi.json">OpenAPI</a> ·
<a href="metadata">manifest</a> · <a href="metrics">metrics</a> · <a href="health">health</a></p>
<p><code>POST /score</code> takes <code>{{"rows": […]}}</code>, or <code>{{"user": {{…}}, "items": […]}}</code>
where each field stands in one of the two. <code>null</code> is a missing value.</p>
<h2>Fields</h2><table><tr><th>field<th>kind{fields}</table>
<h2>Tasks</h2><table><tr><th>task<th>kind<th>meaning{tasks}</table>
<h2>Try it</h2><label for="body">Body</label><textarea id="body">{example}</textarea>
<button id="send">Send</button><pre id="answer" aria-live="polite"></pre><script>
document.getElementById("send").onclick = async () => {{
  const answer = await fetch("score", {{method: "POST", headers: {{"Content-Type": "application/json"}},
    body: document.getElementById("body").value}});
  document.getElementById("answer").textContent = answer.status + " " + await answer.text();
}};</script></html>"""


def pages(current: Callable[[], ServedModel], stopping: Callable[[], bool], metrics: ServerMetrics) -> list[BaseRoute]:
    """Return the addresses beside `/score`.

    Args:
        current: Returns the model of the moment.
        stopping: Returns whether the worker stops.
        metrics: The metrics to show.
    """

    def health(request: Request) -> Response:
        status = "stopping" if stopping() else "ok"
        return json_response({"status": status, "model": current().version}, 503 if stopping() else 200)

    def metadata(request: Request) -> Response:
        return json_response({**current().model.metadata, "version": current().version})

    def numbers(request: Request) -> Response:
        return Response(metrics.page(), media_type=metrics.content_type)

    def openapi(request: Request) -> Response:
        return json_response(describe_api(current()))

    def docs(request: Request) -> Response:
        return Response(docs_page(current()), media_type="text/html", headers={"content-security-policy": POLICY})

    found = {"/health": health, "/metadata": metadata, "/metrics": numbers, "/openapi.json": openapi, "/docs": docs}
    return [Route(path, answered(page), methods=["GET"]) for path, page in found.items()]


def answered(page: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    """Return a page as a coroutine, which runs in the event loop and not in a thread."""

    async def answer(request: Request) -> Response:
        return page(request)

    return answer


async def refuse(request: Request, error: Exception) -> Response:
    """Answer an address or method that does not exist."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = "there is no such address" if status == 404 else "this address does not take this method"
    headers = error.headers if isinstance(error, HTTPException) else None
    return json_response({"error": message, "field": None, "row": None}, status, headers)


REFUSALS = {HTTPException: refuse}


def json_response(content: Any, status: int = 200, headers: Any = None) -> Response:
    """Return a JSON answer."""
    return Response(orjson.dumps(content, default=str), status, headers, JSON)


def docs_page(served: ServedModel) -> str:
    """Return a page on the requests of a model, which loads nothing from elsewhere."""
    fields, tasks = served.contract.fields.items(), served.model.metadata["tasks"]
    example = orjson.dumps(example_request(served.contract), option=orjson.OPT_INDENT_2).decode()
    return PAGE.format(
        version=served.version,
        release=__version__,
        fields=table_rows(fields),
        tasks=table_rows((task["name"], task.get("kind", ""), task.get("meaning", "")) for task in tasks),
        example=escape(example),
    )


def table_rows(rows: Iterable[Iterable[object]]) -> str:
    """Return the rows of an HTML table."""
    return "".join("<tr>" + "".join(f"<td>{escape(str(cell))}" for cell in row) for row in rows)
