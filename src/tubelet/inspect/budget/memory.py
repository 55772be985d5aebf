"""How much memory an encoder takes for given rows: every tensor that is alive, moment by moment, by formula.

    weights + input rows (with their places) + the largest of the moments    =    peak of `encoder(p)`

What only `Encoder.features` runs (a pooling head, mergers of deepstack) is in the weights and in no moment.

A moment is a place in the code at which memory may be highest; its bytes are written down from what is alive there:
`in_place_moments` follows tubelet.encoder.cpu (CPU inference); `plain_moments` (CUDA inference, and a CPU with hooks)
and `training_moments` follow the plain modules through tubelet.inspect.budget.calls. Not counted: the interpreter and
torch themselves, what a matrix library packs for itself, and what an allocator keeps or wastes; leave room for those.
Letters: T rows, D width, M width of the MLP, H heads, K of one head, W values in an input row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tubelet.encoder.config import EncoderConfig, Merger
from tubelet.errors import ConfigError
from tubelet.inspect.budget.calls import inference, local_layers, making_tables, table_bytes, training
from tubelet.inspect.budget.flops import inner_lengths, window_lengths
from tubelet.inspect.budget.trace import (
    FLOAT,
    POS_BYTES,
    Load,
    Runs,
    Trace,
    attention_scratch,
    index_bytes,
    product_scratch,
    tables_bytes,
)
from tubelet.packed.grid import Grid

Dtype = Literal["float32", "bfloat16", "float16"]
Mode = Literal["inference", "training", "checkpointed"]
ITEM_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
SMALL = 16_384  # bytes of cu_seqlens, biases and scalars, which no formula lists


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for. work: activations, buffers and gradients at their highest moment, `where`.

    optimizer: AdamW's two moments in the weights' type; 0 for inference. total: the sum.
    """

    weights_bytes: int
    rows_bytes: int
    work_bytes: int
    optimizer_bytes: int
    where: str
    moments_bytes: dict[str, int] = field(repr=False)

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.rows_bytes + self.work_bytes + self.optimizer_bytes


def runs_of(lengths: Sequence[int]) -> Runs:
    """(segments, rows of each) for each run of neighbours of equal length.

    >>> runs_of((5, 5, 3, 5))
    ((2, 5), (1, 3), (1, 5))
    """
    out: list[tuple[int, int]] = []
    for n in lengths:
        if out and out[-1][1] == n:
            out[-1] = (out[-1][0] + 1, n)
        else:
            out.append((1, n))
    return tuple(out)


# ---- weights


def parameter_count(config: EncoderConfig, *, pool: bool | None = None) -> int:
    """Values in all weights of an encoder; without a device or a module."""
    d, table = config.hidden, config.table
    norms = config.embed_norm + config.pre_norm + bool(config.post_norm)
    total = config.pixels.width * d + config.patch_bias * d
    total += norms * _norm_parameters(config.norm, d) + config.layers * layer_parameters(config)
    total += config.prefix * d * (1 + config.prefix_first) + (
        config.prefix * config.head_dim // 2 if config.prefix_angles else 0
    )
    if table is not None:
        total += (table.height * table.width * d if table.resize != "sincos" else 0) + table.prefix * d
    if config.pool if pool is None else pool:
        total += _pool_parameters(config)
    total += _merger_parameters(config.merger, d)
    return total + len(config.deepstack) * _merger_parameters(config.deepstack_merger, d)


def layer_parameters(config: EncoderConfig) -> int:
    """Values in the weights of one layer."""
    d, m = config.hidden, config.mlp
    up = m * (2 if config.gated else 1)
    biases = 3 * d * config.qkv_bias + d * config.proj_bias + (up + d) * config.mlp_bias
    per_head = 2 * _norm_parameters(config.qk_norm, config.head_dim) if config.qk_norm else 0
    return per_head + 2 * _norm_parameters(config.norm, d) + 4 * d * d + d * up + m * d + biases + 2 * d * config.scale


def _norm_parameters(kind: str, width: int) -> int:
    return 2 * width if kind == "layer" else width


