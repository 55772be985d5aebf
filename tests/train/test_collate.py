"""Batches: samples one by one, rows in their places as the model is asked, bad samples replaced."""

import json
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.language.vlm.tiny_speakers import (
    PARTS_TEMPLATE,
    TAG_TEMPLATE,
    llama,
    tokenizer,
    whole_model,
)
from tests.train.data_sets import archive, lcs558k, lines, llava, picture, picture_bytes

import tubelet
from tubelet import VLM, untrained
from tubelet.encoder.config import EncoderConfig
from tubelet.errors import AlignmentError, DataError, InputError
from tubelet.language import build_projector
from tubelet.language.placing.rules import LLAVA, QWEN2_5_VL, TokenIds
from tubelet.language.vlm.chat import ask
from tubelet.language.vlm.scheme import Scheme
from tubelet.packed import Packed
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views_plan import ViewRule
from tubelet.reading.sampling import Sampling
from tubelet.train.collate import Collator, PackedBatch, place_batch
from tubelet.train.costs import measure
from tubelet.train.data.open import open_dataset
from tubelet.train.data.sample import Dataset
from tubelet.train.data.spare import Spares
from tubelet.train.tokenize import Downstream, Tokenizing

IDS = TokenIds(image=150, video=151, start=148, end=149)
PIXELS = PixelRecipe(14, rule="smart", temporal=2, merge=2, order="block", max_pixels=28 * 28 * 9)
QWEN = Tokenizing(tokenizer(PARTS_TEMPLATE), Scheme(IDS, PIXELS, QWEN2_5_VL), Downstream(space=2))


