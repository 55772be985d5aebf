"""VSI-Bench's scores and their means, as Spatial-MLLM's evaluation computes them."""

import torch

from tubelet.inspect.metrics.vsibench import relative_score, strict_scores, task_weights

from ..cases import Case, Mismatch


def run_vsibench(case: Case) -> None:
    if "strings" in case.config:
        _run_scores(case)
        return
    rewards = case.inputs["reward"].double()
    kinds = [case.config["types"][i] for i in case.inputs["type_index"].tolist()]
    numeric = torch.tensor([kind in case.config["numeric_types"] for kind in kinds])
    for name, chosen in (("acc", ~numeric), ("mra", numeric), ("all", torch.ones_like(numeric))):
        own = rewards[chosen]
        weights = task_weights([kind for kind, one in zip(kinds, chosen.tolist(), strict=True) if one])
        macro = (own * torch.tensor(weights, dtype=torch.float64)).mean()
        case.check(f"{name}_micro_macro", torch.stack([own.mean(), macro]))


def _run_scores(case: Case) -> None:
    pairs = zip(case.inputs["pred"].tolist(), case.inputs["target"].tolist(), strict=True)
    case.check("mra", torch.tensor([relative_score(a, b) for a, b in pairs]))
    said, wanted, kinds = zip(*case.config["strings"], strict=True)
    want = [reward for *_, reward in case.config["strings_out"]]
    got = strict_scores(said, [[w] for w in wanted], kinds)
    if any(abs(a - b) > 1e-6 for a, b in zip(got, want, strict=True)):
        raise Mismatch(f"answers score {got}, expected {want}")
