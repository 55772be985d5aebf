"""Which routines multiply a layer's matrices and attend on this CPU: measured once a machine.

    blas      torch's mm: MKL on x86 for float32, oneDNN for half types where they are multiplied in hardware
    onednn    oneDNN for every type, bias and activation in the same pass
    sdpa      torch's attention
    sigmoid   attention of bfloat16 as two products of oneDNN's (tubelet.encoder.attention_sigmoid), of long segments

The rows are equal up to rounding, and which is faster depends on who made the CPU, and for attention on the rows of a
segment and the threads. The first call that needs to know times them, within TRIAL_S, and keeps the answer in the
user's cache folder under the CPU's model and torch's version; later processes read it, so all of a machine round alike.
Where it cannot be kept nothing is measured and "blas" and "sdpa" run, for processes that each measure for themselves
might disagree. An answer measured while others had the cores is kept for BUSY_S alone.
"""

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.encoder import attention_sigmoid
from tubelet.encoder.attention import Segments, sdpa_into
from tubelet.encoder.attention_sigmoid import sigmoid_into
from tubelet.encoder.config import Act
from tubelet.errors import ConfigError

Products = Literal["auto", "blas", "onednn"]
TRIAL_S = 0.3  # of all together, warming up included
ROWS, WIDTH = 512, 768  # of the product that is timed: up to four times the width, the largest of a layer
HEADS = 4  # of the attentions that are timed
SEGMENTS = (384, 576, 1024)  # their rows; shorter ones are sdpa's
QUIET = 0.8  # of the threads' time that a trial must get, or other work had the cores
BUSY_S = 3600.0  # how long an answer found beside other work counts
BETTER = {"onednn": 0.97, "sigmoid": 0.95}  # of the usual one's time at most, or that stays: less may be chance
ROUNDS = 9  # at most


class KernelChoice(NamedTuple):
    """What "auto" means here, and why."""

    products: Literal["blas", "onednn"]
    sigmoid_rows: int | None  # of a segment from which on it attends by the sigmoid; None: by sdpa all
    why: str  # measured, kept, or what stood in the way
    seconds: dict[str, float]  # the best of each, where they were timed; attention's with the rows


def resolve_products(products: Products, dtype: torch.dtype) -> Literal["blas", "onednn"]:
    """What multiplies rows of this type here. Raises ConfigError for one that cannot."""
    if products == "auto":
        return chosen(dtype).products
    if products == "onednn" and not able(dtype):
        raise ConfigError(f"oneDNN does not multiply {dtype} in this torch", expected=("auto", "blas"), got=products)
    return products


def resolve_attention(products: Products, dtype: torch.dtype) -> int | None:
    """From how many rows on a segment of this type attends by the sigmoid, None where all do by sdpa: with "onednn",
    its products wherever they can."""
    if products == "auto":
        return chosen(dtype).sigmoid_rows
    return SEGMENTS[0] if products == "onednn" and attention_sigmoid.able(dtype) else None


@lru_cache(maxsize=4)
def chosen(dtype: torch.dtype) -> KernelChoice:
    """The answer for this machine: kept, or measured now and kept. Takes TRIAL_S the first time."""
    if not able(dtype):
        return KernelChoice("blas", None, "oneDNN does not multiply this type in this torch", {})
    machine = f"{cpu_model()}, torch {torch.__version__}, {str(dtype).removeprefix('torch.')}"
    path = kept_in() / f"kernels-{sha256(machine.encode()).hexdigest()[:16]}.json"
    kept = _read(path)
    if kept is not None:
        return kept
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            seconds, quiet = trial(dtype)
            part = Path(folder) / path.name
            part.write_text(json.dumps({"machine": machine, "seconds": seconds, "quiet": quiet}, indent=1))
            with suppress(FileExistsError):  # another process was faster, and its answer is everybody's
                os.link(part, path)
            if _read(path) is None:  # what is there is none of ours, or old and of a busy machine
                part.replace(path)
    except OSError as e:
        return KernelChoice("blas", None, f"{path.parent} cannot be written ({e.strerror}), so nothing is kept", {})
    theirs = _read(path)
    if theirs is not None and theirs.seconds != seconds:
        return theirs
    return _fastest(seconds, "measured" if quiet else "measured beside other work")


def _fastest(seconds: dict[str, float], why: str) -> KernelChoice:
    timed = [n for n in SEGMENTS if f"sigmoid {n}" in seconds]
    pays = [n for n in timed if seconds[f"sigmoid {n}"] <= BETTER["sigmoid"] * seconds[f"sdpa {n}"]]
    products = "onednn" if seconds["onednn"] <= BETTER["onednn"] * seconds["blas"] else "blas"
    return KernelChoice(products, min(pays, default=None), why, seconds)


