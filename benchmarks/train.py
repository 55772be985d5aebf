"""Training: packed batches beside padded ones, and how evenly ranks are loaded. Writes results/train.json.

    python benchmarks/train.py                    results/train.json
    python benchmarks/train.py --quick            small and one round, nothing written

Packed and padded: forward and backward of a projector between a frozen tower (OneVision small) and a frozen language
model, over the same samples: captions and conversations, with pictures of many sizes or none. The padded form runs the
same tower on the same packed patches, so that only the language model's batch differs: (B, longest) with a mask, as
transformers does it. Losses are compared before anything is timed.

Loads: what a rank computes in a step is taken as a n^2 + b n of its samples' tokens, for four and for eight ranks.
"spread" is the slowest rank's time over the mean of all, less one: how long the others wait. "dealt" is our order,
"as they come" the same batches of the stream without dealing by cost, "so many samples" batches of a fixed number.
"""

import argparse
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from harness import measure, report, save, show
from tubelet import VLM, untrained
from tubelet.language import build_projector
from tubelet.language.placing.rules import LLAVA
from tubelet.language.vlm.scheme import Scheme
from tubelet.packed import pack
from tubelet.packed.grid import Grid, Item
from tubelet.train.collate import PackedBatch
from tubelet.train.language import LanguageTraining
from tubelet.train.losses import next_token
from tubelet.train.order import Batches, Cost

VOCABULARY, WIDTH = 4096, 512
PADDED = "transformers, padded"
SAMPLES, STEPS = 20_000, 200
COST = Cost(quadratic=1 / 4096, linear=1.0)  # attention as much as all else at 4,096 tokens


def samples(count: int, seed: int = 0) -> list[tuple[int, tuple[int, int] | None]]:
    """Words and the grid of the picture, if there is one: captions of LCS-558K's lengths, conversations, text alone."""
    rng = np.random.default_rng(seed)
    out: list[tuple[int, tuple[int, int] | None]] = []
    for kind in rng.choice(3, count, p=[0.6, 0.25, 0.15]):
        words = int(np.clip(rng.lognormal((2.9, 5.0, 4.6)[kind], (0.4, 0.6, 0.8)[kind]), 4, 600))
        sides = None if kind == 2 else tuple(int(n) for n in rng.integers(8, 24, 2))
        out.append((words, sides))  # type: ignore[arg-type]
    return out


def model(layers: int) -> LanguageTraining:
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": layers}
    config = LlamaConfig(**sizes, num_attention_heads=8, num_key_value_heads=4, vocab_size=VOCABULARY)
    encoder = untrained("llava_vit_packing_small")
    projector = build_projector("mlp2x_gelu", encoder.config.out, WIDTH)
    vlm = VLM(encoder, LlamaForCausalLM(config), Scheme(LLAVA, encoder.pixels), projector=projector)
    return LanguageTraining(vlm, "mm_mlp_adapter").train()


def batch(chosen: Sequence[tuple[int, tuple[int, int] | None]], width: int) -> PackedBatch:
    """Random words and patches of these samples; the words after a picture are learnt."""
    g = torch.Generator().manual_seed(1)
    ids, labels, lengths, items, rows = [], [], [], [], []
    for words, sides in chosen:
        count = 0 if sides is None else sides[0] * sides[1]
        said = torch.randint(VOCABULARY, (words,), generator=g)
        ids.append(torch.cat([torch.full((count,), LLAVA.image), said]))
        labels.append(torch.cat([torch.full((count,), -100), said]))
        lengths.append(count + words)
        rows.append(count)
        if sides is not None:
            items.append(Item(Grid(1, *sides), (0.0,), len(items), (0.0, 0.0, 1.0, 1.0)))
    pixels = pack([torch.randint(256, (i.grid.rows, width), generator=g, dtype=torch.uint8) for i in items], items)
    places = torch.cat([torch.arange(n) for n in lengths]).expand(3, -1)
    cu = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    media = tuple(int(sides is not None) for _, sides in chosen)
    numbers = tuple(range(len(chosen)))
    alone = (1,) * len(items)
    return PackedBatch(
        pixels, torch.cat(ids), torch.cat(labels), places, cu, numbers, tuple(lengths), tuple(rows), media, alone
    )


