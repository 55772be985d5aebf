"""transformers' InternVL in the same process: tiles, words, ids, logits, answers, clips frame by frame."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.inspect.budget.budget_cases import counted
from tests.language.vlm.peers import QUESTION, Peer
from tests.language.vlm.tiny_peers import SIDE, internvl
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from tubelet import VLM
from tubelet.errors import AlignmentError, ConfigError
from tubelet.inspect.budget.inputs import Input
from tubelet.inspect.budget.outline import outline_model
from tubelet.inspect.budget.plan import plan
from tubelet.language.vlm.chat import ask, patchify_clips, tokens_of
from tubelet.language.vlm.features import VisualRows, frames_apart
from tubelet.packed import Item, pack


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    return internvl(tmp_path_factory.mktemp("internvl"))


@pytest.mark.parametrize(
    "sizes", [[(28, 28)], [(60, 90)], [(40, 41)], [(20, 140)], [(131, 47), (60, 90), (5, 61)], []], ids=str
)
def test_it_says_what_transformers_says(peer: Peer, sizes: list[tuple[int, int]]):
    question = peer.check(peer.pictures(sizes))
    rule = peer.vlm.scheme.views
    assert rule is not None
    assert sum(sum(rule.tokens(*size, (2, 2))) for size in sizes) == len(question.rows.tokens.x)


def test_tiles_are_those_of_its_processor(peer: Peer):
    rule = peer.vlm.scheme.views
    assert rule is not None
    for height in range(9, 200, 7):
        for width in range(9, 200, 5):
            tiling = rule.tiling(height, width)
            assert (tiling.cols, tiling.rows) == get_optimal_tiled_canvas((height, width), (SIDE, SIDE), 1, 6)


def test_clips_are_written_frame_by_frame(peer: Peer):
    clip, [still] = peer.clip(3), peer.pictures([(60, 90)])
    for clips in ([clip], [still, clip], [clip, still]):
        question = peer.check(clips)
        assert [item.grid.t for item in question.rows.tokens.items if item.picture == clips.index(clip)] == [3]


def test_a_batch_with_padding(peer: Peer):
    peer.check_batch([peer.pictures([(60, 90)]), [peer.clip(2)], peer.pictures([(20, 70), (30, 30)]), []])


def test_it_comes_back_from_a_folder(peer: Peer, tmp_path: Path):
    again = peer.saved(tmp_path / "ours")
    again.check([peer.clip(2), *peer.pictures([(60, 90)])])


def test_it_is_planned_as_it_runs(peer: Peer):
    clips = [*peer.pictures([(60, 90), (28, 28)]), peer.clip(5)]
    for folder in (peer.folder, peer.vlm.save_pretrained(peer.folder / "ours", overwrite=True)):
        told = outline_model(folder)
        p = plan([Input(c.width, c.height, len(c)) for c in clips], told.encoder, told.after, told.views())
        patches = patchify_clips(clips, peer.vlm.scheme)
        with torch.no_grad():
            features = peer.vlm.features(patches)
            rows = peer.vlm.project(features).tokens
        assert p.grids == tuple(i.grid for i in patches.items) and p.tokens == len(rows.x)
        seen = sum(s.flop for s in p.stages if s.name in ("patch embedding", "encoder layers", "projected"))
        assert seen == counted(lambda: peer.vlm.project(peer.vlm.features(patches)))  # noqa: B023


def test_frames_stand_apart_also_when_rows_were_dropped():
    p = pack([torch.arange(12.0)[:, None]], [Item.of(3, 2, 2)])
    few = p.keep(torch.tensor([0, 3, 8, 9, 10]))
    one = frames_apart(VisualRows(p)).tokens.check()
    assert one.lengths == (4, 4, 4) and one.x.flatten().tolist() == list(range(12)) and not one.pos[:, 0].any()
    two = frames_apart(VisualRows(few)).tokens.check()
    assert two.lengths == (2, 0, 3) and two.x.flatten().tolist() == [0, 3, 8, 9, 10]
    assert [item.times_s for item in one.items] == [(t,) for t in p.items[0].times_s]


def test_a_frame_without_rows_is_left_out_of_the_prompt(peer: Peer):
    question = ask(peer.vlm, [peer.clip(3)], QUESTION)
    rows = question.rows.tokens
    few = rows.keep(rows.pos[:, 0] != 1)
    prompt = tokens_of(question.text, question.clips, few, peer.vlm.tokenizer, peer.vlm.scheme)
    said = peer.vlm.tokenizer.decode(prompt.ids)
    assert "Frame1" in said and "Frame2" not in said and "Frame3" in said
    assert prompt.ids.count(peer.vlm.scheme.token_ids.image) == 8


def test_a_prompt_with_other_marks_is_refused(peer: Peer):
    question = ask(peer.vlm, [peer.clip(3)], QUESTION)
    for text in (question.text.replace("<video>", "<IMG_CONTEXT>"), question.text + "<video>"):
        with pytest.raises(AlignmentError):
            tokens_of(text, question.clips, question.rows.tokens, peer.vlm.tokenizer, peer.vlm.scheme)


@pytest.mark.parametrize(
    ("config", "processor"),
    [
        ({"downsample_ratio": 0.3}, {}),
        ({"vision_feature_select_strategy": "full"}, {}),
        ({"projector_hidden_act": "relu"}, {}),
        ({}, {"max_patches": 0}),
        ({}, {"max_patches": 1000}),
        ({}, {"min_patches": "x"}),
        ({}, {"size": {"height": 56, "width": 56}}),
        ({}, {"image_processor_type": "SiglipImageProcessor"}),
    ],
    ids=str,
)
def test_what_it_does_not_do_is_refused(peer: Peer, config: dict[str, Any], processor: dict[str, Any], tmp_path: Path):
    for file in peer.folder.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    said = json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) | config
    (tmp_path / "config.json").write_text(json.dumps(said), encoding="utf-8")
    said = json.loads((tmp_path / "processor_config.json").read_text(encoding="utf-8"))
    said["image_processor"] |= processor
    (tmp_path / "processor_config.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(ConfigError):
        VLM.from_pretrained(tmp_path)
