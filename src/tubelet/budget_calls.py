"""A whole call of the plain encoder through tubelet.budget_trace: stem, layers, end, loss, and backward of them all."""

from functools import partial

from tubelet.budget_trace import FLOAT, POS_BYTES, Load, Trace, tables_bytes
from tubelet.encoder.config import EncoderConfig

RNG_STATE = 5056  # bytes of the CPU generator's state, which each checkpoint keeps


def making_tables(config: EncoderConfig, rows: int) -> int:
    """Bytes at the highest moment of making them: angles, cos, sin, their sums and stacks."""
    floats = 7.5 if config.rope.mode == "onevision" else 2.5
    return int(rows * config.head_dim * FLOAT * floats)


def stem(trace: Trace) -> None:
    """Rotary tables, patch embedding, norm: what stays is the tables and the first layer's input."""
    c, t = trace.config, trace.load.rows
    trace.where = "rotary tables"
    trace.briefly(making_tables(c, t))
    trace.make(tables_bytes(c, t))
    trace.where = "patch embedding" if trace.load.floats else "folding the patch weight"
    patch(trace)
    if c.pre_norm:
        trace.where = "norm before the layers"
        trace.norm(c.norm, joins=False)
        if not (trace.saving and trace.norm_keeps_input):
            trace.drop(trace.x)


def patch(trace: Trace) -> None:
    """uint8 rows are widened, then centred; the weight is folded in float32, backward through the same steps."""
    c, a = trace.config, trace.load.item
    values = c.hidden * c.pixels.width
    weight, rows = values * a, trace.load.rows * c.pixels.width * a
    if trace.load.floats:
        weight = rows = 0
    else:
        trace.briefly(values * FLOAT * (3 if trace.half else 2))  # three scaled parts, joined; a widened copy
        trace.make(values * FLOAT)
        trace.where = "patch embedding"
        trace.briefly(2 * rows)
        trace.make(rows, weight if trace.half else 0)
    trace.make(trace.x)
    trace.rounded(trace.load.rows * c.hidden)
    if not trace.load.floats:
        trace.drop(values * FLOAT, weight if trace.half else 0)
    if not trace.saving:
        trace.drop(rows)

    def back() -> None:
        trace.where = "backward of the patch embedding"
        trace.make(values * a)
        trace.rounded(values)
        trace.drop(trace.x, rows)
        if not trace.load.floats:
            trace.briefly(values * ((2 * FLOAT) if trace.half else FLOAT))

    trace.back(back)


def end(trace: Trace) -> None:
    """Norm and merger; what stays is the tokens, which the caller has."""
    c, t = trace.config, trace.load.rows
    if c.post_norm:
        trace.where = "norm after the layers"
        trace.norm(c.norm, joins=False)
        if not (trace.saving and trace.norm_keeps_input):
            trace.drop(trace.x)
    if c.merger is not None:
        trace.where = "merger"
        group = c.merger.merge**2
        wide, out = group * c.hidden, t // group
        trace.make(t * (2 * POS_BYTES + 3))  # places as they must be, the comparison, places of the merged
        trace.norm("layer", joins=False)
        trace.linear(out, wide, wide, kept=trace.x)
        trace.activation(trace.x, "gelu")
        trace.linear(out, wide, c.merger.out, kept=trace.x)


def loss(trace: Trace) -> None:
    """A loss such as the mean square of the tokens: four tensors like them, of which their gradient stays."""
    merger, rows = trace.config.merger, trace.load.rows
    values = rows * trace.config.hidden if merger is None else rows // merger.merge**2 * merger.out
    size = values * trace.load.item
    trace.briefly(size + (values * FLOAT if trace.half else 0))
    trace.briefly(4 * size)
    trace.make(size)


def inference(config: EncoderConfig, load: Load) -> Trace:
    """The plain modules without gradients."""
    trace = Trace(config, load)
    stem(trace)
    for i in range(min(config.layers, 2)):  # all after the first are alike
        trace.layer()
        if i:
            trace.drop(trace.x)  # what went into the first stays until the last is done
    if config.layers > 1:
        trace.drop(trace.x)
    trace.drop(tables_bytes(config, load.rows))
    end(trace)
    return trace


def training(config: EncoderConfig, load: Load, *, checkpointing: bool = False) -> Trace:
    """Forward with what autograd saves, a loss, and backward; gradients of all weights stay."""
    trace = Trace(config, load, saving=True)
    stem(trace)
    trace.where = "forward of the layers"
    keeps = trace.norm_keeps_input or checkpointing
    for i in range(config.layers):
        tables = tables_bytes(config, load.rows) if i == 0 else 0
        names = {0: "backward of the first layer", config.layers - 1: "backward of the last layer"}
        name = names.get(i, "backward of a layer between")
        if checkpointing:
            _checkpointed(trace, name, tables)
        else:
            trace.layer(tables=tables)
            trace.back(partial(setattr, trace, "where", name))
        if not keeps and i:
            trace.drop(trace.x)
    if not keeps:
        trace.drop(trace.x)
    end(trace)
    trace.where = "backward of what follows the layers"
    loss(trace)
    trace.unwind()
    return trace


def _checkpointed(trace: Trace, name: str, tables: int) -> None:
    """Forward keeps the layer's input alone; backward runs it again, saving."""
    trace.saving = False
    trace.layer()
    trace.saving = True
    trace.make(RNG_STATE)

    def back() -> None:
        trace.where = name
        trace.briefly(RNG_STATE)  # the present one, put back afterwards
        inner = trace.tape
        trace.tape = []
        trace.layer(recomputed=True, tables=tables)
        trace.unwind()
        trace.tape = inner
        trace.drop(RNG_STATE)
        if not trace.norm_keeps_input:
            trace.drop(trace.x)  # the input, which the checkpoint held

    trace.back(back)
