"""A whole call of the plain encoder through inspect.budget.trace: stem, layers, end, loss, and backward of them all."""

from functools import partial

from tubelet.encoder.config import EncoderConfig, Merger
from tubelet.inspect.budget.trace import FLOAT, INDEX, POS_BYTES, Load, Trace, index_bytes, tables_bytes

RNG_STATE = 5056  # bytes of the CPU generator's state, which each checkpoint keeps


def making_tables(config: EncoderConfig, load: Load) -> int:
    """Bytes at the highest moment of making them: angles, cos, sin, their sums and stacks; then, where prefix tokens
    or windows move the rows, the tables in their places inside, which take two copies."""
    if config.rope is None:
        return 0
    one = config.head_dim * FLOAT
    parts, floats = (2, 7.5) if config.rope.mode == "onevision" else (1, 2.5)
    made = int(load.patches * one * floats) + load.patches * POS_BYTES * (config.rope.places == "centred")
    if not index_bytes(config, load):
        return made
    return max(made, parts * load.patches * one + (1 + parts) * load.rows * one + index_bytes(config, load))


def table_bytes(config: EncoderConfig, load: Load) -> tuple[int, int]:
    """Bytes at the highest moment of making the positions that are added, and of what is made: their float32 values for
    each distinct grid, and for each row of the pack which of them it takes."""
    table, d = config.table, config.hidden
    if table is None:
        return 0, 0
    whole = table.height * table.width * d * FLOAT
    widened = whole if load.item < FLOAT else 0
    begun = most = 0
    for h, w in load.grids:
        own = h * w * d * FLOAT
        if table.resize == "sincos":
            during = 5 * own  # float64: the angles of both axes, four parts, and those joined
        elif (h, w) == (table.height, table.width):
            during = own = widened
        else:
            along = table.height * w * d * FLOAT if table.resize.endswith("_antialias") else 0
            again = whole + own if table.resize == "corners" else 0  # both pictures once more, channels last
            during = widened + whole + along + own + again  # the table as a picture, resized along rows, and whole
        most, begun = max(most, begun + during), begun + own
    values, index = sum(h * w for h, w in load.grids) * d * FLOAT, load.patches * INDEX
    return max(most, begun + 5 * index, begun + values + 3 * index), values + index


def stem(trace: Trace) -> None:
    """Rotary tables, patch embedding, places, norm: what stays is the tables, numbers of places, the positions that
    were added, and the first layer's input."""
    c, load = trace.config, trace.load
    trace.where = "rotary tables"
    trace.make(index_bytes(c, load))
    trace.briefly(4 * index_bytes(c, load))
    trace.briefly(making_tables(c, load))
    trace.make(tables_bytes(c, load.rows))
    if c.prefix_angles:
        trace.back(lambda: trace.drop(tables_bytes(c, load.rows)))  # their gradient
    trace.where = "patch embedding" if load.floats else "folding the patch weight"
    patch(trace)
    if c.embed_norm:
        trace.where = "norm of the patch embedding"
        trace.norm(c.norm, joins=False, rows=load.patches)
        if not (trace.saving and trace.norm_keeps_input):
            trace.drop(trace.first)
    positions(trace)
    inside(trace)
    if c.pre_norm:
        trace.where = "norm before the layers"
        trace.norm(c.norm, joins=False)
        if not (trace.saving and trace.norm_keeps_input):
            trace.drop(trace.x)


def patch(trace: Trace) -> None:
    """uint8 rows are widened, then centred; the weight is folded in float32, backward through the same steps."""
    c, a = trace.config, trace.load.item
    values = c.hidden * c.pixels.width
    weight, rows = values * a, trace.load.patches * c.pixels.width * a
    if trace.load.floats:
        weight = rows = 0
    else:
        trace.briefly(values * FLOAT * (3 if trace.half else 2))  # three scaled parts, joined; a widened copy
        trace.make(values * FLOAT)
        trace.where = "patch embedding"
        trace.briefly(2 * rows)
        trace.make(rows, weight if trace.half else 0)
    trace.make(trace.first)
    trace.product(trace.load.patches, c.pixels.width, c.hidden)
    if not trace.load.floats:
        trace.drop(values * FLOAT, weight if trace.half else 0)
    if not trace.saving:
        trace.drop(rows)

    def back() -> None:
        trace.where = "backward of the patch embedding"
        trace.make(values * a)
        trace.product(c.hidden, trace.load.patches, c.pixels.width, turned=True)
        trace.drop(trace.first, rows)
        if not trace.load.floats:
            trace.briefly(values * ((2 * FLOAT) if trace.half else FLOAT))

    trace.back(back)


def positions(trace: Trace) -> None:
    """A table's positions added to the patches. Backward: an upper bound; all grids' gradients are alive at once."""
    c, load, first = trace.config, trace.load, trace.first
    if c.table is None:
        return
    trace.where = "positions of the table"
    making, made = table_bytes(c, load)
    values = sum(h * w for h, w in load.grids) * c.hidden
    half = values * load.item if trace.half else 0
    trace.briefly(making)
    trace.make(made)
    trace.briefly(half + 2 * first)  # the rows taken, and the sum, which takes the place of what it was added to

    def back() -> None:
        trace.where = "backward of the positions"
        learned = c.table is not None and c.table.resize != "sincos"
        table = c.table.height * c.table.width * c.hidden if c.table is not None and learned else 0
        if learned:
            pictures = 3 if not trace.half or (c.table is not None and c.table.resize == "corners") else 2
            trace.briefly(load.patches * 2 * INDEX + half + 2 * values * FLOAT + pictures * table * FLOAT)
        trace.make(table * load.item)
        trace.drop(load.patches * INDEX)

    trace.back(back)