def clip(path: Path, frames: int = 6, width: int = 64, height: int = 48) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            pixels = np.full((height, width, 3), (30 * i) % 256, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Text only, a picture, two pictures, a clip, picture and clip, several turns; and a shard of a tar."""
    folder = tmp_path_factory.mktemp("mixed")
    picture(folder / "a.png", 70, 40, 1)
    picture(folder / "b.jpg", 33, 90, 2)
    clip(folder / "c.mp4")
    records: list[Any] = [
        llava(0, None, "Hello?", "Hi."),
        llava(1, "a.png", "<image>\nWhat?", "A cat."),
        llava(2, ["a.png", "b.jpg"], "Is <image> like <image>?", "No."),
        {**llava(3, None, "<video>How many?", "Two."), "video": "c.mp4"},
        {**llava(4, "b.jpg", "<video> and <image>", "Yes."), "video": ["c.mp4"]},
        {**llava(5, "a.png", "<image>?", "One."), "id": 5},
    ]
    records[5]["conversations"] += [{"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes."}]
    shard = {"000.png": picture_bytes(50, 50, 3), "000.json": json.dumps(llava(6, None, "<image>Why?", "So.")).encode()}
    return open_dataset([lines(folder / "a.jsonl", records), archive(folder / "b.tar", shard)])


def collator(data: Dataset, how: Tokenizing = QWEN, **options: Any) -> Collator:
    return Collator(data, how, Spares(len(data), 0), **options)


def same(a: PackedBatch, b: PackedBatch) -> bool:
    return (
        a.pixels.equal(b.pixels)
        and torch.equal(a.input_ids, b.input_ids)
        and torch.equal(a.labels, b.labels)
        and a.positions is not None
        and b.positions is not None
        and torch.equal(a.positions, b.positions)
        and torch.equal(a.cu_seqlens, b.cu_seqlens)
        and (a.ids, a.lengths, a.rows, a.media) == (b.ids, b.lengths, b.rows, b.media)
    )


# ---- packed = one by one


@settings(max_examples=12)
@given(order=st.lists(st.integers(0, 6), max_size=5))
def test_a_batch_is_its_samples_one_by_one(mixed: Dataset, order: list[int]):
    """The obvious twin: batches of one sample, end to end; items count pictures through the batch."""
    make = collator(mixed)
    batch = make(order)
    alone = [make([i]) for i in order]
    assert batch.cu_seqlens.tolist() == np.cumsum([0, *(len(b.input_ids) for b in alone)]).tolist()
    assert batch.input_ids.tolist() == [t for b in alone for t in b.input_ids.tolist()]
    assert batch.labels.tolist() == [t for b in alone for t in b.labels.tolist()]
    positions = [b.positions for b in alone if b.positions is not None]
    assert batch.positions is not None
    assert torch.equal(batch.positions, torch.cat([torch.zeros(3, 0, dtype=torch.int64), *positions], dim=1))
    assert torch.equal(
        batch.pixels.x, torch.cat([torch.zeros(0, PIXELS.width, dtype=torch.uint8), *(b.pixels.x for b in alone)])
    )
    assert [i.picture for i in batch.pixels.items] == list(range(sum(batch.media)))
    assert batch.ids == tuple(order)
    assert batch.bad == ()
    for number, one in enumerate(alone):
        assert batch.lengths[number] == len(one.input_ids)
        assert batch.rows[number] == int(sum((one.input_ids == i).sum() for i in IDS.placeholders))


def test_pixels_are_those_of_reading_the_files(mixed: Dataset):
    sample = mixed[4]
    assert [m.kind for m in sample.media] == ["video", "image"]
    paths = [str(m.source) for m in sample.media]
    expected = tubelet.patchify(tubelet.read(paths), PIXELS)
    assert collator(mixed)([4]).pixels.equal(expected)


def test_workers_and_processes_change_nothing(mixed: Dataset):
    order = [5, 0, 4, 1, 3, 6, 2]
    one = collator(mixed)(order)
    assert same(one, collator(mixed, workers=3)(order))
    assert same(one, pickle.loads(pickle.dumps(collator(mixed)))(order))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        [other] = pool.map(_lists, [(collator(mixed), order)])
    assert other == _lists((collator(mixed), order))


def _lists(given: tuple[Collator, list[int]]) -> tuple[Any, ...]:
    batch = given[0](given[1])
    return batch.pixels.x.tolist(), batch.input_ids.tolist(), batch.labels.tolist(), batch.lengths


def test_decoding_in_a_child_gives_the_same(mixed: Dataset):
    assert same(collator(mixed)([1, 3]), collator(mixed, isolate="always")([1, 3]))


def test_which_frames_of_a_clip_is_the_sampling_s(mixed: Dataset):
    assert collator(mixed, sampling=Sampling(num_frames=2))([3]).pixels.items[0].grid.t == 1
    assert collator(mixed)([3]).pixels.items[0].grid.t == 3


def test_an_empty_batch_and_one_of_text_alone(mixed: Dataset):
    nothing = collator(mixed)([])
    assert (len(nothing.input_ids), nothing.cu_seqlens.tolist(), len(nothing.pixels)) == (0, [0], 0)
    words = collator(mixed)([0, 0])
    assert (len(words.pixels), words.pixels.x.shape[1]) == (0, PIXELS.width)
    assert words.to("cpu").media == (0, 0)


# ---- as the model is asked


def small_encoder() -> Any:
    return untrained(EncoderConfig(hidden=32, layers=2, heads=1, mlp=64, pixels=PixelRecipe(14)), seed=1)


def view_model(join: str) -> VLM:
    rule = ViewRule(28, ((28, 56), (56, 28), (56, 56)), join=join)  # pyright: ignore[reportArgumentType]
    scheme = Scheme(LLAVA, PixelRecipe(14, resampler="pillow"), wording="image_tag", views=rule)
    newline = torch.randn(48, generator=torch.Generator().manual_seed(3)) if join == "unpad" else None
    projector = build_projector("mlp2x_gelu", 32, 48)
    return VLM(
        small_encoder(),
        llama(vocab_size=160),
        scheme,
        projector=projector,
        newline=newline,
        tokenizer=tokenizer(TAG_TEMPLATE),
    )


def square_model() -> VLM:
    scheme = Scheme(LLAVA, PixelRecipe(14), wording="image_tag", square=True)
    projector = build_projector("spatial_merge", 32, 48, merge=2)
    return VLM(small_encoder(), llama(vocab_size=160), scheme, projector=projector, tokenizer=tokenizer(TAG_TEMPLATE))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VLM]:
    found = {"flat views": view_model("flat"), "joined views": view_model("unpad"), "square": square_model()}
    for kind in ("qwen2_5_vl", "qwen3_vl"):
        folder = tmp_path_factory.mktemp(kind)
        whole_model(kind).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        vlm = VLM.from_pretrained(folder)
        recipe = replace(vlm.scheme.pixels, min_pixels=None, max_pixels=28 * 28 * 16)
        vlm.scheme = replace(vlm.scheme, pixels=recipe, video_pixels=recipe)
        found[kind] = vlm
    return found


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl", "flat views", "joined views"])
def test_what_is_taught_is_what_is_asked(kind: str, models: dict[str, VLM], tmp_path: Path):
    """The prompt of `ask`, with its embeddings and positions, is the beginning of the sample; then the answer."""
    vlm = models[kind]
    files = [picture(tmp_path / "a.png", 70, 40, 1)]
    record = llava(1, "a.png", "<image>\nWhat?" if "views" in kind else "<image>What?", "A cat.")
    if kind.startswith("qwen"):
        files.append(clip(tmp_path / "c.mp4", 5))
        record = {**llava(1, "a.png", "<image><video>What?", "A cat."), "video": "c.mp4"}
    data = open_dataset(lines(tmp_path / "a.jsonl", [llava(0, None, "Hello?", "Hi."), record]))
    batch = Collator(data, Tokenizing.of(vlm), Spares(2, 0))([0, 1, 1])
    with torch.no_grad():
        asked = ask(vlm, tubelet.read(files), "What?")
        rows = vlm.encode(batch.pixels).tokens
        embeds, positions = place_batch(batch, rows, vlm.scheme, vlm.speaker.embed)
    assert asked.ready.places is not None
    places = asked.ready.places[0] if asked.ready.places.ndim == 3 else asked.ready.places.expand(3, -1)
    length = asked.ready.input_ids.shape[1]
    for start in batch.cu_seqlens[1:-1].tolist():
        got = batch.input_ids[start : start + length].clone()
        assert torch.equal(got.clamp_min(0), asked.ready.input_ids[0].clamp_min(0))
        torch.testing.assert_close(embeds[start : start + length], asked.ready.inputs_embeds[0], atol=1e-5, rtol=1e-5)
        assert torch.equal(positions[:, start : start + length], places)
        assert (batch.labels[start : start + length] == -100).all()
    rest = batch.labels[start + length :]
    assert torch.equal(rest, batch.input_ids[start + length :])


def test_several_pictures_are_taught_as_they_are_asked(tmp_path: Path):
    """Each made square and seen whole, where a picture alone is cut into tiles that are sampled down."""
    vlm = view_model("unpad")
    views = vlm.scheme.views
    assert views is not None
    rule = replace(views, pool="bilinear", pooled_are="clips", most=1)
    vlm.scheme = replace(vlm.scheme, views=rule, alone=True)
    files = [picture(tmp_path / "a.png", 70, 40, 1), picture(tmp_path / "b.png", 56, 56, 2)]
    alone = llava(0, "a.png", "<image>\nWhat?", "A cat.")
    several = {**llava(1, "a.png", "<image>\n<image>\nWhat?", "A cat."), "image": ["a.png", "b.png"]}
    data = open_dataset(lines(tmp_path / "a.jsonl", [alone, several]))
    batch = Collator(data, Tokenizing.of(vlm), Spares(2, 0))([0, 1])
    with torch.no_grad():
        rows = vlm.encode(batch.pixels).tokens
        embeds, _ = place_batch(batch, rows, vlm.scheme, vlm.speaker.embed)
        for n, clips in enumerate((files[:1], files)):
            asked = ask(vlm, tubelet.read(clips), "What?").ready
            start = int(batch.cu_seqlens[n])
            stop = start + asked.input_ids.shape[1]
            assert torch.equal(batch.input_ids[start:stop].clamp_min(0), asked.input_ids[0].clamp_min(0))
            torch.testing.assert_close(embeds[start:stop], asked.inputs_embeds[0], atol=1e-5, rtol=1e-5)
            assert int(asked.visual.sum()) == (sum(rule.tokens(40, 70, (2, 2))), 2 * 5)[n]


def test_a_square_picture_before_a_merging_projector(models: dict[str, VLM], tmp_path: Path):
    vlm = models["square"]
    picture(tmp_path / "a.png", 84, 40, 1)
    data = open_dataset(lines(tmp_path / "a.jsonl", [llava(1, "a.png", "<image>\nWhat?", "A cat.")]))
    batch = Collator(data, Tokenizing.of(vlm), Spares(1, 0))([0])
    assert batch.rows == (9,)
    with torch.no_grad():
        rows = vlm.encode(batch.pixels).tokens
        embeds, _ = place_batch(batch, rows, vlm.scheme, vlm.speaker.embed)
    visual = batch.input_ids == -200
    assert torch.equal(embeds[visual], rows.x)


def test_selected_rows_are_counted_where_they_are(mixed: Dataset):
    """Positions of the rows that are left, sample by sample, against `place` of each sample alone."""
    how = replace(QWEN, after=Downstream(space=2, select=1))
    batch = collator(mixed, how)([1, 0, 4])
    assert batch.positions is None
    assert batch.rows == (1, 0, 2)
    merged = tubelet.merge(batch.pixels.with_x(torch.ones(len(batch.pixels.x), 2)), space=2)
    keep = torch.cat([torch.tensor([a + 1]) for a in merged.starts[:-1]])
    rows = merged.keep(keep)
    embeds, positions = place_batch(batch, rows, QWEN.scheme, lambda ids: torch.zeros(*ids.shape, rows.x.shape[1]))
    assert int((embeds.sum(dim=1) > 0).sum()) == 3
    start = batch.cu_seqlens.tolist()
    for n, mine in enumerate(rows.split([1, 0, 2])):
        ids = batch.input_ids[start[n] : start[n + 1]]
        expected = tubelet.place(mine, ids, IDS, rule=QWEN2_5_VL).position_ids
        assert torch.equal(positions[:, start[n] : start[n + 1]], expected)


def test_rows_of_another_number_name_the_sample(mixed: Dataset):
    batch = collator(mixed)([0, 1, 5])
    merged = tubelet.merge(batch.pixels.with_x(torch.ones(len(batch.pixels.x), 2)), space=2)
    few: Packed = merged.keep(torch.arange(len(merged.x) - 1))
    with pytest.raises(AlignmentError, match="sample 2: 1 rows for 2 placeholders") as caught:
        place_batch(batch, few, QWEN.scheme, lambda ids: torch.zeros(*ids.shape, 8))
    assert caught.value.sample == 2


# ---- bad samples


def with_faults(folder: Path) -> Dataset:
    """Twelve of LCS-558K's, of which number 2 is missing, 5 is broken inside, 7 is text."""
    data = open_dataset(lcs558k(folder, 12))
    paths = [Path(str(data[i].media[0].source)) for i in (2, 5, 7)]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-600])
    paths[2].write_text("not a picture")
    return data


