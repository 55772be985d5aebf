"""What a comparison made: methods, their costs and their pictures."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tubelet.cli.choosing import SelectionRequest, settings_for

if TYPE_CHECKING:
    from tubelet.cli.model import Model
    from tubelet.inspect.metrics import Estimate
    from tubelet.inspect.metrics.comparison import Comparison
    from tubelet.reduce.encoded import EncodedFile
    from tubelet.reduce.methods import Choice


DRAWS, FEW_DRAWS = 20, 5  # random choices of one picture, so that chance has an interval
MUCH = 4_000_000  # pairs of a token and a kept one; of a picture with more, chance is drawn a few times


class Compared:
    """What has been compared so far: choices of each file by method, and how long they took beside the encoder."""

    def __init__(self, wish: SelectionRequest, model: "Model", runs: int) -> None:
        self.wish, self.model, self.runs = wish, model, runs
        self.files: list[dict[str, Any]] = []
        self.seen: list[EncodedFile] = []
        self.choices: list[dict[str, Choice]] = []
        self.costs: list[dict[str, list[float]]] = []
        self._found: dict[tuple[int, ...], Comparison] = {}

    def add(self, seen: "EncodedFile", choices: "dict[str, Choice]") -> None:
        """One file, timed."""
        self.seen.append(seen)
        self.choices.append(choices)
        self.costs.append(whole_costs(seen, self.wish, self.model, self.runs))

    def numbers(self, index: int | None = None) -> "Comparison":
        """The numbers of each method: over all files, or of one."""
        picked = tuple(range(len(self.seen))) if index is None else (index,)
        if picked not in self._found:
            self._found[picked] = self._compare(picked)
        return self._found[picked]

    def _compare(self, picked: tuple[int, ...]) -> "Comparison":
        from tubelet.inspect.metrics import quantile_of, summary
        from tubelet.inspect.metrics.comparison import Comparison
        from tubelet.packed import concat

        whole = concat([self.seen[i].inputs.tokens for i in picked])
        boxes = {n: self.seen[i].inputs.boxes for n, i in enumerate(picked)}
        known = {n: found[0] for n, found in boxes.items() if found}
        only = picked[0] if len(picked) == 1 else None
        draws = 0 if only is None else self._draws(only)
        out = {}
        for name in self.wish.methods:
            if name == "random" and only is not None:
                numbers = self._chance(only, draws)
            else:
                numbers = summary(whole, concat([self.choices[i][name].kept for i in picked]), known)
            quotients = [q for i in picked for q in self.costs[i].get(name, ())]
            out[name] = numbers | ({"time": quantile_of(quotients, 0.5)} if quotients else {})
        return Comparison(out, draws)

    def _draws(self, index: int) -> int:
        tokens = self.seen[index].inputs.tokens
        return DRAWS if len(tokens.x) * min(self.wish.budget, len(tokens.x)) <= MUCH else FEW_DRAWS

    def _chance(self, index: int, draws: int) -> "dict[str, Estimate]":
        """The mean of many random choices from one picture."""
        from tubelet.inspect.metrics import mean_of, summary
        from tubelet.reduce.methods import choose

        seen = self.seen[index]
        settings = settings_for(self.wish, seen, "random")
        found = []
        for draw in range(draws):
            own = replace(settings, seed=settings.seed + draw)
            kept = choose("random", seen.inputs, budget=self.wish.budget, settings=own).kept
            found.append(summary(seen.inputs.tokens, kept, seen.inputs.boxes))
        return {name: mean_of([one[name].value for one in found]) for name in found[0]}


def whole_costs(seen: "EncodedFile", wish: SelectionRequest, model: "Model", runs: int) -> dict[str, list[float]]:
    """Of each method: seconds of the encoder and itself over those of the encoder alone, run by run in turns."""
    import torch

    from tubelet.encoder.attention_scores import attention_scores
    from tubelet.inspect.metrics import timed
    from tubelet.reduce.methods import choose, method_of
    from tubelet.reduce.relevance import in_joint_space

    if not runs:
        return {}
    encoder, inputs = model.encoder, seen.inputs
    watched = {"attention", "keys"}
    stages: dict[str, dict[str, Any]] = {"": {"encode": lambda: encoder(seen.patches)}}
    if watched & wish.needs:
        stages["attended"] = {"encode": lambda: attention_scores(encoder, seen.patches, layer=wish.layer)}
    plain = stages[""]["encode"]
    tokens = plain() if inputs.features is not None else inputs.tokens
    for name in wish.methods:
        settings = settings_for(wish, seen, name)
        reads = "text" in method_of(name).needs and inputs.features is not None
        first = {"features": lambda: in_joint_space(encoder, tokens)} if reads else {}
        stages[f"method {name}"] = {
            **first,
            "choose": lambda n=name, s=settings: choose(n, inputs, budget=wish.budget, settings=s),
        }
    with torch.inference_mode():
        settle = torch.cuda.synchronize if model.device == "cuda" else None
        found = timed(stages, runs=runs, warmup=1, settle=settle)
    alone = found[""].total_s
    out = {}
    for name in wish.methods:
        own = found[f"method {name}"].total_s
        base = found["attended"].total_s if watched & set(method_of(name).needs) else alone
        if name in ("downsample", "codec"):  # these run the encoder themselves
            base = (0.0,) * runs
        out[name] = [(b + s) / a for a, b, s in zip(alone, base, own, strict=True)]
    return out
