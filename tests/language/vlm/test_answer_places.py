"""Where an answer was read: cells of the pointing head's attention, and the probability of what was said."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tubelet.errors import ConfigError, ShapeError
from tubelet.language.vlm.answer_places import LEAST, locate_answer, places_of
from tubelet.language.vlm.chat import ask
from tubelet.language.vlm.model import VLM
from tubelet.language.vlm.scheme import Pointer
from tubelet.packed import Item, pack
from tubelet.reading.clip import Clip
from tubelet.train.pages.reader import END, ReaderConfig, build_reader

SMALL = ReaderConfig(hidden=64, heads=2, layers=1, mlp=64, text_layers=2, text_mlp=64, pointing=1)


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return build_reader(SMALL, seed=5).eval()


def clips(count: int = 2) -> list[Clip]:
    frames = np.random.default_rng(3).integers(0, 256, (count, 1, 96, 128, 3), np.uint8)
    return [Clip(frame, (0.0,), source=f"{i}.png") for i, frame in enumerate(frames)]


def test_probability_is_that_of_each_token_after_the_ones_before(vlm: VLM):
    """Slow twin: a forward for every token."""
    question = ask(vlm, clips(), "Total?")
    said = torch.tensor([[65, 49, 200, END]])
    expected, embeds = 1.0, question.ready.inputs_embeds
    for token in said[0]:
        out = vlm.speaker.lm(inputs_embeds=embeds)
        expected *= float(out.logits[0, -1].softmax(-1)[token].detach())
        embeds = torch.cat([embeds, vlm.speaker.embed(token[None, None])], dim=1)
    answer = locate_answer(vlm, question, said)
    assert answer.probability == pytest.approx(expected, rel=1e-4)
    assert not answer.sure
    assert vlm.speaker.lm.config._attn_implementation == "sdpa"


def test_places_are_those_the_head_looks_at(vlm: VLM):
    """Attention by hand: two queries look at two rows of the second picture."""
    question = ask(vlm, clips(), "Total?")
    said = torch.tensor([[65, 66, END]])
    rows = question.rows.tokens.x.shape[0]
    prompt = question.ready.input_ids.shape[1]
    wanted = iter((rows - 1, rows - 2, 0))
    lm = vlm.speaker.lm
    run = lm.forward

    def shown(**given: object):
        out = run(**given)
        attention = torch.zeros_like(out.attentions[1])
        for query in range(prompt - 1, prompt + 2):
            attention[0, 0, query, next(wanted)] = 1.0
        out.attentions = (out.attentions[0], attention)
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm, "forward", shown)
        answer = locate_answer(vlm, question, said)
    (place,) = answer.places  # two cells beside each other; the end was read nowhere
    assert place == (1, 0, (64.0, 64.0, 128.0, 96.0), 1.0)


def test_an_answer_of_nothing_was_read_nowhere(vlm: VLM):
    answer = locate_answer(vlm, ask(vlm, clips(1), "Total?"), torch.tensor([[END]]))
    assert answer.places == ()
    assert 0 < answer.probability < 1


@given(read=st.lists(st.integers(0, 35), min_size=1, max_size=12))
def test_cells_that_touch_are_one_place(read: list[int]):
    """A clip of two frames of 3 x 4 and a picture of 3 x 4: shares are of all that was read, and add up."""
    items = [Item.of(2, 3, 4), replace(Item.of(1, 3, 4), picture=1)]
    p = pack([torch.zeros(24, 1), torch.zeros(12, 1)], items)
    places = places_of(p, torch.tensor(read))
    assert all(place.share >= LEAST for place in places)
    assert sum(place.share for place in places) <= 1 + 1e-6
    assert [place.share for place in places] == sorted((place.share for place in places), reverse=True)
    if len(set(read)) == 1:
        row = read[0]
        t, h, w = p.pos[row].tolist()
        assert places == ((int(row >= 24), t, (float(w), float(h), w + 1.0, h + 1.0), 1.0),)


def test_wrong_calls_are_refused(vlm: VLM):
    question = ask(vlm, clips(1), "Total?")
    with pytest.raises(ShapeError, match="one prompt"):
        locate_answer(vlm, question, torch.tensor([[END], [END]]))
    with pytest.raises(ConfigError, match="probability"):
        Pointer(1, sure=1.5)
