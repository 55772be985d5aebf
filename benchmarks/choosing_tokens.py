"""Whether tokens chosen by a text answer better than as many pooled ones: the experiment of decision 011.

    python benchmarks/choosing_tokens.py            results/choosing_tokens.json and docs/images/choosing.png
    python benchmarks/choosing_tokens.py --pages 20 --steps 5 --seeds 1 --quick             nothing written

Pages of 320 x 320 pixels, 100 tokens each, in fonts and words that no training saw. An arm keeps some of a page's
tokens, and the reader answers from these alone: as it is with 12, 25 and 50, and with 25 also through an adapter on its
projector (LoRA) that was trained for this arm, with the same pages, steps and rate for every arm. Exact match is
computed with the true beginning of the answer given, which is what greedy decoding has as long as it is right.

About an hour on two cores. What an arm and a seed gave is kept in the user's cache folder under a hash of weights and
settings, so that the same command goes on where it was stopped. Needs matplotlib for the picture.
"""

import argparse
import copy
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from harness import save
from tubelet.encoder.kernels import kept_in
from tubelet.errors import InputError
from tubelet.language.project.projector import Linear
from tubelet.language.vlm.model import VLM
from tubelet.packed import Item, Packed, pack
from tubelet.reading.clip import Clip
from tubelet.reduce.inputs import inputs_of, smaller_patches
from tubelet.reduce.methods import Inputs, choose
from tubelet.reduce.relevance import content_words
from tubelet.reduce.settings import Settings
from tubelet.reduce.spelled_text import SpelledText
from tubelet.train.pages.batch import patches_of
from tubelet.train.pages.fonts import Fonts, find_fonts
from tubelet.train.pages.labels import IGNORED
from tubelet.train.pages.page import ABSENT, Page, PageRecipe, Question, print_page
from tubelet.train.pages.reader import ANSWER, ASK, END
from tubelet.train.pages.spelling import rows_on

BUDGETS, ADAPTED = (12, 25, 50), 25
DRAWS = 20  # of random
RANK = 32  # of the adapters
TESTED, TRAINED = 5_000_000, 6_000_000  # numbers of the first pages
TESTS = PageRecipe(seed=95, sizes=((320, 320),), absent=0.3, held_fonts=True, held_words=True)
TRAINS = PageRecipe(seed=96, sizes=((320, 320),), absent=0.3)
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "choosing.png"


@dataclass(frozen=True, eq=False)
class Seen:
    """A page's tokens and what methods read beside them, one tensor a page."""

    page: Page
    item: Item
    tokens: Tensor  # (100, D)
    attention: Tensor  # (100,)
    keys: Tensor  # (100, K)
    near: Tensor  # (100, C): the rows in the space of words


@dataclass(frozen=True, eq=False)
class Asked:
    """One question about a page."""

    seen: Seen
    question: Question


@dataclass(frozen=True)
class Arm:
    """A way to keep tokens. words: which vectors of a text it reads, None: it reads none."""

    name: str
    method: str | None  # None: all tokens
    words: str | None = None
    settings: Settings = Settings()
    draws: int = 1

    @property
    def file(self) -> str:
        """Its name as a file's."""
        return "".join(c if c.isalnum() else "-" for c in self.name.lower())


ARMS = (
    Arm("all tokens", None),
    Arm("pooled", "pool"),
    Arm("smaller page", "downsample"),
    Arm("random", "random", draws=DRAWS),
    Arm("uniform", "uniform"),
    Arm("DivPrune", "divprune"),
    Arm("CDPruner", "cdpruner", "spelled"),
    Arm("VisionZip", "visionzip"),
    Arm("SHIRG v2, as upstream", "shirg-v2", "embedded"),
    Arm("SHIRG fixed, as upstream", "shirg-fixed", "embedded"),
    Arm("SHIRG fovea2-base, as upstream", "shirg-fovea2-base"),
    Arm("SHIRG corrected", "shirg", "spelled", Settings(radius=3)),
    Arm("SHIRG corrected, word embeddings", "shirg", "embedded", Settings(radius=3)),
    Arm("boxes of the answers", "boxes"),
)
CLAIM, AGAINST, BESIDE = "SHIRG corrected", "pooled", ("smaller page", "CDPruner")


