"""The reader: a folder that loads as any model does, a tokenizer of bytes, losses against their slow twins."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tubelet
from tubelet.errors import ConfigError
from tubelet.inspect.budget.outline import outline_model
from tubelet.language.vlm.answer_places import locate_answer
from tubelet.language.vlm.chat import ask
from tubelet.language.vlm.model import VLM
from tubelet.packed import concat
from tubelet.reading.clip import Clip
from tubelet.train.pages.batch import batch_of, make_batch
from tubelet.train.pages.evaluate import evaluate
from tubelet.train.pages.fonts import Fonts
from tubelet.train.pages.labels import CLASSES, IGNORED
from tubelet.train.pages.page import PageRecipe, print_page
from tubelet.train.pages.reader import ANSWER, ASK, END, IMAGE, ReaderConfig, build_reader, byte_tokenizer
from tubelet.train.pages.task import ReaderTask, Weights, told

SMALL = ReaderConfig(hidden=64, heads=2, layers=2, mlp=64, text_layers=2, text_mlp=64, pointing=1)
RECIPE = PageRecipe(seed=31, sizes=((96, 128), (128, 96)), em=(14, 18), questions=3)


@pytest.fixture(scope="module")
def task() -> ReaderTask:
    return ReaderTask(build_reader(SMALL, seed=3))


def test_the_encoder_of_its_folder_sees_pages_as_the_model_does(tmp_path: Path):
    """Written as a whole model: how large a picture may be is said by the model, and the encoder alone keeps to it."""
    vlm = build_reader(replace(SMALL, max_pixels=96 * 128))
    vlm.save_pretrained(tmp_path / "reader")
    encoder = tubelet.load_encoder(tmp_path / "reader")
    assert encoder.pixels == vlm.scheme.pixels
    page = Clip(np.zeros((1, 600, 900, 3), np.uint8), (0.0,))
    rows = tubelet.patchify([page], encoder.pixels)
    assert 0 < len(rows.x) <= 96 * 128 // 256
    assert ask(vlm, [page], "?").rows.tokens.lengths == (len(rows.x) // 4,)
    outline = outline_model(tmp_path / "reader")
    assert outline.encoder.pixels == encoder.pixels
    assert outline.after.projector  # the plan knows the projector, its norm too


def test_a_clip_is_pages_one_after_the_other(tmp_path: Path):
    """It learns from single pages, so no frame of a clip sees another, in its folder's encoder either."""
    vlm = build_reader(SMALL, seed=2)
    vlm.save_pretrained(tmp_path / "reader")
    encoder = tubelet.load_encoder(tmp_path / "reader")
    assert encoder.config.layer_spans == ("frame", "frame")
    frames = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), np.uint8)
    with torch.inference_mode():
        together = encoder(tubelet.patchify([Clip(frames, (0.0, 1.0))], encoder.pixels))
        alone = encoder(tubelet.patchify([Clip(frame[None], (0.0,)) for frame in frames], encoder.pixels))
    torch.testing.assert_close(together.x, alone.x)


@given(st.text())
def test_tokens_are_bytes(text: str):
    tokenizer = byte_tokenizer()
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text


def test_a_saved_reader_is_any_model(fonts: Fonts, tmp_path: Path):
    reader = build_reader(SMALL, seed=1)
    again = tubelet.VLM.from_pretrained(reader.save_pretrained(tmp_path / "reader"))
    assert all(
        torch.equal(a, b) for a, b in zip(reader.state_dict().values(), again.state_dict().values(), strict=True)
    )
    page = print_page(RECIPE, fonts, 0)
    asked = ask(again, [Clip(page.pixels[None], (0.0,))], "What is the total?")
    rows = page.pixels.shape[0] * page.pixels.shape[1] // 1024
    assert asked.ready.input_ids[0].tolist() == [IMAGE] * rows + [ASK, *b"What is the total?", ANSWER]
    assert torch.equal(again.generate(asked.ready, max_new_tokens=4), reader.generate(asked.ready, max_new_tokens=4))


def test_the_default_reader_fits_its_size():
    parameters = sum(p.numel() for p in build_reader().parameters())
    assert parameters * 2 < 18e6  # bytes in half precision


