"""The confined process that reads one pickle file: `unpickle_child.py IN_FD OUT_PATH MAX_BYTES`.

Run by path, alone, by tubelet.weights.unpickle; it imports nothing of tubelet. It reads the open file it is handed with
weights_only=True, writes the tensors it found as safetensors, prints one line of JSON and ends. Before that it lowers
its limits, gives up new privileges and forbids itself to start programs, open sockets or write anywhere else.
"""

import ctypes
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save_file

REFUSED, TOO_LARGE, NO_TENSORS = 3, 4, 5
NESTED = ("state_dict", "model", "module", "model_state_dict", "backbone", "encoder")
_FORBIDDEN_OS = "system exec posix_spawn spawn fork kill remove rename chmod chown link symlink mkdir rmdir truncate"
_FORBIDDEN = (*(f"os.{name}" for name in _FORBIDDEN_OS.split()), "subprocess.", "socket.", "ctypes.", "shutil.", "pty.")
_PR_SET_NO_NEW_PRIVS = 38


def confine(memory_bytes: int) -> None:
    """Lower every limit for good. `memory_bytes` is what may be added to what the process has now.

    The audit hook forbids Python code to open any file for writing; safetensors writes the result below Python. It
    casts a pointer for that, which from Python 3.14 on is a call of one of ctypes' own functions.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) if sys.platform == "linux" else 0
    if pages:
        limit = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CPU, (600, 600))
    resource.setrlimit(resource.RLIMIT_FSIZE, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    cast = getattr(ctypes, "_cast_addr", None)

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "ctypes.call_function" and args[0] == cast:
            return
        if event.startswith(_FORBIDDEN):
            raise PermissionError(event)
        if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(event)

    sys.addaudithook(audit)


def tensors_of(data: Any) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The state_dict in what was read (itself, or one level down under a usual name), and what was left out."""
    if not isinstance(data, dict):
        return {}, []
    for candidate in (data, *(data[name] for name in NESTED if isinstance(data.get(name), dict))):
        found = {k: v for k, v in candidate.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
        if found:
            return found, [str(k) for k in candidate if k not in found]
    return {}, []


def finish(code: int, **answer: Any) -> NoReturn:
    print(json.dumps(answer), flush=True)
    sys.exit(code)


def main(fd: int, out: str, memory_bytes: int) -> NoReturn:
    torch.set_num_threads(1)
    confine(memory_bytes)
    try:
        with os.fdopen(fd, "rb") as file:
            data = torch.load(file, map_location="cpu", weights_only=True)
        found, skipped = tensors_of(data)
        plain = {k: v.detach().contiguous().clone() for k, v in found.items() if v.layout == torch.strided}
        if not plain or len(plain) != len(found):
            finish(NO_TENSORS, reason="no state_dict of dense tensors")
        save_file(plain, out)
    except MemoryError:
        finish(TOO_LARGE, reason="more memory than the file can need")
    except Exception as e:  # noqa: BLE001 - whatever a hostile pickle provokes is a refusal, and this process ends here
        finish(REFUSED, reason=type(e).__name__)
    finish(0, tensors=len(plain), skipped=skipped[:64])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
