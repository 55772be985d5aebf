"""Who is answered, and what is refused before the application sees it."""

from typing import Any

import pytest
from tests.web.asgi import HOST, TOKEN, ask

from tubelet.web.guard import HEADERS, Guard, Rules, local_hosts

RULES = Rules(TOKEN, local_hosts(8000), max_body_bytes=1000, body_s=0.3, idle_s=0.1, refusal_s=0.0)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    got = b""
    if scope["method"] == "POST":
        while True:
            message = await receive()
            got += message["body"]
            if not message["more_body"]:
                break
    headers = [(b"content-type", b"text/plain"), (b"cache-control", b"public")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": got or scope["path"].encode()})


APP = Guard(echo, RULES)
GOOD = (("host", HOST), ("x-tubelet-token", TOKEN))


def status(*headers: tuple[str, str], path: str = "/api/about") -> int:
    return ask(APP, path, headers=headers).status


def test_a_request_of_our_own_page_is_answered():
    for host in ("127.0.0.1:8000", "localhost:8000", "LOCALHOST:8000", "[::1]:8000"):
        assert status(("host", host), GOOD[1]) == 200
    for more in (("origin", f"http://{HOST}"), ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "none")):
        assert status(*GOOD, more) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:8000.evil.example", "localhost:8000@evil", "", "a, b"],
)
def test_another_name_is_not_ours(host: str):
    """DNS that is rebound to this machine comes with the name of the page that did it."""
    assert status(("host", host), GOOD[1], path="/") == 421


def test_there_is_one_host():
    assert status(GOOD[1], path="/") == 421
    assert status(("host", HOST), ("host", HOST), GOOD[1]) == 421
    assert status(("host", HOST), ("Host", "evil.example"), GOOD[1]) == 421


@pytest.mark.parametrize(
    "header",
    [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", f"http://{HOST}.evil.example"),
        ("origin", "http://127.0.0.1:8001"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", ""),
    ],
)
def test_pages_of_others_are_not_answered(header: tuple[str, str]):
    assert status(*GOOD, header) == 403
    assert status(*GOOD, ("origin", f"http://{HOST}"), header) == 403


def test_the_token_is_asked_of_everything_but_the_page():
    assert status(("host", HOST), path="/") == 200
    for told in ((), (("x-tubelet-token", ""),), (("x-tubelet-token", TOKEN + "x"),), (GOOD[1], GOOD[1])):
        assert status(("host", HOST), *told) == 401
    assert status(("host", HOST), ("x-tubelet-token", "\xff\xfe")) == 401


@pytest.mark.parametrize("length", ["1001", "10000000000", "99999999999999999999999999", "-1", "1e3", "", "\xb2"])
def test_a_body_that_says_it_is_too_large_is_not_read(length: str):
    assert ask(APP, "/api/open", method="POST", more=[("content-length", length)]).status == 413


def test_a_body_is_counted_while_it_comes():
    assert ask(APP, "/api/open", method="POST", body=[b"x" * 500, b"x" * 500]).body == b"x" * 1000
    assert ask(APP, "/api/open", method="POST", body=[b"x" * 500, b"x" * 501]).status == 413
    assert ask(APP, "/api/open", method="POST", body=[b"x"] * 1001).status == 413


def test_a_body_that_does_not_come_is_not_waited_for():
    assert ask(APP, "/api/open", method="POST", body=[b"x", b""], pause_s=0.5).status == 408  # between two pieces
    assert ask(APP, "/api/open", method="POST", body=[b"x"] * 50, pause_s=0.02).status == 408  # all in all


def test_a_refusal_waits_so_that_strangers_leave_the_machine_to_others(monkeypatch: pytest.MonkeyPatch):
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("tubelet.web.guard.asyncio.sleep", sleep)
    rules = Rules(TOKEN, local_hosts(8000), 1000)
    for token, code in ((TOKEN, 200), ("x" * 22, 401)):
        headers = [("host", HOST), ("x-tubelet-token", token)]
        assert ask(Guard(echo, rules), "/api/about", headers=headers).status == code
    assert waited == [rules.refusal_s]
    assert rules.refusal_s > 0


def test_headers_are_bounded_also_where_they_come_at_once():
    assert ask(APP, "/", more=[("x-long", "x" * 16_000)]).status == 200
    assert ask(APP, "/", more=[("x-long", "x" * 16_384)]).status == 431
    assert ask(APP, "/?" + "x" * 16_384).status == 431


def test_every_answer_carries_the_headers_that_keep_others_out():
    found = [
        ask(APP, "/"),
        ask(APP, "/", headers=[("host", "evil.example")]),
        ask(APP, "/api/open", method="POST", more=[("content-length", "1001")]),
    ]
    for answer in found:
        for name, value in HEADERS:
            assert answer.headers[name.decode()] == value.decode()
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "default-src 'none'" in found[0].headers["content-security-policy"]
    assert found[1].json == {"error": "WrongHost", "message": "this server does not answer under that name"}


def test_a_public_name_is_one_more_and_nothing_else():
    app = Guard(echo, Rules(TOKEN, local_hosts(8000, "tokens.example"), 1000))
    hosts = (("tokens.example", 200), ("tokens.example:8000", 200), ("other.example", 421))
    for host, expected in hosts:
        assert ask(app, "/api/about", headers=[("host", host), GOOD[1]]).status == expected
    secure = [("host", "tokens.example"), GOOD[1], ("origin", "https://tokens.example")]
    assert ask(app, "/api/about", headers=secure).status == 200
