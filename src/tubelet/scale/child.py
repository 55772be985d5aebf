"""A worker in a process of its own: numbers of shards in, reports out, until the other side closes the line.

Started by `tubelet.scale.local`. It ends when its parent does, also when that was killed; a shard at work is dropped
then, and its note goes, so that it does not count as a death.
"""

import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import FrameType

from tubelet.encoder.device import device_of
from tubelet.errors import RunError, TubeletError
from tubelet.reading.isolated.wire import error_fields, receive, send
from tubelet.scale.poison import drop_own, ended_by_timer
from tubelet.scale.store import open_store
from tubelet.scale.work import Worker

_ASKED = ("place", "device", "number", "lease_s", "readers")
_GRACE_S = 5.0  # to drop the shard at work before the process ends whatever it does


def main() -> None:
    """Wait at standard input for a store and a line, and serve it."""
    with socket.socket(fileno=os.dup(0)) as door:
        try:
            said = receive(door)
        except (EOFError, OSError):  # nobody needs us
            return
    place, device, number, lease_s, readers = (said.values[name] for name in _ASKED)

    def make() -> Worker:
        own = device_of(device, number)
        return Worker(open_store(place), device=own, lease_s=lease_s, readers=readers or None, timer=True)

    code: str | int | None = 0
    try:
        serve(socket.socket(fileno=said.files[0]), make)
    except SystemExit as e:
        code = e.code
    os._exit(code if isinstance(code, int) else 1)  # to take torch apart would be half a second for nothing


def serve(link: socket.socket, make: Callable[[], Worker]) -> None:
    """Make a worker, say that it is ready, and encode what is asked for. An error is sent and ends it."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the parent, who ends us
    asked: queue.Queue[int] = queue.Queue()
    made: list[Worker] = []
    threading.Thread(target=_listen, args=(link, asked, made), name="tubelet-listen", daemon=True).start()
    try:
        with ended_by_timer():
            worker = make()
            made.append(worker)
            _ = worker.encoder  # what cannot be loaded ends the run; it is no death of a shard
            send(link, {"ready": os.getpid()})
            while True:
                send(link, {"report": asdict(worker.run(asked.get()))})
    except ConnectionError:  # the parent was killed; nothing is at work
        return
    except TubeletError as error:
        send(link, {"error": error_fields(error), "source": error.source})
    except Exception as error:  # of torch, or a bug: it would come again, so it ends the run
        failure = RunError(f"a worker failed with {type(error).__name__}; what it said is on stderr")
        failure.__cause__ = error
        send(link, {"error": error_fields(failure), "source": None})
        raise


def _listen(link: socket.socket, asked: "queue.Queue[int]", made: Sequence[Worker]) -> None:
    """Put what is asked for aside; when the other side is gone, end the process, which is no death of a shard."""
    try:
        while True:
            asked.put(int(receive(link).values["shard"]))
    except (EOFError, OSError, ValueError, KeyError):  # closed, or reset by a parent that was killed
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_S)
        try:
            for worker in made:
                drop_own(worker.store)
        finally:
            os._exit(143)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
