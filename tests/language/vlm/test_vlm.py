"""Whole models: on complete Qwen-VL checkpoints every generated id is transformers' own, or the reference's."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.language.vlm.tiny_speakers import WHOLE, llama, whole_model
from torch import Tensor
from transformers import GenerationConfig

from tubelet import Clip, Grid, Packed, untrained
from tubelet.encoder.config import EncoderConfig
from tubelet.errors import AlignmentError, ConfigError, InputError
from tubelet.language import build_projector
from tubelet.language.placing.rules import TokenIds
from tubelet.language.placing.touch import blank, touch
from tubelet.language.vlm.cache import FeatureCache
from tubelet.language.vlm.chat import patchify_clips
from tubelet.language.vlm.model import VLM
from tubelet.language.vlm.scheme import Scheme
from tubelet.pixels.patchify import normalise, patchify
from tubelet.pixels.recipe import PixelRecipe

IMAGE, VIDEO, START, END, PAD = 150, 151, 148, 149, 0
NEW = 10


@pytest.fixture(scope="module", params=WHOLE)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, VLM]:
    """A kind, transformers' model, and ours from the folder it was saved to."""
    folder = tmp_path_factory.mktemp(request.param)
    peer = whole_model(request.param, seed=3)
    peer.save_pretrained(folder)
    return request.param, peer, VLM.from_pretrained(folder)