def test_weights_are_drawn_from_the_seed_alone():
    before = torch.get_rng_state()
    one, two, other = (build_reader(SMALL, seed=s) for s in (5, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    name = "encoder.layers.0.qkv.weight"
    assert not torch.equal(one.get_parameter(name), other.get_parameter(name))


def logits_alone(vlm: VLM, page_patches: tubelet.Packed, ids: list[int]) -> torch.Tensor:
    rows = vlm.encode(page_patches)
    prompt = torch.tensor([[IMAGE] * len(rows.tokens.x) + ids])
    return vlm(vlm.ready(rows, prompt))[0, len(rows.tokens.x) :]


def test_packed_questions_are_answered_as_if_alone(fonts: Fonts, task: ReaderTask):
    """The slow twin asks one question of one page through the model itself, without mask or packing."""
    batch = make_batch(RECIPE, fonts, range(6), thinned=0.5)
    seen = task.run(batch)
    losses, hits = [], []
    pages = batch.patches.split([1] * 6)
    for page, questions in enumerate(batch.questions):
        for number, _ in enumerate(questions):
            at = (batch.owner[page] == number + 1).nonzero()[:, 0]
            logits = logits_alone(task.vlm, pages[page], batch.ids[page, at].tolist())
            wanted = batch.labels[page, at]
            kept = wanted != IGNORED
            losses.append(torch.nn.functional.cross_entropy(logits[kept], wanted[kept], reduction="sum"))
            hits.append(bool((logits[kept].argmax(-1) == wanted[kept]).all()))
    count = int((batch.labels != IGNORED).sum())
    assert torch.allclose(seen.losses["answers"], torch.stack(losses).sum() / count, atol=1e-5)
    assert seen.right.tolist() == hits


def test_the_pointer_is_the_cross_entropy_of_one_heads_scores(fonts: Fonts, task: ReaderTask):
    batch = make_batch(RECIPE, fonts, range(3))
    lm = task.vlm.speaker.lm
    scores: list[torch.Tensor] = []
    attention = lm.model.layers[1].self_attn

    def keep(module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, torch.Tensor]) -> None:
        x = kwargs["hidden_states"]
        cos, sin = kwargs["position_embeddings"]
        q, k = (proj(x).unflatten(-1, (2, 32)).transpose(1, 2) for proj in (attention.q_proj, attention.k_proj))
        from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        scores.append((q @ k.mT)[:, 0] / 32**0.5)

    hook = attention.register_forward_pre_hook(keep, with_kwargs=True)
    seen = task.run(batch)
    hook.remove()
    losses = []
    for page, rows in enumerate(batch.rows):
        at = (batch.pointers[page] != IGNORED).nonzero()[:, 0]
        logits = scores[0][page, at, :rows]
        losses.append(torch.nn.functional.cross_entropy(logits, batch.pointers[page, at], reduction="sum"))
    count = int((batch.pointers != IGNORED).sum())
    assert torch.allclose(seen.losses["pointer"], torch.stack(losses).sum() / count, atol=1e-5)


def test_letters_are_counted_where_there_are_letters():
    wanted = torch.tensor([[3, 0, IGNORED], [5, 7, 0]])
    logits = torch.full((2, 3, CLASSES), -9.0)
    for row, column, said in ((0, 0, 3), (0, 1, 4), (0, 2, 1), (1, 0, 5), (1, 1, 0), (1, 2, 0)):
        logits[row, column, said] = 9.0
    loss, share = told(logits.flatten(1), wanted)
    assert float(share) == pytest.approx(2 / 3)  # of 3, 5, 7
    assert float(loss) == pytest.approx(2 * 18 / 5, rel=1e-3)


def test_a_batch_without_questions_needs_no_language_model(fonts: Fonts, task: ReaderTask):
    batch = make_batch(PageRecipe(seed=1, sizes=((96, 128),), questions=0), fonts, range(3))
    loss = task(batch)
    assert set(loss.shown) == {"loss_columns", "loss_slots", "columns", "slots", "rms_rows"}
    loss.total.backward()
    assert all(p.grad is None for p in task.vlm.speaker.parameters())
    task.zero_grad()


def test_a_reader_learns_its_pages_by_heart(fonts: Fonts):
    """All losses together teach: answers, letters and where they stand."""
    task = ReaderTask(build_reader(SMALL, seed=2), Weights(columns=0.5))
    recipe = PageRecipe(seed=32, sizes=((96, 128),), em=(15, 16), questions=2, mix=(("form", 1.0),))
    pages = [print_page(recipe, fonts, n) for n in range(4)]
    batch = batch_of(pages)
    optimizer = torch.optim.AdamW(task.parameters(), lr=4e-3)
    first = task.run(batch).losses
    for _ in range(120):
        loss = task(batch)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    seen = task.run(batch)
    assert float(seen.figures["exact"]) >= 0.75
    assert float(seen.figures["pointer"]) > 0.9
    assert all(float(seen.losses[name].detach()) < 0.6 * float(first[name].detach()) for name in first)
    told = evaluate(task, recipe, fonts, range(4), batch=4)
    assert told.exact().share == pytest.approx(float(seen.figures["exact"]))  # generated as it was taught
    right, there = 0, 0
    for page in pages:
        for question in page.questions:
            asked = ask(task.vlm.eval(), [Clip(page.pixels[None], (0.0,))], question.text)
            said = task.vlm.generate(asked.ready, max_new_tokens=20)
            if said[0].tolist() == [*question.answer.encode(), END]:
                answer = locate_answer(task.vlm, asked, said)
                right += 1
                there += bool(answer.places) and _overlap(answer.places[0].box, question.box)
    assert right == round(told.exact().share * told.exact().asked)
    assert there >= 0.8 * right


def _overlap(one: tuple[float, ...], other: tuple[float, ...] | None) -> bool:
    assert other is not None
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_the_layer_that_points_must_be_there(fonts: Fonts):
    with pytest.raises(ConfigError, match=r"\(2, 2\) layers and heads, got \(2, 0\)"):
        build_reader(replace(SMALL, pointing=2))
    vlm = build_reader(SMALL)
    vlm.scheme = replace(vlm.scheme, pointer=None)
    with pytest.raises(ConfigError, match="learns to point"):
        ReaderTask(vlm)
    page = print_page(RECIPE, fonts, 0)
    with pytest.raises(ConfigError, match="trained to point"):
        locate_answer(vlm, ask(vlm, [Clip(page.pixels[None], (0.0,))], "Total?"), torch.tensor([[END]]))


def test_pictures_are_told_apart(fonts: Fonts, task: ReaderTask):
    """A wrong picture gives other logits: rows reach the language model."""
    pages = [print_page(RECIPE, fonts, n) for n in (1, 2)]
    parts = [batch_of([page]).patches for page in pages]
    one, two = (logits_alone(task.vlm, part, [ASK, *b"total", ANSWER]) for part in parts)
    both = task.vlm.encode(concat(parts)).tokens.x.detach()
    assert not torch.allclose(one, two, atol=1e-3)
    assert np.isclose(float(both.square().mean().sqrt()), 0.3, atol=0.02)


def test_what_is_not_there_is_answered_by_the_end(fonts: Fonts, task: ReaderTask):
    """A page of which nothing can be told has answers and no pointer."""
    recipe = replace(RECIPE, mix=(("picture", 1.0),), absent=1.0)
    batch = batch_of([print_page(recipe, fonts, n) for n in range(3)])
    count = sum(map(len, batch.questions))
    assert count >= 3
    assert batch.labels[batch.labels != IGNORED].tolist() == [END] * count
    losses = task.run(batch).losses
    assert {"answers", "slots"} <= set(losses)
    assert "pointer" not in losses
    assert all(bool(loss.isfinite()) for loss in losses.values())


def test_shares_of_what_is_there_and_what_is_not(fonts: Fonts, task: ReaderTask):
    recipe = replace(RECIPE, mix=(("form", 0.5), ("fine", 0.5)), absent=1.0)
    done = evaluate(task, recipe, fonts, range(6))
    assert done.exact().asked + done.absent().asked == len(done.answered)
    assert done.exact().asked == sum(share.asked for share in done.by(lambda a: a.layout).values()) > 0
    assert done.absent().asked > 0