@lru_cache(maxsize=4)
def able(dtype: torch.dtype) -> bool:
    """Whether oneDNN's product with its bias and activation is in this torch, runs here and is right."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    rows = torch.linspace(-1, 1, 4 * 32).view(4, 32).to(dtype)
    weight, bias = torch.linspace(1, -1, 16 * 32).view(16, 32).to(dtype), torch.linspace(-1, 1, 16).to(dtype)
    want = F.gelu(F.linear(rows.float(), weight.float(), bias.float()))
    with torch.inference_mode():
        try:
            got = linear(rows, weight, bias, "gelu")
        except RuntimeError:  # NotImplementedError is one
            return False
    return torch.allclose(got.float(), want, atol=1e-5 if dtype == torch.float32 else 5e-2, rtol=1e-2)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, act: Act | None = None) -> Tensor:
    """act(x W^T + b) by oneDNN in one pass, in new memory; rows from two on do not depend on their number.

    quick_gelu has no such pass and is left to the caller.
    """
    name, how = _FUSED[act]
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], how)


_FUSED: dict[Act | None, tuple[str, str]] = {
    None: ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "silu": ("swish", ""),
}


# ---- the trial


def trial(dtype: torch.dtype, limit_s: float = TRIAL_S) -> tuple[dict[str, float], bool]:
    """Seconds of a layer's largest product, its bias and its activation, and of attention where there are two; by each
    the best of rounds in turns, one round at least. And whether the threads had their cores meanwhile."""
    x, weight, bias = (
        torch.ones(shape).mul_(0.01).to(dtype) for shape in ((ROWS, WIDTH), (4 * WIDTH, WIDTH), (4 * WIDTH,))
    )
    out, start = torch.empty(ROWS, 4 * WIDTH, dtype=dtype), time.perf_counter()

    def by_blas() -> None:
        torch.mm(x, weight.t(), out=out)
        for part in out.split(256):  # in the cache, as tubelet.encoder.cpu does
            torch.ops.aten.gelu_(part.add_(bias), approximate="tanh")

    runs: dict[str, Callable[[], object]] = {"blas": by_blas, "onednn": lambda: linear(x, weight, bias, "gelu_tanh")}
    for rows in SEGMENTS if attention_sigmoid.able(dtype) else ():
        q, k, v = (torch.ones(HEADS, rows, 64).mul_(0.01).to(dtype).transpose(0, 1) for _ in range(3))
        given = torch.empty(rows, HEADS, 64, dtype=dtype), q, k, v, Segments((rows,))
        runs[f"sdpa {rows}"] = partial(sdpa_into, *given)
        runs[f"sigmoid {rows}"] = partial(sigmoid_into, *given, scale=0.125, fewest=rows)
    best, wall, cpu = dict.fromkeys(runs, float("inf")), 0.0, 0.0
    with torch.inference_mode():
        for i in range(ROUNDS):
            spent = time.perf_counter() - start
            if i > 1 and spent * (i + 1) / i > limit_s:
                break
            for name in runs if i % 2 else reversed(runs):
                begin, worked = time.perf_counter(), time.process_time()
                runs[name]()
                took = time.perf_counter() - begin
                if i:  # the first warms up
                    best[name] = min(best[name], took)
                    if name == "onednn":  # one product, in which all threads work all the time
                        wall, cpu = wall + took, cpu + time.process_time() - worked
    return best, cpu >= QUIET * torch.get_num_threads() * wall


# ---- where it is kept


def kept_in() -> Path:
    """The folder of this user's answers. Deleting it measures anew."""
    folder = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(folder) if folder else Path("~/.cache").expanduser()) / "tubelet"


def cpu_model() -> str:
    """The processor's name, its family and model numbers with it: virtual machines shorten the name."""
    found: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    parts = [found[name] for name in ("model name", "cpu family", "model") if name in found]
    return " ".join(parts) or platform.processor() or platform.machine()


def _read(path: Path) -> KernelChoice | None:
    """What is kept; None where there is no such file, it is none of ours, or of a busy machine and old."""
    try:
        value: Any = json.loads(path.read_text())
        seconds = {name: float(s) for name, s in value["seconds"].items()}
        if not value["quiet"] and time.time() - path.stat().st_mtime > BUSY_S:
            return None
        return _fastest(seconds, "kept" if value["quiet"] else "kept for an hour, measured beside other work")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
