"""One call of the plain encoder, forward and backward, as bytes that are made and dropped, in the order torch does it.

It follows tubelet.encoder.model and .layers line by line: what a local variable holds until its function returns, what
autograd saves, and when backward frees it, are written where they happen. Backward runs the tape from its end, as
autograd's engine does: of what is ready, the node made last goes first. While a node runs, what it saved, the gradient
it was given and those it makes are alive together; two gradients of one tensor are added in place.

A new part of a layer is one more method that makes, drops, and pushes its backward.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tubelet.encoder.config import EncoderConfig

FLOAT = 4  # bytes of a float32
POS_BYTES = 12  # (t, h, w) of a row, int32
INDEX = 8  # bytes of a row's number, int64
_PACKED = 32  # values of the inner side that are packed together
Runs = tuple[tuple[int, int], ...]  # (segments, rows of each) for neighbours of equal length


@dataclass(frozen=True)
class Load:
    """What the formulas read: rows inside the layers, the runs of segments, and bytes of a value.

    item: of a weight; work: of an activation (float32 where a CPU has no arithmetic of the weights' type); threads:
    of a CPU's attention, 0 on an accelerator. cpu: its operators run. sums: a product's float32 sum stands beside its
    rounded result, as on a CPU without arithmetic of bfloat16. packs: a product packs blocks of what it reads, as
    oneDNN does for half types on a CPU that has their arithmetic. floats: rows are normalised pixels already. prefixes:
    how many of the rows are prefix tokens. local: runs of the layers that attend inside windows. grids: (h, w) of the
    pack's items, each once.
    """

    rows: int
    runs: Runs
    item: int
    work: int
    threads: int
    cpu: bool = True
    sums: bool = False
    floats: bool = False
    prefixes: int = 0
    local: Runs = ()
    grids: tuple[tuple[int, int], ...] = ()
    packs: bool = False

    @property
    def patches(self) -> int:
        """Rows of the pack itself."""
        return self.rows - self.prefixes


def index_bytes(config: EncoderConfig, load: Load) -> int:
    """Numbers of the places that the pack's rows take inside the layers, where those are not their own."""
    return load.patches * INDEX if config.prefix or "window" in config.layer_spans else 0


def tables_bytes(config: EncoderConfig, rows: int) -> int:
    """The rotary tables that all layers share: one or two float32 pairs for each pair of channels of a head."""
    if config.rope is None:
        return 0
    return rows * config.head_dim * FLOAT * (2 if config.rope.mode == "onevision" else 1)


def attention_scratch(load: Load, config: EncoderConfig, segment: int, *, backward: bool = False) -> int:
    """What sdpa's threads work in: blocks of scores, and for half types their rounded copies and float32 sums."""
    queries = min(segment, 256 if segment >= 768 else 64 if segment >= 192 else 32)
    keys, half = min(segment, 512), load.work < FLOAT
    scores = queries * keys
    if backward:
        each = 2 * scores * (FLOAT + (load.work if half else 0))
        return load.threads * (each + half * max(scores, keys * config.head_dim) * FLOAT)
    return load.threads * (scores * (FLOAT + (load.work if half else 0)) + queries * (2 + config.head_dim) * FLOAT)


def product_scratch(load: Load, rows: int, inner: int, out: int, *, turned: bool = False) -> int:
    """What the threads of one product (rows x inner) (inner x out) of half types pack their blocks into, at most.

    turned: the first factor is read across its memory, as for the gradient of a weight, and is packed as well. Fitted
    to oneDNN on a CPU with avx512_bf16, float32 sums of a block included: 1 to 2 times what 480 products took there,
    up to 7 times where the gradient of a weight has few rows.
    """
    if not load.packs:
        return 0
    deep, few = -(-inner // _PACKED) * _PACKED, min(rows, 256)
    sums = few * 64 * FLOAT + 1024
    if not turned:
        return load.threads * (min(deep, 1024) * 128 + sums)
    wide = 2 * few + 128 if deep <= 416 else 2 * min(rows, 768) + 2 * min(out, 512)
    return load.threads * (min(deep * wide, 400_000 if rows <= 128 else 1_327_104) + sums + 128)


class Trace:
    """What is alive, and the highest moments by name, while a call goes on. saving: autograd records."""

    def __init__(self, config: EncoderConfig, load: Load, *, saving: bool = False) -> None:
        self.config, self.load, self.saving = config, load, saving
        self.alive, self.where = 0, ""
        self.moments: dict[str, int] = {}
        self.tape: list[Callable[[], None]] = []
        t, d, a = load.rows, config.hidden, load.item
        self.x, self.up, self.wide = t * d * a, t * config.mlp * a, t * d * FLOAT
        self.first = load.patches * d * a  # of the pack's rows, before and after the places inside
        self.half = a < FLOAT

    # ---- the ledger

    def make(self, *sizes: int) -> None:
        """Tensors that stay until they are dropped."""
        for size in sizes:
            self.alive += size
        self.briefly(0)

    def drop(self, *sizes: int) -> None:
        self.alive -= sum(sizes)

    def briefly(self, size: int) -> None:
        """Bytes that are gone again when the step is over."""
        self.moments[self.where] = max(self.moments.get(self.where, 0), self.alive + size)

    def stage(self, name: str) -> None:
        """A name for the moments from here on; while autograd records, moments go by larger parts."""
        if not self.saving:
            self.where = name

    def back(self, step: Callable[[], None]) -> None:
        if self.saving:
            self.tape.append(step)

    def unwind(self) -> None:
        """Backward of everything on the tape."""
        while self.tape:
            self.tape.pop()()

    def product(self, rows: int, inner: int, out: int, *, turned: bool = False) -> None:
        """What a product (rows x inner) (inner x out) that has just been made has beside it: its float32 sums, or what
        it is packed into."""
        self.briefly(rows * out * FLOAT if self.load.sums else 0)
        self.briefly(product_scratch(self.load, rows, inner, out, turned=turned))

    # ---- the parts of a layer

    @property
    def norm_keeps_input(self) -> bool:
        return self.keeps_input(self.config.norm)

    def keeps_input(self, kind: str) -> bool:
        """RMSNorm of half types keeps a float32 copy of what goes in instead."""
        return not (self.composed(kind) and self.half)

    def composed(self, kind: str) -> bool:
        """RMSNorm on a CPU is a chain of float32 operators: x^2, x r, x r w."""
        return kind == "rms" and self.load.cpu

    def norm(self, kind: str, *, joins: bool, rows: int | None = None, width: int | None = None) -> None:
        """The input is the caller's to drop, unless `keeps_input` while saving. joins: its gradient is added to the one
        that went past the branch. rows, width: of the input, where they are not a layer's."""
        rows = self.load.rows if rows is None else rows
        width = self.config.hidden if width is None else width
        x, wide, composed = rows * width * self.load.item, rows * width * FLOAT, self.composed(kind)
        copy = wide if composed and self.half else 0
        kept = (copy + wide if composed else 0) + 2 * FLOAT * rows
        self.make(kept)
        if composed:
            self.briefly(wide + (x if self.half else 0))  # x r w in float32, and its rounded copy
        self.make(x)
        if not self.saving:
            self.drop(kept)

        def back() -> None:
            if composed:  # x, its gradient so far, and four tensors of the gradient through the mean square
                self.briefly(4 * wide - x)
            self.briefly(x + self.load.threads * 2 * width * FLOAT)  # each thread sums its rows
            self.make(x, (1 if kind == "rms" else 2) * width * self.load.item)
            self.drop(kept, x, 0 if copy else x)
            if joins:
                self.drop(x)

        self.back(back)

    def linear(
        self,
        rows: int,
        width: int,
        out: int,
        *,
        kept: int,
        held: bool = False,
        shared: bool = False,
        runs: bool = True,
        bias: bool = True,
    ) -> None:
        """kept: bytes of the input, which nothing else holds. held: the caller still names it. shared: the gradient it
        is given also goes past the branch. runs: False where the product itself is not wanted, only its backward.
        bias: without one, backward makes the weight's gradient before the input's."""
        a = self.load.item
        if runs:
            self.make(rows * out * a)
            self.product(rows, width, out)
        if not (self.saving or held):
            self.drop(kept)

        def back() -> None:
            gradients = [(rows, out, width, False), (out, rows, width, True)]
            for m, k, n, turned in gradients if bias else reversed(gradients):
                self.make(m * n * a)
                self.product(m, k, n, turned=turned)
            self.make(out * a * bias)
            self.drop(kept, 0 if shared else rows * out * a)

        self.back(back)

    def activation(self, up: int, act: str) -> None:
        """`up` bytes go in, as many come out. x sigmoid(1.702 x) also has its sigmoid; the scaled x is gone by then."""
        quick = act == "quick_gelu"
        self.make(*[up] * (1 + quick))
        if not self.saving:
            self.drop(up * (1 + quick))

        def back() -> None:
            self.briefly(up * (1 + quick))
            self.drop(up * (1 + quick))

        self.back(back)

    def gate(self, up: int, act: str) -> None:
        """act(gate) * value of the 2 `up` bytes that stand side by side and stay until `gated_away`."""
        quick = up if act == "quick_gelu" else 0
        self.make(up + quick)
        self.make(up)
        if not self.saving:
            self.drop(up + quick)

        def back() -> None:
            self.make(2 * up)
            self.drop(2 * up)  # the gradient given, and act(gate)
            self.briefly(up + 2 * quick)
            self.drop(quick, 2 * up)  # and what stood side by side
            self.briefly(2 * up)

        self.back(back)

    def scaled(self, *, runs: bool = True) -> None:
        """A factor for each channel of what a layer adds; what goes in is kept. runs: as in `linear`."""
        if runs:
            self.make(self.x)

        def back() -> None:
            self.make(self.x)
            self.briefly(self.x)
            self.drop(self.x)

        self.back(back)

    @property
    def qkv_kept(self) -> int:
        """Bytes of q, k and v that turning by learned angles saves as they are."""
        return 3 * self.x if self.config.prefix_angles and not self.half else 0

    def rotary(self) -> None:
        """q or k turned in float32 from partial products; autograd keeps what learned angles are multiplied by."""
        rope, learned = self.config.rope, self.config.prefix_angles
        assert rope is not None
        copy = self.wide if self.half else 0
        if rope.mode == "onevision":
            self.briefly(copy + 3 * self.wide)
        self.briefly(copy + 2 * self.wide + (self.x if self.half else 0))
        self.make(self.x)
        kept = copy if learned and self.saving else 0
        self.make(kept)
        tables = tables_bytes(self.config, self.load.rows) if learned else 0

        def back() -> None:
            # for tables with learned angles: their gradient from this layer, and a product of a layer's size
            self.briefly(2 * self.wide + (self.wide - self.x if self.half else 0) + (self.wide + tables) * learned)
            self.drop(kept)

        self.back(back)

    def attention(self, runs: Runs) -> None:
        """One call of sdpa for each run of equal segments, joined where there are more."""
        d = self.config.hidden
        for n, m in runs:
            log = n * m * self.config.heads * FLOAT
            self.make(n * m * d * self.load.item, log)
            self.briefly(attention_scratch(self.load, self.config, m))
            if not self.saving:
                self.drop(log)
        if len(runs) > 1:
            self.make(self.x)
            if not self.saving:
                self.drop(self.x)  # the parts
        self.back(lambda: self._attention_back(runs))

    def _attention_back(self, runs: Runs) -> None:
        """Each run's gradients of q, k and v are laid into zeros as long as the pack, then added up."""
        several, turned = len(runs) > 1, 0 if self.config.rope is None else 2
        if several:
            self.make(self.x)  # of the empty slice that stands first in the join
        for i, (n, m) in reversed([*enumerate(runs)]):
            part = n * m * self.config.hidden * self.load.item
            self.make(3 * part)
            self.briefly(attention_scratch(self.load, self.config, m, backward=True))
            self.drop(part, n * m * self.config.heads * FLOAT)
            if i == 0:
                self.drop((4 + turned) * self.x - self.qkv_kept)  # the gradient given, turned q and k, and qkv
            if several:
                for first in (i == len(runs) - 1, i == len(runs) - 1, False):  # of v, k, q
                    self.make(self.x)
                    self.drop(part, 0 if first else self.x)

    # ---- a layer

    def layer(self, *, recomputed: bool = False, tables: int = 0, local: bool = False) -> None:
        """`Layer.forward`; its input is dropped by the caller. recomputed: up to the last tensor that is saved, which
        goes into fc2, or into the scale after it. tables: bytes of which its backward is the last reader."""
        c, t, x = self.config, self.load.rows, self.x
        runs = self.load.local if local else self.load.runs
        self.stage("norm inside a layer")
        self.norm(c.norm, joins=True)
        self.stage("qkv")
        self.linear(t, c.hidden, 3 * c.hidden, kept=x, bias=c.qkv_bias)
        self.back(lambda: self.briefly(3 * x))  # the gradients of q, k and v, and the same side by side
        self.back(lambda: self.drop(tables))
        if c.rope is not None:
            self.back(lambda: self.drop(self.qkv_kept))
            self.stage("rotary positions")
            self.rotary()
            self.rotary()
        self.stage("attention")
        self.attention(runs)
        joined = 0 if self.saving and len(runs) == 1 else x
        self.linear(t, c.hidden, c.hidden, kept=joined, shared=not c.scale, bias=c.proj_bias)
        self.added()
        self.stage("MLP")
        self.norm(c.norm, joins=True)
        self.mlp(recomputed=recomputed)
        if not self.saving:
            self.drop((4 + 2 * (c.rope is not None)) * x)  # the sum before the MLP, turned q and k, qkv
        elif not self.norm_keeps_input:
            self.drop(x)

    def mlp(self, *, recomputed: bool) -> None:
        """fc1, activation, fc2 and the residual sum; until fc2 is done, what was added before it has its name."""
        c, t, x, up = self.config, self.load.rows, self.x, self.up
        self.linear(t, c.hidden, c.mlp * (1 + c.gated), kept=x, bias=c.mlp_bias)
        (self.gate if c.gated else self.activation)(up, c.act)
        runs = not recomputed or c.scale
        self.linear(t, c.mlp, c.hidden, kept=up, held=True, shared=not c.scale, runs=runs, bias=c.mlp_bias)
        if not (self.saving and c.scale):  # a scale keeps what it multiplies
            self.drop(x)
        if not recomputed:
            self.added()
        elif c.scale:
            self.scaled(runs=False)
        if not self.saving:
            self.drop(up * (3 if c.gated else 1), x)
        elif not (c.scale or recomputed):
            self.drop(x)

    def added(self) -> None:
        """A residual sum of what has just been made, which keeps its name."""
        if self.config.scale:
            self.scaled()
        self.make(self.x)
        if self.config.scale:
            self.drop(self.x)