class LowRank(nn.Module):
    """W + B A: the adapter of LoRA on one matrix, which is what it was until B is trained."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(RANK, weight.shape[1]))
        self.b = nn.Parameter(torch.zeros(weight.shape[0], RANK))
        nn.init.kaiming_uniform_(self.a, 5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


class Kept:
    """Arrays by name that were computed before, in a folder; without one nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of this name, made where it is not there."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.npy"
        if not path.exists():
            part = path.with_suffix(".part.npy")
            np.save(part, make())
            part.rename(path)
        return np.load(path)


class Bench:
    """The reader with its words, and everything that is computed once."""

    def __init__(self, vlm: VLM, side: SpelledText, fonts: Fonts) -> None:
        self.vlm, self.side, self.fonts = vlm.eval().requires_grad_(False), side, fonts
        self.table: nn.Embedding = vlm.speaker.lm.get_input_embeddings()

    @torch.no_grad()
    def see(self, recipe: PageRecipe, numbers: Sequence[int]) -> list[Asked]:
        """The questions of these pages, those that name nothing left out for every arm alike."""
        out: list[Asked] = []
        for start in range(0, len(numbers), 16):
            pages = [print_page(recipe, self.fonts, number) for number in numbers[start : start + 16]]
            patches = patches_of(pages, [np.arange(rows_on(page)) for page in pages])
            found = inputs_of(self.vlm.encoder, patches, ("attention", "keys"))
            assert found.attention is not None
            assert found.keys is not None
            near = self.side.rows(found.tokens).x
            parts = [t.split(found.tokens.lengths) for t in (found.tokens.x, found.attention, found.keys, near)]
            for page, item, *own in zip(pages, found.tokens.items, *parts, strict=True):
                seen = Seen(page, item, *own)
                out += [Asked(seen, q) for q in page.questions if named(q.text)]
        return out

    # ---- what is kept

    @torch.no_grad()
    def kept(self, arm: Arm, asked: Sequence[Asked], budget: int, draw: int = 0) -> list[Tensor]:
        """The rows that an arm leaves of each question's page."""
        if arm.method is None:
            return [one.seen.tokens for one in asked]
        out: list[Tensor] = []
        for start in range(0, len(asked), 64):
            some = asked[start : start + 64]
            if arm.method.startswith("shirg-"):  # one text for all pictures
                out += [self._choose(arm, [one], budget, draw)[0] for one in some]
            else:
                out += self._choose(arm, some, budget, draw)
        return out

    def _choose(self, arm: Arm, asked: Sequence[Asked], budget: int, draw: int) -> list[Tensor]:
        assert arm.method is not None
        items = [replace(one.seen.item, picture=n) for n, one in enumerate(asked)]
        tokens = pack([one.seen.tokens for one in asked], items)
        texts = [self._words(arm.words, one.question.text) for one in asked] if arm.words else None
        historical = arm.method.startswith("shirg-")
        inputs = Inputs(
            tokens,
            texts[0] if texts is not None and historical else texts,
            tokens.with_x(torch.cat([one.seen.near for one in asked])) if arm.words == "spelled" else None,
            torch.cat([one.seen.attention for one in asked]),
            torch.cat([one.seen.keys for one in asked]),
            {n: [box_of(one)] for n, one in enumerate(asked)},
            lambda most: self._smaller(asked, most),
        )
        found = choose(arm.method, inputs, budget=budget, settings=replace(arm.settings, seed=draw)).kept
        return list(found.x.split(found.lengths))

    def _smaller(self, asked: Sequence[Asked], budget: int) -> Packed:
        pages = {one.seen.page.number: one.seen.page for one in asked}
        clips = [Clip(page.pixels[None], (0.0,)) for page in pages.values()]
        small = self.vlm.encoder(smaller_patches(clips, self.vlm.scheme.pixels, budget=budget))
        rows, places = small.x.split(small.lengths), {number: i for i, number in enumerate(pages)}
        at = [places[one.seen.page.number] for one in asked]
        items = [replace(small.items[i], picture=n) for n, i in enumerate(at)]
        return pack([rows[i] for i in at], items)

    def _words(self, kind: str, text: str) -> Tensor:
        if kind == "spelled":
            return self.side.words(text)
        ids = list(" ".join(content_words(text)).encode())
        return self.table(torch.tensor(ids))

    # ---- what is answered

    def logits(
        self, projector: nn.Module, kept: Sequence[Tensor], asked: Sequence[Asked]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the bytes of answers and their ends, what they are, and whose they are."""
        flat = pack(list(kept), [Item.of(1, 1, len(rows), picture=n) for n, rows in enumerate(kept)])
        rows = projector(flat).x.split(flat.lengths)
        texts = [[ASK, *one.question.text.encode(), ANSWER, *one.question.answer.encode(), END] for one in asked]
        length = max(len(r) + len(t) for r, t in zip(rows, texts, strict=True))
        mask = torch.zeros(len(asked), length, dtype=torch.long)
        wanted = torch.full((len(asked), length), IGNORED)
        parts = []
        for n, (own, ids, one) in enumerate(zip(rows, texts, asked, strict=True)):
            whole = torch.cat([own, self.table(torch.tensor(ids))])
            parts.append(F.pad(whole, (0, 0, 0, length - len(whole))))
            mask[n, : len(whole)] = 1
            behind = len(one.question.answer.encode()) + 1
            wanted[n, len(whole) - 1 - behind : len(whole) - 1] = torch.tensor(ids[-behind:])
        embeds = torch.stack(parts)
        hidden = self.vlm.speaker.lm.model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)[0]
        marked = wanted != IGNORED
        owner = torch.arange(len(asked))[:, None].expand_as(wanted)[marked]
        return self.vlm.speaker.lm.lm_head(hidden[marked]).float(), wanted[marked], owner

    @torch.no_grad()
    def right(self, projector: nn.Module, kept: Sequence[Tensor], asked: Sequence[Asked]) -> np.ndarray:
        """Whether each question is answered letter by letter."""
        out = []
        for start in range(0, len(asked), 64):
            some = asked[start : start + 64]
            logits, wanted, owner = self.logits(projector, kept[start : start + 64], some)
            wrong = torch.zeros(len(some)).index_add_(0, owner, (logits.argmax(1) != wanted).float())
            out.append((wrong == 0).numpy())
        return np.concatenate(out)

    def adapted(
        self, kept: Sequence[Tensor], asked: Sequence[Asked], *, steps: int, batch: int, lr: float, seed: int
    ) -> nn.Module:
        """The projector with an adapter trained to answer from these rows."""
        projector = copy.deepcopy(self.vlm.projector)
        assert isinstance(projector, Linear)
        torch.manual_seed(seed)
        parametrize.register_parametrization(projector, "weight", LowRank(projector.weight))
        learned = [p for p in projector.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        order = np.random.default_rng(seed)
        for _ in range(steps):
            some = order.choice(len(asked), batch, replace=False)
            logits, wanted, _ = self.logits(projector, [kept[i] for i in some], [asked[i] for i in some])
            loss = F.cross_entropy(logits, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return projector.eval()


def named(text: str) -> bool:
    """Whether a question has a word to look for: the ones without are left out."""
    try:
        return bool(content_words(text))
    except InputError:
        return False


def box_of(one: Asked) -> tuple[float, float, float, float]:
    """Where the answer stands; for what is not there, the whole page."""
    return one.question.box or tuple(one.seen.item.box)  # pyright: ignore[reportReturnType]


# ---- figures


def bootstrap(right: np.ndarray, other: np.ndarray, pages: np.ndarray, rounds: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean difference, pages drawn with replacement."""
    numbers = np.unique(pages)
    sums = np.array([(right[pages == n].astype(float) - other[pages == n]).sum() for n in numbers])
    counts = np.array([(pages == n).sum() for n in numbers])
    draws = np.random.default_rng(0).integers(0, len(numbers), (rounds, len(numbers)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


@dataclass(frozen=True)
class Sets:
    """Which questions figures are told of. sure: those answered right with all tokens; control: about what is absent;
    dense: of the third of pages with most letters."""

    there: np.ndarray
    sure: np.ndarray
    control: np.ndarray
    dense: np.ndarray
    pages: np.ndarray

    def told(self, right: np.ndarray) -> dict[str, float]:
        """Shares of right answers."""
        return {
            "of those right with all tokens": share(right[self.sure]),
            "of all that is there": share(right[self.there]),
            "of what is absent": share(right[self.control]),
            "of dense pages": share(right[self.sure & self.dense]),
        }

    def less(self, right: np.ndarray, other: np.ndarray) -> dict[str, Any]:
        """Differences in points, with the interval of those that are paired on all tokens' right ones."""
        low, high = bootstrap(right[self.sure], other[self.sure], self.pages[self.sure])
        own, its = self.told(right), self.told(other)
        return {name: round(100 * (own[name] - its[name]), 2) for name in own} | {
            "interval": [round(100 * low, 2), round(100 * high, 2)]
        }


def share(right: np.ndarray) -> float:
    return float(right.mean()) if len(right) else float("nan")


def sets_of(asked: Sequence[Asked], whole: np.ndarray) -> Sets:
    there = np.array([one.question.kind != ABSENT for one in asked])
    letters = np.array([len(one.seen.page.letters) for one in asked])
    dense = letters >= np.quantile([len(one.seen.page.letters) for one in asked], 2 / 3)
    pages = np.array([one.seen.page.number for one in asked])
    return Sets(there, there & whole, ~there & whole, dense, pages)


def verdict(differences: Sequence[Mapping[str, Any]]) -> str:
    """What the rule of decision 011 says of the differences in the three seeds."""
    above = all(d["interval"][0] > 0 for d in differences)
    below = all(d["interval"][1] < 0 for d in differences)
    kept = all(d["of what is absent"] > -2 for d in differences)
    return "supported" if above and kept else "refuted" if below else "undecided"


def picture(shares: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """Tokens against right answers, a line an arm."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=120)
    colours = pyplot.get_cmap("tab20")
    for i, (name, by_budget) in enumerate(shares.items()):
        how = {"marker": "os^Dv"[i % 5], "lw": 3 if name in (CLAIM, AGAINST) else 1, "color": colours(i), "label": name}
        axes.plot(list(by_budget), [100 * v for v in by_budget.values()], **how)
    axes.set_xlabel("tokens kept of 100")
    axes.set_ylabel("right, % of what is right with all tokens")
    axes.set_xticks(BUDGETS)
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


def run(bench: Bench, options: argparse.Namespace, done: Kept) -> dict[str, Any]:
    """Everything, told as it comes."""
    begun = time.process_time()
    asked = bench.see(TESTS, range(TESTED, TESTED + options.pages))
    learned = bench.see(TRAINS, range(TRAINED, TRAINED + options.training_pages))
    projector = bench.vlm.projector
    assert projector is not None
    whole = bench.right(projector, bench.kept(ARMS[0], asked, 0), asked)
    sets = sets_of(asked, whole)
    print(f"{len(asked)} questions, {len(learned)} to adapt; all tokens: {sets.told(whole)}", flush=True)
    plain: dict[str, dict[int, Any]] = {}
    for arm in ARMS[1:]:
        plain[arm.name] = {}
        for budget in BUDGETS:
            draws = done.get(f"{arm.file}-{budget}", lambda arm=arm, budget=budget: np.stack([
                bench.right(projector, bench.kept(arm, asked, budget, draw), asked) for draw in range(arm.draws)
            ]))  # fmt: skip
            told = [sets.told(right) for right in draws]
            plain[arm.name][budget] = {name: float(np.mean([t[name] for t in told])) for name in told[0]}
        print(f"as it is   {arm.name:<34}", line(plain[arm.name]), flush=True)
    adapted: dict[str, list[np.ndarray]] = {}
    for arm in ARMS:
        kept: list[list[Tensor]] = []  # of the pages to learn from and of those that are asked about, where needed

        def adapt(seed: int, arm: Arm = arm, kept: list[list[Tensor]] = kept) -> np.ndarray:
            kept += [] if kept else [bench.kept(arm, learned, ADAPTED), bench.kept(arm, asked, ADAPTED)]
            how = {"steps": options.steps, "batch": options.batch, "lr": options.lr, "seed": seed}
            return bench.right(bench.adapted(kept[0], learned, **how), kept[1], asked)

        adapted[arm.name] = [
            done.get(f"{arm.file}-adapted-{seed}", lambda seed=seed, adapt=adapt: adapt(seed))
            for seed in range(options.seeds)
        ]
        figures = [sets.told(right) for right in adapted[arm.name]]
        print(
            f"adapted    {arm.name:<34}", " ".join(f"{100 * next(iter(f.values())):5.1f}" for f in figures), flush=True
        )
    against = {
        other: [sets.less(a, b) for a, b in zip(adapted[CLAIM], adapted[other], strict=True)]
        for other in (AGAINST, *BESIDE)
    }
    said = verdict(against[AGAINST])
    print(f"{CLAIM} less {AGAINST}, adapted, {ADAPTED} tokens: {against[AGAINST]}\nthe claim is {said}")
    return {
        "questions": {"there": int(sets.there.sum()), "right": int(sets.sure.sum()), "absent": int(sets.control.sum())},
        "all tokens": sets.told(whole),
        "as it is": plain,
        "adapted": {name: [sets.told(right) for right in all_seeds] for name, all_seeds in adapted.items()},
        "corrected SHIRG less": against,
        "verdict": said,
        "cpu_s": round(time.process_time() - begun),
    }


def folder_of(bench: Bench, options: argparse.Namespace) -> Path:
    """Where arrays of these weights, words, fonts and settings are kept."""
    digest = hashlib.sha256(bench.fonts.sha256.encode())
    for part in (bench.vlm, bench.side):
        for name, value in part.state_dict().items():
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
    settings = {k: v for k, v in vars(options).items() if k not in ("model", "seeds", "quick")}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return kept_in() / "choosing" / digest.hexdigest()[:16]


def line(by_budget: Mapping[int, Mapping[str, float]]) -> str:
    return "  ".join(f"{k}: {100 * next(iter(v.values())):5.1f}" for k, v in by_budget.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reader", help="what tubelet.train.pages.ship wrote")
    parser.add_argument("--pages", type=int, default=600)
    parser.add_argument("--training-pages", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="nothing is written")
    options = parser.parse_args()
    if not options.quick:
        import matplotlib  # noqa: F401  that it is missing is told before the hour, not after it
    bench = Bench(VLM.from_pretrained(options.model), SpelledText.load(options.model), find_fonts())
    found = run(bench, options, Kept(None if options.quick else folder_of(bench, options)))
    if options.quick:
        print(json.dumps(found["questions"]))
        return
    shares = {
        name: {k: next(iter(v.values())) for k, v in by_budget.items()} for name, by_budget in found["as it is"].items()
    }
    picture(shares, PICTURE)
    print(save("choosing_tokens", found, settings=vars(options)))


if __name__ == "__main__":
    main()
