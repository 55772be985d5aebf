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


@dataclass(frozen=True)
class Load:
    """What the formulas read: rows, the runs of segments (segments, rows of each), and bytes of a value.

    item: of a weight; work: of an activation (float32 where a CPU has no arithmetic of the weights' type); threads:
    of a CPU's attention, 0 on an accelerator. cpu: its operators run. sums: a product's float32 sum stands beside its
    rounded result, as on a CPU without arithmetic of bfloat16. floats: rows are normalised pixels already.
    """

    rows: int
    runs: tuple[tuple[int, int], ...]
    item: int
    work: int
    threads: int
    cpu: bool = True
    sums: bool = False
    floats: bool = False

    @property
    def longest_run(self) -> int:
        return max((n * m for n, m in self.runs), default=0)


def tables_bytes(config: EncoderConfig, rows: int) -> int:
    """The rotary tables that all layers share: one or two float32 pairs for each pair of channels of a head."""
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


class Trace:
    """What is alive, and the highest moments by name, while a call goes on. saving: autograd records."""

    def __init__(self, config: EncoderConfig, load: Load, *, saving: bool = False) -> None:
        self.config, self.load, self.saving = config, load, saving
        self.alive, self.where = 0, ""
        self.moments: dict[str, int] = {}
        self.tape: list[Callable[[], None]] = []
        t, d, a = load.rows, config.hidden, load.item
        self.x, self.up, self.wide = t * d * a, t * config.mlp * a, t * d * FLOAT
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

    def rounded(self, values: int) -> None:
        """The float32 sums of a product that has just been made."""
        if self.load.sums:
            self.briefly(values * FLOAT)

    # ---- the parts of a layer

    @property
    def norm_keeps_input(self) -> bool:
        """RMSNorm of half types keeps a float32 copy of what goes in instead."""
        return not (self.composed and self.half)

    @property
    def composed(self) -> bool:
        """RMSNorm on a CPU is a chain of float32 operators: x^2, x r, x r w."""
        return self.config.norm == "rms" and self.load.cpu

    def norm(self, kind: str, *, joins: bool) -> None:
        """The input is the caller's to drop, unless `norm_keeps_input` while saving. joins: its gradient is added to
        the one that went past the branch."""
        composed = kind == "rms" and self.load.cpu
        copy = self.wide if composed and self.half else 0
        kept = (copy + self.wide if composed else 0) + 2 * FLOAT * self.load.rows
        self.make(kept)
        if composed:
            self.briefly(self.wide + (self.x if self.half else 0))  # x r w in float32, and its rounded copy
        self.make(self.x)
        if not self.saving:
            self.drop(kept)

        def back() -> None:
            if composed:  # x, its gradient so far, and four tensors of the gradient through the mean square
                self.briefly(4 * self.wide - self.x)
            self.briefly(self.x + self.load.threads * 2 * self.config.hidden * FLOAT)  # each thread sums its rows
            self.make(self.x, (1 if kind == "rms" else 2) * self.config.hidden * self.load.item)
            self.drop(kept, self.x, 0 if copy else self.x)
            if joins:
                self.drop(self.x)

        self.back(back)

    def linear(
        self, rows: int, width: int, out: int, *, kept: int, held: bool = False, shared: bool = False, runs: bool = True
    ) -> None:
        """kept: bytes of the input, which nothing else holds. held: the caller still names it. shared: the gradient it
        is given also goes past the branch. runs: False where the product itself is not wanted, only its backward."""
        a = self.load.item
        if runs:
            self.make(rows * out * a)
            self.rounded(rows * out)
        if not (self.saving or held):
            self.drop(kept)

        def back() -> None:
            self.make(rows * width * a)
            self.rounded(rows * width)
            self.make((width * out + out) * a)
            self.rounded(width * out)
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

    def rotary(self) -> None:
        """q or k turned in float32 from partial products; of its own tensors autograd keeps none."""
        copy = self.wide if self.half else 0
        if self.config.rope.mode == "onevision":
            self.briefly(copy + 3 * self.wide)
        self.briefly(copy + 2 * self.wide + (self.x if self.half else 0))
        self.make(self.x)
        self.back(lambda: self.briefly(2 * self.wide + (self.wide - self.x if self.half else 0)))

    def attention(self) -> None:
        """One call of sdpa for each run of equal segments, joined where there are more."""
        runs, d = self.load.runs, self.config.hidden
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
        self.back(self._attention_back)

    def _attention_back(self) -> None:
        """Each run's gradients of q, k and v are laid into zeros as long as the pack, then added up."""
        runs, several = self.load.runs, len(self.load.runs) > 1
        if several:
            self.make(self.x)  # of the empty slice that stands first in the join
        for i, (n, m) in reversed([*enumerate(runs)]):
            part = n * m * self.config.hidden * self.load.item
            self.make(3 * part)
            self.briefly(attention_scratch(self.load, self.config, m, backward=True))
            self.drop(part, n * m * self.config.heads * FLOAT)
            if i == 0:
                self.drop(6 * self.x)  # the gradient given, turned q and k, and qkv
            if several:
                for first in (i == len(runs) - 1, i == len(runs) - 1, False):  # of v, k, q
                    self.make(self.x)
                    self.drop(part, 0 if first else self.x)

    # ---- a layer

    def layer(self, *, recomputed: bool = False, tables: int = 0) -> None:
        """`Layer.forward`; its input is dropped by the caller. recomputed: up to the last tensor that is saved, which
        goes into fc2. tables: bytes of which its backward is the last reader."""
        c, t, x = self.config, self.load.rows, self.x
        self.stage("norm inside a layer")
        self.norm(c.norm, joins=True)
        self.stage("qkv")
        self.linear(t, c.hidden, 3 * c.hidden, kept=x)
        self.back(lambda: self.briefly(3 * x))  # the gradients of q, k and v, and the same side by side
        self.back(lambda: self.drop(tables))
        self.stage("rotary positions")
        self.rotary()
        self.rotary()
        self.stage("attention")
        self.attention()
        joined = x if len(self.load.runs) > 1 else 0
        self.linear(t, c.hidden, c.hidden, kept=joined, held=True, shared=True)
        self.added()
        self.stage("MLP")
        self.norm(c.norm, joins=True)
        self.linear(t, c.hidden, c.mlp, kept=x)
        self.activation(self.up, c.act)
        self.linear(t, c.mlp, c.hidden, kept=self.up, shared=True, runs=not recomputed)
        if not recomputed:
            self.added()
        if not self.saving:
            self.drop(7 * x)  # the sum before the MLP, attention, turned q and k, qkv
        elif not self.norm_keeps_input:
            self.drop(x)

    def added(self) -> None:
        """A residual sum: it is made, then what was added goes."""
        self.make(self.x)
        self.drop(self.x)
