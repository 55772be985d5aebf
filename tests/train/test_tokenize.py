"""Ids, labels and positions: as the model is asked, as transformers masks, as an obvious twin counts."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.language.vlm.peers import bpe
from tests.language.vlm.tiny_speakers import PARTS_TEMPLATE, TAG_TEMPLATE, tokenizer

from tubelet.errors import AlignmentError, ConfigError, InputError
from tubelet.inspect.budget.values import Downstream
from tubelet.language.placing.mrope import rope_index
from tubelet.language.placing.rules import LLAVA, QWEN2_5_VL, QWEN3_VL, TokenIds
from tubelet.language.vlm.scheme import Scheme, Written
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views import LAVIDA, ViewRule
from tubelet.train.data.sample import Media, Part, Sample, Turn
from tubelet.train.marks import Header
from tubelet.train.tokenize import Tokenizing, Tokens, tokenize

IDS = TokenIds(image=150, video=151, start=148, end=149)
PIXELS = PixelRecipe(14, rule="smart", temporal=2, merge=2, order="block", max_pixels=28 * 28 * 12)
QWEN = Scheme(IDS, PIXELS, QWEN2_5_VL)
TAGS = Scheme(LLAVA, PixelRecipe(14), wording="image_tag")
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}{% elif m.content is string %}{{ m.content }}<|im_end|>{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def sample(*turns: Sequence[Part] | str, kinds: Sequence[str] = (), system: str | None = None) -> Sample:
    made = [] if system is None else [Turn("system", (system,))]
    for n, parts in enumerate(turns):
        made.append(Turn("assistant" if n % 2 else "user", (parts,) if isinstance(parts, str) else tuple(parts)))
    media = tuple(Media("video" if k == "video" else "image", f"{i}") for i, k in enumerate(kinds))
    return Sample("7", "a.json:1", tuple(made), media)


def still(width: int = 56, height: int = 56) -> Header:
    return Header("image", width, height, (0.0,))


def moving(frames: int, width: int = 56, height: int = 56, fps: float = 2.0) -> Header:
    return Header("video", width, height, tuple(i / fps for i in range(frames)))


def letters(text: str, made: Any) -> list[int]:
    return made.encode(text, add_special_tokens=False)


def learnt(tokens: Tokens, made: Any) -> str:
    return made.decode(tokens.ids[tokens.labels != -100])


def byte_pairs(template: str) -> Any:
    """A byte-level tokenizer with merges: a token is some letters or a part of one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(
        ["assistant\nA cat.", "user\nWhat is it?", "assistant\nA dog \u00e9t\u00e9."] * 50, trainer
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, additional_special_tokens=marks)
    fast.chat_template = template
    return fast


# ---- labels


def test_labels_are_what_the_assistant_says_with_the_end_of_its_turn():
    """The reference learns an assistant's turn without its first three tokens, with <|im_end|> and the line's end."""
    made = byte_pairs(CHATML)
    how = Tokenizing(made, replace(QWEN, token_ids=ids_of(made)), Downstream(space=2))
    tokens = tokenize(sample([0, "What is it?"], "A cat.", "Sure?", "Yes.", kinds=["image"]), [still()], how)
    assert learnt(tokens, made) == "A cat.<|im_end|>\nYes.<|im_end|>\n"
    assert set(tokens.ids[tokens.labels != -100]) == set(tokens.labels[tokens.labels != -100])


def ids_of(made: Any) -> TokenIds:
    names = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    return TokenIds(*made.convert_tokens_to_ids(names))


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)


