"""The server: a socket of this machine, the guard, the routes, and uvicorn between them."""

import asyncio
import secrets
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tubelet.errors import RunError
from tubelet.web.api import Api
from tubelet.web.bench import Bench
from tubelet.web.guard import HEADER_BYTES, Guard, Rules, local_hosts

MOST_CONNECTIONS = 64
HEADER_S = 20.0  # for the head of a request


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that lets go of a connection whose request does not come."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._late = self.loop.call_later(HEADER_S, self._unasked)

    def _unasked(self) -> None:
        if self.scope is None and not self.transport.is_closing():  # nothing was asked since it was opened
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.cancel()
        super().connection_lost(exc)


class Serving:
    """A server that listens already. address: what to open in a browser, the token behind #."""

    def __init__(self, bench: Bench, *, port: int = 0, public: str | None = None) -> None:
        """Raises RunError for a port that cannot be had."""
        self.listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listening.bind(("127.0.0.1" if public is None else "0.0.0.0", port))
        except (OSError, OverflowError) as e:
            self.listening.close()
            raise RunError(f"port {port} cannot be had; --port 0 takes a free one", got=port) from e
        self.port = int(self.listening.getsockname()[1])
        self.token = secrets.token_urlsafe(16)
        self.api = Api(bench)
        rules = Rules(self.token, local_hosts(self.port, public), bench.most_upload)
        self.app = Guard(self.api.router, rules)
        self.address = f"http://{public or '127.0.0.1'}:{self.port}/#{self.token}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.app,
                http=PatientProtocol,
                ws="none",
                lifespan="off",
                log_level="error",
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                limit_concurrency=MOST_CONNECTIONS,
                h11_max_incomplete_event_size=HEADER_BYTES,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=2,
            )
        )

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serves until it is interrupted or `stop` is called. ready: called once it answers."""

        async def serve() -> None:
            asyncio.get_running_loop().call_soon(ready)
            await self._server.serve(sockets=[self.listening])

        try:
            asyncio.run(serve())
        finally:
            self.api.close()
            self.listening.close()

    def stop(self) -> None:
        """Ends `run`, from any thread."""
        self._server.should_exit = True
