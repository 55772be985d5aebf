"""Every way to keep fewer rows, by name: what each needs, and one door to all of them.

    choices = {name: choose(name, Inputs(tokens, text=words), budget=729) for name in ("shirg", "divprune", "random")}

    chooses   real rows, exactly `budget` of each picture, in raster order
    merges    as many rows, but what was dropped is mixed into them
    resizes   at most so many rows on a grid of their own: what every choice has to beat

`METHODS` is the table. tubelet.reduce.inputs makes `Inputs` of an encoder and its patches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tubelet.doors import door
from tubelet.errors import InputError, near_names
from tubelet.packed import Packed
from tubelet.packed.order import rows_in
from tubelet.reduce.cells import dilate
from tubelet.reduce.condense import pool_to, prumerge, tome, visionzip
from tubelet.reduce.diverse import cdpruner, divprune
from tubelet.reduce.groups import by_range, checked_rows, groups_of
from tubelet.reduce.relevance import relevance
from tubelet.reduce.scores import Box, covered, edges, norm, random, uniform, variance
from tubelet.reduce.select import budgets_of, select
from tubelet.reduce.settings import REGION, Settings
from tubelet.reduce.shirg import rows_of, shirg_score
from tubelet.shapes import Float, Shaped

Need = Literal["text", "attention", "keys", "boxes", "smaller", "sparse"]
Kind = Literal["chooses", "merges", "resizes"]
Budget = int | Sequence[int]

# What to give where a need is not met.
GIVE: dict[Need, str] = {
    "text": "vectors of words in the rows' space as text",
    "attention": "the attention each row gets as attention (tubelet.encoder.attention_scores)",
    "keys": "the keys of a layer as keys (tubelet.encoder.attention_scores)",
    "boxes": "boxes by picture as boxes",
    "smaller": "a function that encodes the pictures made smaller as smaller",
    "sparse": "a function that encodes the patches a video's codec points at as sparse; pictures have none",
}


class Sparse(NamedTuple):
    """Tokens of the patches that a clip's codec points at, and a score for each."""

    tokens: Packed
    scores: Float[Tensor, " K"]


@dataclass(frozen=True)
class Inputs:
    """What methods read of pictures. tokens: the rows to choose from. text: vectors of words, for all pictures or one
    tensor for each; features: the same rows in the words' space, tokens themselves if None. attention (T,) and keys
    (T, K): of one layer. boxes: what matters, by picture. smaller(budget): tokens of the pictures made so small that
    they have at most so many rows. sparse(budget): of the patches a codec points at."""

    tokens: Packed
    text: Float[Tensor, "S E"] | Sequence[Float[Tensor, "_ E"]] | None = None
    features: Packed | None = None
    attention: Float[Tensor, " T"] | None = None
    keys: Shaped[Tensor, "T K"] | None = None
    boxes: Mapping[int, Sequence[Box]] | None = None
    smaller: Callable[[int], Packed] | None = None
    sparse: Callable[[int], Sparse] | None = None

    @property
    def seen(self) -> Packed:
        """The rows where text is looked for."""
        return self.tokens if self.features is None else self.features


@dataclass(frozen=True)
class Choice:
    """kept: what is left. scores: what it was chosen by, one for each row there was; None where there is no such."""

    kept: Packed
    scores: Float[Tensor, " T"] | None = None


Run = Callable[[Inputs, Budget, Settings], Choice]
Score = Callable[[Inputs, Budget, Settings], Tensor]


@dataclass(frozen=True)
class Method:
    """about: one line for a list. needs: inputs it cannot do without. covers: it can follow coverage and a scaffold.
    ranks: under its own settings it keeps the rows of the highest scores, the first of equal ones, and its scores are
    the same at every budget. run: the method itself, to be called through `choose`."""

    about: str
    run: Run = field(repr=False)
    needs: tuple[Need, ...] = ()
    kind: Kind = "chooses"
    covers: bool = False
    ranks: bool = False


def needs_of(name: str, settings: Settings) -> tuple[Need, ...]:
    """What a method cannot do without under these settings. Raises InputError for an unknown name.

    >>> from tubelet.reduce.settings import Settings, Weights
    >>> needs_of("visionzip", Settings()), needs_of("shirg", Settings(weights=Weights(0.0, variance=1.0)))
    (('attention', 'keys'), ())
    """
    if name != "shirg":
        return method_of(name).needs
    weights = settings.weights
    wanted: tuple[tuple[Need, float], ...] = (("text", weights.text), ("attention", weights.attention))
    return tuple(need for need, weight in wanted if weight)