def padded(training: LanguageTraining, made: PackedBatch, lm: Any) -> Tensor:
    """The mean loss the padded way: samples side by side, filled up to the longest, with a mask."""
    rows = training.rows(made)
    embeds = training.vlm.speaker.embed(made.input_ids.clamp(min=0))
    embeds = embeds.index_copy(0, (made.input_ids == LLAVA.image).nonzero().squeeze(1), rows.tokens.x)
    filled = torch.nn.utils.rnn.pad_sequence(list(embeds.split(made.lengths)), batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence(list(made.labels.split(made.lengths)), True, -100)
    mask = torch.arange(filled.shape[1]) < torch.tensor(made.lengths)[:, None]
    states = lm.model(inputs_embeds=filled, attention_mask=mask.long(), use_cache=False).last_hidden_state
    return next_token(states, labels, head=lm.lm_head.weight)


def step_of(training: LanguageTraining, loss: Callable[[], Tensor]) -> Callable[[], None]:
    def step() -> None:
        training.zero_grad(set_to_none=True)
        loss().backward()

    return step


def packed_and_padded(layers: int, count: int, rounds: int) -> dict[str, Any]:
    training = model(layers)
    lm = LlamaForCausalLM(deepcopy(training.vlm.speaker.lm.config)).train().requires_grad_(False)
    lm.load_state_dict(training.vlm.speaker.lm.state_dict())
    lm.set_attn_implementation("sdpa")
    made = batch(samples(count), training.vlm.encoder.pixels.width)

    def packed() -> Tensor:
        loss = training(made)
        return loss.total / loss.counted

    torch.testing.assert_close(packed(), padded(training, made, lm), rtol=1e-5, atol=1e-5)
    runs = {
        "tubelet packed": step_of(training, packed),
        PADDED: step_of(training, lambda: padded(training, made, lm)),
    }
    timings = measure(runs, rounds=rounds, warmup=1, control="tubelet packed")
    show(f"{count} samples, {sum(made.lengths):,} tokens", timings, ours="tubelet packed")
    whole = report(timings, ours="tubelet packed")
    tokens, places = sum(made.lengths), max(made.lengths) * count
    rates = {name: round(tokens / whole["times"][name]["wall_s"]) for name in runs}
    return {
        "samples": count,
        "tokens": tokens,
        "places_in_the_padded_batch": places,
        "tokens_a_second": rates,
        **whole,
    }


def spreads(world: int, budget: int, steps: int) -> dict[str, Any]:
    """Median and 95th percentile over steps of the slowest rank's time over the mean, less one."""
    tokens = np.array([words + (0 if sides is None else sides[0] * sides[1]) for words, sides in samples(SAMPLES, 2)])
    order = Batches(tokens, budget, seed=0, world=world, cost=COST)
    number = round(budget / float(tokens.mean()))
    rng = np.random.default_rng(0)

    def loads(ids: Sequence[Sequence[int]]) -> float:
        n = [tokens[list(one)].astype(float) for one in ids]
        times = np.array([(COST.quadratic * x * x + COST.linear * x).sum() for x in n])
        return float(times.max() / times.mean() - 1)

    stream, each = rng.permutation(np.tile(np.arange(SAMPLES), 4)), world * number
    cut, room = [[]], budget
    for i in stream.tolist():
        if tokens[i] > room:
            cut.append([])
            room = budget
        cut[-1].append(i)
        room -= int(tokens[i])
    found = {
        "dealt": [loads([[i for micro in rank for i in micro.ids] for rank in order.at(s)]) for s in range(steps)],
        "as_they_come": [loads(cut[s * world : (s + 1) * world]) for s in range(steps)],
        "so_many_samples": [loads(np.split(stream[s * each : (s + 1) * each], world)) for s in range(steps)],
    }
    return {
        name: {"median": round(float(np.median(v)), 4), "p95": round(float(np.quantile(v, 0.95)), 4)}
        for name, v in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and one round, nothing written")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    layers, count, rounds = (1, 6, 1) if options.quick else (4, 12, options.rounds)
    results: dict[str, Any] = {"packed_and_padded": packed_and_padded(layers, count, rounds)}
    for world in (4, 8):
        results[f"spread_over_{world}_ranks"] = spreads(world, 8192, 20 if options.quick else STEPS)
        print(f"{world} ranks: {results[f'spread_over_{world}_ranks']}")
    if not options.quick:
        save("train", results, settings={"layers": layers, "width": WIDTH, "vocabulary": VOCABULARY, "steps": STEPS})


if __name__ == "__main__":
    main()
