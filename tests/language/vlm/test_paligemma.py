"""transformers' PaliGemma, 1 and 2, in the same process: words, ids, logits, answers, a prefix seen both ways."""

from pathlib import Path

import pytest
import torch
from tests.inspect.budget.budget_cases import counted
from tests.language.vlm.peers import Peer
from tests.language.vlm.tiny_peers import PaliPeer, paligemma

from tubelet.errors import ConfigError
from tubelet.inspect.budget.inputs import Input
from tubelet.inspect.budget.outline import outline_model
from tubelet.inspect.budget.plan import plan
from tubelet.language.vlm.chat import ask, patchify_clips

# of its processor, which makes labels of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module", params=["paligemma", "paligemma2"])
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    return paligemma(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("sizes", [[(60, 90)], [(28, 28), (5, 61)]], ids=len)
def test_it_says_what_transformers_says(peer: Peer, sizes: list[tuple[int, int]]):
    question = peer.check(peer.pictures(sizes))
    assert question.rows.tokens.lengths == (16,) * len(sizes)


def test_frames_of_a_clip_are_pictures(peer: Peer):
    peer.check([peer.clip(3)])


def test_a_batch_with_padding(peer: Peer):
    peer.check_batch([peer.pictures([(60, 90)]), peer.pictures([(20, 70), (30, 30)])])


def test_an_answer_sees_what_stands_before_it(peer: Peer):
    """With labels the answer is causal and all before it is seen both ways, as of transformers' processor's suffix."""
    [still] = peer.pictures([(60, 90)])
    given = PaliPeer.given(peer, [[still]], suffix=["Bello, der Hund"])  # type: ignore[arg-type]
    answer = given["token_type_ids"] == 1
    ids = given["input_ids"]
    assert 5 < int(answer.sum()) < len(ids[0]) - 16
    labels = ids.masked_fill(~answer, -100)
    with torch.no_grad():
        ready = peer.vlm.ready(peer.vlm.encode(patchify_clips([still], peer.vlm.scheme)), ids, labels=labels)
        ours, theirs = peer.vlm(ready), peer.model(**given).logits
    torch.testing.assert_close(ours, theirs, atol=peer.tolerance, rtol=peer.tolerance)
    assert ready.blocks is not None and torch.equal(ready.blocks == -1, answer)


def test_text_alone_has_no_pictures(peer: Peer):
    """Which its processor refuses; the words are those of a prompt with some."""
    assert ask(peer.vlm, [], "Why?").text == "<bos>Why?\n"


def test_it_knows_no_turns(peer: Peer):
    history = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello"}]
    with pytest.raises(ConfigError, match="turns"):
        ask(peer.vlm, peer.pictures([(60, 90)]), "Why?", history=history)


def test_it_comes_back_from_a_folder(peer: Peer, tmp_path: Path):
    peer.saved(tmp_path / "ours").check(peer.pictures([(60, 90)]))


def test_it_is_planned_as_it_runs(peer: Peer):
    clips = [*peer.pictures([(60, 90), (28, 28)]), peer.clip(5)]
    told = outline_model(peer.folder)
    p = plan([Input(c.width, c.height, len(c)) for c in clips], told.encoder, told.after, told.views(2))
    patches = patchify_clips(clips, peer.vlm.scheme)
    assert p.grids == tuple(i.grid for i in patches.items) and p.tokens == 7 * 16
    seen = sum(s.flop for s in p.stages if s.name in ("patch embedding", "encoder layers", "projected"))
    assert seen == counted(lambda: peer.vlm.project(peer.vlm.features(patches)))