def picture(height: int, width: int, seed: int = 0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    return Clip(pixels, (0.0,), f"{height}x{width}")


def film(frames: int, height: int, width: int, fps: float = 2.0, seed: int = 0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return Clip(pixels, tuple(i / fps for i in range(frames)), "film", is_video=True)


def small(vlm: VLM) -> None:
    """Recipes of few tokens, so that a test is quick."""
    recipe = replace(vlm.scheme.pixels, min_pixels=28 * 28, max_pixels=28 * 28 * 12)
    vlm.scheme = replace(vlm.scheme, pixels=recipe, video_pixels=recipe)


def run(token: int, rows: int) -> list[int]:
    return [START, *[token] * rows, END]


def padded(samples: list[list[int]]) -> tuple[Tensor, Tensor]:
    """(B, S) ids and mask, padded on the left."""
    length = max(map(len, samples))
    ids = torch.tensor([[PAD] * (length - len(s)) + s for s in samples])
    return ids, torch.tensor([[0] * (length - len(s)) + [1] * len(s) for s in samples])


def peer_inputs(p: Packed, recipe: PixelRecipe, ids: Tensor, mask: Tensor, video: bool = False) -> dict[str, Any]:
    kind = "video" if video else "image"
    pixels = "pixel_values_videos" if video else "pixel_values"
    types = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    given = {pixels: normalise(p, recipe).x, f"{kind}_grid_thw": p.grid_thw, "mm_token_type_ids": types}
    return {"input_ids": ids, "attention_mask": mask, **given}


# ---- images: transformers' own ids


@pytest.mark.parametrize("sizes", [[[(60, 90)]], [[(60, 90), (150, 70)]], [[(90, 60)], [], [(60, 150), (80, 80)]]],
                         ids=["one", "two in one prompt", "batch of 3, left padding, one without"])  # fmt: skip
def test_images_give_transformers_own_ids(pair: tuple[str, Any, VLM], sizes: list[list[tuple[int, int]]]):
    _, peer, vlm = pair
    small(vlm)
    clips = [picture(h, w, seed) for seed, (h, w) in enumerate(s for sample in sizes for s in sample)]
    p = patchify(clips, vlm.scheme.pixels)
    with torch.no_grad():
        rows = vlm.encode(p)
    lengths = iter(rows.tokens.lengths)
    samples = [[5, *(t for _ in sample for t in [*run(IMAGE, next(lengths)), 9, 8]), 40 + i, 7]
               for i, sample in enumerate(sizes)]  # fmt: skip
    ids, mask = padded(samples)
    ready = vlm.ready(rows, ids, attention_mask=mask, counts=[len(s) for s in sizes])
    got = vlm.generate(ready, max_new_tokens=NEW)
    given = peer_inputs(p, vlm.scheme.pixels, ids, mask)
    want = peer.generate(**given, max_new_tokens=NEW, do_sample=False)[:, ids.shape[1] :]
    assert torch.equal(got, want)
    assert len({tuple(row.tolist()) for row in got}) == len(sizes)
    with torch.no_grad():
        mine, theirs = vlm(ready), peer(**given).logits
    torch.testing.assert_close(mine[mask == 1], theirs[mask == 1], atol=2e-4, rtol=1e-4)


def test_one_by_one_and_batched_say_the_same(pair: tuple[str, Any, VLM]):
    _, _, vlm = pair
    small(vlm)
    clips = [picture(60, 90), picture(150, 70, 1)]
    samples, alone = [], []
    for clip in clips:
        with torch.no_grad():
            rows = vlm.encode(patchify([clip], vlm.scheme.pixels))
        samples.append([5, *run(IMAGE, rows.tokens.lengths[0]), 9])
        alone.append(vlm.generate(vlm.ready(rows, torch.tensor([samples[-1]])), max_new_tokens=NEW))
    ids, mask = padded(samples)
    with torch.no_grad():
        rows = vlm.encode(patchify(clips, vlm.scheme.pixels))
    both = vlm.generate(vlm.ready(rows, ids, attention_mask=mask), max_new_tokens=NEW)
    assert torch.equal(both, torch.cat(alone))


def test_text_alone(pair: tuple[str, Any, VLM]):
    _, peer, vlm = pair
    ids = torch.tensor([[5, 6, 7, 40]])
    want = peer.generate(input_ids=ids, max_new_tokens=NEW, do_sample=False)[:, 4:]
    assert torch.equal(vlm.generate(vlm.ready(None, ids), max_new_tokens=NEW), want)


@pytest.mark.parametrize("how", [{"num_beams": 3}, {"temperature": 0.7, "top_p": 0.9}], ids=["beams", "sampling"])
def test_beams_and_sampling_are_transformers_own(pair: tuple[str, Any, VLM], how: dict[str, Any]):
    _, peer, vlm = pair
    small(vlm)
    p = patchify([picture(60, 90)], vlm.scheme.pixels)
    with torch.no_grad():
        rows = vlm.encode(p)
    ids, mask = padded([[5, *run(IMAGE, rows.tokens.lengths[0]), 9]])
    torch.manual_seed(5)
    got = vlm.generate(vlm.ready(rows, ids, attention_mask=mask), max_new_tokens=NEW, **how)
    torch.manual_seed(5)
    given = peer_inputs(p, vlm.scheme.pixels, ids, mask)
    want = peer.generate(**given, max_new_tokens=NEW, do_sample="temperature" in how, **how)
    assert torch.equal(got, want[:, ids.shape[1] :])


# ---- video: the reference's positions


def reference_positions(ids: list[int], grid: Grid, step: float) -> Tensor:
    """(3, S) by the rule's own words, one token after the other: text after a video is its largest position + 1."""
    t, h, w = grid
    out: list[tuple[int, ...]] = []
    cells = [(math.trunc(a * step), b, c) for a in range(t) for b in range(h) for c in range(w)]
    inside = 0
    for token in ids:
        if token == VIDEO:
            base = out[-1 - inside][0] + 1
            a, b, c = cells[inside]
            out.append((base + a, base + b, base + c))
            inside += 1
        else:
            following = max((max(at) for at in out), default=-1) + 1
            out.append((following,) * 3)
    return torch.tensor(out).T


@pytest.mark.parametrize("fps", [1.0, 0.5, 2.0])
def test_video_gives_the_ids_of_the_reference_s_positions(pair: tuple[str, Any, VLM], fps: float):
    """transformers 5.23 puts the question into the middle of a long video; told the reference's positions it says what
    we say. Qwen3-VL, which has no time inside a block, is the next test's."""
    kind, peer, vlm = pair
    if kind.startswith("qwen3_vl"):
        return
    small(vlm)
    clip = film(10, 60, 60, fps)
    p = patchify_clips([clip], vlm.scheme)
    with torch.no_grad():
        rows = vlm.encode(p)
    sample = [5, 6, *run(VIDEO, rows.tokens.lengths[0]), 9, 8]
    ids, mask = padded([sample])
    ready = vlm.ready(rows, ids)
    got = vlm.generate(ready, max_new_tokens=NEW)
    step = 2 / fps * 2 if kind == "qwen2_5_vl" else 1.0
    places = reference_positions(sample, rows.tokens.items[0].grid, step)
    assert torch.equal(ready.places[0], places)
    given = peer_inputs(p, vlm.scheme.pixels, ids, mask, video=True)
    if kind == "qwen2_5_vl":
        given["second_per_grid_ts"] = torch.tensor([2 / fps])
    want = peer.generate(**given, position_ids=places[:, None], max_new_tokens=NEW, do_sample=False)
    assert torch.equal(got, want[:, ids.shape[1] :])
    theirs = peer.model.get_rope_index(**{k: v for k, v in given.items() if "pixel" not in k})[0]
    assert not torch.equal(theirs[:, 0], places)


def test_timed_frames_and_pictures_of_qwen3_give_transformers_own_ids(pair: tuple[str, Any, VLM]):
    """Each frame a block behind its timestamp, a picture in the same prompt, deepstack rows of both."""
    kind, peer, vlm = pair
    if not kind.startswith("qwen3_vl"):
        return
    small(vlm)
    p = patchify_clips([film(6, 60, 60), picture(60, 90)], vlm.scheme)
    with torch.no_grad():
        rows = vlm.encode(p)
    t, h, w = rows.tokens.items[0].grid
    frames = [token for i in range(t) for token in [20 + i, *run(VIDEO, h * w)]]
    ids, mask = padded([[5, *frames, 9, *run(IMAGE, rows.tokens.lengths[1]), 8]])
    got = vlm.generate(vlm.ready(rows, ids), max_new_tokens=NEW)
    film_rows, picture_rows = p.split([1, 1])
    given = peer_inputs(film_rows, vlm.scheme.pixels, ids, mask, video=True)
    given |= {k: v for k, v in peer_inputs(picture_rows, vlm.scheme.pixels, ids, mask).items() if "image" in k}
    given["pixel_values"] = normalise(picture_rows, vlm.scheme.pixels).x
    want = peer.generate(**given, max_new_tokens=NEW, do_sample=False)
    assert torch.equal(got, want[:, ids.shape[1] :])


# ---- selection


def test_a_selection_that_keeps_all_changes_nothing(pair: tuple[str, Any, VLM]):
    _, _, vlm = pair
    small(vlm)
    p = patchify([picture(60, 90), picture(90, 60, 1)], vlm.scheme.pixels)
    with torch.no_grad():
        whole = vlm.encode(p)
        vlm.reduce = lambda tokens: tokens.keep(torch.arange(len(tokens.x)))
        kept = vlm.encode(p)
        vlm.reduce = None
    assert kept.tokens.equal(whole.tokens)
    assert all(a.equal(b) for a, b in zip(kept.deepstack, whole.deepstack, strict=True))


def test_rows_that_are_left_keep_their_places_and_their_deepstack(pair: tuple[str, Any, VLM]):
    """Every other row: positions are those the whole items have there, and deepstack rows follow."""
    _, _, vlm = pair
    small(vlm)
    p = patchify([picture(60, 120), picture(90, 60, 1)], vlm.scheme.pixels)
    with torch.no_grad():
        whole = vlm.encode(p)
        chosen = torch.arange(0, len(whole.tokens.x), 2)
        vlm.reduce = lambda tokens: tokens.keep(chosen)
        kept = vlm.encode(p)
        vlm.reduce = None
    assert torch.equal(kept.tokens.x, whole.tokens.x[chosen])
    for a, b in zip(kept.deepstack, whole.deepstack, strict=True):
        assert torch.equal(a.x, b.x[chosen])

    def prompt(lengths: tuple[int, ...]) -> Tensor:
        return torch.tensor([[5, *run(IMAGE, lengths[0]), 9, *run(IMAGE, lengths[1]), 8]])

    all_of_it = vlm.ready(whole, prompt(whole.tokens.lengths))
    fewer = vlm.ready(kept, prompt(kept.tokens.lengths))
    assert torch.equal(fewer.places[0][:, fewer.visual[0]], all_of_it.places[0][:, all_of_it.visual[0]][:, chosen])
    assert torch.equal(fewer.places[0][:, ~fewer.visual[0]], all_of_it.places[0][:, ~all_of_it.visual[0]])
    if fewer.deepstack is not None and all_of_it.deepstack is not None:
        assert torch.equal(
            fewer.deepstack[0][:, fewer.visual[0]], all_of_it.deepstack[0][:, all_of_it.visual[0]][:, chosen]
        )
        assert not fewer.deepstack[0][:, ~fewer.visual[0]].any()
    assert vlm.generate(fewer, max_new_tokens=3).shape == (1, 3)


# ---- the cache


class Counting:
    """Counts the items that an encoder is run on."""

    def __init__(self, vlm: VLM) -> None:
        self.items: list[int] = []
        run_encoder = vlm.features

        def counted(p: Packed) -> tuple[Packed, ...]:
            self.items.append(len(p))
            return run_encoder(p)

        vlm.features = counted  # pyright: ignore[reportAttributeAccessIssue]


def test_an_item_seen_again_is_not_encoded_again(pair: tuple[str, Any, VLM]):
    _, _, vlm = pair
    small(vlm)
    vlm.cache = FeatureCache()
    a, b, c = picture(60, 90), picture(90, 60, 1), picture(60, 60, 2)
    with torch.no_grad():
        fresh = vlm.features(patchify([b, a, b, c], vlm.scheme.pixels))
        count = Counting(vlm)
        vlm.encode(patchify([a, b], vlm.scheme.pixels))
        again = vlm.encode(patchify([b, a, b, c], vlm.scheme.pixels))
        nothing = vlm.encode(patchify([c], vlm.scheme.pixels))
    del vlm.features
    assert count.items == [2, 1]
    assert nothing.tokens.lengths == again.tokens.lengths[3:]
    assert again.tokens.items == fresh[0].items
    for got, want in zip((again.tokens, *again.deepstack), fresh, strict=True):
        assert torch.equal(got.pos, want.pos)
        torch.testing.assert_close(got.x, want.x, atol=1e-5, rtol=1e-5)


def test_gradients_and_changed_weights_go_past_the_cache(pair: tuple[str, Any, VLM]):
    _, _, vlm = pair
    small(vlm)
    vlm.cache = FeatureCache()
    p = patchify([picture(60, 90)], vlm.scheme.pixels)
    rows = vlm.encode(p)
    assert rows.tokens.x.requires_grad
    assert vlm.cache.counts.misses == 0
    with torch.no_grad():
        before = vlm.encode(p).tokens.x
        weight = vlm.encoder.patch.weight
        weight.mul_(2)
        after = vlm.encode(p).tokens.x
        weight.div_(2)
    assert (vlm.cache.counts.hits, vlm.cache.counts.misses) == (0, 2)
    assert not torch.allclose(before, after)


def test_two_encoders_may_share_a_cache(pair: tuple[str, Any, VLM], tmp_path: Path):
    kind, _, vlm = pair
    small(vlm)
    whole_model(kind, seed=9).save_pretrained(tmp_path)
    vlm.cache = FeatureCache()
    other = VLM.from_pretrained(tmp_path, cache=vlm.cache)
    other.scheme = vlm.scheme
    p = patchify([picture(60, 90)], vlm.scheme.pixels)
    with torch.no_grad():
        assert not torch.allclose(vlm.encode(p).tokens.x, other.encode(p).tokens.x)
    assert vlm.cache.counts.hits == 0


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # torch's own RMS norm under autocast
def test_what_else_decides_features_is_in_the_key(pair: tuple[str, Any, VLM]):
    """Autocast, a recipe, the encoder's configuration; and nothing is kept for weights made in inference mode."""
    _, _, vlm = pair
    small(vlm)
    vlm.cache = FeatureCache()
    p = patchify([picture(60, 90)], vlm.scheme.pixels)
    scheme, config = vlm.scheme, vlm.encoder.config
    with torch.no_grad():
        plain = vlm.encode(p).tokens.x
        with torch.autocast("cpu", torch.bfloat16):
            mixed = vlm.encode(p).tokens.x
        vlm.scheme = replace(scheme, video_pixels=replace(scheme.pixels, max_pixels=28 * 28 * 4))
        vlm.encode(p)
        vlm.scheme = scheme
        vlm.encoder.config = replace(config, eps=1e-3)
        vlm.encode(p)
        vlm.encoder.config = config
        assert vlm.cache.counts.hits == 0
        assert len(vlm.cache) == 4
        assert torch.equal(vlm.encode(p).tokens.x, plain)
        assert vlm.cache.counts.hits == 1
        assert not torch.equal(mixed, plain)
    kept = vlm.encoder.patch.weight
    try:
        with torch.inference_mode():
            vlm.encoder.patch.weight = torch.nn.Parameter(kept.clone(), requires_grad=False)
            vlm.encode(p)
    finally:
        vlm.encoder.patch.weight = kept
    assert len(vlm.cache) == 4


# ---- training, and wrong calls


def test_gradients_reach_the_encoder_and_the_language_model(pair: tuple[str, Any, VLM]):
    """Logits of a prompt with pixels, to both ends; with deepstack through its own mergers too."""
    _, _, vlm = pair
    small(vlm)
    rows = vlm.encode(patchify([picture(60, 90)], vlm.scheme.pixels))
    ids = torch.tensor([[5, *run(IMAGE, rows.tokens.lengths[0]), 9]])
    ready = vlm.ready(rows, ids, labels=ids)
    assert ready.labels is not None
    assert ready.labels[0].tolist() == [t if t != IMAGE else -100 for t in ids[0].tolist()]
    vlm.zero_grad()
    vlm(ready).square().mean().backward()
    dead = [name for name, p in vlm.named_parameters() if p.grad is None or not p.grad.any()]
    vlm.zero_grad()
    assert dead == []


def test_a_batch_of_text_alone_takes_part_with_every_weight(pair: tuple[str, Any, VLM]):
    """The blank pack through tower, mergers and deepstack: no value changes, every gradient is there and zero."""
    _, _, vlm = pair
    ids = torch.tensor([[5, 6, 7]])
    ready = vlm.ready(None, ids)
    rows = vlm.encode(blank(vlm.scheme.pixels))
    touched = replace(ready, inputs_embeds=touch(ready.inputs_embeds, rows.tokens, *rows.deepstack))
    assert torch.equal(touched.inputs_embeds, ready.inputs_embeds)
    vlm.zero_grad()
    vlm(touched).square().mean().backward()
    seen = {name: p.grad for name, p in vlm.encoder.named_parameters()}
    vlm.zero_grad()
    assert [name for name, gradient in seen.items() if gradient is None] == []
    assert not any(bool(gradient.any()) for gradient in seen.values() if gradient is not None)


def test_a_wrong_number_of_placeholders_names_the_sample(pair: tuple[str, Any, VLM]):
    _, _, vlm = pair
    small(vlm)
    with torch.no_grad():
        rows = vlm.encode(patchify([picture(60, 90)], vlm.scheme.pixels))
    n = rows.tokens.lengths[0]
    with pytest.raises(AlignmentError) as e:
        vlm.ready(rows, torch.tensor([[5, *run(IMAGE, n - 1), 9]]))
    assert (e.value.expected, e.value.got) == (n, n - 1)


def test_generation_refuses_padding_on_the_right(pair: tuple[str, Any, VLM]):
    _, _, vlm = pair
    ids = torch.tensor([[5, 6, 7], [5, 6, 0]])
    ready = vlm.ready(None, ids, attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]))
    with pytest.raises(InputError, match="left"):
        vlm.generate(ready)


