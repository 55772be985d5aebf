"""transformers' Gemma 3 in the same process: words, ids, logits, answers, masks that see pictures both ways."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.inspect.budget.budget_cases import counted
from tests.language.vlm.peers import Peer
from tests.language.vlm.tiny_peers import gemma3

from tubelet import VLM
from tubelet.errors import ConfigError
from tubelet.inspect.budget.inputs import Input
from tubelet.inspect.budget.networks import LanguageShape
from tubelet.inspect.budget.outline import outline_model
from tubelet.inspect.budget.plan import plan
from tubelet.language.vlm.chat import patchify_clips
from tubelet.language.vlm.scheme import Written


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    return gemma3(tmp_path_factory.mktemp("gemma3"))


@pytest.mark.parametrize("sizes", [[(60, 90)], [(28, 28), (131, 47), (5, 61)], []], ids=len)
def test_it_says_what_transformers_says(peer: Peer, sizes: list[tuple[int, int]]):
    question = peer.check(peer.pictures(sizes))
    assert question.rows.tokens.lengths == (16,) * len(sizes)


def test_a_batch_with_padding(peer: Peer):
    peer.check_batch([peer.pictures([(60, 90)]), peer.pictures([(20, 70), (30, 30)]), []])


def test_rows_of_a_picture_see_each_other(peer: Peer):
    """The first row's hidden state changes with the last row, and no token before the picture does."""
    question = peer.check(peer.pictures([(60, 90)]))
    ready = question.ready
    at = int(ready.visual[0].nonzero()[0])
    embeds = ready.inputs_embeds.clone()
    embeds[0, at + 15] += 1
    with torch.no_grad():
        one, two = (
            peer.vlm.speaker(**{**arguments(ready), "inputs_embeds": e}).logits[0]
            for e in (ready.inputs_embeds, embeds)
        )
    assert torch.equal(one[:at], two[:at]) and (one[at] - two[at]).abs().max() > 1e-4


def arguments(ready: Any) -> dict[str, Any]:
    return {name: value for name, value in ready.arguments.items() if name != "input_ids"}


def test_a_second_turn_goes_on_from_a_cache(peer: Peer):
    """Rows of a picture behind what is in the cache see each other, too: as one long prompt."""
    question = peer.check(peer.pictures([(60, 90)]))
    given = arguments(question.ready)
    length = 6
    with torch.no_grad():
        whole = peer.vlm.speaker(**given).logits
        first = {**given, "inputs_embeds": given["inputs_embeds"][:, :length]}
        first["attention_mask"] = given["attention_mask"][:, :length]
        cache = peer.vlm.speaker(**first, use_cache=True)
        rest = {**given, "inputs_embeds": given["inputs_embeds"][:, length:]}
        from tubelet.language.vlm.causal_lm import CACHE

        went_on = peer.vlm.speaker(**rest, **{CACHE: cache[CACHE]}).logits
    torch.testing.assert_close(went_on, whole[:, length:], atol=1e-4, rtol=1e-3)


def test_it_comes_back_from_a_folder(peer: Peer, tmp_path: Path):
    peer.saved(tmp_path / "ours").check(peer.pictures([(60, 90)]))


def test_it_is_planned_as_it_runs(peer: Peer):
    told = outline_model(peer.folder)
    p = plan([Input(90, 60), Input(30, 30)], told.encoder, told.after, told.views(2))
    assert p.tokens == 32 and told.after.language_width == peer.vlm.width
    seen = sum(s.flop for s in p.stages if s.name in ("patch embedding", "encoder layers", "projected"))
    patches = patchify_clips(peer.pictures([(60, 90), (30, 30)]), peer.vlm.scheme)
    assert seen == counted(lambda: peer.vlm.project(peer.vlm.features(patches)))
    assert told.after.llm == LanguageShape(peer.folder.name, 48, 3, 2, 16, 4, 64)


def test_files_that_do_not_say_that_the_head_is_tied(peer: Peer, tmp_path: Path):
    """As the published ones are."""
    vlm = changed(peer, tmp_path, {"tie_word_embeddings": None}, {})
    head: Any = vlm.speaker.lm.get_output_embeddings()
    table: Any = vlm.speaker.get_input_embeddings()
    assert head.weight is table.weight


@pytest.mark.parametrize(
    ("config", "processor"),
    [
        ({"mm_tokens_per_image": 0}, {}),
        ({"mm_tokens_per_image": "x"}, {}),
        ({"image_token_index": "x"}, {}),
        ({}, {"do_pan_and_scan": True}),
        ({}, {"image_processor_type": "SiglipImageProcessor"}),
    ],
    ids=str,
)
def test_what_it_does_not_do_is_refused(peer: Peer, config: dict[str, Any], processor: dict[str, Any], tmp_path: Path):
    with pytest.raises(ConfigError):
        changed(peer, tmp_path, config, processor)


def changed(peer: Peer, folder: Path, config: dict[str, Any], processor: dict[str, Any]) -> VLM:
    """The folder with other files; None takes a field away."""
    for file in peer.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name, change in (("config.json", config), ("processor_config.json", {})):
        said = json.loads((folder / name).read_text(encoding="utf-8")) | change
        if name != "config.json":
            said["image_processor"] = said["image_processor"] | processor
        for part in (said, said.get("text_config", {})):
            for field in [f for f, v in change.items() if v is None]:
                part.pop(field, None)
        (folder / name).write_text(json.dumps(said), encoding="utf-8")
    return VLM.from_pretrained(folder)


def test_a_picture_is_written_out():
    with pytest.raises(ConfigError):
        Written("", "x")
