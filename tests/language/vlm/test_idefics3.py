"""transformers' Idefics3 and SmolVLM in the same process: tiles, the text between them, ids, logits, answers, clips."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.inspect.budget.budget_cases import counted
from tests.language.vlm.peers import QUESTION, Peer
from tests.language.vlm.tiny_peers import WORDS, idefics3, number_words

from tubelet import VLM, Clip
from tubelet.errors import AlignmentError, ConfigError, LimitError
from tubelet.inspect.budget.inputs import Input
from tubelet.inspect.budget.outline import outline_model
from tubelet.inspect.budget.plan import plan
from tubelet.language.vlm.chat import ask, patchify_clips, tokens_of
from tubelet.language.vlm.written_out import number_in_words


@pytest.fixture(scope="module")
def words() -> Iterator[None]:
    with number_words():
        yield


@pytest.fixture(scope="module", params=["idefics3", "smolvlm"])
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, words: None) -> Peer:
    return idefics3(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory, words: None) -> Peer:
    return idefics3("smolvlm", tmp_path_factory.mktemp("clips"))


@pytest.mark.parametrize("sizes", [[(28, 28)], [(60, 90)], [(20, 140)], [(131, 47), (9, 90), (5, 61)], []], ids=str)
def test_it_says_what_transformers_says(peer: Peer, sizes: list[tuple[int, int]]):
    question = peer.check(peer.pictures(sizes))
    rule = peer.vlm.scheme.views
    assert rule is not None
    assert sum(sum(rule.tokens(*size, (2, 2))) for size in sizes) == len(question.rows.tokens.x)


@pytest.mark.parametrize("frames", [2, 5])
def test_clips_are_written_with_their_times(smol: Peer, frames: int):
    question = smol.check([smol.clip(frames)])
    [item] = question.rows.tokens.items
    assert item.grid == (frames, 2, 2)


def test_of_a_clip_s_own_length(smol: Peer):
    clip = smol.clip(3)
    question = ask(smol.vlm, [Clip(clip.frames, (0.0, 59.6, 61.2), "x", is_video=True, duration_s=3723.9)], QUESTION)
    said = smol.vlm.tokenizer.decode(question.ready.input_ids[0])
    assert "series of three frames from a 1:02:03 [H:MM:SS] video.\n\nFrame from 00:00:<" in said
    assert "\nFrame from 00:59:<" in said and "\nFrame from 01:01:<" in said


def test_a_clip_of_one_frame_is_a_picture(smol: Peer):
    [still] = smol.pictures([(60, 90)])
    clip = Clip(still.frames, (0.0,), "x", is_video=True)
    assert torch.equal(ask(smol.vlm, [clip], "?").ready.input_ids, ask(smol.vlm, [still], "?").ready.input_ids)


def test_pictures_and_clips_together(smol: Peer):
    """Which its processor cannot: the words of each, in the order of the template."""
    [still], clip = smol.pictures([(60, 90)]), smol.clip(2)
    question = ask(smol.vlm, [clip, still], QUESTION)
    alone = [ask(smol.vlm, [one], QUESTION) for one in (clip, still)]
    count = [int((q.ready.input_ids == smol.vlm.scheme.token_ids.image).sum()) for q in (question, *alone)]
    assert count[0] == count[1] + count[2]


def test_a_batch_with_padding(peer: Peer):
    peer.check_batch([peer.pictures([(60, 90)]), peer.pictures([(20, 70), (30, 30)])])


def test_it_comes_back_from_a_folder(peer: Peer, tmp_path: Path):
    peer.saved(tmp_path / "ours").check(peer.pictures([(60, 90)]))


def test_it_is_planned_as_it_runs(smol: Peer):
    clips = [*smol.pictures([(60, 90), (28, 28)]), smol.clip(5)]
    for folder in (smol.folder, smol.vlm.save_pretrained(smol.folder / "ours", overwrite=True)):
        told = outline_model(folder)
        p = plan([Input(c.width, c.height, len(c)) for c in clips], told.encoder, told.after, told.views())
        patches = patchify_clips(clips, smol.vlm.scheme)
        with torch.no_grad():
            rows = smol.vlm.project(smol.vlm.features(patches)).tokens
        assert p.grids == tuple(i.grid for i in patches.items) and p.tokens == len(rows.x)
        seen = sum(s.flop for s in p.stages if s.name in ("patch embedding", "encoder layers", "projected"))
        assert seen == counted(lambda: smol.vlm.project(smol.vlm.features(patches)))  # noqa: B023


def test_a_tile_without_rows_is_left_out_of_the_prompt(smol: Peer):
    question = ask(smol.vlm, smol.pictures([(60, 90)]), QUESTION)
    rows = question.rows.tokens
    assert rows.lengths == (4,) * 7  # 2 x 3 tiles and the whole
    few = rows.keep(torch.cat([torch.arange(4, 12), torch.arange(24, 28)]), (0, 4, 4, 0, 0, 0, 4))
    prompt = tokens_of(question.text, question.clips, few, smol.vlm.tokenizer, smol.vlm.scheme)
    said = smol.vlm.tokenizer.decode(prompt.ids)
    shown = said[said.index("<fake") :].replace("<image>", "")
    fake = "<fake_token_around_image>"
    assert shown.startswith(f"{fake}<row_1_col_2>{fake}<row_1_col_3>\n\n{fake}<global-img>{fake}Wie")
    assert prompt.ids.count(smol.vlm.scheme.token_ids.image) == 12


def test_the_first_know_no_clips(tmp_path: Path):
    one = idefics3("idefics3", tmp_path)
    with pytest.raises(AlignmentError):
        ask(one.vlm, [one.clip(3)], QUESTION)


@pytest.mark.parametrize(
    ("config", "processor"),
    [
        ({"scale_factor": 3}, {}),
        ({"scale_factor": "x"}, {}),
        ({"image_token_id": "x"}, {}),
        ({}, {"size": {"longest_edge": 5000}}),
        ({}, {"size": {"height": 28, "width": 28}}),
        ({}, {"max_image_size": {"longest_edge": 56}}),
        ({}, {"do_image_splitting": "x"}),
        ({}, {"do_resize": False}),
        ({}, {"image_processor_type": "SiglipImageProcessor"}),
    ],
    ids=str,
)
def test_what_it_does_not_do_is_refused(smol: Peer, config: dict[str, Any], processor: dict[str, Any], tmp_path: Path):
    with pytest.raises(ConfigError):
        changed(smol, tmp_path, config, processor)


def test_without_tiles_and_by_pillow(smol: Peer, tmp_path: Path):
    kind = "SmolVLMImageProcessorPil"
    vlm = changed(smol, tmp_path, {}, {"do_image_splitting": False, "image_processor_type": kind})
    assert vlm.scheme.pixels.resampler == "pillow"
    assert ask(vlm, smol.pictures([(60, 90)]), "?").rows.tokens.lengths == (4,)


def changed(peer: Peer, folder: Path, config: dict[str, Any], processor: dict[str, Any]) -> VLM:
    """The folder with other files."""
    for file in peer.folder.glob("*.*"):
        (folder / file.name).write_bytes(file.read_bytes())
    said = json.loads((folder / "config.json").read_text(encoding="utf-8")) | config
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    said = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    said["image_processor"] |= processor
    (folder / "processor_config.json").write_text(json.dumps(said), encoding="utf-8")
    return VLM.from_pretrained(folder)


def test_numbers_in_words():
    assert {number: number_in_words(number) for number in WORDS} == WORDS
    with pytest.raises(LimitError):
        number_in_words(1_000_000)
