"""Low-rank adapters by presets, on peft: added in place, counted, saved alone, reloaded bit-equal, merged.

    preset     r   alpha   targets                                                  weights of SigLIP so400m + 4096
    SEED      64      16   projector.0, projector.2                                   860,160
    UPSTREAM  64     128   those; q, k, v of encoder layers 0-3; q, k of 4 and 5     3,219,456

Of a language model of 8 billion that is 0.011 % and 0.040 %, not the 0.3 % and 1.4 % that upstream's texts say.
Encoders here hold q, k and v as one matrix. A target `encoder.layers.0.qkv.v` splits it into three with the same
values, as upstream's are, so that each has an adapter of its own; `merge_lora` joins them again.
Needs the extra `train` (peft).
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tubelet.encoder.layers import Layer, PatchEmbed
from tubelet.encoder.pool import AttentionPool, QueryPool
from tubelet.errors import ConfigError, InputError, KeyMismatch, RunError, UnsafeFile
from tubelet.packed.file import write_tensors
from tubelet.packed.header import read_header, read_small, strict_json
from tubelet.shapes import Float
from tubelet.weights.save import staged

ADAPTER, CONFIG, WEIGHTS = "default", "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # what peft's files put before each name
PARTS_OF_QKV = ("q", "k", "v")
# Of a configuration's fields, those that do not change what an adapter computes.
_BESIDE = ("target_modules", "inference_mode", "peft_version", "base_model_name_or_path", "task_type", "auto_mapping",
           "revision", "init_lora_weights")  # fmt: skip


@dataclass(frozen=True)
class Lora:
    """Adapters of one rank on matrices named as in the model: y = W x + alpha / rank * B A dropout(x)."""

    targets: tuple[str, ...]  # names of nn.Linear modules; `...qkv.q`, `.k`, `.v` for thirds of one
    rank: int = 64
    alpha: float = 16
    dropout: float = 0.05

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1 or not self.targets:
            raise ConfigError(f"rank from 1, alpha above 0, dropout 0..1, targets: {self}", got=asdict(self))
        if len(set(self.targets)) != len(self.targets):
            raise ConfigError("a target is named twice", got=self.targets)


PROJECTOR = ("projector.0", "projector.2")
SEED = Lora(PROJECTOR)
# rkawamura0483/LaViDa_mod:shirg/shirg_lora_config.py@501c7ba
UPSTREAM = Lora(
    PROJECTOR
    + tuple(f"encoder.layers.{i}.qkv.{part}" for i in range(4) for part in PARTS_OF_QKV)
    + tuple(f"encoder.layers.{i}.qkv.{part}" for i in (4, 5) for part in ("q", "k")),
    alpha=128,
)


class SplitLinear(nn.Module):
    """One matrix of q, k and v as three, with the same values side by side."""

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        biases = (None,) * 3 if fused.bias is None else fused.bias.detach().chunk(3)
        for name, weight, bias in zip(PARTS_OF_QKV, fused.weight.detach().chunk(3), biases, strict=True):
            self.add_module(name, _linear(weight.clone(), None if bias is None else bias.clone()))

    def forward(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "T E"]:
        return torch.cat([part(x) for part in self.children()], dim=-1)

    def fused(self) -> nn.Linear:
        """The one matrix again. Raises RunError while a part still has an adapter."""
        parts = list(self.children())
        if any(type(part) is not nn.Linear for part in parts):
            raise RunError("q, k and v cannot be joined while one of them has an adapter")
        linears = cast(list[nn.Linear], parts)
        weight = torch.cat([part.weight.detach() for part in linears])
        return _linear(weight, None if linears[0].bias is None else torch.cat([p.bias.detach() for p in linears]))


def add_lora(model: nn.Module, lora: Lora) -> int:
    """Put the adapters into the model, in place, and give how many numbers they are: rank (in + out) of each target.

    B starts at zero, so the model's values stay what they were, up to rounding where q, k and v were split. Everything
    but the adapters is frozen. The model keeps its class and methods; it is not wrapped.
    Raises ConfigError, before anything has changed, naming a target that is absent (with names near it), adapted
    already, no nn.Linear, or read by its owner as a matrix, so that an adapter on it would be gone around in silence:
    the patch embedding, the in_proj and kv of pooling heads, the qkv of a layer whose keys have no bias, a convolution.
    """
    for target in lora.targets:
        _require_adaptable(model, target)
    for home in dict.fromkeys(t.rpartition(".")[0] for t in lora.targets if _third(t)):
        owner, name = _owner(model, home)
        fused = getattr(owner, name)
        if isinstance(fused, nn.Linear):
            split = SplitLinear(fused)
            setattr(owner, name, split.train(fused.training))
    inject_adapter_in_model(_peft_config(lora), model, ADAPTER)
    for _, layer in _adapted(model):  # peft's modules come in train mode: dropout in a model that stands in eval mode
        layer.train(layer.get_base_layer().training)
    return lora_numbers(model)


def lora_numbers(model: nn.Module) -> int:
    """How many numbers the model's adapters are."""
    return sum(
        weight.numel() for _, layer in _adapted(model) for table in _tables(layer) for weight in table.parameters()
    )


