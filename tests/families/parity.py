"""One body over every family: a random tower written by transformers, loaded here, compared in the same process.

cases.py names the towers, test_parity.py runs the checks over them, and a family's own file has what it alone can do.

Both sides' results are brought into one form, `Outputs`, so what is compared is said once. The peer always gets one
item at a time where its class takes pictures of one size; that is the slow twin of the pack as well.
"""

import json
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from tubelet import Item, Packed, concat, load_encoder, pack
from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.families.family import Family, Line, from_theirs, to_theirs
from tubelet.pixels.patchify import normalise, unpatchify
from tubelet.weights.save import save_encoder

FP32_ATOL = 1e-4  # at outputs of order 10; smaller outputs are held to it as they are
SAME_WEIGHTS_ATOL = 1e-5  # equal weights in other memory: its alignment chooses among kernels, which round differently
GRAD_RTOL = 1e-4  # of the largest entry of each gradient
BF16_COSINE = 0.999


@dataclass
class Outputs:
    """What a tower says about a pack, rows in the pack's order. tokens: after the final norm, before the merger.
    prefix, hidden_prefix: (S, P, D), a block per attention segment. pooled: (N, D). merged: after the merger.
    deepstack: by merger. hidden: before layer 0 and after each layer, patches only. None and (): the tower has none."""

    tokens: Tensor
    prefix: Tensor | None = None
    pooled: Tensor | None = None
    merged: Tensor | None = None
    deepstack: Sequence[Tensor] = ()
    hidden: Sequence[Tensor] = ()
    hidden_prefix: Sequence[Tensor] = ()

    def named(self) -> dict[str, Tensor]:
        """Every tensor there is, by a name to report it under."""
        out = {n: getattr(self, n) for n in ("tokens", "prefix", "pooled", "merged") if getattr(self, n) is not None}
        for group in ("deepstack", "hidden", "hidden_prefix"):
            out |= {f"{group}.{i}": x for i, x in enumerate(getattr(self, group))}
        return out


Run = Callable[[PreTrainedModel, Packed, EncoderConfig, str], Outputs]


@dataclass(frozen=True)
class Case:
    """A tower to compare. grids: the (t, h, w) of the items in the pack. layers: the dotted name of its ModuleList of
    layers. run: how it is called (`run_images`, `run_naflex`, `run_grid_thw`, or a family's own)."""

    name: str
    family: Family
    model: type[PreTrainedModel]
    config: PreTrainedConfig
    run: Run
    grids: Sequence[tuple[int, int, int]]
    layers: str

    def __str__(self) -> str:
        return self.name


@dataclass
class Pair:
    """A written case: the peer and ours with the same weights, and the rows both read."""

    case: Case
    folder: Path
    peer: PreTrainedModel
    ours: Encoder
    rows: Packed

    @property
    def config(self) -> EncoderConfig:
        return self.ours.config


def written(case: Case, folder: Path, seed: int = 0) -> Pair:
    """The case's tower with random weights, saved by its own `save_pretrained` and loaded by both sides."""
    model = case.model(case.config).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    ours = load_encoder(folder)
    return Pair(case, folder, model, ours, random_rows(case.grids, ours.config, seed))


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> None:
    """Every parameter drawn, none left at a value that hides a mistake: norm weights and scales around 1, biases and
    learned tokens small, matrices with the width's gain."""
    generator = torch.Generator().manual_seed(seed)
    norms = {id(m.weight) for m in model.modules() if "Norm" in type(m).__name__ and hasattr(m, "weight")}
    for name, p in model.named_parameters():
        draw = torch.randn(p.shape, generator=generator)
        last = name.rpartition(".")[2]
        if id(p) in norms or "lambda" in last or "scale" in last:
            p.copy_(1 + 0.1 * draw)
        elif last.endswith("bias"):
            p.copy_(0.1 * draw)
        elif p.ndim >= 2 and p.shape[0] > 1 and "token" not in last:
            embedding = "embedding.weight" in name or "embed.weight" in name
            p.copy_(0.5 * draw if embedding and p.ndim == 2 else 1.4 * draw * (p.shape[0] / p.numel()) ** 0.5)
        else:
            p.copy_(0.5 * draw)


