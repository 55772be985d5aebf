"""What a projector adds to an encoder's memory: its weights, and the moment at which its own tensors are the most.

    inference   encoder's tokens + their merged or selected copy + two neighbouring steps of the projector
    training    all that encoder and projector have saved for backward + gradients + a loss such as the mean square

In inference the encoder's own working memory is free again when the projector begins. On random encoders and
projectors on a CPU plan / peak is 1.00 to 1.07. Not measured on CUDA; a view rule's pool and join are not counted.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

from tubelet.inspect.budget.flops import projector_layers, projector_parameters
from tubelet.inspect.budget.memory import ITEM_BYTES, Dtype, Memory, Mode, beside_product


@dataclass(frozen=True)
class Projection:
    """What follows the encoder in shapes. tokens, width: the encoder's rows; rows, wide: those that go in, after merge
    and selection; out: of the rows that come out; copied: whether merge or selection make a copy of the tokens."""

    kind: str
    tokens: int
    width: int
    rows: int
    wide: int
    out: int
    copied: bool

    @property
    def parameters(self) -> int:
        """Values in the weights.

        >>> Projection("mlp2x_gelu", 100, 384, 100, 384, 3584, False).parameters
        14228480
        """
        return projector_parameters(self.kind, self.wide, self.out)

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(in, out) of each linear layer."""
        return projector_layers(self.kind, self.wide, self.out)

    @property
    def steps(self) -> list[int]:
        """Values in each tensor of one pass: what goes in, then every layer's result and its activation's."""
        return [self.rows * self.wide, *[self.rows * self.out] * max(0, 2 * len(self.layers) - 1)]


def with_projector(found: Memory, after: Projection, dtype: Dtype, mode: Mode, *, device: str = "cpu") -> Memory:
    """`found`, an encoder's memory on that device, with the projector's weights, optimizer state and moment added.

    >>> from tubelet.inspect.budget.memory import memory
    >>> from tubelet.families.onevision import VARIANTS
    >>> from tubelet.packed.grid import Grid
    >>> alone = memory(VARIANTS["llava_vit_packing_small"], [Grid(1, 8, 8)], threads=1)
    >>> both = with_projector(alone, Projection("linear", 64, 384, 64, 384, 512, False), "float32", "inference")
    >>> both.weights_bytes - alone.weights_bytes
    788480
    """
    item = ITEM_BYTES[dtype]
    weights = after.parameters * item
    if mode == "inference":
        moments = found.moments_bytes | {"projector": _forward(after, dtype, device)}
        optimizer = 0
    else:
        out = after.steps[-1] * item if after.layers else 0  # the caller has it, in place of the tokens
        behind = {name: n + weights + out for name, n in found.moments_bytes.items()}
        loss = 4 * after.tokens * after.width * item  # of the tokens, which is the projector's now
        end = found.moments_bytes.get("loss", 0) - loss
        moments = behind | {"backward of the projector": end + _backward(after, item)}
        optimizer = found.optimizer_bytes + 2 * weights
    where = max(moments, key=lambda name: moments[name])
    return replace(
        found,
        weights_bytes=found.weights_bytes + weights,
        work_bytes=moments[where] + found.work_bytes - max(found.moments_bytes.values()),
        optimizer_bytes=optimizer,
        where=where,
        moments_bytes=moments,
    )


def _before(after: Projection, item: int) -> int:
    """The encoder's tokens, and their copy where there is one."""
    return (after.tokens * after.width + (after.rows * after.wide if after.copied else 0)) * item


def _forward(after: Projection, dtype: Dtype, device: str) -> int:
    """Two neighbouring steps are alive at once; what goes in stays, for the caller has it."""
    steps, item = after.steps, ITEM_BYTES[dtype]
    inside = max((a + b for a, b in pairwise(steps[1:])), default=sum(steps[1:]))
    beside = max((beside_product(dtype, after.rows, a, b, device=device) for a, b in after.layers), default=0)
    return _before(after, item) + inside * item + beside


def _backward(after: Projection, item: int) -> int:
    """Before each step back: what was saved up to it, two gradients, those of the weights behind it, and the result."""
    steps, layers = after.steps, after.layers
    if not layers:
        return _before(after, item) + 4 * steps[0] * item
    most = sum(steps[1:]) + 4 * steps[-1]  # a loss such as the mean square
    for i in range(1, len(steps)):
        behind = sum(a * b + b for a, b in layers[i // 2 :])
        most = max(most, sum(steps[1:i]) + steps[i] + steps[i - 1] + behind + steps[-1])
    return _before(after, item) + most * item