def _pool_parameters(config: EncoderConfig) -> int:
    """Of the head, past the prefix token that "first" takes."""
    d, m, head = config.hidden, config.mlp, config.head
    if head.kind == "first":
        return 0
    if head.kind == "query":
        return d + 2 * d * d + 2 * d * head.bias + d * d + d
    return d + 3 * (d * d + d) + (d * d + d) + _norm_parameters(head.norm, d) + (d * m + m) + (m * d + d)


def _merger_parameters(merger: Merger | None, width: int) -> int:
    if merger is None:
        return 0
    wide = merger.merge**2 * width
    norm = _norm_parameters(merger.norm, wide if merger.joined else width)
    return norm + wide * wide + wide + wide * merger.out + merger.out


# ---- moments


def attention_bytes(load: Load, config: EncoderConfig, segments: int, rows: int) -> int:
    """What one sdpa call over `segments` of `rows` rows makes: its result, a log-sum for each row and head, scratch."""
    return segments * rows * (config.hidden * load.work + config.heads * FLOAT) + attention_scratch(load, config, rows)


def _beside(kind: str, width: int, rows: int, item: int) -> int:
    """What a norm makes beside its result: mean and deviation; for RMSNorm x r, and of half types also x and x r w in
    float32."""
    if kind == "layer":
        return 2 * FLOAT * rows
    return rows * (width * FLOAT * (3 if item < FLOAT else 1) + 2 * FLOAT)


def _folded(config: EncoderConfig, load: Load) -> int:
    """Bytes while mean and std are folded into the patch embedding: the scaled parts and the whole, float32."""
    one = config.hidden * config.pixels.width
    return one * (2 * FLOAT + (FLOAT if load.item < FLOAT else 0)) + 8 * config.hidden * FLOAT


