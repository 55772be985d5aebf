"""How much memory a geometry network takes, by itself or beside an encoder: the modules run without values.

    VGGT             pixels -> levels that are kept -> heads
    fused            encoder(p) + connector(gather(VGGT(frames of p)))         what Spatial-MLLM's rows are made of

As in tubelet.inspect.budget.memory, weights + input rows + the largest moment are the peak of one call. In inference a
level that nobody reads leaves nothing behind, so those that are read run in place of all. On random networks on a CPU
plan / peak is 1.00 to 1.01. Training is not planned: a geometry network stands still while a language model learns.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import nn

from tubelet.encoder.attention import Backend
from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.encoder.options import RunOptions
from tubelet.geometry.branch import SpatialBranch
from tubelet.geometry.cost import vggt_parameters
from tubelet.geometry.fuse import SPACE, Connector, fuse
from tubelet.geometry.vggt import VGGT, VGGTConfig
from tubelet.inspect.budget.alive import KernelsOf, LivingBytes, few_layers, parameter_count
from tubelet.inspect.budget.memory import ITEM_BYTES, POS_BYTES, SMALL, Dtype, Memory, check_asked, kernels_of, memory
from tubelet.packed import Packed
from tubelet.packed.grid import Grid, Item
from tubelet.pixels.recipe import PixelRecipe

Device = Literal["cpu", "cuda"]
Pixels = Literal["uint8", "float"]
HEAD_BYTES = 4  # of a value of the heads, which stay float32


def vggt_memory(
    config: VGGTConfig,
    grids: Sequence[Grid],
    *,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: int | None = None,
    pixels: Pixels = "uint8",
    scenes: Sequence[int] | None = None,
    keep: Sequence[int] = (-1,),
    heads: Sequence[str] = (),
) -> Memory:
    """Peak memory of one `VGGT.run` for whole items of these grids of frames, without gradients.

    dtype: of the network's layers. scenes, keep, heads: as `VGGT.run` has them. Cost: 0.1 to 1 s of CPU, more for each
    4 frames where dense heads run. Raises ConfigError for an unknown dtype.

        >>> from tubelet.geometry.vggt import vggt_config
        >>> small = vggt_config(layers=24, width=64, heads=4, patch_layers=2)
        >>> vggt_memory(small, [Grid(4, 34, 46)], threads=1).where in ("attention", "patches")
        True
    """
    check_asked(dtype, "inference")
    few, levels = _few(config, keep, heads)
    model = _network(few, dtype, device)
    p = _rows(config.pixels, grids, dtype, pixels)
    numbers = [levels.index(level % len(config.states)) for level in keep]
    found = moments_of(model, lambda: model.run(p, scenes=scenes, keep=numbers, heads=heads), dtype, device, threads)
    return _memory(_weights(config, dtype), p, found)


def fused_memory(
    encoder: EncoderConfig,
    config: VGGTConfig,
    grids: Sequence[Grid],
    *,
    level: int = -1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: int | None = None,
    pixels: Pixels = "uint8",
    scenes: Sequence[int] | None = None,
) -> Memory:
    """Peak memory of an encoder whose tokens get the rows of a `SpatialBranch`, for whole items of tubelets.

    Heads do not run and are not counted. Cost: 0.2 s of CPU. Raises ConfigError for an encoder that such a branch does
    not fit (tubelets of two frames, blocks of 2 x 2 places).
    """
    check_asked(dtype, "inference")
    bare = replace(config, camera=None, depth=None, points=None)
    few, _ = _few(bare, (level,), ())
    tower = few_layers(encoder)
    with torch.inference_mode(False), torch.device("meta"):
        vision = _as_it_runs(Encoder(tower).to(getattr(torch, dtype)), dtype, device)
        connector = Connector(config.kept_width, encoder.out).to(getattr(torch, dtype))
    branch = SpatialBranch(_network(few, dtype, device), connector, encoder.pixels)
    p = _rows(encoder.pixels, grids, dtype, pixels)
    whole = nn.ModuleDict({"encoder": vision, "spatial": branch})
    found = moments_of(whole, lambda: fuse(vision(p), branch(p, scenes=scenes)), dtype, device, threads)
    values = parameter_count(encoder) + sum(w.numel() for w in connector.parameters())
    return _memory(values * ITEM_BYTES[dtype] + _weights(bare, dtype), p, found)


def memory_beside(
    encoder: EncoderConfig,
    config: VGGTConfig,
    grids: Sequence[Grid],
    *,
    level: int = -1,
    scenes: Sequence[int] | None = None,
    dtype: Dtype = "float32",
    **how: Any,
) -> Memory:
    """Peak memory of an encoder and a geometry network that sees its frames; `how` is `memory`'s device, threads and
    pixels. They are fused where the encoder's tubelets hold two frames and no head runs; else one runs after the
    other, each on rows of its own, while the encoder's tokens stay."""
    recipe = encoder.pixels
    fits = (recipe.temporal, recipe.merge, recipe.order) == (2, SPACE, "block") and encoder.merger is not None
    if fits and not config.heads:
        return fused_memory(encoder, config, grids, level=level, scenes=scenes, dtype=dtype, **how)
    alone = memory(encoder, grids, dtype=dtype, **how)
    frames = [Grid(g.t * recipe.temporal, g.h, g.w) for g in grids]
    own = vggt_memory(config, frames, scenes=scenes, dtype=dtype, keep=(level,), heads=config.heads, **how)
    group = 1 if encoder.merger is None else encoder.merger.merge**2
    tokens = sum(g.rows for g in grids) // group * encoder.out * ITEM_BYTES[dtype]
    moments = alone.moments_bytes | {f"geometry: {name}": n + tokens for name, n in own.moments_bytes.items()}
    where = max(moments, key=lambda name: moments[name])
    rows = alone.rows_bytes + own.rows_bytes
    return Memory(alone.weights_bytes + own.weights_bytes, rows, moments[where] + SMALL, 0, where, moments)


