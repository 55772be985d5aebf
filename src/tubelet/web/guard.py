"""Who may ask, and how much: the outermost layer of the server, around an application that trusts what reaches it.

    request -> Host -> Origin, Sec-Fetch-Site -> token (of /api/) -> body: ceiling, deadline -> application
               421     403                       401                 413, 408

Another page in the same browser is assumed to be hostile, and so is every file; another user of this machine is not.
A page of another site can send requests here, but not with our token in a header, and with rebound DNS not under our
name. Pure ASGI: nothing is buffered but a body that is within its ceiling.
"""

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

HEADER_BYTES = 16 << 10
TOKEN_HEADER = b"x-tubelet-token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode("ascii")),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


@dataclass(frozen=True)
class Rules:
    """What a request has to be like."""

    token: str  # that every request to /api/ carries
    hosts: frozenset[str]  # values of Host that are ours, port included
    max_body_bytes: int
    max_header_bytes: int = HEADER_BYTES  # names and values of all headers, and the path
    body_s: float = 20.0  # for a whole body
    idle_s: float = 5.0  # between two pieces of it
    refusal_s: float = 0.2  # before a refusal is sent, so that who asks without pause leaves the machine to others

    @property
    def origins(self) -> frozenset[str]:
        """Origins that are ours: those hosts, over http, and over https where something in front of us speaks it."""
        return frozenset(f"{scheme}://{host}" for scheme in ("http", "https") for host in self.hosts)


class Refused(Exception):  # of this file alone: it never leaves `Guard`
    """A request that goes no further."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status, self.error, self.message = status, error, message


def local_hosts(port: int, public: str | None = None) -> frozenset[str]:
    """Values of Host under which a server on this port is reached.

    >>> sorted(local_hosts(8000, "tokens.example"))
    ['127.0.0.1:8000', '[::1]:8000', 'localhost:8000', 'tokens.example', 'tokens.example:8000']
    """
    near = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
    return frozenset(near if public is None else near | {public, f"{public}:{port}"})


class Guard:
    """The application behind the rules. Every answer, its own refusals too, carries `HEADERS`."""

    def __init__(self, app: App, rules: Rules) -> None:
        self.app, self.rules = app, rules

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no websockets here
            return
        begun = False

        async def with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                own = {name for name, _ in HEADERS}
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in own]
                message = {**message, "headers": [*kept, *HEADERS]}
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, self._bounded(receive), with_headers)
        except Refused as refused:
            if not begun:
                await asyncio.sleep(self.rules.refusal_s)
                await _refuse(refused, with_headers)

    def _check(self, scope: MutableMapping[str, Any]) -> None:
        """Raises Refused for what its headers alone refuse."""
        rules, headers = self.rules, list(scope["headers"])
        size = sum(len(name) + len(value) for name, value in headers) + len(scope["raw_path"])
        if size + len(scope["query_string"]) > rules.max_header_bytes:  # the parser bounds only what comes in pieces
            raise Refused(431, "LimitError", f"headers may have {rules.max_header_bytes:,} bytes")
        hosts = _values(headers, b"host")
        if len(hosts) != 1 or hosts[0].lower() not in rules.hosts:
            raise Refused(421, "WrongHost", "this server does not answer under that name")
        origins, sites = _values(headers, b"origin"), _values(headers, b"sec-fetch-site")
        if len(origins) > 1 or any(one.lower() not in rules.origins for one in origins):
            raise Refused(403, "WrongOrigin", "pages of other origins are not answered")
        if len(sites) > 1 or any(one not in ("same-origin", "none") for one in sites):
            raise Refused(403, "WrongOrigin", "pages of other sites are not answered")
        if scope["path"].startswith("/api/"):
            tokens = _values(headers, TOKEN_HEADER)
            told = tokens[0].encode("latin-1") if len(tokens) == 1 else b""
            if not hmac.compare_digest(told, rules.token.encode("latin-1")):
                raise Refused(401, "WrongToken", "the token of the address that tubelet serve printed is missing")
        for length in _values(headers, b"content-length"):
            if not (length.isascii() and length.isdigit()) or int(length[:20]) > rules.max_body_bytes:
                raise self._too_large()

    def _too_large(self) -> Refused:
        return Refused(413, "LimitError", f"a file may have {self.rules.max_body_bytes:,} bytes here (--max-upload)")

    def _bounded(self, receive: Receive) -> Receive:
        """`receive` under the ceilings on a body: its bytes, its time, and the time between two pieces."""
        got, done, until = 0, False, time.monotonic() + self.rules.body_s

        async def bounded() -> Message:
            nonlocal got, done
            if done:  # what comes now is the end of the connection, which may take its time
                return await receive()
            wait = min(self.rules.idle_s, until - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), max(wait, 0.001))
            except TimeoutError:
                raise Refused(408, "TooSlow", "the body took too long to come") from None
            got += len(message.get("body", b""))
            if got > self.rules.max_body_bytes:
                raise self._too_large()
            done = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        return bounded


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key.lower() == name]


async def _refuse(refused: Refused, send: Send) -> None:
    body = json.dumps({"error": refused.error, "message": refused.message}).encode("utf-8")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"connection", b"close"),  # whatever of its body still comes is not read
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
