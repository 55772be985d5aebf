"""Commands in processes of their own without the price of imports: a server imports them once, and forks.

Each command still has its own process, folder, streams, exit code and exit handlers. What it does not have is a fresh
interpreter: tests of imports, of warnings at import and of variables read at import start one.
"""

import atexit
import gc
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

END: list[int] = []  # the exit code of this process, once it is known
AHEAD = ("numpy", "PIL.Image", "av", "torch._dynamo", "transformers", "tyro", "rich.table", "rich.progress")


# Of the server and all that it forks: of every warning an error, also of those at import
VARIABLES = {
    "PYTHONPATH": os.pathsep.join(
        filter(None, [str(Path(__file__).resolve().parents[1] / "src"), os.environ.get("PYTHONPATH")])
    ),
    "PYTHONWARNINGS": "error",
    "PYTHONUTF8": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


class Forked:
    """`python ARGUMENTS` as subprocess.run would give it back. One server, started at first use, for one thread."""

    def __init__(self) -> None:
        self.server: subprocess.Popen[str] | None = None

    def __call__(
        self, arguments: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None, timeout: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        if self.server is None:
            self.server = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **VARIABLES},
            )
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        with tempfile.TemporaryDirectory() as streams:
            out, err = Path(streams, "out"), Path(streams, "err")
            wanted = {"arguments": list(arguments), "folder": str(folder), "out": str(out), "err": str(err)}
            wanted |= {"variables": {**os.environ, **VARIABLES, **(variables or {})}, "timeout": timeout}
            self.server.stdin.write(json.dumps(wanted) + "\n")
            self.server.stdin.flush()
            code = json.loads(self.server.stdout.readline())
            if code is None:
                raise subprocess.TimeoutExpired(list(arguments), timeout)
            texts = (f.read_text(encoding="utf-8") for f in (out, err))
            return subprocess.CompletedProcess(["python", *arguments], code, *texts)

    def close(self) -> None:
        if self.server is not None:
            self.server.communicate()


def wait(child: int, timeout: float) -> int | None:
    """The exit code of a child as subprocess has it; None when it was killed for its time."""
    until = time.monotonic() + timeout
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(done[1])


def become(wanted: dict) -> None:
    """Take the streams, folder, variables and command line of what is wanted, and run it."""
    for stream, path in ((0, os.devnull), (1, wanted["out"]), (2, wanted["err"])):
        opened = os.open(path, os.O_RDWR | os.O_CREAT if stream else os.O_RDONLY, 0o600)
        os.dup2(opened, stream)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 # as long as the process
    os.environ.clear()
    os.environ.update(wanted["variables"])
    os.chdir(wanted["folder"])
    first, *rest = wanted["arguments"]
    END.append(1)  # of whatever is raised
    try:
        if first == "-m":
            sys.argv, sys.path[0] = rest, str(Path.cwd())
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif first == "-c":
            sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv, sys.path[0] = [first, *rest], str(Path(first).resolve().parent)
            runpy.run_path(first, run_name="__main__")
    except SystemExit as e:
        END[0] = e.code if isinstance(e.code, int) else int(e.code is not None)
        raise
    except KeyboardInterrupt:
        END.clear()
        raise
    END[0] = 0


def leave() -> None:
    """Ends the process as an interpreter does, but for taking apart what the server imported: that costs seconds, and
    bindings that count their objects would call those of the server leaked."""
    if not END:  # the server, or an interrupt, which ends a process by its signal
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit(END[0] & 0xFF)


def serve() -> dict | None:
    """One process a line of standard input, its exit code on standard output. In the process: what is wanted of it."""
    import tubelet

    ours = [m.name for m in pkgutil.walk_packages(tubelet.__path__, "tubelet.") if not m.name.endswith("__main__")]
    for name in (*AHEAD, *ours):
        __import__(name)
    gc.freeze()  # no child looks through what is imported, nor copies its pages for that
    for end in weakref.finalize._registry:  # pyright: ignore[reportAttributeAccessIssue] # nor takes it apart at its end
        end.atexit = False
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        while line := sys.stdin.readline():
            wanted = json.loads(line)
            if (child := os.fork()) == 0:
                return wanted
            print(json.dumps(wait(child, wanted["timeout"])), file=answers, flush=True)
    return None


if __name__ == "__main__":
    atexit.register(leave)  # the first, so that it comes last
    if (task := serve()) is not None:
        become(task)
    else:
        END.append(0)
