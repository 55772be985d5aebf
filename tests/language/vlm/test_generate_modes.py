"""Every argument of `generate`, tried once: the answer is that of each prompt alone, or a typed refusal.

Two prompts of different length, each with rows of a picture of its own under a placeholder outside the vocabulary. The
reference is the language model's own `generate` over one prompt's embeddings, which knows of no ids at all, and where
ids of the prompt count a loop of its own, whose processors see the text of the prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tests.language.vlm.test_fresh_features import model, patches
from tests.language.vlm.tiny_speakers import tokenizer
from torch import Tensor
from transformers import CompileConfig, GenerationConfig, LogitsProcessor, WatermarkingConfig
from transformers.generation import logits_process as processors
from transformers.generation.stopping_criteria import EosTokenCriteria, StoppingCriteria

from tubelet.errors import InputError, ShapeError
from tubelet.language.vlm.batch import PromptBatch
from tubelet.language.vlm.causal_lm import CACHE
from tubelet.language.vlm.features import VisualRows
from tubelet.language.vlm.model import VLM
from tubelet.packed import concat

NEW = 6
SAID = [[1, -200, 7, 8, 7], [1, 9, 5, -200, 33, 12, 60, 12, 33]]  # -200: six rows


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return model()


def batch(vlm: VLM, numbers: Sequence[int] = (0, 1)) -> PromptBatch:
    """These prompts, padded on the left."""
    with torch.no_grad():
        tokens = concat([vlm.encode(patches(n)).tokens for n in numbers])
        ids = [[i for t in SAID[n] for i in ([t] * 6 if t < 0 else [t])] for n in numbers]
        longest = max(len(one) for one in ids)
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in ids])
        padded = torch.tensor([[0] * (longest - len(one)) + one for one in ids])
        return vlm.ready(VisualRows(tokens), padded, attention_mask=mask)


def generate(vlm: VLM, ready: PromptBatch, **how: Any) -> Any:
    speaker: Any = vlm.speaker
    return speaker.generate(**ready.arguments, **{"do_sample": False, "max_new_tokens": NEW, **how})


def answers(vlm: VLM, ready: PromptBatch, **how: Any) -> list[list[int]]:
    """What is said after each prompt, without padding behind an end."""
    said = generate(vlm, ready, **how)
    return [cut(one) for one in said[:, ready.input_ids.shape[1] :].tolist()]


def cut(ids: list[int], end: int = 2) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


def blind(vlm: VLM, n: int, **how: Any) -> list[list[int]]:
    """The language model's own answer to the embeddings of prompt n alone."""
    one = batch(vlm, [n])
    lm: Any = vlm.speaker.lm
    said = lm.generate(
        inputs_embeds=one.inputs_embeds,
        attention_mask=one.attention_mask,
        **{"do_sample": False, "max_new_tokens": NEW, **how},
    )
    return [cut(ids) for ids in said.tolist()]


def step_by_step(vlm: VLM, n: int, made: Sequence[Any] = ()) -> list[int]:
    """Greedy, without a cache: processors see the text of prompt n and what was said."""
    one = batch(vlm, [n])
    text = [t for t in SAID[n] if t >= 0]
    said: list[int] = []
    with torch.no_grad():
        while len(said) < NEW and 2 not in said:
            ids = torch.tensor([said], dtype=torch.int64).view(1, -1)
            embeds = torch.cat([one.inputs_embeds, vlm.speaker.embed(ids)], 1)
            scores = vlm.speaker.lm(inputs_embeds=embeds).logits[:, -1].float()
            for processor in made:
                scores = processor(torch.tensor([text + said]), scores)
            said.append(int(scores.argmax()))
    return said


# ---- every field of GenerationConfig


@dataclass(frozen=True)
class Refused:
    """A value that is refused, and arguments beside it."""

    value: Any
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Blind:
    """A value that reads no ids of the prompt. alone: where drawn, so that one prompt is tried, by one seed."""

    value: Any
    more: dict[str, Any] = field(default_factory=dict)
    alone: bool = False