@pytest.mark.parametrize("how", [{"max_new_tokens": 0}, {"temperature": 0.0}, {"temperature": -1.0}, {"num_beams": 0}])
def test_settings_out_of_range_are_refused(pair: tuple[str, Any, VLM], how: dict[str, Any]):
    _, _, vlm = pair
    with pytest.raises(InputError):
        vlm.generate(vlm.ready(None, torch.tensor([[5, 6]])), **how)


# ---- any encoder, any language model


def plain_encoder() -> Any:
    return untrained(EncoderConfig(hidden=64, layers=3, heads=2, mlp=96, pixels=PixelRecipe(16)), seed=2)


@pytest.mark.parametrize("kind", ["linear", "mlp2x_gelu", "spatial_merge"])
@pytest.mark.parametrize("states", [(), (2,), (1, 3)], ids=str)
def test_any_encoder_and_projector_around_a_causal_language_model(kind: str, states: tuple[int, ...]):
    """Rows put by hand where the placeholders stand, through the language model's own generate."""
    lm, encoder = llama(), plain_encoder()
    torch.manual_seed(0)
    projector = build_projector(kind, 64 * max(len(states), 1), 48)
    vlm = VLM(encoder, lm, Scheme(TokenIds(image=-200), encoder.pixels, states=states), projector=projector)
    p = patchify([picture(64, 96), film(3, 32, 64)], encoder.pixels)
    with torch.no_grad():
        rows = vlm.encode(p)
        hidden = encoder.hidden_states(p)
        wide = encoder(p) if not states else hidden[0].with_x(torch.cat([hidden[i].x for i in states], 1))
        by_hand = projector(wide).x
    first, second = rows.tokens.lengths
    ids = torch.tensor([[1, *[-200] * first, 5, *[-200] * second, 9, 8]])
    got = vlm.generate(vlm.ready(rows, ids), max_new_tokens=NEW)
    embeds = lm.get_input_embeddings()(ids.clamp_min(0)).detach()
    embeds[ids == -200] = by_hand
    want = lm.generate(inputs_embeds=embeds, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
    assert torch.equal(got, want)
    assert vlm.untrained


def test_widths_that_do_not_fit_are_named():
    encoder = plain_encoder()
    scheme = Scheme(TokenIds(image=-200), encoder.pixels)
    with pytest.raises(ConfigError, match="rows of 64 for a language model of 48"):
        VLM(encoder, llama(), scheme)
    with pytest.raises(ConfigError, match="the projector reads 32"):
        VLM(encoder, llama(), scheme, projector=build_projector("linear", 32, 48))
    with pytest.raises(ConfigError, match="hidden states count"):
        VLM(encoder, llama(), Scheme(TokenIds(image=-200), encoder.pixels, states=(4,)))


def test_a_reduction_that_joins_rows_cannot_be_followed_by_deepstack(pair: tuple[str, Any, VLM]):
    from tubelet import pool

    kind, _, vlm = pair
    small(vlm)
    vlm.reduce = lambda tokens: pool(tokens, size=2)
    try:
        with torch.no_grad():
            p = patchify([picture(112, 112)], vlm.scheme.pixels)
            if kind.startswith("qwen3_vl"):
                with pytest.raises(ConfigError, match="deepstack"):
                    vlm.encode(p)
            else:
                assert vlm.encode(p).tokens.lengths[0] < vlm.features(p)[0].lengths[0]
    finally:
        vlm.reduce = None


# ---- what the folder says of sampling


def test_a_temperature_counts_though_the_folder_says_top_k_1(pair: tuple[str, Any, VLM]):
    """As the published generation_config.json of Qwen2-VL does. The penalty for repetition stays as it is there."""
    _, peer, vlm = pair
    before = vlm.speaker.generation_config
    assert before is not None
    said = {"do_sample": True, "temperature": 0.1, "top_k": 1, "top_p": 0.001, "repetition_penalty": 1.3}
    vlm.speaker.generation_config = GenerationConfig(**said, eos_token_id=None, pad_token_id=0)
    ids = torch.tensor([[5, 6, 7, 40]])
    ready = vlm.ready(None, ids)
    try:
        drawn = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            drawn.append(vlm.generate(ready, max_new_tokens=NEW, temperature=2.0))
        likeliest = vlm.generate(ready, max_new_tokens=NEW)
        torch.manual_seed(1)
        how = {"do_sample": True, "temperature": 2.0, "top_k": 50, "repetition_penalty": 1.3}
        want = peer.generate(input_ids=ids, max_new_tokens=NEW, **how)
        penalised = peer.generate(input_ids=ids, max_new_tokens=NEW, do_sample=False, repetition_penalty=1.3)
    finally:
        vlm.speaker.generation_config = before
    assert torch.equal(drawn[0], want[:, 4:])
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(likeliest, penalised[:, 4:])


@pytest.mark.parametrize("how", [{}, {"num_beams": 2}, {"temperature": 1.0}], ids=str)
def test_an_answer_of_one_token_to_a_prompt_of_one(pair: tuple[str, Any, VLM], how: dict[str, Any]):
    _, peer, vlm = pair
    ids = torch.tensor([[7]])
    torch.manual_seed(0)
    got = vlm.generate(vlm.ready(None, ids), max_new_tokens=1, **how)
    torch.manual_seed(0)
    want = peer.generate(input_ids=ids, max_new_tokens=1, do_sample="temperature" in how, **how)
    assert torch.equal(got, want[:, 1:])
