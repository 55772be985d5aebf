"""The language model as `generate` drives it, against transformers' own and the recorded whole model."""

from typing import Any

import pytest
import torch
from tests.language.vlm.tiny_speakers import golden, golden_speaker, llama, speaker_of
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from tubelet.errors import InputError, ShapeError
from tubelet.language.vlm.causal_lm import CACHE

GREEDY = {"do_sample": False, "max_new_tokens": 6}


def after(places: Tensor) -> Tensor:
    """delta of places (B, S) or (B, 3, S): the largest position + 1, minus the length."""
    return places.flatten(1).amax(1) + 1 - places.shape[-1]


# ---- the recorded model: positions of a video, given


def prompt_of(tensors: dict[str, Tensor], speaker: Any, config: dict[str, int]) -> dict[str, Tensor]:
    """What `generate` is given: the fused rows of the case where the placeholders stand, at its positions."""
    ids = tensors["input.input_ids"]
    embeds = speaker.embed(ids)
    rows = tensors["output.fused_embeds"]
    vision = (ids == config["video_token_id"]) | (ids == config["image_token_id"])
    embeds[vision] = rows
    places = tensors["output.position_ids"].movedim(0, 1)
    mask = tensors.get("input.attention_mask", torch.ones_like(ids))
    return {
        "input_ids": ids, "inputs_embeds": embeds, "attention_mask": mask, "places": places, "delta": after(places)
    }  # fmt: skip


@pytest.mark.parametrize("name", ["spatial_mllm_video", "spatial_mllm_images"])
def test_logits_are_those_of_the_recorded_model(name: str):
    config, tensors = golden(name)
    speaker = golden_speaker(config, tensors)
    with torch.no_grad():
        given = prompt_of(tensors, speaker, config)
        given.pop("input_ids")
        if "output.inputs_embeds" in tensors:
            assert torch.equal(given["inputs_embeds"], tensors["output.inputs_embeds"])
        logits = speaker(**given).logits
    assert torch.allclose(logits, tensors["output.logits"], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["spatial_mllm_video", "spatial_mllm_batch"])
def test_generated_ids_are_those_of_the_recorded_model(name: str):
    """One video of 4 frames; two prompts of different length, padded on the left, with a video each."""
    config, tensors = golden(name)
    speaker = golden_speaker(config, tensors)
    want = tensors["output.generated_ids"]
    with torch.no_grad():
        given = prompt_of(tensors, speaker, config)
        length = given["places"].shape[-1]
        assert torch.equal(given["delta"][:, None], tensors["output.rope_deltas"])
        got = speaker.generate(**given, do_sample=False, max_new_tokens=want.shape[1] - length)
    assert torch.equal(got, want)


def test_a_wrong_position_is_another_answer():
    """The recorded ids depend on the positions: without them the same rows say something else."""
    config, tensors = golden("spatial_mllm_video")
    speaker = golden_speaker(config, tensors)
    with torch.no_grad():
        given = prompt_of(tensors, speaker, config)
        given.pop("input_ids")
        right = speaker(**given).logits
        given["places"] = torch.arange(given["places"].shape[-1]).expand(1, 3, -1)
        wrong = speaker(**given).logits
    assert (right - wrong).abs().max() > 0.01


# ---- a causal language model, against its own generate