@dataclass(frozen=True)
class Reads:
    """A value for which ids of the prompt count, and the processors that it stands for."""

    value: Any
    made: Callable[[], list[Any]]
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """A value that changes what is given and not what is said."""

    value: Any
    more: dict[str, Any] = field(default_factory=dict)


DRAWN = {"do_sample": True, "top_k": 0}
DICT = {"return_dict_in_generate": True}
END = torch.tensor([2])
FIELDS: dict[str, Refused | Blind | Reads | Output] = {
    "max_length": Refused(40, {"max_new_tokens": None}),
    "max_new_tokens": Blind(3),
    "min_length": Refused(20),
    "min_new_tokens": Blind(5, {"eos_token_id": 2}),
    "early_stopping": Blind(True, {"num_beams": 3}),
    "max_time": Output(100.0),
    "stop_strings": Output("no such thing", {"tokenizer": tokenizer()}),
    "do_sample": Blind(True, alone=True),
    "num_beams": Blind(3),
    "use_mtp": Refused(True),
    "use_cache": Output(False),
    "cache_implementation": Output("static"),
    "cache_config": Refused({"backend": "quanto"}),
    "max_cache_len": Output(64, {"cache_implementation": "static"}),
    "temperature": Blind(0.7, DRAWN, alone=True),
    "top_k": Blind(7, {"do_sample": True}, alone=True),
    "top_p": Blind(0.8, DRAWN, alone=True),
    "min_p": Blind(0.1, DRAWN, alone=True),
    "top_h": Blind(0.5, DRAWN, alone=True),
    "typical_p": Blind(0.6, DRAWN, alone=True),
    "epsilon_cutoff": Blind(0.01, DRAWN, alone=True),
    "eta_cutoff": Blind(0.01, DRAWN, alone=True),
    "repetition_penalty": Reads(3.0, lambda: [processors.RepetitionPenaltyLogitsProcessor(3.0)]),
    "encoder_repetition_penalty": Refused(1.5),
    "length_penalty": Blind(-2.0, {"num_beams": 3, "eos_token_id": 2}),
    "no_repeat_ngram_size": Reads(1, lambda: [processors.NoRepeatNGramLogitsProcessor(1)]),
    "bad_words_ids": Reads(
        [[7, 19], [33, 48], [44]], lambda: [processors.NoBadWordsLogitsProcessor([[7, 19], [33, 48], [44]], END)]
    ),
    "renormalize_logits": Blind(True, {"num_beams": 2}),
    "forced_bos_token_id": Refused(4),
    "forced_eos_token_id": Blind(2),
    "remove_invalid_values": Blind(True),
    "exponential_decay_length_penalty": Blind((2, 1.5), {"eos_token_id": 2}),
    "suppress_tokens": Blind(list(range(3, 60))),
    "begin_suppress_tokens": Blind(list(range(3, 60))),
    "sequence_bias": Reads(
        [[[7, 40], 30.0], [[33, 11], 30.0]],
        lambda: [processors.SequenceBiasLogitsProcessor([[[7, 40], 30.0], [[33, 11], 30.0]])],
    ),
    "token_healing": Refused(True, {"tokenizer": tokenizer()}),
    "guidance_scale": Refused(2.0),
    "watermarking_config": Reads(
        WatermarkingConfig(bias=9.0, context_width=2),
        lambda: [WatermarkingConfig(bias=9.0, context_width=2).construct_processor(97, "cpu")],
    ),
    "num_return_sequences": Blind(2, {"num_beams": 3}),
    "output_attentions": Output(True, {**DICT, "eager": True}),
    "output_hidden_states": Output(True, DICT),
    "output_scores": Output(True, DICT),
    "output_logits": Output(True, DICT),
    "return_dict_in_generate": Output(True),
    "pad_token_id": Output(1),
    "bos_token_id": Output(3),
    "eos_token_id": Blind(2),
    "encoder_no_repeat_ngram_size": Refused(2),
    "decoder_start_token_id": Refused(1),
    "is_assistant": Refused(True),
    "num_assistant_tokens": Output(3),
    "num_assistant_tokens_schedule": Output("constant"),
    "assistant_confidence_threshold": Output(0.2),
    "prompt_lookup_num_tokens": Refused(2),
    "max_matching_ngram_size": Output(2),
    "assistant_early_exit": Refused(1),
    "assistant_lookbehind": Output(3),
    "target_lookbehind": Output(3),
    "assistant_ensemble_weight": Output(0.5),
    "speculation_type": Output("dflash"),
    "compile_config": Refused(CompileConfig()),
    "disable_compile": Output(False),
    "continuous_batching_config": Refused({}),
    "low_memory": Refused(True),
    "penalty_alpha": Refused(0.6, {"top_k": 4}),
    "dola_layers": Refused("high"),
    "diversity_penalty": Refused(0.5, {"num_beams": 2, "num_beam_groups": 2}),
    "num_beam_groups": Refused(2, {"num_beams": 2}),
    "constraints": Refused([object()], {"num_beams": 2}),
    "force_words_ids": Refused([[5]], {"num_beams": 2}),
    "prefill_chunk_size": Refused(4),
    "transformers_version": Output("5.0.0"),
}
HAD = sorted(name for name in vars(GenerationConfig()) if not name.startswith("_"))