def moments_of(
    module: nn.Module, call: Callable[[], object], dtype: Dtype, device: Device, threads: int | None
) -> dict[str, int]:
    """Bytes beyond weights and input rows at the highest moment in each part of a call without gradients."""
    count = LivingBytes(module, kernels_of(dtype, device, threads), part_of=_part)
    with torch.inference_mode(False), torch.no_grad(), KernelsOf(device), count:
        result = call()
    del result
    found: dict[str, int] = {}
    for (_, _, part), most in count.most.items():
        found[part] = max(found.get(part, 0), most)
    return found


def _part(name: str) -> tuple[int, str]:
    """'aggregator.layers.3.qkv.weight' -> 'qkv of aggregator'; 'depth.conv1.weight' -> 'depth'."""
    first, *rest = name.removeprefix("spatial.").removeprefix("vggt.").split(".")
    return (0, f"{rest[2]} of {first}") if rest[:1] == ["layers"] else (0, first)


def _memory(weights: int, p: Packed, found: dict[str, int]) -> Memory:
    where = max(found, key=lambda name: found[name])
    rows = p.x.nbytes + len(p.x) * POS_BYTES
    return Memory(weights, rows, found[where] + SMALL, 0, where, found)


def _rows(recipe: PixelRecipe, grids: Sequence[Grid], dtype: Dtype, pixels: Pixels) -> Packed:
    rows = sum(g.rows for g in grids)
    kind = torch.uint8 if pixels == "uint8" else getattr(torch, dtype)
    x = torch.empty(rows, recipe.width, dtype=kind, device="meta")
    pos = torch.empty(rows, 3, dtype=torch.int32, device="meta")
    return Packed(x, pos, tuple(Item.of(*g) for g in grids), tuple(g.rows for g in grids))


def _few(config: VGGTConfig, keep: Sequence[int], heads: Sequence[str]) -> tuple[VGGTConfig, tuple[int, ...]]:
    """The network with those levels alone that these results are made of, and which they are."""
    levels = config.levels_read(keep, heads)
    first = config.aggregator.layer_spans[0]
    spans = ("frame", "scene") if first == "frame" else ("scene", "frame")
    patches = None if config.patches is None else few_layers(config.patches)
    ran = {name: getattr(config, name) if name in heads else None for name in config.heads}
    for name in ("depth", "points"):
        head = ran.get(name)
        if head is not None:
            ran[name] = replace(head, layers=tuple(levels.index(level) for level in head.layers))
    few = replace(config.aggregator, layers=2 * len(levels), spans=spans)
    bare = {"camera": None, "depth": None, "points": None}
    return replace(config, aggregator=few, patches=patches, **{**bare, **ran}), levels


@lru_cache(maxsize=8)
def _network(config: VGGTConfig, dtype: Dtype, device: Device) -> VGGT:
    """On meta, with heads in float32 as they are loaded."""
    with torch.inference_mode(False), torch.device("meta"):
        model = VGGT(config)
    kind = getattr(torch, dtype)
    for encoder in (model.patches, model.aggregator) if config.patches is not None else (model.aggregator,):
        _as_it_runs(encoder.to(kind), dtype, device)
    return model


def _as_it_runs(encoder: Encoder, dtype: Dtype, device: Device) -> Encoder:
    """The encoder as it runs on that device: on an accelerator by plain modules, in half types by its own kernel."""
    backend: Backend = "varlen" if device != "cpu" and ITEM_BYTES[dtype] < 4 else "sdpa"
    encoder.set_run_options(RunOptions(backend))
    if device != "cpu":
        encoder.layers[0].register_forward_hook(lambda *_: None)  # what has a hook does not run in place
    return encoder


_values = lru_cache(maxsize=16)(vggt_parameters)


def _weights(config: VGGTConfig, dtype: Dtype) -> int:
    bare = _values(replace(config, camera=None, depth=None, points=None))
    return bare * ITEM_BYTES[dtype] + (_values(config) - bare) * HEAD_BYTES
