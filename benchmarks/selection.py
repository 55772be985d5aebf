"""What choosing costs beside the encoder, and how much faster each method is than its formula written out.

    python benchmarks/selection.py                every layer, all threads: results/selection.json
    python benchmarks/selection.py --quick        few layers and rounds, nothing written

One page as LaViDa cuts it: a global view and four tiles of 27 x 27 patches through SigLIP so400m, 3,645 tokens, of
which 729 are kept. "whole cost" is 1 + the time of the selection over the time of the encoder, both from the same
rounds: what a page takes with the selection, in units of the encoder alone. The literal forms do what the published
code does, row by row or pick by pick; outputs are compared before anything is timed.
"""

import argparse
import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Timing, measure, ratio, report, save, show
from tubelet.encoder.attention import Segments
from tubelet.encoder.attention_scores import received
from tubelet.encoder.model import Encoder
from tubelet.families.siglip import SIGLIP
from tubelet.packed import Grid, Item, Packed, pack
from tubelet.reduce.cells import dilate
from tubelet.reduce.condense import pool_to, prumerge, tome, visionzip
from tubelet.reduce.diverse import cdpruner, divprune
from tubelet.reduce.relevance import in_joint_space, relevance
from tubelet.reduce.scores import edges, norm, random, uniform, variance
from tubelet.reduce.select import chosen, select
from tubelet.reduce.settings import Settings
from tubelet.reduce.shirg import shirg
from tubelet.weights.load import untrained

SIDE, PATCH, BUDGET, WORDS = 27, 14, 729, 12
ENCODER = "encoder"
LIMIT = 1.10  # of the encoder's time, with the selection


def page(width: int) -> Packed:
    """A picture of 768 x 768 as a global view and four tiles of 384 x 384, as normalised patches."""
    boxes = [(0, 0, 768, 768), (0, 0, 384, 384), (384, 0, 768, 384), (0, 384, 384, 768), (384, 384, 768, 768)]
    items = [Item(Grid(1, SIDE, SIDE), (0.0,), 0, box) for box in boxes]
    g = torch.Generator().manual_seed(0)
    return pack([torch.randn(SIDE * SIDE, width, generator=g) for _ in items], items)


def encoder_of(layers: int | None) -> Encoder:
    config = SIGLIP.variants["siglip_so400m_patch14_384"]
    return untrained(config if layers is None else replace(config, layers=layers)).eval()