def random_rows(grids: Sequence[tuple[int, int, int]], config: EncoderConfig, seed: int = 0) -> Packed:
    """uint8 rows of random pixels for items of these grids, in the recipe's order."""
    generator = torch.Generator().manual_seed(seed)
    recipe = config.pixels
    rows = [
        torch.randint(0, 256, (t * h * w, recipe.width), dtype=torch.uint8, generator=generator) for t, h, w in grids
    ]
    items = [Item.of(*grid, picture=i) for i, grid in enumerate(grids)]
    return pack(rows, items, merge=recipe.merge if recipe.order == "block" else 1)


# ---- how peers are called; rows are normalised floats in the pack's order


@contextmanager
def layer_states(model: nn.Module, layers: str) -> Iterator[list[Tensor]]:
    """What enters the first layer and what leaves each one, in the order they run."""
    states: list[Tensor] = []
    modules = list(model.get_submodule(layers).children())

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    hooks = [modules[0].register_forward_pre_hook(entering, with_kwargs=True)]
    hooks += [module.register_forward_hook(leaving) for module in modules]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def run_images(model: PreTrainedModel, p: Packed, config: EncoderConfig, layers: str, **options: Any) -> Outputs:
    """Towers that take (1, 3, H, W): each frame of each item by itself, the first `prefix` rows set apart.

    Rows must be in raster order. pooled: of the frames, so comparable where every item has one. options: to the model,
    such as interpolate_pos_encoding=True.
    """
    each: list[Outputs] = []
    for frame in (f for frames in unpatchify(p, config.pixels) for f in frames):
        with layer_states(model, layers) as states:
            out = model(pixel_values=frame.permute(2, 0, 1)[None].to(model.dtype), **options)
        each.append(_apart(out.last_hidden_state, out.get("pooler_output"), states, config.prefix))
    return _joined(each)


def run_naflex(model: PreTrainedModel, p: Packed, config: EncoderConfig, layers: str) -> Outputs:
    """SigLIP2's NaFlex towers: (1, n, p p 3) rows with the colours last, each item by itself."""
    each: list[Outputs] = []
    patch = config.pixels.patch
    for item, rows in zip(p.items, p.unpack(), strict=True):
        last = rows.unflatten(1, (3, patch, patch)).permute(0, 2, 3, 1).flatten(1)[None].to(model.dtype)
        mask = torch.ones(1, len(rows), dtype=torch.int32)
        shapes = torch.tensor([[item.grid.h, item.grid.w]])
        with layer_states(model, layers) as states:
            out = model(pixel_values=last, pixel_attention_mask=mask, spatial_shapes=shapes)
        each.append(_apart(out.last_hidden_state, out.get("pooler_output"), states, config.prefix))
    return _joined(each)


def run_grid_thw(model: PreTrainedModel, p: Packed, config: EncoderConfig, layers: str) -> Outputs:
    """Packed towers: all rows at once with grid_thw; pooler_output is what the merger gives."""
    with layer_states(model, layers) as states:
        out = model(p.x.to(model.dtype), grid_thw=p.grid_thw)
    return Outputs(
        out.last_hidden_state,
        merged=out.pooler_output,
        deepstack=tuple(out.get("deepstack_features") or ()),
        hidden=tuple(states),
    )


def _apart(last: Tensor, pooled: Tensor | None, states: Sequence[Tensor], prefix: int) -> Outputs:
    return Outputs(
        last[0, prefix:],
        last[:, :prefix] if prefix else None,
        pooled,
        hidden=tuple(s[0, prefix:] for s in states),
        hidden_prefix=tuple(s[:, :prefix] for s in states) if prefix else (),
    )


def _joined(each: Sequence[Outputs]) -> Outputs:
    first = each[0]

    def many(name: str) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*(getattr(o, name) for o in each), strict=True))

    return Outputs(
        torch.cat([o.tokens for o in each]),
        None if first.prefix is None else torch.cat([o.prefix for o in each if o.prefix is not None]),
        None if first.pooled is None else torch.cat([o.pooled for o in each if o.pooled is not None]),
        hidden=many("hidden"),
        hidden_prefix=many("hidden_prefix"),
    )


