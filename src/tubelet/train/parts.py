"""Which weights learn, by names of parts: said before the run, found again in the optimizer, never an empty match.

    part             weights of a VLM or FrontEnd                    LLaVA's name in mm_tunable_parts
    projector        projector.*                                     mm_mlp_adapter
    encoder          encoder.*                                       mm_vision_tower
    language_model   speaker.*                                       mm_language_model, with newline, as there
    newline          newline
    connector        spatial.connector.*  of Spatial-MLLM
    geometry         spatial.vggt.*
    lora             adapters wherever they are (tubelet.train.lora), and nothing else

Parts share no weight: an adapter inside the projector belongs to `lora`, the matrix it adapts to `projector`.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from torch import Tensor, nn
from torch.optim import Optimizer

from tubelet.errors import ConfigError, RunError

HOMES: Mapping[str, str] = {
    "projector": "projector",
    "encoder": "encoder",
    "language_model": "speaker",
    "newline": "newline",
    "connector": "spatial.connector",
    "geometry": "spatial.vggt",
}
LORA = "lora"
ALIASES: Mapping[str, tuple[str, ...]] = {
    "mm_mlp_adapter": ("projector",),
    "mm_vision_tower": ("encoder",),
    "mm_language_model": ("language_model", "newline"),
}
# Parts that stand in eval mode while they are frozen: no dropout, no statistics. Towers are fixed functions there.
STILL = ("encoder", "connector", "geometry")
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|base_model\.model)\.")
_ADAPTER = re.compile(r"(?:^|\.)lora_")


@dataclass(frozen=True)
class Counted:
    """One line of what learns."""

    part: str  # as in the module's head
    tensors: int
    parameters: int  # numbers in them, whole where a rank holds a share
    total: int  # numbers in the model

    def __str__(self) -> str:
        return (
            f"{self.part}: {self.tensors} tensors, {self.parameters:,} of {self.total:,} "
            f"({percent(self.parameters, self.total)} %)"
        )


def percent(part: int, whole: int) -> str:
    """A share in percent with two digits that count: 0.011, 0.28, 12, 100.

    >>> percent(860_160, 8_000_000_000), percent(1, 1)
    ('0.011', '100')
    """
    value = 100 * part / whole if whole else 0.0
    return "0" if not value else f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}"


def parts_of(model: nn.Module, homes: Mapping[str, str] = HOMES) -> dict[str, list[tuple[str, Tensor]]]:
    """The named weights of each part, in the model's order; those of no part under "". Wrappers' prefixes (DDP,
    compile, FSDP, peft) are seen through.

    homes: the module or weight each part is, for a model with other names.
    """
    found: dict[str, list[tuple[str, Tensor]]] = {part: [] for part in (*homes, LORA, "")}
    for name, weight in model.named_parameters():
        bare = _WRAPPERS.sub("", name)
        inside = [part for part, home in homes.items() if bare == home or bare.startswith(f"{home}.")]
        found[LORA if _ADAPTER.search(bare) else (inside[0] if inside else "")].append((name, weight))
    return found


def chosen_parts(parts: str | Sequence[str], homes: Mapping[str, str] = HOMES) -> tuple[str, ...]:
    """Names of parts without aliases, each once. parts: a list, or "mm_vision_tower,projector" as LLaVA writes it.

    Raises ConfigError for no name, or one that is unknown, with the names near it.

        >>> chosen_parts("mm_language_model,projector")
        ('language_model', 'newline', 'projector')
    """
    names = [name.strip() for name in parts.split(",")] if isinstance(parts, str) else list(parts)
    known = (*homes, LORA, *ALIASES)
    out: list[str] = []
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"no part is called {name!r:.60}: {hint}", expected=tuple(near) or known, got=name)
        out += ALIASES.get(name, (name,))
    if not out:
        raise ConfigError(f"no part is to learn; there are {', '.join(known)}", expected=known, got=parts)
    return tuple(dict.fromkeys(out))


def set_trainable(
    model: nn.Module, parts: str | Sequence[str], homes: Mapping[str, str] = HOMES
) -> tuple[Counted, ...]:
    """Let these parts learn and nothing else, set their modes (`set_modes`), and give one line for each to print.

    A name of two parts (mm_language_model) may lack one of them. Raises ConfigError for unknown names, and for a name
    that matches no weight, naming the parts the model has.
    """
    names = chosen_parts(parts, homes)
    found = parts_of(model, homes)
    asked = [name.strip() for name in parts.split(",")] if isinstance(parts, str) else list(parts)
    for name in asked:
        if not any(found[part] for part in ALIASES.get(name, (name,))):
            have = {part: len(weights) for part, weights in found.items() if weights and part}
            raise ConfigError(
                f"{name} matches no weight; this model has {', '.join(f'{k} ({n} tensors)' for k, n in have.items())}",
                expected=tuple(have),
                got=name,
            )
    for part, weights in found.items():
        for _, weight in weights:
            weight.requires_grad_(part in names)
    set_modes(model, parts, homes)
    return count_trainable(model, parts, homes)


def count_trainable(
    model: nn.Module, parts: str | Sequence[str], homes: Mapping[str, str] = HOMES
) -> tuple[Counted, ...]:
    """One line for each of these parts of what learns of it."""
    found = parts_of(model, homes)
    total = _numbers(weight for weights in found.values() for _, weight in weights)
    learning = {part: [w for _, w in found[part] if w.requires_grad] for part in chosen_parts(parts, homes)}
    return tuple(_counted(part, weights, total) for part, weights in learning.items() if weights)


def set_modes(model: nn.Module, parts: str | Sequence[str], homes: Mapping[str, str] = HOMES) -> None:
    """Train mode for the model, then eval mode for a frozen encoder, connector and geometry, adapters inside or not.

    To be called again after whatever calls `model.train()`, as transformers' Trainer does at each step. A frozen
    language model stays in train mode, as upstream's does: transformers checkpoints activations in no other, and
    the models of this size have no dropout. LLaVA's trainer leaves its tower in train mode too; SigLIP, CLIP and the
    towers here have no dropout, so the two agree, and the modes differ only for towers that have some.
    """
    model.train()
    keep_still(model, parts, homes)


def keep_still(model: nn.Module, parts: str | Sequence[str], homes: Mapping[str, str] = HOMES) -> None:
    """The second half of `set_modes`, for a module whose own `train` calls it."""
    names = chosen_parts(parts, homes)
    for part in STILL:
        for name, module in model.named_modules():
            if part in homes and _WRAPPERS.sub("", f"{name}.") == f"{homes[part]}." and part not in names:
                module.eval()
                for inner_name, inner in module.named_modules():
                    if LORA in names and _ADAPTER.search(inner_name):  # an adapter's own dropout is part of learning it
                        inner.train()


def check_optimizer(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    parts: str | Sequence[str],
    homes: Mapping[str, str] = HOMES,
    *,
    stepped: bool = False,
    unused: Collection[str] = (),
) -> tuple[Counted, ...]:
    """The same lines from what the optimizer, or several together, holds: exactly the weights of these parts, once.

    stepped: after a step that had to move all of them, also that each has optimizer state, which one without a gradient
    has not (an adapter that the forward goes around). unused: names of weights that were left frozen on purpose.
    DeepSpeed's optimizers hold flat copies: check before it takes them. Raises RunError naming the weights that are
    missing, foreign, doubled or were never stepped.
    """
    names = chosen_parts(parts, homes)
    found = parts_of(model, homes)
    bare = {_WRAPPERS.sub("", name) for name in unused}
    wanted = {id(w): name for part in names for name, w in found[part] if _WRAPPERS.sub("", name) not in bare}
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else optimizer
    held = [w for one in optimizers for group in one.param_groups for w in group["params"]]
    state = {id(w) for one in optimizers for w, kept in one.state.items() if kept}
    ids = [id(w) for w in held]
    named = {id(w): name for weights in found.values() for name, w in weights}
    missing = [name for key, name in wanted.items() if key not in set(ids)]
    foreign = [named.get(key, "a tensor that is not the model's") for key in ids if key not in wanted]
    doubled = (
        [named.get(key, "") for key in dict.fromkeys(ids) if ids.count(key) > 1] if len(set(ids)) < len(ids) else []
    )
    never = [wanted[id(w)] for w in held if stepped and id(w) in wanted and id(w) not in state]
    wrong = {"missing": missing, "not of these parts": foreign, "held twice": doubled, "never stepped": never}
    said = [
        f"{len(which)} {what} ({', '.join(which[:3])}{', ...' if which[3:] else ''})"
        for what, which in wrong.items()
        if which
    ]
    if said:
        raise RunError(f"the optimizer does not hold what was to learn: {'; '.join(said)}", expected=names, got=wrong)
    total = _numbers(w for weights in found.values() for _, w in weights)
    held_ids = set(ids)
    return tuple(
        _counted(part, [w for _, w in found[part] if id(w) in held_ids], total) for part in names if found[part]
    )


def _counted(part: str, weights: Sequence[Tensor], total: int) -> Counted:
    return Counted(part, len(weights), _numbers(weights), total)


def _numbers(weights: Iterable[Tensor]) -> int:
    # ZeRO-3 leaves an empty tensor on each rank and writes the whole count beside it; a DTensor's numel is whole.
    return sum(int(getattr(w, "ds_numel", w.numel())) for w in weights)
