"""Rows into placeholders: exactly, differentiably, or an error that says where."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import tubelet
from tubelet.errors import AlignmentError, InputError, ShapeError
from tubelet.language.placing.place import place
from tubelet.language.placing.rules import LLAVA, QWEN2_VL, QWEN3_VL, TokenIds
from tubelet.language.placing.touch import blank, touch
from tubelet.packed import Item, Packed

IDS = TokenIds(image=90, video=91, start=92, end=93)


def pack(*sizes: int, width: int = 4) -> Packed:
    rows = [torch.full((n, width), 10.0 * i) + torch.arange(n)[:, None] for i, n in enumerate(sizes, start=1)]
    return tubelet.pack(rows, [Item.of(1, 1, n, picture=i) for i, n in enumerate(sizes)])


def slow_place(p: Packed, ids: Tensor, mask: Tensor, embed: nn.Embedding) -> Tensor:
    """Token by token."""
    rows = iter(p.x)
    out = []
    for token, real in zip(ids.flatten().tolist(), mask.flatten().tolist(), strict=True):
        visual = token in IDS.placeholders
        out.append(next(rows) if visual and real else embed.weight[0 if visual else token])
    assert next(rows, None) is None
    return torch.stack(out).view(*ids.shape, -1)


BATCH = torch.tensor([[0, 0, 5, 90, 90, 90, 6], [7, 91, 91, 8, 90, 90, 90]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])


@pytest.mark.parametrize("counts", [None, (1, 2)], ids=["in order", "counted"])
def test_rows_stand_in_their_placeholders_and_text_beside_them(counts: tuple[int, ...] | None):
    embed, p = nn.Embedding(100, 4), pack(3, 2, 3)
    labels = torch.arange(14).view(2, 7)
    seq = place(p, BATCH, IDS, embed=embed, attention_mask=MASK, labels=labels, counts=counts, rule=QWEN2_VL)
    assert torch.equal(seq.inputs_embeds, slow_place(p, BATCH, MASK, embed))
    assert torch.equal(seq.attention_mask, MASK)
    assert seq.labels is not None
    assert seq.labels.tolist() == [[-100, -100, 2, -100, -100, -100, 6], [7, -100, -100, 10, -100, -100, -100]]
    assert seq.visual.tolist()[0] == [False] * 3 + [True] * 3 + [False]


def test_padding_on_the_other_side_moves_nothing_else():
    embed, p = nn.Embedding(100, 4), pack(3, 2, 3)
    right, mask = BATCH.clone(), MASK.clone()
    right[0], mask[0] = BATCH[0].roll(-2), MASK[0].roll(-2)
    a = place(p, BATCH, IDS, embed=embed, attention_mask=MASK, rule=QWEN2_VL)
    b = place(p, right, IDS, embed=embed, attention_mask=mask, rule=QWEN2_VL)
    assert torch.equal(a.inputs_embeds[0, 2:], b.inputs_embeds[0, :5])
    assert torch.equal(a.position_ids[:, 0, 2:], b.position_ids[:, 0, :5])
    assert torch.equal(a.positions.next_position, b.positions.next_position)


def test_one_by_one_is_the_batch():
    embed, p = nn.Embedding(100, 4), pack(3, 2, 3)
    seq = place(p, BATCH, IDS, embed=embed, attention_mask=MASK, rule=QWEN2_VL)
    for i, items in enumerate([[0], [1, 2]]):
        one = place(p.reorder(items), BATCH[i][MASK[i] == 1], IDS, embed=embed, rule=QWEN2_VL)
        assert torch.equal(one.inputs_embeds, seq.inputs_embeds[i][MASK[i] == 1])
        assert torch.equal(one.position_ids, seq.position_ids[:, i][:, MASK[i] == 1])


def test_gradients_reach_rows_and_text_alone():
    embed, p = nn.Embedding(100, 4), pack(3, 2, 3)
    x = p.x.clone().requires_grad_()
    weight = torch.rand(2, 7, 4)
    (place(p.with_x(x), BATCH, IDS, embed=embed, attention_mask=MASK).inputs_embeds * weight).sum().backward()
    visual = ((BATCH == 90) | (BATCH == 91)) & (MASK == 1)
    assert x.grad is not None
    assert embed.weight.grad is not None
    assert torch.equal(x.grad, weight[visual])
    assert embed.weight.grad[[90, 91]].abs().sum() == 0
    assert torch.equal(embed.weight.grad[5], weight[0, 2])


def test_a_row_of_nan_stays_in_its_place():
    p = pack(3, 2, 3)
    p.x[4] = float("nan")
    seq = place(p, BATCH, IDS, embed=nn.Embedding(100, 4), attention_mask=MASK)
    assert seq.inputs_embeds.isnan().any(dim=-1).nonzero().tolist() == [[1, 2]]


def test_ids_outside_the_vocabulary_are_never_looked_up():
    seq = place(pack(2), torch.tensor([1, -200, -200, 2]), LLAVA, embed=nn.Embedding(3, 4))
    assert seq.position_ids.tolist() == [[0, 1, 2, 3]] * 3
    assert seq.inputs_embeds[1:3, 0].tolist() == [10.0, 11.0]


def test_rows_take_the_type_of_the_text():
    seq = place(pack(2), torch.tensor([1, 90, 90]), IDS, embed=nn.Embedding(100, 4, dtype=torch.bfloat16))
    assert seq.inputs_embeds.dtype == torch.bfloat16


def test_a_thousand_images_and_none():
    p, embed = pack(*[2] * 1000), nn.Embedding(100, 4)
    seq = place(p, torch.tensor([5, *[90] * 2000]), IDS, embed=embed, rule=QWEN2_VL)
    assert torch.equal(seq.inputs_embeds[1:], p.x)
    assert seq.position_ids[2, -2:].tolist() == [1999, 2000]
    none = tubelet.pack([], [])
    assert torch.equal(place(none, torch.tensor([5, 6]), IDS, embed=embed).inputs_embeds, embed.weight[5:7])


# ---- what does not fit


@pytest.mark.parametrize(
    ("sizes", "ids", "counts", "sample", "item", "expected", "got"),
    [
        ((3, 2), [[5, 90, 90, 90], [90, 0, 0, 0]], None, 1, 1, 2, 1),  # a run too short
        ((3, 2), [[5, 90, 90, 0], [90, 90, 0, 0]], None, 0, 0, 3, 2),
        ((3, 2), [[5, 90, 90, 90], [90, 90, 90, 0]], None, 1, None, 0, 1),  # a run too long
        ((3,), [[90, 90, 90, 0], [90, 90, 0, 0]], None, 1, None, 0, 2),  # a placeholder with no item
        ((3, 2), [[90, 90, 90, 0], [5, 6, 7, 8]], None, 1, 1, 2, 0),  # an item with no placeholder
        ((2, 2), [[5, 90, 6, 90], [90, 90, 0, 0]], None, 0, 0, 2, 1),  # the right number, split by text
        ((3, 1), [[90, 90, 90, 91], [0, 0, 0, 0]], (1, 1), 0, None, 0, 1),  # in the wrong sample
        ((4,), [[0, 0, 90, 90], [90, 90, 0, 0]], None, 0, 0, 4, 2),  # over the border of two samples
        ((2, 2), [[90, 90, 90, 91], [0, 0, 0, 0]], None, 0, 1, 2, 1),  # one item in two kinds of placeholder
        ((2,), [[0, 0, 0, 0], [5, 6, 7, 8]], (1, 0), 0, 0, 2, 0),
    ],
)
def test_counts_that_differ_name_sample_item_expected_and_got(
    sizes: tuple[int, ...],
    ids: list[list[int]],
    counts: tuple[int, ...] | None,
    sample: int,
    item: int | None,
    expected: int,
    got: int,
):
    with pytest.raises(AlignmentError, match=f"sample {sample}: ") as e:
        place(pack(*sizes), torch.tensor(ids), IDS, counts=counts)
    assert (e.value.sample, e.value.item, e.value.expected, e.value.got) == (sample, item, expected, got)
    assert e.value.as_dict()["sample"] == sample


@given(st.data())
def test_any_prompt_with_one_token_more_or_less_is_refused(data: st.DataObject):
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    ids: list[int] = []
    for n in sizes:
        ids += [5] * data.draw(st.integers(0, 2)) + [90] * n
    ids.append(6)
    place(pack(*sizes), torch.tensor(ids), IDS)
    at = data.draw(st.sampled_from([i for i, token in enumerate(ids) if token == 90]))
    for wrong in (ids[:at] + ids[at + 1 :], [*ids[:at], 90, *ids[at:]], [*ids, 90]):
        with pytest.raises(AlignmentError, match="sample 0"):
            place(pack(*sizes), torch.tensor(wrong), IDS)


def test_frames_of_a_video_that_are_blocks_must_each_have_their_run():
    p = tubelet.pack([torch.zeros(4, 4)], [Item.of(2, 1, 2)])
    assert place(p, torch.tensor([91, 91, 5, 91, 91]), IDS, rule=QWEN3_VL).position_ids[0].tolist() == [0, 0, 2, 3, 3]
    with pytest.raises(AlignmentError, match="item 0: sample 0: 2 rows and 1 places left in the run of 1"):
        place(p, torch.tensor([91, 5, 91, 91, 91]), IDS, rule=QWEN3_VL)


def test_arguments_of_other_shapes_and_types_are_refused():
    ids = torch.tensor([1, 90, 90])
    with pytest.raises(ShapeError, match="4 wide"):
        place(pack(2), ids, IDS, embed=nn.Embedding(100, 5))
    with pytest.raises(ShapeError, match="floating point"):
        place(pack(2).with_x(torch.zeros(2, 4, dtype=torch.uint8)), ids, IDS)
    with pytest.raises(InputError, match="attention_mask"):
        place(pack(2), ids, IDS, attention_mask=torch.ones(2))
    with pytest.raises(InputError, match="must differ"):
        TokenIds(image=1, start=1)
    with pytest.raises(AlignmentError, match="counts name 2 items"):
        place(pack(2), ids[None], IDS, counts=[2])
    with pytest.raises(AlignmentError, match="2 counts of items for 1 samples"):
        place(pack(2), ids[None], IDS, counts=[1, 0])


@pytest.mark.usefixtures("as_in_production")
def test_ids_and_labels_of_other_shapes_are_refused():
    with pytest.raises(InputError, match="input_ids"):
        place(pack(2), torch.zeros(1, 1, 2, dtype=torch.long), IDS)
    with pytest.raises(InputError, match="labels"):
        place(pack(2), torch.tensor([1, 90, 90]), IDS, labels=torch.zeros(2, dtype=torch.long))


# ---- ranks without pixels


def test_a_touch_changes_no_value_and_reaches_every_weight():
    layer = nn.Linear(8, 4)
    x = torch.rand(3, 4)
    touched = touch(x, tubelet.pack([layer(torch.rand(2, 8))], [Item.of(1, 1, 2)]))
    assert torch.equal(touched, x)
    touched.sum().backward()
    assert all(w.grad is not None and w.grad.abs().sum() == 0 for w in layer.parameters())
    broken = tubelet.pack([torch.full((1, 4), float("inf"))], [Item.of(1, 1, 1)])
    assert torch.equal(touch(x, broken), x)
    with pytest.raises(ShapeError, match="no gradient"):
        touch(x, blank(tubelet.PixelRecipe(patch=2)))


def test_the_blank_pack_goes_through_an_encoder_and_a_projector():
    encoder = tubelet.untrained("llava_vit_packing_small")
    out = encoder(blank(encoder.pixels))
    assert out.lengths[0] >= 1
    assert bool(out.x.isfinite().all())
