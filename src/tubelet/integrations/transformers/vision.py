"""`accelerate_vision`: tubelet's encoder in place of the vision tower of a model of transformers, with its own weights.

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(...)
    with accelerate_vision(model):          # or: handle = accelerate_vision(model); ...; handle.remove()
        model.generate(**inputs)

Only this one model changes: its tower answers calls with another `forward`, and everything else of it (names of
parameters, saving, device moves, hooks) stays. The weights are shared: where the tower keeps q, k and v apart they are
laid side by side once and the tower's own parameters become views of that, so memory does not grow. A call that asks
for something the encoder does not give (attention weights, hidden states of a packed tower) goes to the tower itself,
and so does every call while something hangs on a part of the tower: adapters, hooks, another forward.
"""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder, Features
from tubelet.errors import ConfigError
from tubelet.families.clip import CLIP
from tubelet.families.family import Family, Line, from_theirs, to_theirs
from tubelet.families.qwen_vl import QWEN2_5_VL, QWEN2_VL, QWEN3_VL
from tubelet.families.siglip import SIGLIP
from tubelet.packed import Item, Packed, all_positions
from tubelet.pixels.patchify import from_pixels

PACKED: dict[str, Family] = {
    "Qwen2VisionTransformerPretrainedModel": QWEN2_VL,
    "Qwen2_5_VisionTransformerPretrainedModel": QWEN2_5_VL,
    "Qwen3VLVisionModel": QWEN3_VL,
}
PICTURES: dict[str, Family] = {"SiglipVisionModel": SIGLIP, "CLIPVisionModel": CLIP}
TOWERS = {**PACKED, **PICTURES}


def accelerate_vision(model: PreTrainedModel) -> "Accelerated":
    """Let tubelet run the vision tower of this model: Qwen2-VL, Qwen2.5-VL, Qwen3-VL, and any model with a SigLIP or
    CLIP tower (LLaVA-OneVision, LLaVA, PaliGemma, SigLIP itself).

    Outputs equal the tower's up to rounding, in inference and in training, where gradients reach the model's own
    parameters. `remove()` (or leaving the `with` block) undoes it. One difference: the rows of Qwen2.5-VL's
    last_hidden_state, which nothing in that model reads, come in the order of the pixel rows instead of window order.
    Cost: one copy of the q, k and v matrices while they are laid together. Raises ConfigError when there is no tower of
    these kinds, when it is accelerated already, or when its weights are not plain ones (quantised, adapters inside).

        >>> from transformers import SiglipVisionConfig, SiglipVisionModel
        >>> small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        >>> tower = SiglipVisionModel(SiglipVisionConfig(image_size=32, patch_size=16, **small)).eval()
        >>> with accelerate_vision(tower):
        ...     tower(torch.zeros(1, 3, 32, 32)).last_hidden_state.shape
        torch.Size([1, 4, 32])
    """
    found = [m for m in model.modules() if type(m).__name__ in TOWERS and isinstance(m, PreTrainedModel)]
    if not found:
        raise ConfigError(
            f"{type(model).__name__} has no vision tower that can be replaced; there are {', '.join(TOWERS)}",
            expected=tuple(TOWERS),
            got=type(model).__name__,
        )
    if any("forward" in vars(tower) for tower in found):
        raise ConfigError("this model's tower has another forward already", got="accelerated")
    return Accelerated([_Tower(tower) for tower in found])


class Accelerated:
    """What `accelerate_vision` did, and the way back. towers: the modules that were changed."""

    def __init__(self, running: "list[_Tower]") -> None:
        self.towers: list[PreTrainedModel] = [r.tower for r in running]
        for one in running:
            one.tower.forward = one  # pyright: ignore[reportAttributeAccessIssue]

    def remove(self) -> None:
        """Give the towers their own forward again. Does nothing the second time."""
        for tower in self.towers:
            vars(tower).pop("forward", None)

    def __enter__(self) -> "Accelerated":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