def test_bad_samples_are_replaced_the_same_way_each_time(tmp_path: Path):
    data = with_faults(tmp_path)
    make = collator(data)
    batch = make([0, 2, 5, 7])
    assert {b.index for b in batch.bad} >= {2, 5, 7}
    assert batch.ids[0] == 0
    assert not set(batch.ids) & {2, 5, 7}
    assert same(batch, make([0, 2, 5, 7]))
    alone = [make([i]) for i in (0, 2, 5, 7)]  # whatever stands beside it
    assert batch.ids == tuple(i for b in alone for i in b.ids)
    told = {b.index: b for b in batch.bad}
    assert (told[2].error, told[7].error) == ("InputError", "UnsupportedFormat")
    assert told[2].where.endswith("000000002.jpg")
    assert "no such file" in told[2].reason


def test_costs_are_counted_before_anything_is_decoded(tmp_path: Path):
    data = with_faults(tmp_path)
    done: list[int] = []
    costs = measure(collator(data), workers=2, progress=done.append)
    assert done[-1] == 12
    assert [i for i, t in enumerate(costs.tokens.tolist()) if t < 0] == [2, 7]  # what lies inside is not seen yet
    assert [b.index for b in costs.bad] == [2, 7]
    make = Collator(data, QWEN, Spares(12, 0, costs.tokens))
    for i in range(12):
        batch = make([i])
        assert len(batch.input_ids) <= costs.planned[i]
        if i not in (2, 5, 7):
            assert (batch.ids, len(batch.input_ids)) == ((i,), costs.tokens[i])
            assert len(batch.pixels.x) == costs.patches[i]
    assert costs.planned[2] == sorted(t for t in costs.tokens.tolist() if t >= 0)[4]
    some = measure(collator(data), [3, 2])
    assert some.tokens.tolist() == [costs.tokens[3], -1]


