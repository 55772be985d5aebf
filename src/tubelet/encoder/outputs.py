"""What one run of the encoder gives, and how its hidden states are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tubelet.encoder.layout import Layout
from tubelet.errors import ConfigError
from tubelet.packed import Packed

States = dict[int, Tensor]  # hidden states by number, rows inside; the keys are those asked for
Which = int | tuple[int, ...]  # one hidden state, or several of the same rows joined on channels


def numbers_of(only: Sequence[Which], layers: int) -> tuple[int, ...]:
    """The numbers of all states that are asked for. Raises ConfigError for one outside 0..layers.

    >>> numbers_of([3, (1, 2)], layers=3)
    (3, 1, 2)
    """
    numbers = tuple(i for which in only for i in ((which,) if isinstance(which, int) else which))
    for i in numbers:
        if not 0 <= i <= layers:
            raise ConfigError(f"hidden states count 0..{layers}, got {i}", limit=layers, got=i)
    return numbers


class LayerOutputs(NamedTuple):
    """What the layers gave, with rows in the places inside (`layout`), before the final norm."""

    x: Tensor  # (R, D) after the last layer that ran
    layout: Layout  # what attended to what, and the way back to the pack's order
    states: States  # the hidden states asked for: 0 before the first layer, i after the i-th

    def state(self, which: Which) -> Tensor:
        """(R, D) of one state, or (R, n D) of several joined on channels in the order given."""
        if isinstance(which, int):
            return self.states[which]
        return torch.cat([self.states[i] for i in which], dim=-1)

    def rows(self, p: Packed, which: Which) -> Packed:
        """`state` as rows of the pack `p` that was encoded, in its order, without prefix tokens."""
        return p.with_x(self.layout.from_layout(self.state(which)))

    def prefixes(self, which: Which) -> Tensor | None:
        """`state` of the prefix tokens alone, (S, P, n D); None where the encoder has none."""
        return self.layout.prefixes(self.state(which))


@dataclass(frozen=True)
class Features:
    """Everything `Encoder.features` gives of one run."""

    tokens: Packed  # what `encoder(p)` gives
    trunk: Packed  # the same before the merger
    prefix: Tensor | None  # (S, P, D), prefix tokens of each item or frame after the final norm; None without any
    pooled: Tensor | None  # (N, D), None where the encoder cannot pool
    hidden: tuple[Packed, ...]  # the hidden states asked for
    hidden_prefix: tuple[Tensor | None, ...]  # their prefix tokens
    deepstack: tuple[Packed, ...]  # what the mergers of chosen layers gave, as wide as tokens
