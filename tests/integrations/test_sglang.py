"""What is written for SGLang has the keys, shapes and positions that SGLang reads, as recorded from its wheel."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integrations.record_servers import RECORDERS

import tubelet
from tubelet import Grid, Item, Packed
from tubelet.errors import AlignmentError, ConfigError, InputError, ShapeError
from tubelet.integrations.sglang import FORMAT, MODELS, RULES, request
from tubelet.language import TokenIds
from tubelet.language.placing.mrope import rope_index
from tubelet.language.placing.rules import ONE_D
from tubelet.language.vlm.features import VisualRows

SAID: dict[str, Any] = json.loads((Path(__file__).parent / "servers" / "sglang.json").read_text(encoding="utf-8"))
IMAGE, VIDEO, START, END = 90, 91, 92, 93
IDS = TokenIds(IMAGE, VIDEO, START, END)
FIRST, CLIP, LAST = [IMAGE] * 6, [VIDEO] * 4, [IMAGE] * 6
PROMPT = [1, 2, START, *FIRST, END, 3, START, *CLIP, END, START, *LAST, END, 4]
BY_FRAME = [1, 2, START, *FIRST, END, 3, START, VIDEO, VIDEO, END, 5, START, VIDEO, VIDEO, END, START, *LAST, END, 4]


def mixed() -> Packed:
    """A picture, a clip of two rows of time a second apart, a picture; values drawn."""
    items = [Item.of(1, 2, 3), Item.of(2, 1, 2, 1), Item.of(1, 3, 2, 2)]
    generator = torch.Generator().manual_seed(0)
    return tubelet.pack([torch.randn(i.grid.rows, 8, generator=generator) for i in items], items)


def prompt_of(model: str) -> list[int]:
    return BY_FRAME if model == "qwen3_vl" else PROMPT


def received(sent: dict[str, Any]) -> torch.Tensor:
    """(S, D): what stands at every token, laid out row by row from the offsets, zeros where text is."""
    first = (sent.get("image_data") or sent["video_data"])[0]
    out = torch.zeros(len(sent["input_ids"]), first["precomputed_embeddings"].shape[1])
    for kind, token in (("image", IMAGE), ("video", VIDEO)):
        for given in sent.get(f"{kind}_data", []):
            rows = iter(given["precomputed_embeddings"])
            for begin, end in given["offsets"]:
                for at in range(begin, end + 1):
                    assert sent["input_ids"][at] == token
                    out[at] = next(rows)
            assert next(rows, None) is None
    return out


@pytest.mark.parametrize("model", MODELS)
def test_keys_are_those_the_processor_reads(model: Any):
    sent = request(mixed(), prompt_of(model), IDS, model)
    assert set(sent) <= set(SAID["engine"])
    assert FORMAT in SAID["formats"]
    assert SAID["taken_as_they_are"]
    known = {*SAID["collected"], *SAID["modality_of"], *SAID["positions"]}
    for kind in ("image", "video"):
        (given,) = sent[f"{kind}_data"]  # one dict a modality, as its validation wants
        assert set(given) <= known
        assert set(SAID["positions"]) <= set(given)
        assert SAID["modality_of"][f"{kind}_grid_thw"] == kind.upper()
        assert given.get("modality", "image") == kind  # rows without the word are taken for images
        assert "precomputed_embeddings" in SAID["item"]


@pytest.mark.parametrize("model", MODELS)
def test_every_row_stands_at_its_placeholder(model: Any):
    p = mixed()
    ids = torch.tensor(prompt_of(model))
    got = received(request(p, ids, IDS, model))
    assert torch.equal(got[(ids == IMAGE) | (ids == VIDEO)], p.x)
    assert not got[(ids != IMAGE) & (ids != VIDEO)].any()


@pytest.mark.parametrize("model", MODELS)
def test_positions_of_whole_items_are_the_models(model: Any):
    ids = torch.tensor(prompt_of(model))
    sent = request(mixed(), ids, IDS, model)
    grids = {kind: sent[f"{kind}_data"][0][f"{kind}_grid_thw"] for kind in ("image", "video")}
    at = rope_index(ids, IDS, RULES[model], image_grid_thw=grids["image"], video_grid_thw=grids["video"])
    for kind in ("image", "video"):
        given = sent[f"{kind}_data"][0]
        assert given["mrope_positions"].shape == (3, len(ids))
        assert torch.equal(given["mrope_positions"], at.position_ids[:, 0])
        assert torch.equal(given["mrope_position_delta"], at.rope_deltas)


@pytest.mark.parametrize("model", ["qwen2_vl", "qwen2_5_vl"])
def test_rows_that_are_left_keep_their_positions(model: Any):
    """Dropping rows removes columns and changes none."""
    p, ids = mixed(), torch.tensor(PROMPT)
    whole = request(p, ids, IDS, model)["image_data"][0]
    kept = torch.tensor([0, 4, 7, 9, 11, 12, 15])
    visual = ((ids == IMAGE) | (ids == VIDEO)).nonzero()[:, 0]
    stay = torch.ones(len(ids), dtype=torch.bool)
    stay[visual] = False
    stay[visual[kept]] = True
    sent = request(p.keep(kept), ids[stay], IDS, model)
    assert torch.equal(sent["image_data"][0]["mrope_positions"], whole["mrope_positions"][:, stay])
    dropped = int((~stay).sum())
    assert int(sent["image_data"][0]["mrope_position_delta"]) == int(whole["mrope_position_delta"]) + dropped
    assert torch.equal(received(sent)[ids[stay] == IMAGE], p.x[kept][[0, 1, 4, 5, 6]])
    assert sent["video_data"][0]["video_grid_thw"].tolist() == [[2, 2, 4]]  # the grid is that of the whole clip


def test_uneven_times_are_counted_as_they_are():
    item = Item(Grid(3, 1, 1), (0.0, 0.5, 3.0), 0, (0.0, 0.0, 1.0, 1.0))
    p = tubelet.pack([torch.ones(3, 8)], [item])
    sent = request(p, [5, VIDEO, VIDEO, VIDEO, 6], IDS, "qwen2_5_vl")
    assert sent["video_data"][0]["mrope_positions"][0].tolist() == [0, 1, 2, 7, 8]
    assert "image_data" not in sent


def test_items_that_touch_and_frames_with_text_between_are_blocks_of_their_own():
    p = mixed()
    assert request(p, BY_FRAME, IDS, "qwen3_vl")["video_data"][0]["offsets"] == [(12, 13), (17, 18)]
    two = p.reorder([0, 2])
    assert request(two, [1, *FIRST, *LAST], IDS, "qwen2_vl")["image_data"][0]["offsets"] == [(1, 6), (7, 12)]


def test_deepstack_stands_behind_and_lost_items_stay_away():
    p = mixed()
    sent = request(VisualRows(p, (p.with_x(2 * p.x), p.with_x(3 * p.x))), BY_FRAME, IDS, "qwen3_vl")
    rows = sent["video_data"][0]["precomputed_embeddings"]
    assert torch.equal(rows, torch.cat([p.x, 2 * p.x, 3 * p.x], dim=1)[6:10])
    left = request(p.keep(torch.arange(6, 16)), [START, *CLIP, END, START, *LAST, END], IDS, "qwen2_vl")
    assert left["image_data"][0]["image_grid_thw"].tolist() == [[1, 6, 4]]
    shuffled = p.keep(torch.tensor([5, 4, 3, 2, 1, 0, *range(6, 16)]))
    assert torch.equal(
        received(request(shuffled, PROMPT, IDS, "qwen2_vl")), received(request(p, PROMPT, IDS, "qwen2_vl"))
    )


def test_wrong_calls_name_what_is_wrong():
    p = mixed()
    with pytest.raises(AlignmentError) as e:
        request(p, PROMPT[:-8], IDS, "qwen2_vl")
    assert e.value.item == 2
    with pytest.raises(ConfigError, match="three dimensions"):
        request(p, PROMPT, IDS, "qwen2_vl", rule=ONE_D)
    with pytest.raises(InputError, match="one row of integers"):
        request(p, torch.tensor([PROMPT]), IDS, "qwen2_vl")
    with pytest.raises(InputError, match="placeholders of their own"):
        request(p, PROMPT, TokenIds(IMAGE), "qwen2_vl")
    with pytest.raises(ShapeError, match="floating"):
        request(p.with_x(p.x.to(torch.uint8)), PROMPT, IDS, "qwen2_vl")
    with pytest.raises(InputError, match="without items"):
        request(tubelet.pack([], []), [1, 2], IDS, "qwen2_vl")


if "TUBELET_SGLANG" in os.environ:

    def test_the_wheel_is_as_recorded():
        assert RECORDERS["sglang"](Path(os.environ["TUBELET_SGLANG"])) == SAID