def padded_prompts() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 97, (3, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    mask[2, :1] = 0
    return ids.masked_fill(mask == 0, 0), mask


@pytest.mark.parametrize(
    "how",
    [
        GREEDY,
        {**GREEDY, "num_beams": 3},
        {**GREEDY, "num_beams": 3, "num_return_sequences": 2},
        {"max_new_tokens": 8, "do_sample": True, "temperature": 0.8, "top_k": 20},
        {**GREEDY, "repetition_penalty": 1.7},
        {**GREEDY, "use_cache": True, "prefill_chunk_size": 4},
    ],
    ids=["greedy", "beams", "several beams", "sampling", "repetition", "chunks"],
)
def test_generate_equals_the_language_model_s_own(how: dict[str, object]):
    lm = llama()
    speaker = speaker_of(lm)
    ids, mask = padded_prompts()
    places = (mask.cumsum(1) - 1).clamp_min(0)
    torch.manual_seed(11)
    want = lm.generate(input_ids=ids, attention_mask=mask, **how)
    torch.manual_seed(11)
    if "prefill_chunk_size" in how:  # transformers cuts ids into chunks, not embeddings
        got = speaker.generate(input_ids=ids, attention_mask=mask, places=places, delta=after(places), **how)
    else:
        got = speaker.generate(
            input_ids=ids,
            inputs_embeds=speaker.embed(ids),
            attention_mask=mask,
            places=places,
            delta=after(places),
            **how,
        )
    assert torch.equal(got, want)


def test_a_cache_carries_a_second_turn():
    """Generation goes on from a cache with more of the prompt, and says what one long prompt says."""
    speaker = speaker_of(llama(4))
    ids, _ = padded_prompts()
    ids = ids[1:2]
    places = torch.arange(9)[None]
    first = speaker(inputs_embeds=speaker.embed(ids[:, :5]), places=places[:, :5], use_cache=True)
    mask = torch.ones_like(ids)
    rest = {"input_ids": ids, "attention_mask": mask, "places": places, "delta": after(places)}
    went_on = speaker.generate(**rest, **{CACHE: first[CACHE]}, **GREEDY)
    assert torch.equal(went_on, speaker.generate(**rest, **GREEDY))


def test_decoding_one_by_one_equals_one_forward():
    """Three axes, a gap before the generated text, and deepstack rows at prefill alone."""
    config, tensors = golden("spatial_mllm_video")
    speaker = golden_speaker(config, tensors)
    with torch.no_grad():
        given = prompt_of(tensors, speaker, config)
        ids = given.pop("input_ids")
        more = torch.tensor([[7, 9, 30]])
        start = given["places"].amax() + 1
        later = (start + torch.arange(3)).expand(1, 3, -1)
        whole = speaker(
            inputs_embeds=torch.cat([given["inputs_embeds"], speaker.embed(more)], 1),
            places=torch.cat([given["places"], later], 2),
        ).logits[:, -3:]
        out = speaker(**given, use_cache=True, logits_to_keep=1)
        assert out.logits.shape == (1, 1, config["vocab_size"])
        steps = []
        for i in range(3):
            out = speaker(
                input_ids=more[:, i : i + 1],
                **{CACHE: out[CACHE]},
                places=given["places"],
                delta=given["delta"],
            )
            steps.append(out.logits)
    assert ids.shape[1] == given["places"].shape[2]
    assert torch.allclose(torch.cat(steps, 1), whole, atol=1e-5)


class Recorder(BaseStreamer):
    def __init__(self) -> None:
        self.said: list[list[int]] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.said.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended = True


def test_a_streamer_gets_every_token_as_it_comes():
    speaker = speaker_of(llama())
    ids = padded_prompts()[0][1:2]
    places = torch.arange(9)[None]
    streamer = Recorder()
    rows = {"input_ids": ids, "inputs_embeds": speaker.embed(ids), "attention_mask": torch.ones_like(ids)}
    got = speaker.generate(**rows, places=places, delta=after(places), streamer=streamer, **GREEDY)
    assert streamer.ended
    assert streamer.said[0] == ids[0].tolist()
    assert [t for step in streamer.said[1:] for t in step] == got[0, 9:].tolist()
    assert all(len(step) == 1 for step in streamer.said[1:])


# ---- wrong calls


def test_nothing_to_read_is_an_error():
    with pytest.raises(ShapeError, match="neither"):
        speaker_of(llama())()


def test_tokens_after_the_places_need_a_delta():
    speaker = speaker_of(llama())
    with pytest.raises(ShapeError, match="no delta") as e:
        speaker(input_ids=torch.ones(1, 5, dtype=torch.long), places=torch.arange(4)[None])
    assert (e.value.limit, e.value.got) == (4, 5)


def test_deepstack_rows_of_another_length_are_an_error():
    speaker = speaker_of(llama())
    with pytest.raises(ShapeError, match="deepstack"):
        speaker(input_ids=torch.ones(1, 5, dtype=torch.long), deepstack=torch.zeros(1, 2, 4, 48))


def test_rows_are_not_prefilled_in_chunks():
    """transformers would cut the ids and forget the rows."""
    speaker = speaker_of(llama())
    ids = padded_prompts()[0][1:2]
    rows = {"input_ids": ids, "inputs_embeds": speaker.embed(ids)}
    with pytest.raises(InputError, match="chunks"):
        speaker.generate(**rows, prefill_chunk_size=4, **GREEDY)
    settings = GenerationConfig(max_new_tokens=2, prefill_chunk_size=4)
    with pytest.raises(InputError, match="chunks"):
        speaker.generate(**rows, generation_config=settings)


def test_it_takes_the_language_model_s_own_settings():
    lm = llama()
    lm.generation_config = GenerationConfig(max_new_tokens=3, eos_token_id=2, pad_token_id=0)
    assert speaker_of(lm).generation_config.max_new_tokens == 3