class _Call(nn.Module):
    """`Encoder.features` as a forward, which is what functional_call calls."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, p: Packed, only: tuple[int, ...]) -> Features:
        return self.encoder.features(p, only=only)


@dataclass
class _Tower:
    """The forward of one tower. Holds an encoder whose parameters lie in the memory of the tower's."""

    tower: PreTrainedModel
    family: Family = field(init=False)
    config: EncoderConfig = field(init=False)
    call: _Call = field(init=False)
    lines: tuple[Line, ...] = field(init=False)
    where: tuple[int, ...] = field(init=False, default=())
    kinds: list[type[nn.Module]] = field(init=False)

    def __post_init__(self) -> None:
        self.family = TOWERS[type(self.tower).__name__]
        self.config = self.family.config_from(self.tower.config.to_diff_dict())
        with torch.device("meta"):
            self.call = _Call(Encoder(self.config))
        self.lines = self._lines()
        self.kinds = [type(part) for part in self.tower.modules() if part is not self.tower]
        self._share()

    def __call__(self, pixel_values: Tensor, grid_thw: Any = None, **kwargs: Any) -> Any:
        packed = type(self.tower).__name__ in PACKED
        return_dict = kwargs.pop("return_dict", None)
        wanted = kwargs.pop("output_hidden_states", None)
        states = getattr(self.tower.config, "output_hidden_states", False) if wanted is None else wanted
        interpolate = kwargs.pop("interpolate_pos_encoding", None)
        fixed = None if packed else self.config.pixels.size
        strange = not packed and not interpolate and tuple(pixel_values.shape[-2:]) != (fixed, fixed)
        strange = strange or not self._is_plain()
        if (packed and states) or strange or any(value not in (None, False) for value in kwargs.values()):
            given = {"return_dict": return_dict, "output_hidden_states": wanted, **kwargs}
            given |= {"grid_thw": grid_thw} if packed else {"interpolate_pos_encoding": interpolate}
            known = {k: v for k, v in given.items() if v is not None}
            return type(self.tower).forward(self.tower, pixel_values, **known)
        out = self._packed(pixel_values, grid_thw) if packed else self._pictures(pixel_values, bool(states))
        return out.to_tuple() if return_dict is False else out

    def _packed(self, rows: Tensor, grid_thw: Any) -> Any:
        grids = grid_thw.tolist() if isinstance(grid_thw, Tensor) else [list(g) for g in grid_thw]
        items = tuple(Item.of(*grid, picture=i) for i, grid in enumerate(grids))
        pos = all_positions(items, merge=self.config.pixels.merge).to(rows.device)
        p = Packed(rows, pos, items, tuple(i.grid.rows for i in items))
        got = self._features(p, ())
        if self.family is not QWEN3_VL:
            return BaseModelOutputWithPooling(last_hidden_state=got.trunk.x, pooler_output=got.tokens.x)  # pyright: ignore
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        return BaseModelOutputWithDeepstackFeatures(
            last_hidden_state=got.trunk.x,  # pyright: ignore[reportArgumentType]
            pooler_output=got.tokens.x,  # pyright: ignore[reportArgumentType]
            deepstack_features=[d.x for d in got.deepstack],
        )

    def _pictures(self, pixels: Tensor, states: bool) -> BaseModelOutputWithPooling:
        batch = len(pixels)
        wanted = tuple(range(self.config.layers + 1)) if states else ()
        got = self._features(from_pixels(pixels, self.config.pixels), wanted)
        last = _batch(got.trunk.x, got.prefix, batch)
        every = [_batch(x.x, head, batch) for x, head in zip(got.hidden, got.hidden_prefix, strict=True)]
        if every and getattr(self.tower.config, "tie_last_hidden_states", None):
            every[-1] = last
        return BaseModelOutputWithPooling(
            last_hidden_state=last,  # pyright: ignore[reportArgumentType]
            pooler_output=got.pooled,  # pyright: ignore[reportArgumentType]
            hidden_states=tuple(every) if states else None,  # pyright: ignore[reportArgumentType]
        )

    def _features(self, p: Packed, only: tuple[int, ...]) -> Features:
        """In training, with the tower's own parameters; else with the memory shared with them, in place."""
        named = dict(self.tower.named_parameters())
        p = p.with_x(p.x.to(next(iter(named.values())).dtype))
        if torch.is_grad_enabled() and (p.x.requires_grad or any(w.requires_grad for w in named.values())):
            state = from_theirs(self._shapes(), self.lines, self.config, named.__getitem__)
            return functional_call(self.call, {f"encoder.{name}": t for name, t in state.items()}, (p, only))
        if self.where != self._addresses():
            self._share()  # the model was moved or cast
        with torch.no_grad():
            return self.call.encoder.features(p, only=only)

    def _is_plain(self) -> bool:
        """Whether the tower's parts are those it had, with nothing attached: what is added later runs in the tower."""
        parts = [part for part in self.tower.modules() if part is not self.tower]
        return [type(part) for part in parts] == self.kinds and not any(
            part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or "forward" in vars(part)
            for part in parts
        )

    def _lines(self) -> tuple[Line, ...]:
        """The key table that names this tower's parameters. Raises ConfigError when none does."""
        named = {name: tuple(w.shape) for name, w in self.tower.named_parameters()}
        meta = dict(self.call.encoder.state_dict())
        for lines in self.family.formats.values():
            theirs = {n: tuple(t.shape) for n, t in to_theirs(meta, lines, self.config).items()}
            if all(named.get(n) == shape for n, shape in theirs.items()):
                return lines
        raise ConfigError(
            f"the parameters of {type(self.tower).__name__} are not those of a plain {self.family.name} tower",
            got=type(self.tower).__name__,
        )

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(t.shape) for name, t in self.call.encoder.state_dict().items()}

    @torch.no_grad()
    def _share(self) -> None:
        """Bind the encoder to the tower's memory; what the tower keeps apart and the encoder together moves once."""
        named = dict(self.tower.named_parameters())
        state = from_theirs(self._shapes(), self.lines, self.config, lambda name: named[name].data)
        self.call.encoder.load_state_dict(state, assign=True)
        self.call.eval()
        ours = {t.untyped_storage().data_ptr() for t in state.values()}
        for name, tensor in to_theirs(state, self.lines, self.config).items():
            if named[name].untyped_storage().data_ptr() not in ours:  # it was joined with others
                named[name].data = tensor
        self.where = self._addresses()

    def _addresses(self) -> tuple[int, ...]:
        return tuple(w.data_ptr() for w in self.tower.parameters())


def _batch(rows: Tensor, prefix: Tensor | None, batch: int) -> Tensor:
    """(B, P + N, D) from rows of pictures of one size and their prefix tokens."""
    x = rows.unflatten(0, (batch, -1))
    return x if prefix is None else torch.cat([prefix, x], dim=1)
