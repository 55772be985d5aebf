"""The one door for pickle files: read in a confined process, handed over as safetensors.

A pickle is a program. torch's weights_only=True runs a restricted one, and has had holes; so it runs where a hole leads
nowhere: another process without the right to start programs, open sockets or write outside one file, with limits on
memory, time and output. This process never opens the pickle as such, and there is no second try with fewer checks.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tubelet.errors import UnsafeFile, WeightsError, WorkerDied
from tubelet.packed.header import open_regular
from tubelet.weights import unpickle_child

CHILD = Path(__file__).with_name("unpickle_child.py")
SPARE_BYTES = 1 << 30
DEADLINE_S = 900.0
_KEPT = ("HOME", "LD_LIBRARY_PATH", "PATH", "TMPDIR")  # what an installed torch may need to be found


@dataclass(frozen=True)
class Unpickled:
    """What came out: the safetensors file, how many tensors it holds, and names that held none (epoch, config ...)."""

    path: Path
    tensors: int
    skipped: Sequence[str]


def unpickle(source: str | os.PathLike[str], out: Path, *, deadline_s: float = DEADLINE_S) -> Unpickled:
    """The tensors of a .pt, .pth, .bin or .ckpt file, written to `out` by a confined process.

    Raises UnsafeFile when the file asks for anything but tensors, WorkerDied when the process hit a limit or crashed,
    WeightsError when there is no such file. POSIX only.
    """
    path = Path(source)
    if not os.path.isfile(path):  # noqa: PTH113  that of Path raises where a name is too long
        raise WeightsError("no such file", source=str(source)[:200])
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        command = [sys.executable, "-E", "-P", str(CHILD), str(file.fileno()), str(out), str(4 * size + SPARE_BYTES)]
        try:
            child = subprocess.run(  # the arguments are ours; the file travels as an open descriptor
                command,
                pass_fds=(file.fileno(),),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=deadline_s,
                check=False,
                env={name: os.environ[name] for name in _KEPT if name in os.environ} | {"OMP_NUM_THREADS": "1"},
                cwd=out.parent,
            )
        except subprocess.TimeoutExpired as e:
            raise WorkerDied(f"reading took more than {deadline_s:g} s", source=path.name, limit=deadline_s) from e
    try:
        answer = json.loads(child.stdout.splitlines()[-1]) if child.stdout else {}
    except json.JSONDecodeError:
        answer = {}
    if child.returncode == unpickle_child.TOO_LARGE:
        raise WorkerDied("reading needs more memory than a file of this size can hold", source=path.name, got=size)
    if child.returncode in (unpickle_child.REFUSED, unpickle_child.NO_TENSORS):
        raise UnsafeFile(
            "the file is not a plain state_dict of tensors; nothing of it was run or kept",
            source=path.name,
            got=answer.get("reason"),
        )
    if child.returncode != 0 or not out.is_file():
        raise WorkerDied(f"the confined process ended with {child.returncode}", source=path.name, got=child.returncode)
    return Unpickled(out, int(answer.get("tensors", 0)), tuple(answer.get("skipped", ())))