def method_of(name: str) -> Method:
    """The method of that name, of today or of the past. Raises InputError, naming those of today first."""
    if name in METHODS:
        return METHODS[name]
    past = historical_methods() if name.startswith("shirg") else {}
    if name in past:
        return past[name]
    near = near_names(name, METHODS) or near_names(name, past)
    history = f"historical: {', '.join(past)}" if past else "historical ones begin with shirg-"
    text = f"no method {name[:60]}{near}; there are {', '.join(METHODS)}; {history}"
    raise InputError(text, expected=(*METHODS, *past), got=name)


@door
def choose(name: str, inputs: Inputs, *, budget: Budget, settings: Settings | None = None) -> Choice:
    """What the method of that name keeps of each picture. Nothing depends on other pictures; equal scores: first rows.

    Methods that choose or merge keep exactly `budget` rows (all where there are fewer; historical versions may keep one
    less, for their summary); those that resize at most so many. Views of one picture share its budget.
    Raises: InputError for an unknown name, a budget that is none, an input that is missing (saying what to give) and a
    setting the method cannot follow; NotFinite for rows with NaN or infinity, whatever the method; what the method
    itself raises.

        >>> p = tubelet.pack([torch.randn(24, 8)], [tubelet.Item.of(1, 4, 6)])
        >>> choose("divprune", Inputs(p), budget=6).kept.lengths
        (6,)
        >>> choose("text", Inputs(p), budget=6)
        Traceback (most recent call last):
        tubelet.errors.InputError: the method text needs text: give vectors of words in the rows' space as text
    """
    settings = Settings() if settings is None else settings
    method = method_of(name)
    for need in needs_of(name, settings):
        if getattr(inputs, need) is None:
            raise InputError(f"the method {name} needs {need}: give {GIVE[need]}", expected=need, got=None)
    if not method.covers and (settings.coverage or settings.scaffold):
        able = tuple(n for n, m in METHODS.items() if m.covers)
        raise InputError(f"{name} cannot follow coverage or a scaffold; these can: {', '.join(able)}", got=name)
    budgets_of(groups_of(inputs.tokens), budget)
    checked_rows(inputs.tokens)
    return method.run(inputs, budget, settings)


# ---- by score


def _by(score: Score, *, coverage: int = 0) -> Run:
    def run(inputs: Inputs, budget: Budget, settings: Settings) -> Choice:
        p = inputs.tokens
        scores = score(inputs, budget, settings)
        side = coverage if settings.coverage is None else settings.coverage
        always = rows_of(p, settings.scaffold) if settings.scaffold else None
        share = settings.coverage_share
        return Choice(select(p, scores, budget=budget, coverage=side, coverage_share=share, always=always), scores)

    return run


def _text(inputs: Inputs, _: Budget, settings: Settings) -> Tensor:
    assert inputs.text is not None
    near = relevance(inputs.seen, inputs.text, words=settings.words, temperature=settings.temperature)
    if not settings.radius:
        return near
    return dilate(inputs.tokens, by_range(inputs.tokens, near), radius=settings.radius, falloff=settings.falloff)


def _shirg(inputs: Inputs, _: Budget, settings: Settings) -> Tensor:
    return shirg_score(inputs.tokens, inputs.text, settings, attention=inputs.attention, features=inputs.features)


def _attention(inputs: Inputs, _: Budget, __: Settings) -> Tensor:
    assert inputs.attention is not None
    return inputs.attention


def _boxes(inputs: Inputs, _: Budget, __: Settings) -> Tensor:
    assert inputs.boxes is not None
    return covered(inputs.tokens, inputs.boxes)


def _divprune(inputs: Inputs, budget: Budget, _: Settings) -> Choice:
    scores = divprune(inputs.tokens, budget=budget)
    return Choice(select(inputs.tokens, scores, budget=budget), scores)


def _cdpruner(inputs: Inputs, budget: Budget, _: Settings) -> Choice:
    assert inputs.text is not None
    near = -relevance(inputs.seen, inputs.text, words="mean")
    scores = cdpruner(inputs.tokens, near, budget=budget)
    return Choice(select(inputs.tokens, scores, budget=budget), scores)


