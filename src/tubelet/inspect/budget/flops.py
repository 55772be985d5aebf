"""How much arithmetic an encoder does for given rows: closed formulas of counts, nothing is run.

Counted are matrix products, two FLOPs for each multiply-add, as torch.utils.flop_counter counts them; norms, rotary
positions, GELU and sums are left out (they cost time by the memory they touch). Attention counts both of its products
over whole segments: 4 D n^2 for a segment of n rows.
"""

import re
from collections.abc import Sequence

from tubelet.encoder.config import EncoderConfig, Merger, Span
from tubelet.encoder.spans import span_lengths, whole_cuts
from tubelet.errors import ConfigError
from tubelet.packed.grid import Grid

MLP = re.compile(r"mlp([1-9][0-9]?)x_gelu")


def product_flop(rows: int, width_in: int, width_out: int) -> int:
    """One linear layer over `rows` rows."""
    return 2 * rows * width_in * width_out


def attention_flop(width: int, lengths: Sequence[int]) -> int:
    """q k^T and the weighted sum of v, in one layer, inside segments of these lengths."""
    return 4 * width * sum(n * n for n in lengths)


def inner_lengths(config: EncoderConfig, grids: Sequence[Grid]) -> tuple[int, ...]:
    """Rows of each segment of the widest span that layers have, with the prefix tokens that stand inside the encoder.

    >>> from tubelet.families.onevision import VARIANTS
    >>> inner_lengths(VARIANTS["llava_onevision2"], [Grid(6, 3, 3), Grid(1, 3, 6)])
    (36, 18, 18)
    """
    return [*segments_of_layers(config, grids).values()][-1]


def window_lengths(config: EncoderConfig, grids: Sequence[Grid]) -> tuple[int, ...]:
    """Rows of each window of the layers that attend inside windows; empty where there are none.

    >>> from dataclasses import replace
    >>> from tubelet.families.onevision import VARIANTS
    >>> windowed = replace(VARIANTS["llava_onevision2"], spans=("window", "frame"), span_side=6)
    >>> window_lengths(windowed, [Grid(1, 9, 6)])
    (18, 36)
    """
    return segments_of_layers(config, grids).get("window", ())


def segments_of_layers(
    config: EncoderConfig, grids: Sequence[Grid], scenes: Sequence[int] | None = None
) -> dict[Span, tuple[int, ...]]:
    """Rows of each segment of whole items, for every span that layers have, the narrowest first.

    scenes: how many items make each scene; None: an item each.
    """
    return span_lengths(config, [whole_cuts(config, grid) for grid in grids], scenes)


def attention_sum_flop(config: EncoderConfig, grids: Sequence[Grid], scenes: Sequence[int] | None = None) -> int:
    """Attention of all layers together, each over the segments of its span."""
    lengths = segments_of_layers(config, grids, scenes)
    each = {span: attention_flop(config.hidden, lengths[span]) for span in lengths}
    return sum(each[span] for span in config.layer_spans)


def encoder_flop(
    config: EncoderConfig, grids: Sequence[Grid], *, pool: bool = False, scenes: Sequence[int] | None = None
) -> dict[str, int]:
    """FLOPs of one call of the encoder for whole items of these grids, by stage.

    linear: qkv, proj and MLP of all layers. merger: with those of deepstack, which `Encoder.features` calls and
    `forward` does not. pool: of the pooling head, which `forward` does not call; 0 unless asked. scenes: how many
    consecutive items make each scene; None: an item each.
    """
    rows, d, m = sum(inner_lengths(config, grids)), config.hidden, config.mlp
    up = m * (2 if config.gated else 1)
    layer = sum(product_flop(rows, a, b) for a, b in ((d, 3 * d), (d, d), (d, up), (m, d)))
    patches = sum(g.rows for g in grids)
    return {
        "patch": product_flop(patches, config.pixels.width, d),
        "linear": config.layers * layer,
        "attention": attention_sum_flop(config, grids, scenes),
        "merger": _merger_flop(config, config.merger, patches)
        + len(config.deepstack) * _merger_flop(config, config.deepstack_merger, patches),
        "pool": _pool_flop(config, patches, len(grids)) if pool else 0,
    }


def _merger_flop(config: EncoderConfig, merger: Merger | None, rows: int) -> int:
    if merger is None:
        return 0
    group = merger.merge**2
    wide = group * config.hidden
    return product_flop(rows // group, wide, wide) + product_flop(rows // group, wide, merger.out)


def _pool_flop(config: EncoderConfig, rows: int, items: int) -> int:
    d, m, kind = config.hidden, config.mlp, config.head.kind
    if kind == "first":
        return 0
    query = product_flop(1, d, d) * (2 if kind == "probe" else 1)  # of the probe, then folded into the keys' weight
    head = product_flop(items, d, d) + (2 * product_flop(items, d, m) if kind == "probe" else 0)
    return query + product_flop(rows, d, config.heads) + product_flop(rows, d, d) + head


def training_flop(
    config: EncoderConfig,
    grids: Sequence[Grid],
    *,
    pool: bool = False,
    checkpointing: bool = False,
    scenes: Sequence[int] | None = None,
) -> dict[str, int]:
    """As `encoder_flop`, for forward and backward together.

    Backward of a product is two products (one for the patch embedding, whose input needs no gradient), of attention
    five instead of two. checkpointing: layers run once more, up to the last tensor that backward needs (not fc2).
    """
    once = encoder_flop(config, grids, pool=pool, scenes=scenes)
    again = 0
    if checkpointing:
        rows = sum(inner_lengths(config, grids))
        again = once["linear"] - config.layers * product_flop(rows, config.mlp, config.hidden)
    attention = 7 * once["attention"] // 2 + (once["attention"] if checkpointing else 0)
    return {
        "patch": 2 * once["patch"],
        "linear": 3 * once["linear"] + again,
        "attention": attention,
        "merger": 3 * once["merger"],
        "pool": 3 * once["pool"],
    }


def projector_layers(kind: str, width_in: int, width_out: int) -> list[tuple[int, int]]:
    """(in, out) of each linear layer of a projector: "identity", "linear", or "mlpNx_gelu" with N layers.

    Raises ConfigError for another kind.

    >>> projector_layers("mlp2x_gelu", 1024, 3584)
    [(1024, 3584), (3584, 3584)]
    """
    if kind == "identity":
        return []
    if kind == "linear":
        return [(width_in, width_out)]
    found = MLP.fullmatch(kind)
    if found is None:
        raise ConfigError("a projector is identity, linear or mlpNx_gelu", expected="mlp2x_gelu", got=kind)
    return [(width_in, width_out), *[(width_out, width_out)] * (int(found[1]) - 1)]


def projector_flop(kind: str, rows: int, width_in: int, width_out: int) -> int:
    """One pass of `rows` rows through a projector. Raises ConfigError for another kind."""
    return sum(product_flop(rows, a, b) for a, b in projector_layers(kind, width_in, width_out))


def projector_parameters(kind: str, width_in: int, width_out: int) -> int:
    """Weights and biases of a projector. Raises ConfigError for another kind."""
    return sum(a * b + b for a, b in projector_layers(kind, width_in, width_out))
