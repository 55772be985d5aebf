"""Plans of whole models from their folders: what is told is what loading gives."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.inspect.budget.budget_cases import counted
from tests.language.vlm.spatial_folder import write_spatial_folder
from tests.language.vlm.test_llava_hf import llava, onevision
from tests.language.vlm.test_spatial import clip
from tests.language.vlm.tiny_speakers import llama

from tubelet import plan
from tubelet.errors import ConfigError
from tubelet.inspect.budget import room
from tubelet.inspect.budget.inputs import Input
from tubelet.inspect.budget.networks import LANGUAGE, LanguageShape
from tubelet.inspect.budget.outline import language_shape, outline_model
from tubelet.inspect.budget.room import free_bytes
from tubelet.inspect.budget.scene_cost import scene_cost
from tubelet.language.vlm.chat import patchify_clips
from tubelet.language.vlm.model import VLM
from tubelet.packed.grid import Grid, Item, all_positions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spatial_folder(tmp_path_factory.mktemp("spatial"))


def test_a_folder_s_outline_is_what_loading_gives(folder: Path):
    vlm, told = VLM.from_pretrained(folder), outline_model(folder)
    assert vlm.spatial is not None and told.whole and told.stored == "float32"
    assert (told.encoder, told.after.geometry) == (vlm.encoder.config, vlm.spatial.vggt.config)
    assert told.encoder.pixels.clips == vlm.scheme.video_pixels and told.after.language_width == vlm.width
    assert told.language == sum(w.numel() for w in vlm.speaker.parameters())
    clips = [clip(4), clip(1), clip(1), clip(7)]
    p = plan([Input(c.width, c.height, len(c)) for c in clips], told.encoder, told.after)
    patches = patchify_clips(clips, vlm.scheme)
    with torch.no_grad():
        rows = vlm.encode(patches).tokens
    assert p.grids == tuple(i.grid for i in patches.items) and p.tokens == len(rows.x)
    assert p.memory().weights_bytes == 4 * sum(
        w.numel() for part in (vlm.encoder, vlm.spatial) for w in part.parameters()
    )


def test_an_encoder_s_file_is_told_alone(folder: Path, tmp_path: Path):
    vlm = VLM.from_pretrained(folder)
    from tubelet.weights.save import save_encoder

    save_encoder(vlm.encoder, tmp_path / "alone")
    told = outline_model(tmp_path / "alone")
    assert not told.whole and told.language is None and told.after.geometry is None
    assert told.encoder.hidden == vlm.encoder.config.hidden


def test_planning_leaves_later_runs_their_positions(folder: Path):
    """Places of a grid are kept for later calls: a plan that runs without values may not be the first to make them."""
    told = outline_model(folder)
    grid = Grid(2, 38, 22)  # of no other test
    plan([(22 * 14, 38 * 14, 4)], told.encoder, told.after).memory()
    places = all_positions((Item.of(4, 38, 22),))
    assert places.min() == 0 and places.max(dim=0).values.tolist() == [3, grid.h - 1, grid.w - 1]


# ---- language models


def test_reading_a_prompt_costs_what_torch_counts():
    """Its counter takes causal attention for whole, and the head reads every row."""
    lm, n = llama(), 50
    shape = language_shape(lm.config.to_dict())
    assert shape is not None and shape == LanguageShape("language model", 48, 2, 2, 12, 4, 64)
    lm.requires_grad_(False)
    theirs = counted(lambda: lm(input_ids=torch.ones(1, n, dtype=torch.int64), use_cache=False)) - 2 * n * 48 * 97
    whole = shape.prefill_flop(n) - shape.prefill_attention_flop(n) + 2 * 4 * 48 * n * n
    assert abs(whole - theirs) <= 0.01 * theirs
    assert shape.prefill_attention_flop(n) == 2 * 4 * 48 * n * (n + 1) // 2


def test_a_prompt_of_the_known_run():
    """9.6 x 10^12 multiply-adds for 3,187 tokens in Qwen2.5-VL-3B."""
    assert round(LANGUAGE["qwen2.5-vl-3b"].prefill_flop(3187) / 2e12, 1) == 9.6


def test_shapes_of_language_models_come_from_either_layout():
    said: dict[str, Any] = {
        "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
        "intermediate_size": 11008,
    }  # fmt: skip
    want = replace(LANGUAGE["qwen2.5-vl-3b"], vocabulary=None, tied=False, qkv_bias=False)
    assert language_shape(said, want.name) == language_shape({"text_config": said}, want.name) == want
    experts = said | {"num_experts_per_tok": 8, "moe_intermediate_size": 768, "head_dim": 128}
    assert (language_shape(experts) or want).mlp == 8 * 768
    assert language_shape({k: v for k, v in said.items() if k != "hidden_size"}) is None
    for wrong in (0, -3, True, "36", 1.5, 1 << 40):
        with pytest.raises(ConfigError, match="num_hidden_layers"):
            language_shape(said | {"num_hidden_layers": wrong})


# ---- long scenes, and room


def test_a_long_scene_is_told_with_what_halves_it(folder: Path):
    told = outline_model(folder)
    found = plan([(280, 280, 2), (84, 56, 2)], told.encoder, told.after)
    long = plan([(280, 280, 40), (84, 56, 2)], told.encoder, told.after)
    cost = scene_cost(long)
    assert cost is not None and cost.frames == 40 and cost.share > 0.5 and "40 frames" in cost.text
    part = {s.name: s.flop for s in plan([(280, 280, 40)], told.encoder, told.after).stages}["geometry scene layers"]
    for frames, below in ((cost.halved, True), (cost.halved + 2, False)):
        own = {s.name: s.flop for s in plan([(280, 280, frames)], told.encoder, told.after).stages}
        assert (2 * own["geometry scene layers"] <= part) is below
    assert scene_cost(found) is None or scene_cost(found).share < cost.share  # pyright: ignore[reportOptionalMemberAccess]
    assert scene_cost(plan([(280, 280, 40)], told.encoder)) is None


def test_room_is_what_the_system_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   37 kB\n")
    monkeypatch.setattr(room, "MEMINFO", tmp_path / "meminfo")
    assert free_bytes("cpu") == 37 * 1024 and free_bytes("mps") is None
    monkeypatch.setattr(room, "MEMINFO", tmp_path / "nothing")
    assert free_bytes("cpu") is None


@pytest.mark.parametrize("which", ["llava", "onevision", "ours"])
def test_models_with_a_projector_and_views_are_planned_as_they_run(which: str, tmp_path: Path):
    peer = onevision(tmp_path) if which == "onevision" else llava("clip", tmp_path)
    folder = peer.vlm.save_pretrained(tmp_path / "ours") if which == "ours" else tmp_path
    told, vlm = outline_model(folder), peer.vlm
    assert told.whole and vlm.projector is not None and told.after.language_width == vlm.width
    assert told.language == sum(w.numel() for part in (vlm.speaker, vlm.projector) for w in part.parameters()) + (
        vlm.width if vlm.newline is not None else 0
    )
    clips = peer.pictures([(60, 90)]) + ([peer.clip(5)] if which == "onevision" else [])
    p = plan([Input(c.width, c.height, len(c)) for c in clips], told.encoder, told.after, told.views())
    patches = patchify_clips(clips, vlm.scheme)
    with torch.no_grad():
        rows = vlm.encode(patches).tokens
    assert p.grids == tuple(i.grid for i in patches.items) and p.tokens == len(rows.x)
    seen = sum(s.flop for s in p.stages if s.name in ("patch embedding", "encoder layers"))
    assert seen == counted(lambda: vlm.features(patches))
    several = told.views(2)
    if which == "onevision":
        assert several is not None and several.tokens(60, 90, (4, 4)) == (17,)