def in_place_moments(config: EncoderConfig, load: Load, block: int, cached: int) -> dict[str, int]:
    """Inference on a CPU in blocks of at most `block` rows, small operations on `cached` rows."""
    t, d, a = load.rows, config.hidden, load.work
    part, few = -(-t // -(-t // block)), min(cached, t)
    up = config.mlp * (2 if config.gated else 1)
    tables, x, result = tables_bytes(config, t) + index_bytes(config, load), t * d * a, t * d * load.item
    widened = layer_parameters(config) * a if a != load.item else 0
    scaled = (d * d + config.mlp * d + 2 * d) * a if config.scale and not widened else 0
    buffers = tables + x + t * 4 * d * a + min(t, block) * up * a + widened + scaled
    rope = config.rope
    mirrored = rope is not None and (rope.mode == "onevision" or rope.layout == "halves")
    turned = few * 2 * d * FLOAT * (mirrored + (a < FLOAT)) if rope is not None else 0
    moments = _before_the_layers(config, load, block, cached) | {
        "scales in the weights": buffers + (config.mlp * d * a if widened else 0) if config.scale else 0,
        "norm inside a layer": buffers + part * d * a + _beside(config.norm, d, part, a),
        "products inside a layer": buffers + max(
            part * d * a + max(product_scratch(load, part, d, 3 * d), product_scratch(load, part, d, up)),
            product_scratch(load, part, config.mlp, d),
        ),
        "rotary positions": buffers + turned,
        "attention": buffers + max(attention_bytes(load, config, n, m) for n, m in (*load.runs, *load.local)),
        "x sigmoid(1.702 x)": buffers + few * config.mlp * a if config.act == "quick_gelu" else 0,
        "result in the weights' type": buffers + result if a != load.item else 0,
        "norm after the layers": tables + 2 * result + _beside(config.norm, d, t, load.item)
        if config.post_norm is True
        else 0,
        "rows in the order of the pack": index_bytes(config, load) + result * (1 + (config.post_norm is True))
        + load.patches * d * load.item
        if index_bytes(config, load)
        else 0,
    }  # fmt: skip
    return moments | _merging_in_place(config, load, block)


def _before_the_layers(config: EncoderConfig, load: Load, block: int, cached: int) -> dict[str, int]:
    """In-place inference up to the first layer's input."""
    t, d, w, a = load.patches, config.hidden, config.pixels.width, load.work
    count = -(-t // block)
    part, one, index = -(-t // count), d * w, index_bytes(config, load)
    tables, first, x = tables_bytes(config, load.rows) + index, t * d * a, load.rows * d * a
    making, made = table_bytes(config, load)
    values = sum(h * w for h, w in load.grids) * d
    adding = made + (values * a if a < FLOAT else 0) + min(cached, t) * d * a
    return {
        "rotary tables": index + max(making_tables(config, load), 4 * index),
        "folding the patch weight": tables + _folded(config, load),
        "patch embedding": tables + d * FLOAT + one * max(a, FLOAT) + one * (a if a != FLOAT else 0) + first
        + part * w * a * min(count, 2) + product_scratch(load, part, w, d),
        "norm of the patch embedding": tables + 2 * first + _beside(config.norm, d, t, a) if config.embed_norm else 0,
        "positions of the table": tables + first + max(making, adding) if config.table is not None else 0,
        "rows in their places inside": tables + 3 * x if index else 0,
        "norm before the layers": tables + 2 * x + _beside(config.norm, d, load.rows, a) if config.pre_norm else 0,
    }  # fmt: skip


def _merging_in_place(config: EncoderConfig, load: Load, block: int) -> dict[str, int]:
    """The merger as tubelet.encoder.cpu runs it: in the type of the work, its weights widened to it."""
    merger = config.merger
    if merger is None:
        return {}
    t, a = load.patches, load.work
    wide = merger.merge**2 * config.hidden
    out = t // merger.merge**2
    kept = t * config.hidden * load.item + t * 2 * POS_BYTES
    x, widened = t * config.hidden * a, a != load.item
    weights = (wide * wide + wide + wide * merger.out + merger.out) * a if widened else 0
    part = -(-out // max(1, -(-out // block)))
    last = out * merger.out * load.item if widened else 0
    rows, width = (out, wide) if merger.joined else (t, config.hidden)
    return {
        "norm of the merger": kept + x * (1 + widened) + _beside(merger.norm, width, rows, a),
        "merger": kept
        + x
        + weights
        + out * merger.out * a
        + part * wide * a
        + max(last, product_scratch(load, part, wide, wide), product_scratch(load, part, wide, merger.out)),
    }


def plain_moments(config: EncoderConfig, load: Load) -> dict[str, int]:
    """Inference by the plain modules: what CUDA runs, and a CPU with another backend or hooks."""
    return inference(config, load).moments


def saved_bytes(config: EncoderConfig, load: Load) -> int:
    """What autograd keeps of one layer until its backward, counting one tensor of the residual stream."""
    trace = Trace(config, load, saving=True)
    trace.layer()
    return trace.alive


def training_moments(config: EncoderConfig, load: Load, *, checkpointing: bool) -> dict[str, int]:
    """Forward and backward, gradients of all weights included (they come one by one, while activations go)."""
    return training(config, load, checkpointing=checkpointing).moments


# ---- the whole


def memory(
    config: EncoderConfig,
    grids: Sequence[Grid],
    *,
    dtype: Dtype = "float32",
    mode: Mode = "inference",
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int | None = None,
    pixels: Literal["uint8", "float"] = "uint8",
    plain: bool = False,
) -> Memory:
    """Peak memory of one call of the encoder (training: forward and backward) for whole items of these grids.

    dtype: of the weights. device "cpu": in-place inference as on this machine's processor, with `threads` threads
    (None: torch's). pixels: "float" rows are normalised ones. plain: inference on a CPU by the plain modules, which run
    where layers have hooks or adapters. Raises ConfigError for an unknown dtype or mode.

        >>> from tubelet.families.onevision import VARIANTS
        >>> small = memory(VARIANTS["llava_vit_packing_small"], [Grid(1, 54, 38)], device="cuda", dtype="bfloat16")
        >>> small.where, small.weights_bytes
        ('MLP', 25433856)
    """
    if dtype not in ITEM_BYTES or mode not in ("inference", "training", "checkpointed"):
        raise ConfigError(f"no plan for {mode} in {dtype}", expected=(*ITEM_BYTES,), got=(mode, dtype))
    _require_known(config)
    rows, item = sum(g.rows for g in grids), ITEM_BYTES[dtype]
    cpu = device == "cpu"
    work, sums, packs, torch_threads = _machine(dtype)
    threads = torch_threads if threads is None else threads
    in_place = mode == "inference" and cpu and not plain
    full, local = _runs(config, grids, joined=not cpu and item < FLOAT)
    inside = sum(n * m for n, m in full)
    load = Load(
        inside, full, item, work if in_place else item, threads * cpu, cpu, sums and cpu, pixels == "float",
        inside - rows, local, tuple(dict.fromkeys((g.h, g.w) for g in grids)), packs and cpu,
    )  # fmt: skip
    if rows == 0:
        moments = {"nothing": 0}
    elif mode != "inference":
        moments = training_moments(config, load, checkpointing=mode == "checkpointed")
    elif not in_place:
        moments = plain_moments(config, load)
    else:
        from tubelet.encoder.cpu import BLOCK, CACHED, WIDENED

        moments = in_place_moments(config, load, BLOCK if work == item else WIDENED, CACHED)
    weights = parameter_count(config) * item
    where = max(moments, key=lambda name: moments[name])
    input_bytes = rows * (config.pixels.width * (1 if pixels == "uint8" else item) + POS_BYTES)
    optimizer = 0 if mode == "inference" else 2 * weights
    return Memory(weights, input_bytes, moments[where] + SMALL, optimizer, where, moments)


def _require_known(config: EncoderConfig) -> None:
    """Raises ConfigError naming what these formulas do not know."""
    wide = [*dict.fromkeys(span for span in config.layer_spans if span != "window")]
    unknown = {
        "qk_norm": config.qk_norm is not None,
        "spans": len(wide) > 1 or "scene" in wide,
        "prefix": config.prefix > 0 and [config.prefix_per] != [*dict.fromkeys(config.layer_spans)],
    }
    for name in (name for name, there in unknown.items() if there):
        raise ConfigError(f"there is no memory plan yet for {name} = {getattr(config, name)}", got=name)


def _runs(config: EncoderConfig, grids: Sequence[Grid], *, joined: bool) -> tuple[Runs, Runs]:
    """Runs of whole segments and of windows; joined: one kernel takes all segments of a call."""
    lengths = inner_lengths(config, grids)
    frames = [sorted(window_lengths(config, [Grid(1, g.h, g.w)])) for g in grids for _ in range(g.t)]
    windows = [n for frame in frames for n in frame] if any(local_layers(config)) else []
    if joined:
        return ((1, sum(lengths)),), ((1, sum(windows)),) if windows else ()
    return runs_of(lengths), runs_of(windows)


def beside_product(dtype: Dtype, rows: int, inner: int, out: int, *, device: str = "cpu") -> int:
    """Bytes beside the result of one product (rows x inner) (inner x out) while it is made, on this machine's CPU."""
    _, sums, packs, threads = _machine(dtype)
    if device != "cpu" or not (sums or packs):
        return 0
    half = ITEM_BYTES[dtype]
    packed = product_scratch(Load(rows, (), half, half, threads, packs=packs), rows, inner, out)
    return max(packed, rows * out * FLOAT if sums else 0)


def _machine(dtype: Dtype) -> tuple[int, bool, bool, int]:
    """Of this CPU, for weights of `dtype`: bytes of an activation, whether a product keeps float32 sums of its own,
    whether it packs what it reads, and torch's threads.

    Without arithmetic of bfloat16, oneDNN adds a product up in a float32 tensor of its size and rounds that at the
    end; products of float16 are then not oneDNN's, and round as they go.
    """
    import torch

    from tubelet.encoder.cpu import has_arithmetic, work_dtype

    kind = getattr(torch, dtype)
    sums = kind == torch.bfloat16 and not has_arithmetic(kind)
    packs = kind != torch.float32 and has_arithmetic(kind)
    return work_dtype(kind).itemsize, sums, packs, torch.get_num_threads()