def save_lora(model: nn.Module, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write the adapters alone, in peft's two files, which `PeftModel.from_pretrained` reads too where nothing was
    split. The folder appears whole or not at all. Of an FSDP2 model every rank calls it, each with its own folder.

    Raises InputError for a model without adapters, RunError where a rank holds an empty share of one (ZeRO-3: gather
    first), WeightsError when the folder is in use.
    """
    held = [weight for _, layer in _adapted(model) for table in _tables(layer) for weight in table.parameters()]
    if not held:
        raise InputError("the model has no adapters")
    if empty := sum(not weight.numel() for weight in held):
        raise RunError(f"{empty} of {len(held)} adapter tensors are empty here: ranks hold them in shares", got=empty)
    state = get_peft_model_state_dict(model, adapter_name=ADAPTER)
    whole = {k: t.full_tensor() if isinstance(t, DTensor) else t for k, t in state.items()}
    tensors = {PREFIX + name: tensor for name, tensor in whole.items()}
    found: Any = model
    config = _peft_config(_preset(found.peft_config[ADAPTER].to_dict()))
    config.inference_mode = True
    with staged(folder, overwrite) as beside:
        write_tensors(beside / WEIGHTS, tensors, {"format": "pt"})
        config.save_pretrained(str(beside))
    return Path(folder)


def load_lora(model: nn.Module, folder: str | os.PathLike[str]) -> Lora:
    """Put saved adapters into a model without any: what `add_lora` does, with the saved values, bit by bit.

    Gives the preset it was saved with. Raises ConfigError for a configuration that is none or says what tubelet does
    not do, KeyMismatch for tensors that are missing, unexpected or of another shape, UnsafeFile.
    """
    path = Path(folder)
    lora = _read_config(path / CONFIG)
    try:
        if (path / WEIGHTS).exists():
            read_header(path / WEIGHTS)
        state = load_file(str(path / WEIGHTS))
    except (OSError, SafetensorError) as e:
        raise UnsafeFile("the adapter's weights cannot be read", source=WEIGHTS) from e
    if any(_adapted(model)):
        raise ConfigError("the model has adapters already; merge them first", source=path.name)
    expected = {f"{PREFIX}{t}.{table}": shape for t in lora.targets for table, shape in _shapes(model, t, lora)}
    wrong = [(k, expected[k], tuple(t.shape)) for k, t in state.items() if k in expected and t.shape != expected[k]]
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if wrong or missing or unexpected:
        raise KeyMismatch(
            f"the adapter is of another model: {len(missing)} tensors missing, {len(unexpected)} unexpected, "
            f"{len(wrong)} of another shape",
            missing=missing,
            unexpected=unexpected,
            misshaped=wrong,
            source=path.name,
        )
    add_lora(model, lora)
    set_peft_model_state_dict(model, {k.removeprefix(PREFIX): t for k, t in state.items()}, adapter_name=ADAPTER)
    return lora


def merge_lora(model: nn.Module) -> int:
    """Add every adapter to its matrix, take it out, and join what was split; gives how many there were.

    The model has its own modules and names again, and saves and runs as before adapters. Values equal up to rounding
    in the weights' type. Raises RunError for adapters that are not finite; InputError where there are none.
    """
    found = list(_adapted(model))
    if not found:
        raise InputError("the model has no adapters to merge")
    for name, layer in found:
        if not all(bool(w.isfinite().all()) for table in _tables(layer) for w in table.parameters()):
            raise RunError("the adapter holds NaN or infinity", source=name)
    for name, layer in found:
        layer.merge()
        owner, last = _owner(model, name)
        setattr(owner, last, layer.get_base_layer())
    for name, module in [(n, m) for n, m in model.named_modules() if isinstance(m, SplitLinear)]:
        owner, last = _owner(model, name)
        setattr(owner, last, module.fused().train(module.training))
    if hasattr(model, "peft_config"):
        del model.peft_config
    return len(found)


# ---- inside


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight)
    if bias is not None:
        made.bias = nn.Parameter(bias)
    return made


def _peft_config(lora: Lora) -> LoraConfig:
    return LoraConfig(
        r=lora.rank,
        lora_alpha=cast(int, lora.alpha),  # peft divides by it; half numbers are allowed
        lora_dropout=lora.dropout,
        # one string is a pattern for whole names: a list would also take every name that ends like one of its own
        target_modules="|".join(t.replace(".", r"\.") for t in lora.targets),
        bias="none",
    )


def _preset(said: Mapping[str, Any]) -> Lora:
    """The adapters that a configuration of peft describes. Raises KeyError, TypeError, ValueError, AttributeError."""
    named = said["target_modules"]
    targets = tuple(named.replace("\\.", ".").split("|")) if isinstance(named, str) else tuple(sorted(named))
    return Lora(targets, int(said["r"]), said["lora_alpha"], said["lora_dropout"])


def _read_config(path: Path) -> Lora:
    try:
        said = strict_json(read_small(path, ConfigError), ConfigError, path.name)
        lora = _preset(said)
        plain = json.loads(json.dumps(_peft_config(lora).to_dict(), default=sorted))
        other = sorted(k for k, v in said.items() if k not in _BESIDE and k in plain and v != plain[k])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise ConfigError("not the configuration of a LoRA adapter", source=path.name) from e
    if other:
        raise ConfigError(f"adapters here are plain LoRA; this one sets {', '.join(other)}", got=other)
    return lora


def _third(target: str) -> bool:
    home, _, last = target.rpartition(".")
    return last in PARTS_OF_QKV and home.endswith("qkv")


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    home, _, last = name.rpartition(".")
    return model.get_submodule(home), last


def _require_adaptable(model: nn.Module, target: str) -> nn.Linear:
    """The matrix that a target names, or holds it as a third. Raises ConfigError."""
    modules = dict(model.named_modules())
    split = _third(target) and target not in modules
    name = target.rpartition(".")[0] if split else target
    found = modules.get(name)
    if found is None:
        linear = [n for n, m in modules.items() if isinstance(m, nn.Linear)]
        near = get_close_matches(target, [*linear, *(f"{n}.{p}" for n in linear if n.endswith("qkv") for p in "qkv")])
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise ConfigError(f"the model has no module {target}{hint}", expected=tuple(near), got=target)
    if isinstance(found, LoraLinear):
        raise ConfigError(f"{target} has an adapter already", got=target)
    if type(found) is not nn.Linear:
        raise ConfigError(f"{target} is a {type(found).__name__}, adapters go on nn.Linear", got=type(found).__name__)
    owner, last = _owner(model, name)
    around = isinstance(owner, AttentionPool) and last == "in_proj"
    around |= isinstance(owner, QueryPool) and last == "kv"
    around |= isinstance(owner, Layer) and last == "qkv" and not owner.key_bias and found.bias is not None
    if around or isinstance(found, PatchEmbed):
        raise ConfigError(
            f"{type(owner).__name__} reads {target} as a matrix and would go around an adapter", got=target
        )
    return found


def _shapes(model: nn.Module, target: str, lora: Lora) -> Iterator[tuple[str, tuple[int, int]]]:
    base = _require_adaptable(model, target)
    third = target not in dict(model.named_modules())  # of a matrix that is still to be split
    out = base.out_features // len(PARTS_OF_QKV) if third else base.out_features
    yield "lora_A.weight", (lora.rank, base.in_features)
    yield "lora_B.weight", (out, lora.rank)


def _adapted(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    yield from ((name, m) for name, m in model.named_modules() if isinstance(m, LoraLinear))


def _tables(layer: LoraLinear) -> tuple[nn.Module, nn.Module]:
    found: Any = layer
    return found.lora_A[ADAPTER], found.lora_B[ADAPTER]