def methods(encoder: Encoder, tokens: Packed) -> dict[str, Callable[[], object]]:
    """Everything from the encoder's tokens to the rows that are kept."""
    g = torch.Generator().manual_seed(1)
    d, heads = tokens.x.shape[1], encoder.config.heads
    text = torch.randn(WORDS, d, generator=g)
    q, k = torch.randn(2, len(tokens.x), heads, d // heads, generator=g)
    attention, keys = received(q, k, Segments(tokens.lengths)), k.flatten(1)

    def by(score: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: select(tokens, score(), budget=BUDGET)

    return {
        "shirg, joint space and all": lambda: shirg(
            tokens, text, Settings(scaffold=()), budget=BUDGET, features=in_joint_space(encoder, tokens)
        ),
        "shirg": lambda: shirg(tokens, text, budget=BUDGET),
        "relevance": by(lambda: relevance(tokens, text)),
        "cdpruner": by(lambda: cdpruner(tokens, -relevance(tokens, text, words="mean"), budget=BUDGET)),
        "divprune": by(lambda: divprune(tokens, budget=BUDGET)),
        "attention received": by(lambda: received(q, k, Segments(tokens.lengths))),
        "visionzip": lambda: visionzip(tokens, attention, keys, budget=BUDGET, per="picture"),
        "prumerge": lambda: prumerge(tokens, attention, keys, budget=BUDGET, per="picture"),
        "tome": lambda: tome(tokens, budget=BUDGET, keys=keys, per="picture"),
        "pool": lambda: pool_to(tokens, budget=BUDGET, per="picture"),
        "edges": by(lambda: edges(tokens)),
        "variance": by(lambda: variance(tokens)),
        "norm": by(lambda: norm(tokens)),
        "uniform": by(lambda: uniform(tokens, budget=BUDGET)),
        "random": by(lambda: random(tokens)),
        "choosing alone, coverage 4": lambda: select(tokens, attention, budget=BUDGET, coverage=4),
    }


# ---- the literal forms


def literal_divprune(x: Tensor, k: int) -> list[int]:
    """Each pick compares every row with all picks so far, as vbdi/divprune does."""
    unit = F.normalize(x, dim=1)
    distance = 1 - unit @ unit.T
    picks: list[int] = []
    for i in range(k):
        if i == 0:
            worth = distance.topk(2, dim=0, largest=False).values[1]
        else:
            worth = distance.index_select(0, torch.tensor(picks)).min(dim=0).values
            worth[picks] = -math.inf
        picks.append(int(worth.argmax()))
    return picks


def literal_dilation(p: Packed, scores: Tensor, radius: int, falloff: float) -> Tensor:
    """Every cell looks at every cell of its window."""
    out = []
    for rows, s in zip(p.pos.split(p.lengths), scores.split(p.lengths), strict=True):
        at = {(h, w): float(v) for (_, h, w), v in zip(rows.tolist(), s, strict=True)}
        for _, h, w in rows.tolist():
            near = [
                at[h + a, w + b] - falloff * max(abs(a), abs(b))
                for a in range(-radius, radius + 1)
                for b in range(-radius, radius + 1)
                if (h + a, w + b) in at
            ]
            out.append(max(near))
    return torch.tensor(out)


def literal_coverage(p: Packed, scores: Tensor, k: int, side: int) -> list[int]:
    """Region by region and cell by cell, then the best of the rest; a quarter of k for the regions."""
    regions: dict[tuple[int, int, int], int] = {}
    for i in range(len(p)):
        for r in range(p.starts[i], p.starts[i + 1]):
            _, h, w = p.pos[r].tolist()
            name = (i, h // side, w // side)
            if name not in regions or float(scores[r]) > float(scores[regions[name]]):
                regions[name] = r
    best = sorted(regions.values(), key=lambda r: (-float(scores[r]), r))[: k // 4]
    rest = sorted((r for r in range(len(scores)) if r not in set(best)), key=lambda r: (-float(scores[r]), r))
    return sorted(best + rest[: k - len(best)])


def literal_edges(p: Packed) -> Tensor:
    owner = [i for i, n in enumerate(p.lengths) for _ in range(n)]
    row = {(i, h, w): r for r, (i, (_, h, w)) in enumerate(zip(owner, p.pos.tolist(), strict=True))}
    out = []
    for i, h, w in row:
        near = [row.get((i, h + a, w + b)) for a, b in ((0, 1), (0, -1), (1, 0), (-1, 0))]
        steps = [float((p.x[row[i, h, w]] - p.x[o]).norm()) for o in near if o is not None]
        out.append(sum(steps) / len(steps))
    return torch.tensor(out)


def literals(p: Packed) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Name: ours and the literal form, after their results have been compared."""
    scores = torch.randn(len(p.x), generator=torch.Generator().manual_seed(2))
    picks = literal_divprune(p.x, BUDGET)
    ours = divprune(p, budget=BUDGET)
    assert ours[picks].tolist() == list(range(BUDGET, 0, -1)), "divprune picks other rows"
    torch.testing.assert_close(dilate(p, scores, radius=3, falloff=0.1), literal_dilation(p, scores, 3, 0.1))
    assert chosen(p, scores, budget=BUDGET, coverage=4).tolist() == literal_coverage(p, scores, BUDGET, 4)
    torch.testing.assert_close(edges(p), literal_edges(p))
    return {
        "divprune": (lambda: divprune(p, budget=BUDGET), lambda: literal_divprune(p.x, BUDGET)),
        "dilate": (
            lambda: dilate(p, scores, radius=3, falloff=0.1),
            lambda: literal_dilation(p, scores, 3, 0.1),
        ),
        "coverage": (
            lambda: chosen(p, scores, budget=BUDGET, coverage=4),
            lambda: literal_coverage(p, scores, BUDGET, 4),
        ),
        "edges": (lambda: edges(p), lambda: literal_edges(p)),
    }


def cost(timings: dict[str, Timing], rounds: int) -> dict[str, dict[str, float]]:
    """Of each method: its seconds, and 1 + its median share of the encoder's time of the same round."""
    out = {}
    for name, timing in timings.items():
        if name.startswith(ENCODER):
            continue
        alone = timings[ENCODER]
        wall = sorted(a / b for a, b in zip(timing.wall_s, alone.wall_s, strict=True))
        cpu = sorted(a / b for a, b in zip(timing.cpu_s, alone.cpu_s, strict=True))
        out[name] = {
            "wall_s": round(timing.wall, 5),
            "whole_cost": round(1 + wall[rounds // 2], 4),
            "whole_cost_by_cpu_time": round(1 + cpu[rounds // 2], 4),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 layers, 1 round, nothing written")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    rounds = 1 if options.quick else options.rounds
    encoder = encoder_of(2 if options.quick else None)
    patches = page(encoder.pixels.width)
    with torch.inference_mode():
        tokens = encoder(patches)
        runs: dict[str, Callable[[], object]] = {ENCODER: lambda: encoder(patches), **methods(encoder, tokens)}
        timings = measure(runs, rounds=rounds, warmup=1, control=ENCODER)
        show(f"{len(tokens.x):,} tokens, {BUDGET} kept", timings, ours=ENCODER)
        costs = cost(timings, rounds)
        for name, found in costs.items():
            mark = "" if options.quick or found["whole_cost"] <= LIMIT else f"  above {LIMIT}"
            costs_text = f"{found['whole_cost']:.4f}, by CPU time {found['whole_cost_by_cpu_time']:.4f}"
            print(f"{name:32} {found['wall_s'] * 1e3:9.1f} ms   whole cost {costs_text}{mark}")
        faster = {}
        for name, (ours, literal) in literals(tokens).items():
            pair = measure({"tubelet": ours, "literal": literal}, rounds=rounds, warmup=1)
            faster[name] = {**ratio(pair, "tubelet", "literal"), "wall_s": round(pair["tubelet"].wall, 5)}
            show(name, pair, ours="tubelet")
    if not options.quick:
        settings = {"tokens": len(tokens.x), "budget": BUDGET, "words": WORDS, "layers": encoder.config.layers}
        whole = report(timings, ours=ENCODER)
        results = {"encoder": whole["times"][ENCODER], "control": whole["control"], "noisy": whole["noisy"]}
        literal = {f"{name}, beside its literal form": found for name, found in faster.items()}
        save("selection", {**results, **costs, **literal}, settings=settings)


if __name__ == "__main__":
    main()
