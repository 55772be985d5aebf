"""Answers in half types against float32's: a trained model's whole answers, random ones' first ids.

A random network's two likeliest ids are often nearer to each other than what half types round, and behind one that is
another all may be: of answers of eight ids, bfloat16 keeps 14 and 15 of 20 in transformers' own tiny models, too.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from tests.language.vlm.test_vlm import IMAGE, picture, run, small
from tests.language.vlm.tiny_speakers import WHOLE, whole_model
from tests.train.pages.conftest import built_in_fonts

from tubelet import VLM, Clip
from tubelet.language.vlm.batch import PromptBatch
from tubelet.language.vlm.chat import ask
from tubelet.pixels.patchify import patchify
from tubelet.train.pages.page import PageRecipe, print_page

KINDS = (torch.float32, torch.bfloat16, torch.float16)
Say = Callable[[str, object], None]


def prompts(vlm: VLM, count: int) -> Iterator[PromptBatch]:
    """A picture of noise between ids."""
    draw = random.Random(1)
    for i in range(count):
        p = patchify([picture(draw.randrange(40, 160), draw.randrange(40, 160), i)], vlm.scheme.pixels)
        rows = vlm.encode(p)
        words = [draw.randrange(4, 140) for _ in range(draw.randrange(1, 12))]
        yield vlm.ready(rows, torch.tensor([[5, *run(IMAGE, rows.tokens.lengths[0]), *words]]))


@torch.no_grad()
def test_first_ids_of_random_models(tmp_path: Path, record_property: Say) -> None:
    said: dict[torch.dtype, list[int]] = {kind: [] for kind in KINDS}
    for kind in WHOLE:
        whole_model(kind, seed=3).save_pretrained(tmp_path / kind)
        for dtype, ids in said.items():
            vlm = VLM.from_pretrained(tmp_path / kind, dtype=dtype)
            small(vlm)
            ids += [int(vlm(ready)[0, -1].argmax()) for ready in prompts(vlm, 15)]
    hold(said, record_property, "first ids of random models")


@torch.no_grad()
def test_answers_of_a_trained_model(tmp_path: Path, record_property: Say) -> None:
    fonts = built_in_fonts(tmp_path)
    pages = [print_page(PageRecipe(seed=500, sizes=((192, 256),)), fonts, n) for n in range(7)]
    said: dict[torch.dtype, list[tuple[int, ...]]] = {}
    for dtype in KINDS:
        vlm = VLM.from_pretrained("reader", dtype=dtype)
        asked = [ask(vlm, [Clip(p.pixels[None], (0.0,))], q.text).ready for p in pages for q in p.questions[:3]]
        said[dtype] = [tuple(vlm.generate(ready, max_new_tokens=8)[0].tolist()) for ready in asked]
    hold(said, record_property, "answers of the reader")


def hold(said: Mapping[torch.dtype, Sequence[object]], say: Say, what: str) -> None:
    """At least 95 % of prompts are answered as in float32, which does not answer all alike."""
    want = said[torch.float32]
    assert len(set(want)) > len(want) / 2
    for dtype in KINDS[1:]:
        same = sum(a == b for a, b in zip(said[dtype], want, strict=True))
        say("say", f"{what}: {same} of {len(want)} in {str(dtype).removeprefix('torch.')} as in float32")
        assert same >= 0.95 * len(want), (dtype, same, len(want))
