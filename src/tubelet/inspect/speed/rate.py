"""How fast this machine multiplies matrices, for an estimate of time: all that the budget ever runs."""

import time

import torch

from tubelet.errors import ConfigError

ROWS = 2048


def gemm_rate(width: int, *, dtype: str = "float32", device: str = "cpu", rounds: int = 5) -> float:
    """FLOP a second of a product of (2048, width) and (width, 4 width), the best of some rounds; seconds at most.

    An estimate flop / rate is a lower bound: encoders reach a part of it, on a CPU most.
    Raises ConfigError for a width or number of rounds below one.
    """
    if width < 1 or rounds < 1:
        raise ConfigError("width and rounds start at 1", limit=1, got=(width, rounds))
    kind = getattr(torch, dtype)
    a = torch.ones(ROWS, width, dtype=kind, device=device)
    b = torch.ones(width, 4 * width, dtype=kind, device=device)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(rounds + 1):  # the first warms up
            start = time.perf_counter()
            out = a @ b
            if device != "cpu":
                out[0, 0].item()  # waits for the device
            best = min(best, time.perf_counter() - start)
    return 2 * ROWS * width * 4 * width / best