# ---- others


def _visionzip(inputs: Inputs, budget: Budget, _: Settings) -> Choice:
    assert inputs.attention is not None
    assert inputs.keys is not None
    kept = visionzip(inputs.tokens, inputs.attention, inputs.keys, budget=budget, per="picture")
    return Choice(kept, inputs.attention)


def _prumerge(inputs: Inputs, budget: Budget, _: Settings) -> Choice:
    assert inputs.attention is not None
    assert inputs.keys is not None
    kept = prumerge(inputs.tokens, inputs.attention, inputs.keys, budget=budget, per="picture")
    return Choice(kept, inputs.attention)


def _tome(inputs: Inputs, budget: Budget, _: Settings) -> Choice:
    return Choice(tome(inputs.tokens, budget=budget, keys=inputs.keys, per="picture"))


def _pool(inputs: Inputs, budget: Budget, _: Settings) -> Choice:
    return Choice(pool_to(inputs.tokens, budget=budget, per="picture"))


def _smaller(inputs: Inputs, budget: Budget, _: Settings) -> Choice:
    assert inputs.smaller is not None
    return Choice(inputs.smaller(_one(budget)))


def _codec(inputs: Inputs, budget: Budget, _: Settings) -> Choice:
    assert inputs.sparse is not None
    p, found = inputs.tokens, inputs.sparse(_one(budget))
    if found.tokens.items != p.items:
        return Choice(found.tokens)
    rows = rows_in(p, found.tokens)
    scores = torch.full((len(p.x),), -torch.inf, device=p.device)
    return Choice(found.tokens, scores.index_copy(0, rows, found.scores.to(p.device, torch.float32)))


def historical_methods() -> dict[str, Method]:
    """Published versions of SHIRG by name, each with its first fault. They are loaded when one is asked for."""
    from tubelet.reduce.history.versions import VERSIONS

    return {name: Method(f"historical; {version.faults[0]}", _history(name)) for name, version in VERSIONS.items()}


def _history(version: str) -> Run:
    def run(inputs: Inputs, budget: Budget, _: Settings) -> Choice:
        from tubelet.reduce.history.versions import historical

        text = inputs.text
        if text is not None and not isinstance(text, Tensor):
            raise InputError(f"{version} takes one text for all pictures", got=len(text))
        return Choice(historical(inputs.tokens, version, text, budget=_one(budget)))

    return run


def _one(budget: Budget) -> int:
    if isinstance(budget, Sequence):
        raise InputError("this method takes one budget for all pictures", got=budget)
    return budget


_scored = partial(Method, covers=True)
_ranked = partial(_scored, ranks=True)

METHODS: dict[str, Method] = {
    "shirg": _scored(
        "near and around the words of a text, and of all regions", _by(_shirg, coverage=REGION), ("text",)
    ),
    "text": _ranked("near the words of a text", _by(_text), ("text",)),
    "attention": _ranked("most attended to in one layer", _by(_attention), ("attention",)),
    "edges": _ranked("least like their neighbours", _by(lambda i, _, __: edges(i.tokens))),
    "variance": _ranked("largest variance over channels", _by(lambda i, _, __: variance(i.tokens))),
    "norm": _ranked("longest", _by(lambda i, _, __: norm(i.tokens))),
    "boxes": _ranked("most covered by given boxes: an oracle", _by(_boxes), ("boxes",)),
    "uniform": _scored("at equal steps", _by(lambda i, b, _: uniform(i.tokens, budget=b))),
    "random": _ranked("at random, by a seed", _by(lambda i, _, s: random(i.tokens, seed=s.seed))),
    "divprune": Method("as different from each other as can be", _divprune),
    "cdpruner": Method("different from each other, and relevant to a text", _cdpruner, ("text",)),
    "codec": Method("where a video's codec spent its work", _codec, ("sparse",)),
    "visionzip": Method("most attended to, others merged in", _visionzip, ("attention", "keys"), "merges"),
    "prumerge": Method("most attended to, with their likest added", _prumerge, ("attention", "keys"), "merges"),
    "tome": Method("likest pairs become one", _tome, (), "merges"),
    "pool": Method("averages on a coarser grid", _pool, (), "resizes"),
    "downsample": Method("made smaller before encoding", _smaller, ("smaller",), "resizes"),
}