def test_a_picture_that_grew_since_it_was_counted_is_replaced(tmp_path: Path):
    """A batch never has more tokens than were planned."""
    data = open_dataset(lcs558k(tmp_path, 4))
    costs = measure(collator(data))
    picture(Path(str(data[1].media[0].source)), 400, 300)
    make = Collator(data, QWEN, Spares(4, 0, costs.tokens))
    batch = make([1])
    assert batch.bad[0].index == 1
    assert "its files have changed" in batch.bad[0].reason
    assert len(batch.input_ids) <= costs.tokens[1]


def test_a_data_set_that_is_all_bad_stops(tmp_path: Path):
    data = open_dataset(lcs558k(tmp_path, 30))
    for path in tmp_path.glob("*/*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match="sample 3 and 16 spares cannot be used; the last: InputError") as caught:
        collator(data)([3])
    assert isinstance(caught.value.__cause__, InputError)
    with pytest.raises(DataError, match="not one sample"):
        _ = measure(collator(data)).planned


def test_a_picture_listed_as_a_clip_and_a_clip_that_breaks_off(tmp_path: Path):
    picture(tmp_path / "a.png")
    whole = clip(tmp_path / "c.mp4", 30)
    (tmp_path / "d.mp4").write_bytes(whole.read_bytes()[:-200])
    records = [
        {**llava(0, None, "<video>?", "a"), "video": "a.png"},
        llava(1, "c.mp4", "<image>?", "a"),
        {**llava(2, None, "<video>?", "a"), "video": "d.mp4"},
    ]
    make = collator(open_dataset(lines(tmp_path / "a.jsonl", records)))
    with pytest.raises(InputError, match="this is an image, listed as video"):
        make.one(0)
    with pytest.raises(InputError, match="this is a video, listed as image"):
        make.one(1)
    with pytest.raises(InputError):
        make.one(2)
