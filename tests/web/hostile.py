"""Requests that nobody honest sends, as bytes of a connection, and what each may be answered."""

import asyncio
import contextlib
import random
from collections.abc import Mapping
from typing import NamedTuple


class Case(NamedTuple):
    """data: what is sent. pieces: in so many parts. codes: answers that are right; 0: the connection just ends."""

    name: str
    data: bytes
    codes: frozenset[int]
    pieces: int = 1


def request(line: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """One request of HTTP/1.1 with exactly these headers."""
    told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{line} HTTP/1.1\r\n{told}\r\n".encode("latin-1") + body


def cases(port: int, token: str, most_bytes: int) -> list[Case]:
    """All of them, for a server on this port. Each asks for the connection to be closed where it can ask."""
    host, key = {"Host": f"127.0.0.1:{port}"}, {"X-Tubelet-Token": token}
    good = host | key | {"Connection": "close"}
    noise = random.Random(5).randbytes(3000)

    def sent(body: bytes, **more: str) -> bytes:
        return request("POST /api/open", good | {"Content-Length": str(len(body))} | more, body)

    def made(name: str, data: bytes, *codes: int, pieces: int = 1) -> Case:
        return Case(name, data, frozenset(codes), pieces)

    chunked = request("POST /api/open", good | {"Transfer-Encoding": "chunked"})
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    return [
        made("another host", request("GET /api/about", good | {"Host": "evil.example"}), 421),
        made("two hosts", request("GET /", host | {"host": "evil.example", "Connection": "close"}), 421, 400),
        made("another origin", request("GET /api/about", good | {"Origin": "http://evil.example"}), 403),
        made("another site", request("GET /api/about", good | {"Sec-Fetch-Site": "cross-site"}), 403),
        made("another token", request("GET /api/about", good | {"X-Tubelet-Token": "x" * 22}), 401),
        made("no token", request("POST /api/open", host | {"Content-Length": "1", "Connection": "close"}, b"x"), 401),
        made("a length of 10 GB", request("POST /api/open", good | {"Content-Length": "10000000000"}), 413),
        made("chunks without end", chunked + piece * (most_bytes // 65536 + 2), 413, 503, 0, pieces=40),
        made("no picture", sent(noise), 422, 503, pieces=30),
        made("an empty file", sent(b""), 422, 503),
        made(
            "a body that ends early",
            request("POST /api/open", good | {"Content-Length": "500"}, b"x" * 20),
            0,
            408,
            503,
        ),
        made("a header of 64 kB", request("GET /", good | {"X-Long": "x" * 65536}), 400, 431, 0),
        made("no HTTP", noise, 400, 0),
        made("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise[:500], 400, 0),
        made("DELETE", request("DELETE /api/about", good), 405),
        made("a path that climbs", request("GET /..%2f..%2fetc/passwd", good), 404),
        made("a frame that is none", request("GET /api/frame/none/0", good), 404, 503),
        made("JSON without end", sent(b"[" * 5000, **{"Content-Type": "application/json"}), 422, 503),
        made("a plan of nothing", request("GET /api/plan?width=nan&height=1e999", good), 422, 503),
        made(
            "an upgrade",
            request("GET /api/about", good | {"Connection": "Upgrade", "Upgrade": "websocket"}),
            200,
            400,
            426,
        ),
        made("half a request", b"GET / HTTP/1.1\r\nHost: 127", 0, 400),
    ]


async def answered(port: int, case: Case, *, wait_s: float = 60.0) -> int:
    """The code that a case is answered; 0 where the server ends the connection without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        step = max(1, -(-len(case.data) // case.pieces))
        try:
            for at in range(0, len(case.data), step):
                writer.write(case.data[at : at + step])
                await writer.drain()
            if 0 in case.codes:  # it goes away, and an answer may be lost with it
                writer.write_eof()
        except (ConnectionError, RuntimeError):  # it was answered before all was sent
            pass
        try:
            line = await asyncio.wait_for(reader.readline(), wait_s)
        except ConnectionError:
            return 0
        return int(line.split()[1]) if line.startswith(b"HTTP/1.1 ") else 0
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
