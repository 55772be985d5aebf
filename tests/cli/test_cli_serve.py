"""`tubelet serve`: what it prints, what it refuses before a model is loaded, and that it really answers."""

import json
import re
import shlex
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.geometry.rooms import room
from tests.test_docs import PAGES
from tests.test_docs_shell import shell_lines

from tubelet.cli import main
from tubelet.cli.parse import parse
from tubelet.cli.serve import Serve
from tubelet.cli.terminal import Terminal
from tubelet.errors import InputError
from tubelet.web.server import Serving


def run(*args: object) -> int:
    return main([str(a) for a in args])


def asked(port: int, request: bytes) -> bytes:
    """What a socket of this machine is answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as link:
        link.sendall(request)
        answer = b""
        while piece := link.recv(1 << 16):
            answer += piece
    return answer


def test_it_prints_an_address_that_answers(
    files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    served = Serving.run
    answers: list[bytes] = []

    def run_and_ask(self: Serving, ready: Callable[[], None]) -> None:
        def ask_then_stop() -> None:
            host = f"Host: 127.0.0.1:{self.port}\r\nConnection: close\r\n"
            token = f"X-Tubelet-Token: {self.token}\r\n"
            answers.extend(
                asked(self.port, f"GET {path} HTTP/1.1\r\n{host}{more}\r\n".encode())
                for path, more in (("/", ""), ("/api/about", token), ("/api/about", ""))
            )
            self.stop()

        def now() -> None:
            ready()
            threading.Thread(target=ask_then_stop).start()

        served(self, now)

    monkeypatch.setattr(Serving, "run", run_and_ask)
    assert run("serve", files["wide"], files["clip"], "--model", model, "--root", files["wide"].parent, "--json") == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#[\w-]{22}", told["address"])
    assert "UNTRAINED" in said.err
    page, about, refused = answers
    assert page.startswith(b"HTTP/1.1 200") and b"<!DOCTYPE html>" in page
    assert b"server:" not in page.lower().partition(b"\r\n\r\n")[0]
    assert json.loads(about.partition(b"\r\n\r\n")[2])["files"] == ["wide.png", "clip.mp4"]
    assert refused.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("none.png",), 1, "no such file"),
        (("--root", "none"), 1, "--root is no folder"),
        ((".",), 1, "a folder, and no scene of tubelet scene"),
        (("--port", "70000"), 2, "0 to 65535"),
        (("--port", "-1"), 2, "0 to 65535"),
        (("--max-upload", "50"), 2, "--max-upload takes"),
        (("--public", "http://x/"), 2, "--public takes the name"),
        (("--public", ""), 2, "--public takes the name"),
        (("--model", "nothing_like_it"), 2, "no such variant"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_is_loaded(
    args: tuple[str, ...],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    assert run("serve", *args) == code
    assert words in capsys.readouterr().err


def test_a_scene_s_folder_is_at_hand(tmp_path: Path, model: Path):
    folder = room(1).save(tmp_path / "room")
    bench = Serve((str(folder),), model=str(model)).bench(Terminal(quiet=True))
    assert bench.files == (str(folder),)
    (folder / "cameras.json").write_text('{"format": "tubelet-scene-1"}')
    with pytest.raises(InputError, match=r"room: a folder, and no scene of tubelet scene: size is no object"):
        Serve((str(folder),), model=str(model)).bench(Terminal(quiet=True))


def test_a_port_that_is_taken_is_said(model: Path, capsys: pytest.CaptureFixture[str]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run("serve", "--model", model, "--port", taken.getsockname()[1]) == 1
    assert "--port 0 takes a free one" in capsys.readouterr().err


def test_lines_of_the_documents_are_command_lines():
    lines = [line for page in PAGES for line in shell_lines(page.read_text(encoding="utf-8"))]
    served = [shlex.split(line)[1:] for line in lines if line.startswith("tubelet serve")]
    assert served
    assert all(isinstance(parse(words), Serve) for words in served)


def test_the_encoder_within_the_model_that_answers_is_held_once():
    pytest.importorskip("transformers")
    bench = Serve().bench(Terminal())
    assert bench.reader is not None
    assert bench.encoder is bench.reader.encoder
    other = Serve(dtype="bfloat16").bench(Terminal())  # what is looked at is float32
    assert other.reader is not None
    assert other.encoder is not other.reader.encoder
