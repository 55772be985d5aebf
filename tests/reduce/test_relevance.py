"""Nearness to a text, against cosines one by one, and what texts that do not fit are told."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reduce.merge_cases import packs, shuffled, values
from torch import Tensor

import tubelet
from tubelet.errors import ConfigError, InputError, NotFinite, ShapeError
from tubelet.packed import Item, Packed, pack
from tubelet.reduce.groups import Per, groups_of
from tubelet.reduce.relevance import content_words, in_joint_space, relevance
from tubelet.reduce.settings import WORDS, Words

LAWS = settings(deadline=None)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / max(float(a.norm()) * float(b.norm()), 1e-12)


def by_loops(row: Tensor, text: Tensor, words: Words, temperature: float) -> float:
    found = [cosine(row, word) for word in text]
    if words == "max":
        return max(found)
    if words == "mean":
        return sum(found) / len(found)
    return temperature * math.log(sum(math.exp(c / temperature) for c in found) / len(found))


@LAWS
@given(packs(min_items=1, width=6), st.sampled_from(WORDS), st.integers(1, 4), st.integers(0, 99))
def test_relevance_is_the_loop(p: Packed, words: Words, count: int, seed: int):
    p = shuffled(p, seed)
    text = values(count, 6, seed)
    got = relevance(p, text, words=words, temperature=0.1)
    expected = torch.tensor([by_loops(row, text, words, 0.1) for row in p.x])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@LAWS
@given(packs(min_items=1, width=6), st.sampled_from(WORDS), st.sampled_from(("picture", "item")))
def test_each_picture_has_its_own_text(p: Packed, words: Words, per: Per):
    groups = groups_of(p, per)
    texts = [values(1 + n % 3, 6, seed=n) for n in range(len(groups))]
    got = relevance(p, texts, words=words, per=per).split(p.lengths)
    for i, group in enumerate(groups.of_item):
        torch.testing.assert_close(got[i], relevance(p.reorder([i]), texts[group], words=words), rtol=1e-5, atol=1e-6)


def test_log_sum_exp_lies_between_the_mean_and_the_largest():
    p, text = pack([values(20, 6)], [Item.of(1, 4, 5)]), values(5, 6, seed=3)
    mean, between, largest = (relevance(p, text, words=w) for w in ("mean", "logsumexp", "max"))
    assert bool((mean <= between + 1e-6).all()) and bool((between <= largest + 1e-6).all())
    torch.testing.assert_close(relevance(p, text, words="logsumexp", temperature=1e-4), largest, atol=1e-3, rtol=0)
    torch.testing.assert_close(relevance(p, text.repeat(3, 1), words="logsumexp"), between)


def test_rows_of_zeros_and_half_precision():
    x = values(4, 6)
    x[2] = 0
    p = pack([x], [Item.of(1, 2, 2)])
    assert float(relevance(p, values(2, 6))[2]) == 0.0
    half = relevance(p.to(dtype=torch.bfloat16), values(2, 6))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, relevance(p, values(2, 6)), atol=1e-2, rtol=0)


@pytest.mark.usefixtures("as_in_production")
def test_texts_that_do_not_fit_are_refused():
    p: Any = pack([values(4, 6), values(4, 6)], [Item.of(1, 2, 2, picture=n) for n in (0, 1)])
    with pytest.raises(ShapeError, match=r"\(S, 6\) like the rows, got \(2, 5\)") as caught:
        relevance(p, values(2, 5))
    assert (caught.value.item, caught.value.expected, caught.value.got) == (0, 6, (2, 5))
    with pytest.raises(ShapeError) as caught:
        relevance(p, [values(2, 6), values(6, 1).flatten()])
    assert caught.value.item == 1
    with pytest.raises(ShapeError, match="1 texts for 2 pictures"):
        relevance(p, [values(2, 6)])
    with pytest.raises(InputError, match="without words") as caught:
        relevance(p, [values(2, 6), values(0, 6)])
    assert caught.value.item == 1
    with pytest.raises(NotFinite) as caught:
        relevance(p, [values(2, 6), values(2, 6) * math.nan])
    assert caught.value.item == 1
    wrong: Any = "sum"
    for options in ({"words": wrong}, {"words": "logsumexp", "temperature": 0.0}):
        with pytest.raises(InputError):
            relevance(p, values(2, 6), **options)


def test_content_words():
    assert content_words("What is the TOTAL of Invoice 4,711.50 -- and who's e-mail is it? Total!") == [
        "total",
        "invoice",
        "4,711.50",
        "who's",
        "e-mail",
    ]
    assert content_words("Wie viel kostet das Brötchen?") == ["wie", "viel", "kostet", "das", "brötchen"]
    for empty in ("", "  ", "What is it?", "?!"):
        with pytest.raises(InputError, match="no word"):
            content_words(empty)


# ---- the joint space


def test_a_row_in_the_joint_space_is_the_pooled_vector_of_a_picture_of_that_row():
    encoder = tubelet.untrained("llava_vit_packing_small")
    tokens = pack(
        [values(6, encoder.config.hidden), values(4, encoder.config.hidden)], [Item.of(1, 2, 3), Item.of(1, 2, 2)]
    )
    joint = in_joint_space(encoder, tokens)
    assert (joint.items, joint.lengths) == (tokens.items, tokens.lengths)
    for row in range(10):
        alone = pack([tokens.x[row : row + 1]], [Item.of(1, 1, 1)])
        torch.testing.assert_close(joint.x[row], encoder.pooled(alone)[0])


def test_without_a_head_there_is_no_joint_space():
    encoder = tubelet.untrained("llava_vit_packing_small")
    encoder.pool = None
    with pytest.raises(ConfigError, match="no pooling head"):
        in_joint_space(encoder, pack([values(1, encoder.config.hidden)], [Item.of(1, 1, 1)]))