def run_ours(encoder: Encoder, p: Packed) -> Outputs:
    """The same form from our encoder."""
    f = encoder.features(p, only=tuple(range(encoder.config.layers + 1)))
    return Outputs(
        f.trunk.x,
        f.prefix,
        f.pooled,
        f.tokens.x if encoder.config.merger else None,
        tuple(d.x for d in f.deepstack),
        tuple(h.x for h in f.hidden),
        tuple(h for h in f.hidden_prefix if h is not None),
    )


def run_peer(pair: Pair, p: Packed, model: PreTrainedModel | None = None) -> Outputs:
    """The peer's outputs for uint8 or normalised rows; pooled vectors only where each item has one frame."""
    rows = normalise(p, pair.config.pixels) if p.dtype == torch.uint8 else p
    out = pair.case.run(pair.peer if model is None else model, rows, pair.config, pair.case.layers)
    if out.pooled is not None and len(out.pooled) != len(p.items):
        out.pooled = None
    return out


# ---- the checks


def compare(ours: Outputs, theirs: Outputs, atol: float = FP32_ATOL) -> dict[str, float]:
    """The largest difference of every tensor the peer has, after asserting that each stays below `atol`."""
    mine, found = ours.named(), {}
    for name, expected in theirs.named().items():
        assert name in mine, f"{name} is missing"
        assert mine[name].shape == expected.shape, (name, mine[name].shape, expected.shape)
        found[name] = (mine[name].float() - expected.float()).abs().max().item()
    assert found and all(d <= atol for d in found.values()), found
    return found


@torch.no_grad()
def check_outputs(pair: Pair) -> dict[str, float]:
    """Everything the peer gives, in fp32, for mixed items in one pack of uint8 pixels."""
    theirs = run_peer(pair, pair.rows)
    assert theirs.tokens.abs().max() > 1, "weights that leave nothing to compare"
    return compare(run_ours(pair.ours, pair.rows), theirs)


@torch.no_grad()
def check_packing(pair: Pair) -> None:
    """Items packed together are what each is by itself; reversing the items reverses the results."""
    together, count = pair.ours(pair.rows), len(pair.rows.items)
    alone = [pair.ours(one) for one in pair.rows.split([1] * count)]
    atol = 1e-5 * max(1.0, together.x.abs().max().item())  # tokens without a final norm are larger
    torch.testing.assert_close(together.x, concat(alone, renumber=False).x, atol=atol, rtol=1e-5)
    order = tuple(reversed(range(count)))
    torch.testing.assert_close(pair.ours(pair.rows.reorder(order)).x, together.reorder(order).x, atol=atol, rtol=1e-5)


def check_gradients(pair: Pair, seed: int = 1) -> dict[str, float]:
    """Gradients of one random linear function of everything the peer gives: of the rows, and of every weight, the
    peer's brought into our form by its key table. Returns the largest difference of each over its largest entry."""
    rows = normalise(pair.rows, pair.config.pixels)
    mine, theirs = (rows.with_x(rows.x.clone().requires_grad_()) for _ in range(2))
    for module in (pair.ours, pair.peer):
        module.zero_grad()
    expected, got = run_peer(pair, theirs), run_ours(pair.ours, mine)
    compare(got, expected)
    _loss(expected, expected, seed).backward()
    _loss(got, expected, seed).backward()
    assert mine.x.grad is not None
    assert theirs.x.grad is not None
    found = {"rows": _relative(mine.x.grad, theirs.x.grad)}
    wanted = {bare_name(name, pair.case.family): grad for name, grad in _gradients(pair.peer).items()}
    lines, used = in_memory(pair)
    for name in wanted.keys() - used:
        assert name in pair.case.family.unused, name
        assert not wanted[name].any(), name
    grads = _gradients(pair.ours)
    shapes = {name: tuple(grad.shape) for name, grad in grads.items()}
    for name, grad in from_theirs(shapes, lines, pair.config, wanted.__getitem__).items():
        found[name] = _relative(grads[name], grad)
    assert all(d <= GRAD_RTOL for d in found.values()), {n: d for n, d in found.items() if d > GRAD_RTOL}
    return found


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in module.named_parameters()}


