"""Where an encoder runs."""

import torch

from tubelet.errors import InputError


def device_of(wanted: str, number: int | None = None) -> str:
    """The device to run on, as torch names it. wanted: one of its names, or auto, the fastest there is. number: of a
    worker among several, which take CUDA's devices in turns. Raises InputError when the one asked for is not there.
    """
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if wanted == "auto":
        wanted = next((name for name, found in there.items() if found()), "cpu")
    elif (found := there.get(wanted.partition(":")[0])) is not None and not found():
        raise InputError(f"this machine has no {wanted} device that torch can use", expected=wanted)
    return f"cuda:{number % torch.cuda.device_count()}" if wanted == "cuda" and number is not None else wanted
