"""Where an encoder runs."""

import torch

from tubelet.errors import InputError


def device_of(wanted: str, number: int | None = None) -> str:
    """The device to run on, as torch names it. wanted: one of its names, or auto, the fastest there is. number: of a
    worker among several, which take CUDA's devices in turns. Raises InputError for a word that names no device, and
    when the one asked for is not there.
    """
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if wanted == "auto":
        wanted = next((name for name, found in there.items() if found()), "cpu")
    try:
        asked = torch.device(wanted)
    except RuntimeError as e:
        raise InputError(f"{wanted!r:.80} names no device", expected=("auto", "cpu", *there), got=wanted) from e
    if asked.type in there and not there[asked.type]():
        raise InputError(f"this machine has no {wanted} device that torch can use", expected=wanted)
    if asked.type != "cuda":
        return wanted
    count = torch.cuda.device_count()
    if asked.index is not None and asked.index >= count:
        raise InputError(f"{wanted} is not there: this machine has {count} CUDA devices", limit=count, got=wanted)
    return f"cuda:{number % count}" if number is not None and asked.index is None else wanted
