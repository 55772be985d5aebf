"""Many pages asked by a model that reads one: each as if it were alone, the surest answer told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tubelet.errors import ConfigError, ShapeError
from tubelet.language.vlm import pages
from tubelet.language.vlm.answer_places import LocatedAnswer, locate_answer, locate_answers
from tubelet.language.vlm.batch import beside
from tubelet.language.vlm.chat import ask
from tubelet.language.vlm.model import VLM
from tubelet.language.vlm.pages import PageAnswer, PageQuestions, answer_pages, see_pages, surest
from tubelet.language.vlm.scheme import Pointer
from tubelet.reading.clip import Clip
from tubelet.train.pages.reader import END, PAD, ReaderConfig, build_reader

SMALL = ReaderConfig(hidden=64, heads=2, layers=1, mlp=64, text_layers=2, text_mlp=64, pointing=1)


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return build_reader(SMALL, seed=5).eval()


def frames(count: int, height: int = 96, width: int = 128) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), np.uint8)


def mixed() -> list[Clip]:
    """A picture, a clip of three frames, another picture."""
    return [
        Clip(frames(1), (0.0,), source="a.png"),
        Clip(frames(3, 64, 96), (0.0, 0.5, 1.0), source="b.mp4", is_video=True),
        Clip(frames(1, 128, 64), (0.0,), source="c.png"),
    ]


def stills() -> list[Clip]:
    return [Clip(c.frames[i : i + 1], c.times_s[i : i + 1], c.source) for c in mixed() for i in range(len(c))]


def test_each_page_is_asked_as_if_it_were_alone(vlm: VLM):
    asked = see_pages(vlm, mixed()).ask(vlm, "Total?")
    assert [(page.clip, page.row) for page in asked.pages] == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)]
    answers = answer_pages(vlm, asked, max_new_tokens=5)
    for page, answer, still in zip(asked.pages, answers, stills(), strict=True):
        one = ask(vlm, [still], "Total?")
        assert page.question.text == one.text
        assert page.question.ready.input_ids.equal(one.ready.input_ids)
        assert torch.allclose(page.question.ready.inputs_embeds, one.ready.inputs_embeds, atol=1e-5)
        assert page.question.clips[0].frames.tobytes() == still.frames.tobytes()
        assert page.question.sides == one.sides
        assert [item.grid for item in page.question.patches.items] == [item.grid for item in one.patches.items]
        said = vlm.generate(one.ready, max_new_tokens=5)
        found = locate_answer(vlm, one, said)
        assert answer.text == vlm.tokenizer.decode(said[0], skip_special_tokens=True)
        assert answer.tokens == said.shape[1]
        assert answer.found.probability == pytest.approx(found.probability, rel=1e-3)
        assert [place.box for place in answer.found.places] == [place.box for place in found.places]
        assert {(place.picture, place.frame) for place in answer.found.places} <= {(page.clip, page.row)}


def test_all_pages_are_encoded_together(vlm: VLM, monkeypatch: pytest.MonkeyPatch):
    packs: list[int] = []
    encode = vlm.encode
    monkeypatch.setattr(vlm, "encode", lambda p: (packs.append(len(p)), encode(p))[1])
    asked = see_pages(vlm, mixed()).ask(vlm, "Total?")
    assert packs == [3]
    assert len(asked.rows.tokens.x) == sum(int(page.question.ready.visual.sum()) for page in asked.pages)


def test_how_far_it_is_is_told(vlm: VLM):
    ticks: list[int] = []
    answer_pages(vlm, see_pages(vlm, mixed()).ask(vlm, "Total?"), max_new_tokens=1, tick=ticks.append)
    assert ticks == [1, 2, 3, 4, 5]


def test_a_page_is_looked_at_again_larger_where_there_is_room(vlm: VLM, monkeypatch: pytest.MonkeyPatch):
    """Each look is the question about a picture so many times as large; its places are those of the page."""
    assert vlm.scheme.pointer is not None
    scheme = replace(vlm.scheme, pointer=replace(vlm.scheme.pointer, looks=(1.0, 1.5)))
    monkeypatch.setattr(vlm, "scheme", scheme)
    clips = [*mixed(), Clip(frames(1, 480, 320), (0.0,), source="full.png")]  # as large as the reader takes
    asked = see_pages(vlm, clips).ask(vlm, "Total?")
    each = [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert [(look.clip, look.row) for look in asked.pages] == [*(page for page in each for _ in (1, 2)), (3, 0)]
    answers = answer_pages(vlm, asked, max_new_tokens=5)
    assert len(answers) == 6
    every = list(pages_of(vlm, asked))
    for number, (first, second) in enumerate(zip(every[0:10:2], every[1:10:2], strict=True)):
        still = stills()[number]
        large = Image.fromarray(still.frames[0]).resize((still.width * 3 // 2, still.height * 3 // 2), 3)
        one = ask(vlm, [Clip(np.array(large)[None], (0.0,))], "Total?")
        said = vlm.generate(one.ready, max_new_tokens=5)
        found = locate_answer(vlm, one, said)
        assert second.found.probability == pytest.approx(found.probability, rel=1e-3)
        expected = [tuple(edge / 1.5 for edge in place.box) for place in found.places]
        assert [place.box for place in second.found.places] == [pytest.approx(box) for box in expected]
        best = max(first, second, key=lambda look: look.found.probability)
        assert answers[number].text == best.text
        assert answers[number].found.probability == pytest.approx(best.found.probability, rel=1e-3)
        assert answers[number].tokens == first.tokens + second.tokens
        look = asked.pages[2 * number + 1].question
        assert look.clips[0].frames.tobytes() == still.frames.tobytes()
        assert look.patches.items[0].box == pytest.approx((0, 0, still.width, still.height), abs=1)


def pages_of(vlm: VLM, asked: PageQuestions):
    return pages.answer_each(vlm, [look.question for look in asked.pages], max_new_tokens=5)


@pytest.mark.parametrize("looks", [(), (1.2,), (1.0, 9.0), (1.0,) * 9])
def test_looks_out_of_reason_are_refused(looks: tuple[float, ...]):
    with pytest.raises(ConfigError, match="looks"):
        Pointer(1, looks=looks)


def test_looks_are_kept_in_a_folder(vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert vlm.scheme.pointer is not None
    pointer = replace(vlm.scheme.pointer, looks=(1.0, 1.2))
    monkeypatch.setattr(vlm, "scheme", replace(vlm.scheme, pointer=pointer))
    vlm.save_pretrained(tmp_path / "reader")
    assert VLM.from_pretrained(tmp_path / "reader").scheme.pointer == pointer


def test_questions_are_taken_as_they_are_needed(vlm: VLM, monkeypatch: pytest.MonkeyPatch):
    """Two at a time: five questions of different lengths are three generations, and behind an end nothing counts."""
    monkeypatch.setattr(pages, "TOGETHER", 2)
    taken: list[int] = []

    def questions():
        for n, still in enumerate(stills()):
            taken.append(n)
            yield ask(vlm, [still], "Total?" + "?" * n)

    found = []
    for answer in pages.answer_each(vlm, questions(), max_new_tokens=6):
        found.append(answer)
        assert len(taken) == min(5, 2 * ((len(found) + 1) // 2))
    for n, (answer, still) in enumerate(zip(found, stills(), strict=True)):
        one = ask(vlm, [still], "Total?" + "?" * n)
        said = vlm.generate(one.ready, max_new_tokens=6)
        assert (answer.text, answer.tokens) == (vlm.tokenizer.decode(said[0], skip_special_tokens=True), said.shape[1])
        assert answer.found.probability == pytest.approx(locate_answer(vlm, one, said).probability, rel=1e-3)


def test_behind_its_end_nothing_counts_of_an_answer(vlm: VLM):
    """Two prompts of one length, whose answers end at different places."""
    asked = [ask(vlm, [still], "Total?") for still in stills()[:2]]
    said = torch.tensor([[65, END, PAD, PAD], [66, 67, 68, END]])
    ready = beside([one.ready for one in asked])
    both = locate_answers(vlm, ready, [one.rows.tokens for one in asked], said)
    for found, one, own in zip(both, asked, (said[:1, :2], said[1:]), strict=True):
        alone = locate_answer(vlm, one, own)
        assert found.probability == pytest.approx(alone.probability, rel=1e-4)
        assert found.places == alone.places


def test_prompts_with_labels_are_not_put_beside_others(vlm: VLM):
    ready = ask(vlm, stills()[:1], "Total?").ready
    with pytest.raises(ShapeError, match="labels"):
        beside([ready, replace(ready, labels=ready.input_ids)])


def test_the_surest_answer_is_one_that_says_something():
    def answers(*said: tuple[str, float]) -> list[PageAnswer]:
        return [PageAnswer(n, text, 1, LocatedAnswer(p, p > 0.7, ())) for n, (text, p) in enumerate(said)]

    assert surest(answers(("", 0.99), ("12.50", 0.8), ("3", 0.9), ("", 0.4))).page == 2
    assert surest(answers(("", 0.99), ("3", 0.1))).page == 1
    assert surest(answers(("", 0.99), ("", 0.4), ("", 0.8))).page == 1


def test_a_model_that_does_not_point_is_refused(vlm: VLM, monkeypatch: pytest.MonkeyPatch):
    asked = see_pages(vlm, mixed()).ask(vlm, "Total?")
    monkeypatch.setattr(vlm, "scheme", replace(vlm.scheme, pointer=None))
    with pytest.raises(ConfigError, match="point"):
        answer_pages(vlm, asked, max_new_tokens=1)