def test_every_field_of_the_installed_transformers_is_tried():
    """A new one fails here until somebody has looked at what it does with rows."""
    assert set(HAD) <= set(FIELDS)


@pytest.mark.parametrize("name", HAD)
def test_a_field_is_exact_or_refused(name: str, vlm: VLM):
    case = FIELDS[name]
    how = {"pad_token_id": 0, "eos_token_id": None, **case.more, name: case.value}
    eager = how.pop("eager", False)
    both = batch(vlm)
    if isinstance(case, Refused):
        with pytest.raises(InputError, match=f"generate: {name}|num_beam_groups"):
            generate(vlm, both, **how)
        return
    if isinstance(case, Reads):
        assert answers(vlm, both, **how) == [step_by_step(vlm, n, case.made()) for n in (0, 1)]
        assert answers(vlm, both) != [step_by_step(vlm, n, case.made()) for n in (0, 1)]
        return
    if isinstance(case, Output):
        if eager:
            vlm.speaker.lm.set_attn_implementation("eager")
        said = generate(vlm, both, **how)
        vlm.speaker.lm.set_attn_implementation("sdpa")
        ids = said.sequences if hasattr(said, "sequences") else said
        assert ids[:, both.input_ids.shape[1] :].tolist() == [step_by_step(vlm, n) for n in (0, 1)]
        return
    if case.alone:
        for seed in range(3):
            torch.manual_seed(seed)
            got = answers(vlm, batch(vlm, [1]), **how)
            torch.manual_seed(seed)
            assert got == blind(vlm, 1, **how)
        return
    assert answers(vlm, both, **how) == [ids for n in (0, 1) for ids in blind(vlm, n, **how)]


def test_settings_are_looked_at_wherever_they_stand(vlm: VLM):
    """In an argument, in settings given, in the model's own."""
    settings = GenerationConfig(max_new_tokens=2, prompt_lookup_num_tokens=2)
    speaker: Any = vlm.speaker
    with pytest.raises(InputError, match="prompt_lookup"):
        speaker.generate(**batch(vlm).arguments, generation_config=settings)
    own, speaker.generation_config = speaker.generation_config, settings
    try:
        with pytest.raises(InputError, match="prompt_lookup"):
            generate(vlm, batch(vlm))
    finally:
        speaker.generation_config = own


