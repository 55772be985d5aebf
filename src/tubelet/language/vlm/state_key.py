"""What decides an encoder's features beside the rows it reads, as one text: its weights' bits and what it is made of.

    weights    bits, type, shape, device and name of every parameter and buffer; read anew each time
    parts      the class of every part and its plain attributes, training among them
    settings   those of torch that change how products are rounded

Counts of writes and addresses are not asked: a fused optimizer step, a write through `.data`, NumPy or another process
moves neither. Where parts are of a class that is not known here (adapters, wrappers, quantised layers), have hooks, or
hold what is not plain, nothing can be said, and no key is given.
"""

import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_WORDS = 1 << 16  # of 8 bytes, that make one sum
_TOGETHER = 64  # sums in one product on an accelerator, where launches cost; on a CPU one stays in its cache
_PARTS = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Identity, nn.ModuleList)
_PLAIN = (int, float, str, bytes, type(None), torch.dtype, torch.device)
_NOT_READ = frozenset({"report", "untrained", "_compiled"})  # of an Encoder: where it is from; made of its options
_MODULE_S_OWN = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_compiled_call_impl")


def state_key(module: nn.Module) -> str | None:
    """32 hex digits that differ when a bit of a weight, a part or a setting does; None where that cannot be known.

    Two states of one key differ by chance only, about once in 2^64. Cost: one pass over the weights, as a forward makes
    over them, 2 to 4 GB/s on a core; on an accelerator one sync.
    """
    said = _parts(module)
    if said is None or torch_module._has_any_global_hook():
        return None
    tensors = [(name, t.detach()) for name, t in _tensors(module)]
    if not all(_readable(t) for _, t in tensors):
        return None
    digest = blake2b(f"{said} {_rounding()}".encode(), digest_size=16)
    sums = [sum_ for _, t in tensors for sum_ in _sums(t)]
    for name, t in tensors:
        digest.update(f"{name} {t.dtype} {tuple(t.shape)} {t.device};".encode())
    for device in dict.fromkeys(s.device for s in sums):
        digest.update(torch.cat([s for s in sums if s.device == device]).cpu().numpy().tobytes())
    return digest.hexdigest()


# ---- parts


def _parts(module: nn.Module) -> str | None:
    """Name, class and plain attributes of every part; None where one is not known."""
    said = []
    for name, part in module.named_modules(remove_duplicate=False):
        own = vars(part)
        others = own.keys() - _MODULE_S_OWN - _NOT_READ
        if not _known(type(part)) or any(own.get(hooks) for hooks in _HOOKS):
            return None
        if not all(_is_plain(own[other]) for other in others):
            return None
        plain = " ".join(f"{other}={own[other]!r}" for other in sorted(others))
        said.append(f"{name} {type(part).__qualname__} {part.training} {plain}")
    return ";".join(said)


def _known(kind: type[nn.Module]) -> bool:
    """Whether a part is one of ours or of torch's that ours are made of; not one put together while running."""
    if kind in _PARTS:
        return True
    home = sys.modules.get(kind.__module__)
    return kind.__module__.startswith("tubelet.") and getattr(home, kind.__qualname__, None) is kind


def _is_plain(value: Any) -> bool:
    """Whether `repr` says all there is to it."""
    if isinstance(value, (tuple, list)):
        return all(_is_plain(each) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        ours = type(value).__module__.startswith("tubelet.")
        return ours and all(not f.compare or (f.repr and _is_plain(getattr(value, f.name))) for f in fields(value))
    return type(value) in _PLAIN or type(value) is bool


def _rounding() -> str:
    """Settings of torch that change how products are rounded."""
    return f"{torch.get_float32_matmul_precision()} {torch.get_default_dtype()}"


# ---- weights


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _readable(t: Tensor) -> bool:
    """Whether the tensor is its bits: neither a subclass nor one without storage."""
    return type(t) is Tensor and t.layout == torch.strided and t.device.type != "meta"


def _sums(t: Tensor) -> list[Tensor]:
    """Sums mod 2^64 that take in every bit of a tensor, each word by a factor of its own place."""
    raw = t.contiguous().reshape(-1).view(torch.uint8)
    if not len(raw):
        return []
    short = -len(raw) % 8
    if short or raw.storage_offset() % 8:
        raw = torch.cat([raw, raw.new_zeros(short)])
    words = raw.view(torch.int64)
    factors = _factors(t.device)
    whole = len(words) // _WORDS * _WORDS
    rows = words[:whole].view(-1, _WORDS).split(1 if t.device.type == "cpu" else _TOGETHER)
    sums = [_folded(part * factors) for part in rows if len(part)]
    rest = words[whole:]
    return [*sums, _folded((rest * factors[: len(rest)])[None])] if len(rest) else sums


def _folded(products: Tensor) -> Tensor:
    """The sum of each row. A high bit of a word moves the high bits of its product alone, and two such changes could
    cancel: they are folded into the low ones first."""
    return (products ^ (products >> 32)).sum(1)


@cache
def _factors(device: torch.device) -> Tensor:
    """Odd numbers of 63 bits, the same in every process: half a megabyte a device."""
    generator = torch.Generator().manual_seed(0x7B)
    drawn = torch.randint(1 << 62, (_WORDS,), generator=generator, dtype=torch.int64, device="cpu")
    return (drawn * 2 + 1).to(device)
