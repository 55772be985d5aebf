"""The server over real sockets: hostile requests get their codes, good ones their answers, and nothing is left."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.web.browser import served
from tests.web.hostile import Case, answered, cases, request

from tubelet.encoder.model import Encoder
from tubelet.reading.isolated.pool import pool
from tubelet.web import server
from tubelet.web.bench import Bench

MOST = 300_000


async def fetched(port: int, data: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body


def test_strangers_are_refused_while_a_friend_is_served(
    encoder: Encoder, media: dict[str, Path], capfd: pytest.CaptureFixture[str]
):
    page = media["page"].read_bytes()
    with served(Bench("tiny", encoder, encoder.pixels, True, most_upload=MOST)) as serving:
        headers = {"Host": f"127.0.0.1:{serving.port}", "X-Tubelet-Token": serving.token, "Connection": "close"}
        good = request("POST /api/open", headers | {"Content-Length": str(len(page))}, page)

        async def together() -> tuple[list[tuple[Case, int]], list[tuple[int, bytes]]]:
            hostile = cases(serving.port, serving.token, MOST)
            codes = asyncio.gather(*(answered(serving.port, case) for case in hostile))
            friend = [await fetched(serving.port, good) for _ in range(3)]
            return list(zip(hostile, await codes, strict=True)), friend

        found, friend = asyncio.run(together())
        for case, code in found:
            assert code in case.codes, (case.name, code)
        for code, body in friend:
            assert code in (200, 503)
            assert code == 503 or json.loads(body)["tokens"] == 70
        [(code, _)] = [asyncio.run(fetched(serving.port, good))]
        assert code == 200
        assert "Traceback" not in capfd.readouterr().err  # strangers fill no log
    assert all(child.process.poll() is None for child in pool()._idle)  # they wait for the next, none is lost
    assert len(pool()._idle) <= 8


def test_a_connection_that_asks_nothing_is_let_go(encoder: Encoder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "HEADER_S", 0.2)
    with served(Bench("tiny", encoder, encoder.pixels, True)) as serving:

        async def wait() -> Any:
            reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: ")
            gone = await asyncio.wait_for(reader.read(), 30)
            writer.close()
            await writer.wait_closed()
            return gone

        assert asyncio.run(wait()) == b""