def in_memory(pair: Pair) -> tuple[Sequence[Line], set[str]]:
    """The key table of the names the peer's modules have, and those names."""
    names = {bare_name(name, pair.case.family) for name, _ in pair.peer.named_parameters()}
    return in_memory_of(names, pair.ours, pair.case.family)


def in_memory_of(names: Set[str], ours: Encoder, family: Family) -> tuple[Sequence[Line], set[str]]:
    """The same for a module with parameters of these names. They are not always the stored ones: it is the family's
    format that has most of them."""
    state = {name: p.detach() for name, p in ours.named_parameters()}
    tables = [(lines, set(to_theirs(state, lines, ours.config))) for lines in family.formats.values()]
    return max(tables, key=lambda table: len(names & table[1]))


def bare_name(name: str, family: Family) -> str:
    """A tensor's name as the key table has it."""
    prefix = max((x for x in family.prefixes if name.startswith(x)), key=len)
    return name.removeprefix(prefix)


def _loss(outputs: Outputs, like: Outputs, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mine = outputs.named()
    each = [
        (mine[name] * torch.randn(x.shape, generator=generator)).sum() / len(x) ** 0.5
        for name, x in like.named().items()
    ]
    return torch.stack(each).sum()


def _relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-3)).item()


@torch.no_grad()
def check_bf16(pair: Pair) -> dict[str, float]:
    """Both sides in bf16, loaded as such: the cosine of each output, all of its values as one vector."""
    kind = torch.bfloat16
    model = type(pair.peer).from_pretrained(pair.folder, dtype=kind).eval()
    theirs = run_peer(pair, pair.rows, model)
    mine = run_ours(load_encoder(pair.folder, dtype=kind), pair.rows).named()
    found = {
        name: torch.cosine_similarity(mine[name].float().flatten(), x.float().flatten(), dim=0).item()
        for name, x in theirs.named().items()
        if not name.startswith("hidden")
    }
    assert found and all(c >= BF16_COSINE for c in found.values()), found
    return found


@torch.no_grad()
def check_save_back(pair: Pair, folder: Path) -> None:
    """What we save, the peer's class loads without a word, with the same tensors and the same results."""
    save_encoder(pair.ours, folder)
    loaded: Any = type(pair.peer).from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    state, (_, used) = model.state_dict(), in_memory(pair)
    for name, tensor in pair.peer.state_dict().items():
        bare = bare_name(name, pair.case.family)
        if bare in used or bare not in pair.case.family.unused:
            assert torch.equal(state[name], tensor), name
    compare(run_peer(pair, pair.rows, model.eval()), run_peer(pair, pair.rows), atol=SAME_WEIGHTS_ATOL)


def check_variants(family: Family, peer: type[PreTrainedModel], config: type[PreTrainedConfig]) -> None:
    """Every published network's configuration makes upstream's class with exactly our tensors; no value is made."""
    for name, ours in family.variants.items():
        with torch.device("meta"):
            encoder, model = Encoder(ours), peer(config(**family.config_to(ours)))
        expected = {bare_name(n, family): p.shape for n, p in model.named_parameters()}
        lines, _ = in_memory_of(expected.keys(), encoder, family)
        found = {n: t.shape for n, t in to_theirs(encoder.state_dict(), lines, ours).items()}
        unused = {n: shape for n, shape in expected.items() if n not in found}
        assert unused.keys() <= family.unused.keys(), (name, unused)
        assert found | unused == expected, name


def write_checkpoint(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], shards: int = 1) -> Path:
    """A checkpoint as the hub keeps it, its tensors under any names: one file, or several and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = list(tensors)
    whole = {n: t.detach().clone().contiguous() for n, t in tensors.items()}
    if shards == 1:
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    files = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    for i, file in enumerate(files):
        save_file({n: whole[n] for n in names[i::shards]}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: files[i % shards] for i, n in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
