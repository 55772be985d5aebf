"""How many optimizer steps a run takes: counted from samples, never from micro-batches."""

from tubelet.errors import InputError


def effective_batch(per_device: int, accumulate: int = 1, world: int = 1) -> int:
    """Samples of one optimizer step: those of a micro-batch, times micro-batches, times processes.

    >>> effective_batch(32, accumulate=4, world=8)
    1024
    """
    if min(per_device, accumulate, world) < 1:
        got = (per_device, accumulate, world)
        raise InputError(f"batch, accumulation and processes start at 1, got {got}", limit=1, got=got)
    return per_device * accumulate * world


def steps_of(samples: int, batch: int, epochs: int = 1) -> int:
    """Optimizer steps of `epochs` epochs. Epochs run on without a break: a tail joins the next epoch's first samples,
    so only the last step of all may be smaller than `batch`.

    batch: samples of one step, `effective_batch`. Raises InputError below 1.

        >>> steps_of(608_000, 128), steps_of(608_000, effective_batch(32, accumulate=4, world=8))
        (4750, 594)
    """
    if min(samples, batch, epochs) < 1:
        got = (samples, batch, epochs)
        raise InputError(f"samples, batch and epochs start at 1, got {got}", limit=1, got=got)
    return -(-samples * epochs // batch)
