"""An S3 server of others in a process of its own: moto, one request after the other, so that conditions hold."""

import os
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SERVER = """
import os, sys, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

WSGIRequestHandler.log_request = lambda *_: None
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app))
print(server.port, flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
server.serve_forever()
"""


@dataclass(frozen=True)
class Server:
    """Where it listens."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What S3's clients look at."""
        keys = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_REGION": "us-east-1"}
        return {**keys, "AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true"}

    def new_bucket(self) -> str:
        """Its address."""
        name = f"tests-{secrets.token_hex(8)}"
        asked = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert answer.status == 200
        return f"s3://{name}"


@contextmanager
def serving() -> Iterator[Server]:
    """The server, while the block runs. It ends with this process, too."""
    words = [sys.executable, "-W", "ignore", "-c", SERVER]
    pipe = subprocess.PIPE
    variables = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, env=variables, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, "moto did not start; it comes with tubelet[dev]"
        yield Server(f"http://127.0.0.1:{port}")
        process.kill()
