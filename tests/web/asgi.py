"""An ASGI application asked without a socket: exactly the headers, pieces and pauses that a test says."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

HOST = "127.0.0.1:8000"
TOKEN = "a-token-of-this-test"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(app: Any, path: str, **how: Any) -> Answer:
    """One request, by a loop of its own. how: as `call` takes it."""
    return asyncio.run(call(app, path, **how))


async def call(
    app: Any,
    path: str,
    *,
    method: str = "GET",
    headers: Sequence[tuple[str, str]] | None = None,
    more: Sequence[tuple[str, str]] = (),
    body: Sequence[bytes] | bytes = b"",
    pause_s: float = 0.0,
) -> Answer:
    """One request. headers: all of them, or Host and token, and `more`. body: in these pieces, each after a pause."""
    given = [("host", HOST), ("x-tubelet-token", TOKEN)] if headers is None else list(headers)
    pieces = [body] if isinstance(body, bytes) else list(body)
    bare, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": bare,
        "raw_path": bare.encode(),
        "query_string": query.encode(),
        "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in (*given, *more)],
    }
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause_s if pieces else 3600)
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    await app(scope, receive, send)
    [start] = [m for m in said if m["type"] == "http.response.start"]
    found = {k.decode().lower(): v.decode() for k, v in start["headers"]}
    return Answer(start["status"], found, b"".join(m.get("body", b"") for m in said[1:]))


def post(app: Any, path: str, value: Any, **how: Any) -> Answer:
    """One request with JSON."""
    return ask(
        app, path, method="POST", more=[("content-type", "application/json")], body=json.dumps(value).encode(), **how
    )


def send_file(app: Any, data: bytes, **said: Any) -> Answer:
    """A file as the page sends one."""
    more = [("content-type", "application/octet-stream"), ("x-tubelet-file", json.dumps(said))]
    return ask(app, "/api/open", method="POST", more=more, body=data)