def test_a_field_nobody_has_tried_is_refused(vlm: VLM, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tubelet.language.vlm.generate_modes.EXACT", frozenset({"max_new_tokens"}))
    with pytest.raises(InputError, match="has not been tried"):
        generate(vlm, batch(vlm), top_k=3, do_sample=None)


@pytest.mark.parametrize(
    "more",
    [
        {"assistant_model": object()},
        {"custom_generate": "owner/name"},
        {"custom_generate": lambda *_, **__: None},
        {"trust_remote_code": True},
        {"negative_prompt_ids": torch.ones(2, 3, dtype=torch.int64)},
        {"num_return_sequences": 2},
        {"num_beams": 2, "num_return_sequences": 3},
        {"num_beams": 2, "streamer": object()},
        {"cache_implementation": "paged"},
        {"cache_implementation": "quantized"},
        {"no_such_argument": 1},
        {"temperature": -1.0, "do_sample": True},
        {"max_new_tokens": 0},
        {"max_new_tokens": "many"},
        {"stop_strings": "x"},
        {"repetition_penalty": -2.0},
    ],
    ids=lambda more: "-".join(more),
)
def test_what_is_refused_is_refused_by_its_type(more: dict[str, Any], vlm: VLM):
    with pytest.raises(InputError):
        generate(vlm, batch(vlm), **more)


# ---- what processors and criteria see


class Recorder(LogitsProcessor, StoppingCriteria):
    def __init__(self) -> None:
        self.seen: list[list[list[int]]] = []

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        self.seen.append(input_ids.tolist())
        return scores if isinstance(scores, Tensor) else torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("what", ["logits_processor", "stopping_criteria"])
def test_a_processor_of_the_caller_s_sees_text_alone(what: str, beams: int, vlm: VLM):
    recorder = Recorder()
    got = answers(vlm, batch(vlm, [1]), num_beams=beams, eos_token_id=None, **{what: [recorder]})
    text = [t for t in SAID[1] if t >= 0]
    said = recorder.seen[0]
    assert all(ids[: len(text)] == text for step in recorder.seen for ids in step)
    assert len(said[0]) == len(text) + (what == "stopping_criteria")
    assert got == answers(vlm, batch(vlm, [1]), num_beams=beams, eos_token_id=None)


def test_it_sees_a_whole_batch_where_that_is_one(vlm: VLM):
    recorder = Recorder()
    generate(vlm, batch(vlm, [1, 1]), logits_processor=[recorder])
    assert len(recorder.seen[0]) == 2
    with pytest.raises(InputError, match="Recorder sees a batch"):
        generate(vlm, batch(vlm), logits_processor=[recorder])
    allowed = lambda number, ids: [10 + number, *range(20, 30)]  # noqa: E731
    assert all(
        set(ids) <= {10 + n, *range(20, 30)}
        for n, ids in enumerate(answers(vlm, batch(vlm, [1, 1]), prefix_allowed_tokens_fn=allowed))
    )


def test_what_is_punished_stands_in_the_prompt(vlm: VLM):
    out = generate(
        vlm, batch(vlm), max_new_tokens=1, repetition_penalty=1.5, output_scores=True, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    changed = out.scores[0] != out.logits[0]
    assert [row.nonzero().flatten().tolist() for row in changed] == [[1, 7, 8], [1, 5, 9, 12, 33, 60]]


@pytest.mark.parametrize("how", [{}, {"num_beams": 2}, {"repetition_penalty": 2.0}, {"no_repeat_ngram_size": 2}])
def test_an_answer_does_not_depend_on_its_batch(how: dict[str, Any], vlm: VLM):
    """Ends come at different times; beams and processors are those of each prompt."""
    how |= {"eos_token_id": 2, "pad_token_id": 0, "max_new_tokens": 12}
    both = answers(vlm, batch(vlm), **how)
    assert both == [answers(vlm, batch(vlm, [n]), **how)[0] for n in (0, 1)]


def test_stop_strings_are_those_of_the_answer_and_of_the_text(vlm: VLM):
    """Every prompt stops at the string of its own answer; a stand-in is no letter of one."""
    letters = tokenizer()
    free = [step_by_step(vlm, n) for n in (0, 1)]
    stop = letters.decode(free[0][2])
    got = answers(vlm, batch(vlm), stop_strings=stop, tokenizer=letters, pad_token_id=0, eos_token_id=None)
    want = [ids[: ids.index(free[0][2]) + 1] if free[0][2] in ids else ids for ids in free]
    assert [ids[: len(w)] for ids, w in zip(got, want, strict=True)] == want
    assert len(got[0]) == max(map(len, want))


def test_an_end_of_the_caller_s_own_kind_pads_what_has_ended(vlm: VLM):
    class Ends(EosTokenCriteria):
        pass

    free = step_by_step(vlm, 1)
    got = generate(vlm, batch(vlm, [1]), stopping_criteria=[Ends(free[2])], pad_token_id=0)
    assert got[0, -(free.index(free[2]) + 1) :].tolist() == free[: free.index(free[2]) + 1]


# ---- caches


@pytest.mark.parametrize("kind", ["dynamic", "static", "offloaded"])
def test_kinds_of_caches_say_the_same(kind: str, vlm: VLM):
    if kind == "offloaded" and not torch.cuda.is_available():
        return  # it copies between a device and the host
    assert answers(vlm, batch(vlm), cache_implementation=kind) == [step_by_step(vlm, n) for n in (0, 1)]


def test_a_cache_goes_on_with_the_whole_prompt_or_is_refused(vlm: VLM):
    one = batch(vlm, [1])
    speaker: Any = vlm.speaker
    given = one.arguments

    def begun(tokens: int) -> Any:
        with torch.no_grad():
            return speaker(inputs_embeds=one.inputs_embeds[:, :tokens], use_cache=True)[CACHE]

    want = step_by_step(vlm, 1)
    length = one.input_ids.shape[1]
    assert answers(vlm, one, **{CACHE: begun(9)}) == [want]
    rest = {**given, "input_ids": one.input_ids[:, 9:], "inputs_embeds": None, CACHE: begun(9)}
    went_on = speaker.generate(**rest, do_sample=False, max_new_tokens=NEW)
    assert went_on[0, length - 9 :].tolist() == want
    with pytest.raises(ShapeError, match="goes on with"):
        answers(vlm, one, **{CACHE: begun(length)})
    with pytest.raises(ShapeError, match="goes on with"):
        speaker.generate(**{**rest, CACHE: begun(9), "attention_mask": None}, do_sample=False, max_new_tokens=NEW)
    with pytest.raises(InputError, match="one answer"):
        answers(vlm, one, num_beams=2, **{CACHE: begun(9)})


# ---- VLM.generate


def test_the_model_s_own_generate_is_exact_too(vlm: VLM):
    both = batch(vlm)
    assert [cut(ids) for ids in vlm.generate(both, max_new_tokens=NEW).tolist()] == [
        step_by_step(vlm, n) for n in (0, 1)
    ]
    for wrong in ({"top_p": 0.5}, {"top_p": 2.0, "temperature": 1.0}, {"num_beams": 2, "streamer": object()}):
        with pytest.raises(InputError):
            vlm.generate(both, **wrong)  # pyright: ignore[reportArgumentType]


def test_right_padding_and_unseen_tokens_are_refused(vlm: VLM):
    given = batch(vlm).arguments
    speaker: Any = vlm.speaker
    with pytest.raises(InputError, match="padded on the right"):
        speaker.generate(**given | {"attention_mask": given["attention_mask"].flip(1)}, max_new_tokens=2)
    with pytest.raises(ShapeError, match="visual"):
        speaker.generate(**given | {"visual": given["visual"][:, 1:]}, max_new_tokens=2)
