"""The OpenAPI document of a server: its addresses, and the fields of the model that it serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recmtl._version import __version__
from recmtl.serving.server.served import Contract, ServedModel

Schema = dict[str, Any]
ERROR: Schema = {
    "type": "object",
    "required": ["error", "field", "row"],
    "properties": {
        "error": {"type": "string"},
        "field": {"type": ["string", "null"]},
        "row": {"type": ["integer", "null"]},
    },
}
STATUSES = {
    "400": "not JSON",
    "408": "the body took too long",
    "413": "too many bytes or rows",
    "415": "not `application/json`",
    "422": "a field that is unknown, missing, or has a value of another kind",
    "503": "too many requests wait: try again after `Retry-After` seconds",
}
PAGES = {
    "/health": "200 while requests are taken, 503 once the server stops",
    "/metadata": "The manifest of the model",
    "/metrics": "Counters and latencies, for Prometheus",
}


def describe_api(served: ServedModel) -> Schema:
    """Return the OpenAPI document of a server."""
    score = {
        "summary": "Score rows, or the candidates of one user",
        "requestBody": {"required": True, "content": _json(request_schema(served.contract))},
        "responses": {
            "200": {
                "description": "scores by task, in the order of the rows",
                "content": _json(_answer(served.contract)),
            },
            **{status: {"description": text, "content": _json(ERROR)} for status, text in STATUSES.items()},
        },
    }
    pages = {
        path: {"get": {"summary": text, "responses": {"200": {"description": text}}}} for path, text in PAGES.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "recmtl serve", "version": __version__, "description": f"Model {served.version}"},
        "paths": {"/score": {"post": score}, **pages},
    }


def request_schema(contract: Contract) -> Schema:
    """Return the JSON schema of a request: complete rows, or a user and candidates."""
    fields = {name: field_schema(kind) for name, kind in contract.fields.items()}
    known: Schema = fields | {name: {"title": "ignored"} for name in contract.ignored}
    part = {"type": "object", "properties": known, "additionalProperties": False}
    row = part | {"required": list(fields)}
    return {
        "oneOf": [
            _object({"rows": {"type": "array", "items": row}}),
            _object({"user": part, "items": {"type": "array", "items": part}}),
        ],
        "example": example_request(contract),
    }


def field_schema(kind: str) -> Schema:
    """Return the JSON schema of a field's values, by the kind that the manifest names."""
    if kind == "multi_categorical":
        return {"type": ["array", "string", "null"], "title": kind}
    if kind in ("numeric", "binned"):
        return {"type": ["number", "string", "null"], "title": kind}
    return {"type": ["string", "number", "boolean", "null"], "title": kind}


def example_request(contract: Contract) -> dict[str, Any]:
    """Return a request with one row in which all values are missing, to be filled in."""
    return {"rows": [dict.fromkeys(contract.fields)]}


def _object(properties: Mapping[str, Schema]) -> Schema:
    return {
        "type": "object",
        "required": list(properties),
        "properties": dict(properties),
        "additionalProperties": False,
    }


def _answer(contract: Contract) -> Schema:
    numbers = {"type": "array", "items": {"type": ["number", "null"]}}
    of_classes = {
        task: {"type": "object", "properties": dict.fromkeys(names, numbers)}
        for task, names in contract.classes.items()
    }
    tasks = {"type": "object", "properties": dict.fromkeys(contract.tasks, numbers) | of_classes}
    return {
        "type": "object",
        "required": ["tasks", "model"],
        "properties": {"tasks": tasks, "model": {"type": "string"}},
    }


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}
