"""One pack of patches through the encoder, and what is made of its tokens: on the host, ready to be written.

The encoder's loop of every command and worker. On a CPU a file's tokens are the same bits whatever stood beside it in
its pack: matrix products of less than four rows are another routine there, so a pack has at least four items.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError
from tubelet.packed import Item, Packed, pack
from tubelet.packed.packed import concat
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reduce.inputs import inputs_of
from tubelet.reduce.merge import merge
from tubelet.reduce.methods import Inputs, choose, method_of, needs_of
from tubelet.reduce.settings import Settings
from tubelet.scale.options import Reduction

MADE_HERE = frozenset({"attention", "keys"})  # what methods need that an encoder gives by itself
ALIKE = 4  # rows from which matrix products on a CPU do not depend on their number
_ALL = Reduction()


class Encoded(NamedTuple):
    """What became of one pack."""

    tokens: Packed  # on the host
    pooled: Tensor | None  # (N, D) on the host, where it is asked for
    spent_s: float


def check_reduction(encoder: Encoder, wanted: Reduction) -> None:
    """Raise ConfigError or InputError where this encoder cannot give what is wanted, or nobody can for many files."""
    if wanted.pool and not encoder.can_pool:
        raise ConfigError("this encoder has neither a pooling head nor a class token to pool with")
    if wanted.method is not None:
        method_of(wanted.method)
        needs = sorted(set(needs_of(wanted.method, Settings())) - MADE_HERE)
        if needs:
            raise ConfigError(f"the method {wanted.method} needs {needs[0]}, which files alone do not have", got=needs)


def encode_pack(
    packed: Packed, encoder: Encoder, device: str, wanted: Reduction = _ALL, ids: Sequence[int] | None = None
) -> Encoded:
    """Tokens of a pack of patches, merged or chosen, and one vector an item where they are pooled, on the host.

    ids: of the items, which with `wanted.seed` decide random choices; their places if None. Pooled vectors are of all
    tokens. Syncs. Cost: one run of the encoder; two where tokens are chosen by attention and pooled.
    Raises what the encoder, `merge` and `choose` raise.
    """
    start = time.perf_counter()
    ids = range(len(packed)) if ids is None else ids
    few = 0 < len(packed) < ALIKE and device == "cpu"
    with torch.inference_mode():
        rows = (accompanied(packed, encoder.pixels) if few else packed).to(device)
        needs = set() if wanted.method is None else set(needs_of(wanted.method, Settings()))
        features = encoder.features(rows) if wanted.pool else None
        pooled = None if features is None or features.pooled is None else features.pooled.cpu()[: len(packed)]
        if needs:
            inputs = inputs_of(encoder, rows, needs)
        else:
            inputs = Inputs(encoder(rows) if features is None else features.tokens)
        inputs = _first(inputs, len(packed)) if few else inputs
        tokens = _reduced(inputs, wanted, ids).to("cpu")
    return Encoded(tokens, pooled, time.perf_counter() - start)


def accompanied(packed: Packed, recipe: PixelRecipe) -> Packed:
    """The pack with black items of one unit beside its own, so that there are four."""
    n = recipe.merge
    rows = packed.x.new_zeros(n * n, packed.x.shape[1])
    black = pack([rows], [Item.of(1, n, n)], merge=n if recipe.order == "block" else 1)
    return concat([packed, *[black] * (ALIKE - len(packed))])


def _first(inputs: Inputs, count: int) -> Inputs:
    """Of the first items alone."""
    tokens = inputs.tokens[:count]
    rows = len(tokens.x)
    attention, keys = (None if one is None else one[:rows] for one in (inputs.attention, inputs.keys))
    return replace(inputs, tokens=tokens, attention=attention, keys=keys)


def _reduced(inputs: Inputs, wanted: Reduction, ids: Sequence[int]) -> Packed:
    tokens = inputs.tokens
    if not wanted.tokens:
        return tokens.keep(torch.zeros(0, dtype=torch.long), [0] * len(tokens))
    if wanted.merge > 1:
        return merge(tokens, space=wanted.merge, odd="pad_edge")
    if wanted.method is None or not len(tokens):
        return tokens
    budgets = [wanted.budget_of(n) for n in tokens.lengths]
    if wanted.method != "random":
        return choose(wanted.method, inputs, budget=budgets).kept
    chosen = (
        choose("random", Inputs(one), budget=budget, settings=Settings(seed=_seed(wanted.seed, number))).kept
        for one, budget, number in zip(tokens, budgets, ids, strict=True)
    )
    return concat(list(chosen), renumber=False)


def _seed(seed: int, number: int) -> int:
    """One of 2^62 for each file of each run."""
    return (seed * 0x9E3779B97F4A7C15 + number) % (1 << 62)