def inside(trace: Trace) -> None:
    """Rows in their places inside: windows in one copy, prefix tokens in a second."""
    c, first, x = trace.config, trace.first, trace.x
    if not index_bytes(c, trace.load):
        return
    trace.where = "rows in their places inside"
    trace.briefly(2 * x + (x - first))
    trace.make(x)
    copied = x  # what goes in, patches and prefix tokens, which autograd keeps for their shapes
    trace.make(copied - first)
    if not trace.saving:
        trace.drop(copied)

    def back() -> None:
        trace.where = "backward of the places inside"
        if c.prefix:
            trace.briefly(x + x - first)  # the gradient without the prefix tokens'
        trace.briefly(x)
        trace.make(first)
        trace.drop(x, copied)

    trace.back(back)


def end(trace: Trace) -> None:
    """Norm, the pack's own order, merger; what stays is the tokens, which the caller has."""
    c, load = trace.config, trace.load
    normed = c.post_norm is True
    if normed:
        trace.where = "norm after the layers"
        trace.norm(c.norm, joins=False)
    if index_bytes(c, load):
        trace.where = "rows in the order of the pack"
        trace.make(trace.first)
        trace.drop(trace.x)

        def back() -> None:
            trace.make(trace.x)
            trace.drop(trace.first)

        trace.back(back)
    if normed and not (trace.saving and trace.norm_keeps_input):
        trace.drop(trace.x)
    if c.merger is not None:
        _merge(trace, c.merger)


def _merge(trace: Trace, merger: Merger) -> None:
    c, t, x = trace.config, trace.load.patches, trace.first
    trace.where = "merger"
    group = merger.merge**2
    wide, out = group * c.hidden, t // group
    trace.make(t * (2 * POS_BYTES + 3))  # places as they must be, the comparison, places of the merged
    trace.norm(merger.norm, joins=False, rows=out if merger.joined else t, width=wide if merger.joined else c.hidden)
    trace.linear(out, wide, wide, kept=x, held=True)
    trace.activation(x, "gelu")
    trace.linear(out, wide, merger.out, kept=x)
    if not trace.saving or not trace.keeps_input(merger.norm):
        trace.drop(x)  # its rows with the norm, or those before it


def loss(trace: Trace) -> None:
    """A loss such as the mean square of the tokens: four tensors like them, of which their gradient stays."""
    merger, rows = trace.config.merger, trace.load.patches
    values = rows * trace.config.hidden if merger is None else rows // merger.merge**2 * merger.out
    size = values * trace.load.item
    trace.briefly(size + (values * FLOAT if trace.half else 0))
    trace.briefly(4 * size)
    trace.make(size)


def inference(config: EncoderConfig, load: Load) -> Trace:
    """The plain modules without gradients."""
    trace = Trace(config, load)
    stem(trace)
    seen = local_layers(config)
    kinds = [seen[0], *sorted(set(seen[1:]))]  # all of a kind after the first are alike
    for i, local in enumerate(kinds):
        trace.layer(local=local)
        if i:
            trace.drop(trace.x)  # what went into the first stays until the last is done
    if len(kinds) > 1:
        trace.drop(trace.x)
    trace.drop(tables_bytes(config, load.rows), table_bytes(config, load)[1])
    end(trace)
    return trace


def local_layers(config: EncoderConfig) -> list[bool]:
    """Of each layer, whether it attends inside windows."""
    return [span == "window" for span in config.layer_spans]


def training(config: EncoderConfig, load: Load, *, checkpointing: bool = False) -> Trace:
    """Forward with what autograd saves, a loss, and backward; gradients of all weights stay."""
    trace = Trace(config, load, saving=True)
    stem(trace)
    trace.where = "forward of the layers"
    keeps = trace.norm_keeps_input or checkpointing
    for i, local in enumerate(local_layers(config)):
        tables = tables_bytes(config, load.rows) if i == 0 else 0
        names = {0: "backward of the first layer", config.layers - 1: "backward of the last layer"}
        name = names.get(i, "backward of a layer between")
        if checkpointing:
            _checkpointed(trace, name, tables, local)
        else:
            trace.layer(tables=tables, local=local)
            trace.back(partial(setattr, trace, "where", name))
        if not keeps and i:
            trace.drop(trace.x)
    if not keeps:
        trace.drop(trace.x)
    made = table_bytes(config, load)[1]
    trace.drop(max(0, made - load.patches * INDEX))  # of the table's positions only the numbers are saved
    end(trace)
    trace.where = "backward of what follows the layers"
    loss(trace)
    if config.prefix_angles:
        trace.make(tables_bytes(config, load.rows))  # the tables' gradient, which grows layer by layer
    trace.unwind()
    return trace


def _checkpointed(trace: Trace, name: str, tables: int, local: bool) -> None:
    """Forward keeps the layer's input alone; backward runs it again, saving."""
    trace.saving = False
    trace.layer(local=local)
    trace.saving = True
    trace.make(RNG_STATE)

    def back() -> None:
        trace.where = name
        trace.briefly(RNG_STATE)  # the present one, put back afterwards
        inner = trace.tape
        trace.tape = []
        trace.layer(recomputed=True, tables=tables, local=local)
        trace.unwind()
        trace.tape = inner
        trace.drop(RNG_STATE)
        if not trace.norm_keeps_input:
            trace.drop(trace.x)  # the input, which the checkpoint held

    trace.back(back)