@given(st.lists(st.tuples(WORDS, WORDS.filter(bool)), min_size=1, max_size=4), st.booleans())
def test_labels_are_transformers_own_mask(turns: list[tuple[str, str]], with_picture: bool):
    """Its mask needs a template that marks what is generated; ours also finds that in one that does not."""
    made = byte_pairs_once(MARKED)
    scheme = replace(QWEN, token_ids=ids_of(made))
    said: list[Any] = [t for pair in turns for t in pair]
    kinds = ["image"] if with_picture else []
    if with_picture:
        said[0] = [0, said[0]]
    one = sample(*said, kinds=kinds)
    messages = [{"role": t.role, "content": t.text} for t in one.turns]
    if with_picture:
        messages[0]["content"] = [{"type": "image"}, {"type": "text", "text": turns[0][0]}]  # pyright: ignore
    theirs = made.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    tokens = tokenize(one, [still(28, 28)] * len(kinds), Tokenizing(made, scheme, Downstream(space=2)))
    assert tokens.ids.tolist() == theirs["input_ids"]  # a picture of one row
    mask = (tokens.labels != -100).tolist()
    assert mask == [bool(m) for m in theirs["assistant_masks"]]
    plain = byte_pairs_once(MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", ""))
    ours = tokenize(one, [still(28, 28)] * len(kinds), Tokenizing(plain, scheme, Downstream(space=2)))
    assert ours.ids.tolist() == tokens.ids.tolist()
    line_end = letters("\n", made)
    differ = [i for i, m in enumerate(mask) if m != (ours.labels[i] != -100)]
    assert all([tokens.ids[i]] == line_end for i in differ)  # which the template leaves out of the turn
    assert len(differ) == len(turns)


_MADE: dict[str, Any] = {}


def byte_pairs_once(template: str) -> Any:
    if template not in _MADE:
        _MADE[template] = byte_pairs(template)
    return _MADE[template]


@given(
    turns=st.lists(
        st.tuples(st.text("ab <\n", max_size=6), st.text("ab <\n", min_size=1, max_size=6)), min_size=1, max_size=3
    ),
    pictures=st.lists(st.integers(0, 2), min_size=3, max_size=3),
    tags=st.booleans(),
)
def test_ids_and_labels_against_an_obvious_twin(turns: list[tuple[str, str]], pictures: list[int], tags: bool):
    """One token a letter: the twin writes every turn by hand, in both ways to word a picture."""
    made = tokenizer(TAG_TEMPLATE if tags else PARTS_TEMPLATE)
    scheme = TAGS if tags else QWEN
    how = Tokenizing(made, scheme, Downstream(space=1 if tags else 2))
    rows = 16 if tags else 4
    said: list[Any] = []
    ids: list[int] = []
    labels: list[int] = []
    count = 0

    def write(more: list[int], learn: bool = False) -> None:
        ids.extend(more)
        labels.extend(more if learn else [-100] * len(more))

    for (question, answer), n in zip(turns, pictures, strict=False):
        write(letters("user: " if tags else "<user>", made))
        write((([-200] * rows) if tags else [148, *[150] * rows, 149]) * n)
        write(letters(f"{question}\n", made))
        write(letters("assistant:" if tags else "<assistant>", made))
        write(letters(f" {answer}\n" if tags else f"{answer}\n", made), learn=True)
        said += [[*range(count, count + n), question], answer]
        count += n
    tokens = tokenize(sample(*said, kinds=["image"] * count), [still()] * count, how)
    assert tokens.ids.tolist() == ids
    assert tokens.labels.tolist() == labels
    assert tokens.rows == count * rows


def test_the_plain_style_is_picture_caption_and_end_of_line():
    made = tokenizer()
    how = Tokenizing(made, TAGS, style="plain")
    tokens = tokenize(sample(["Describe it.\n", 0], "a cat", kinds=["image"]), [still()], how)
    assert tokens.ids.tolist() == [-200] * 16 + letters("a cat\n", made)
    assert tokens.labels.tolist() == [-100] * 16 + letters("a cat\n", made)
    framed = tokenize(
        sample([0], "a cat", kinds=["image"]), [still()], Tokenizing(made, QWEN, Downstream(space=2), style="plain")
    )
    assert framed.ids.tolist() == [148, *[150] * 4, 149, *letters("a cat\n", made)]
    with pytest.raises(InputError, match="one picture and one caption"):
        tokenize(sample("a", "b", "c", "d"), [], how)


def test_the_plain_style_begins_as_the_tokenizer_does():
    from tokenizers import processors

    made = tokenizer()
    made.bos_token = "<bos>"
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    tokens = tokenize(sample([0], "a", kinds=["image"]), [still()], Tokenizing(made, TAGS, style="plain"))
    assert tokens.ids[:2].tolist() == [1, -200]
    assert tokens.labels[0] == -100


def test_a_template_that_rewrites_earlier_turns_is_refused_unless_it_marks_them():
    forgets = (
        "{% for m in messages %}<{{ m.role }}>{% if loop.last %}{{ m.content }}{% else %}...{% endif %}{{ '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    with pytest.raises(ConfigError, match="writes a turn otherwise when others follow"):
        tokenize(sample("a", "b", "c", "d"), [], Tokenizing(tokenizer(forgets), QWEN))
    marks = forgets.replace("{{ m.content }}", "{% generation %}{{ m.content }}{% endgeneration %}")
    tokens = tokenize(sample("a", "b", "c", "d"), [], Tokenizing(tokenizer(marks), QWEN))
    assert learnt(tokens, tokenizer()) == "d"


# ---- lengths


def test_a_long_sample_is_cut_behind_its_items_or_refused():
    made = tokenizer()
    one = sample([0, "What?"], "abcdefgh", kinds=["image"])
    whole = tokenize(one, [still()], Tokenizing(made, QWEN, Downstream(space=2)))
    how = Tokenizing(made, QWEN, Downstream(space=2), max_length=len(whole) - 4)
    cut = tokenize(one, [still()], how)
    assert cut.ids.tolist() == whole.ids.tolist()[:-4]
    assert cut.positions is not None and whole.positions is not None
    assert np.array_equal(cut.positions, whole.positions[:, :-4])
    with pytest.raises(InputError, match=rf"{len(whole)} tokens are above max_length = {len(whole) - 4}"):
        tokenize(one, [still()], replace(how, truncate=False))
    with pytest.raises(InputError, match="no token of an answer is left"):
        tokenize(one, [still()], replace(how, max_length=len(whole) - 9))
    with pytest.raises(AlignmentError, match="leave 3 of its"):
        tokenize(one, [still()], replace(how, max_length=9))


def test_counting_gives_the_same_length_without_positions():
    one = sample([0, 1, "What?"], "a", kinds=["image", "video"])
    headers = [still(90, 40), moving(5)]
    how = Tokenizing(tokenizer(), QWEN, Downstream(space=2))
    whole, counted = tokenize(one, headers, how), tokenize(one, headers, how, count_only=True)
    assert (len(whole), whole.rows, whole.patches) == (len(counted), counted.rows, counted.patches)
    assert counted.positions is None
    assert whole.patches == 4 * whole.rows


# ---- positions


SIZES = st.tuples(st.integers(1, 6), st.integers(28, 200), st.integers(28, 200), st.booleans())


@given(st.lists(SIZES, max_size=3))
def test_positions_are_those_of_hugging_face_s_inputs(items: list[tuple[int, int, int, bool]]):
    headers = [moving(n, w, h) if clip else still(w, h) for n, w, h, clip in items]
    one = sample([*range(len(items)), "Why?"], "a", "b", "c", kinds=[h.kind for h in headers])
    tokens = tokenize(one, headers, Tokenizing(tokenizer(), QWEN, Downstream(space=2)))
    grids = {
        kind: [p.grid for p, h in zip(tokens.planned, headers, strict=True) if h.kind == kind]
        for kind in ("image", "video")
    }
    theirs = rope_index(
        torch.from_numpy(tokens.ids),
        IDS,
        QWEN2_5_VL,
        image_grid_thw=torch.tensor(grids["image"], dtype=torch.int64).reshape(-1, 3),
        video_grid_thw=torch.tensor(grids["video"], dtype=torch.int64).reshape(-1, 3),
        second_per_grid_ts=[1.0] * len(grids["video"]),
    )
    assert tokens.positions is not None
    assert np.array_equal(tokens.positions, theirs.position_ids[:, 0].numpy())


def test_frames_of_a_clip_are_timed_where_the_model_wants_that():
    made = tokenizer()
    how = Tokenizing(made, replace(QWEN, rule=QWEN3_VL), Downstream(space=2))
    tokens = tokenize(sample([0, 1, "Why?"], "a", "b", "c", kinds=["image", "video"]), [still(), moving(5)], how)
    said = re.sub(r"(<\|\w+\|>)\1*", r"\1", made.decode(tokens.ids))
    frame = "<|vision_start|><|video_pad|><|vision_end|>"
    start = "<user><|vision_start|><|image_pad|><|vision_end|>"
    times = "".join(f"<{when} seconds>{frame}" for when in ("0.2", "1.2", "2.0"))
    assert said == f"{start}{times}Why?\n<assistant>a\n<user>b\n<assistant>c\n"
    assert learnt(tokens, made) == "a\nc\n"
    assert tokens.rows == 4 + 3 * 4


def test_rows_of_views_are_those_that_will_be_joined():
    how = Tokenizing(tokenizer(TAG_TEMPLATE), replace(TAGS, views=LAVIDA))
    tokens = tokenize(sample([0, "?"], "a", kinds=["image"]), [still(1000, 600)], how)
    assert tokens.rows == 660  # 14 x 14 and 16 x 29, newlines among them
    assert tokens.patches == 5 * 729


def test_a_square_picture_is_counted_as_one():
    how = Tokenizing(tokenizer(TAG_TEMPLATE), replace(TAGS, square=True))
    assert tokenize(sample([0, "?"], "a", kinds=["image"]), [still(56, 20)], how).rows == 16


def test_a_selection_leaves_positions_to_the_rows_it_keeps():
    how = Tokenizing(tokenizer(), QWEN, Downstream(space=2, select=3))
    tokens = tokenize(sample([0, "?"], "a", kinds=["image"]), [still()], how)
    assert (tokens.rows, tokens.positions) == (3, None)
    assert tokenize(sample("?", "a"), [], how).positions is not None


# ---- what cannot be


def test_a_placeholder_in_the_text_is_refused():
    how = Tokenizing(tokenizer(), QWEN, Downstream(space=2))
    with pytest.raises(AlignmentError, match="2 placeholders in the prompt for 1 items"):
        tokenize(sample([0, "What is <|image_pad|>?"], "a", kinds=["image"]), [still()], how)
    tags = Tokenizing(tokenizer(TAG_TEMPLATE), TAGS)
    with pytest.raises(AlignmentError, match="1 placeholders in the prompt for 0 items"):
        tokenize(sample("a", "write <image>"), [], tags)


def test_what_cannot_be_tokenized_is_told_at_once(as_in_production: None):
    slow = tokenizer()
    slow.__class__ = type("Slow", (slow.__class__,), {"is_fast": False})
    for kind, words in (
        ({"tokenizer": slow}, "which letters a token is"),
        ({"tokenizer": tokenizer(None)}, "no chat template"),
        ({"max_length": 0}, "max_length starts at 1"),
        ({"style": "other"}, "style is chat or plain"),
        ({"scheme": replace(QWEN, rule=QWEN3_VL), "after": Downstream(select=3)}, "not known before it"),
        ({"scheme": replace(QWEN, views=ViewRule(28, ((28, 56),)))}, "rule.time is none"),
    ):
        with pytest.raises(ConfigError, match=words):
            Tokenizing(**{"tokenizer": tokenizer(), "scheme": QWEN, **kind})


def test_a_template_that_puts_pictures_before_clips_is_refused():
    """Rows stand in the order of the sample; counts would be swapped in silence."""
    first = (
        "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for c in m.content | selectattr('type', 'equalto', 'image') %}<|image_pad|>{% endfor %}"
        "{% for c in m.content | selectattr('type', 'equalto', 'video') %}<|video_pad|>{% endfor %}"
        "{% for c in m.content | selectattr('type', 'equalto', 'text') %}{{ c.text }}{% endfor %}{% endif %}"
        "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    how = Tokenizing(tokenizer(first), Scheme(TokenIds(image=150, video=151), PIXELS), Downstream(space=2))
    two = sample((0, 1, "What?"), "A cat.", kinds=("image", "video"))
    assert len(tokenize(two, [still(), moving(4)], how))
    with pytest.raises(ConfigError, match="another order"):
        tokenize(sample((0, 1, "What?"), "A cat.", kinds=("video", "image")), [moving(4), still()], how)


@pytest.mark.parametrize(
    "change",
    [{"bidirectional": "prefix"}, {"wording": "prefix"}, {"written": Written("<|image_pad|>", "<|image_pad|>")}],
)
def test_what_training_cannot_do_is_refused(change: dict[str, Any]):
    after = Downstream(select=3) if "written" in change else Downstream()
    with pytest.raises(ConfigError, match=r"training|selection"):
        Tokenizing(tokenizer(PARTS_TEMPLATE), replace(TAGS, **{"wording": "parts", **change}), after)


def test_a_conversation_begins_with_the_id_that_begins_texts():
    """Where the tokenizer puts one before a text and the template does not; it is no target."""
    words = bpe(("<image>",), bos="<s>")
    scheme = Scheme(TokenIds(image=words.convert_tokens_to_ids("<image>")), PixelRecipe(14))
    for begins in ("", "{{ bos_token }}"):
        words.chat_template = begins + "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        made = tokenize(sample("What?", "A cat."), [], Tokenizing(words, scheme))
        assert made.ids[0] == words.bos_token_id and made.ids[1] != words.bos_token_id and made.labels[0] == -100
