"""Packed by example: what each operation gives, what each refuses. General laws: properties/test_packed_laws.py."""

import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import tubelet
from tubelet import Grid, Item, Packed, concat, pack
from tubelet.errors import InputError, NotFinite, RunError, ShapeError, UnsafeFile
from tubelet.packed import MAX_ROWS, positions
from tubelet.packed.header import FORMAT
from tubelet.packed.padded import from_padded, to_padded


def counted(*grids: tuple[int, int, int], width: int = 2, dtype: torch.dtype = torch.float32) -> Packed:
    """A pack of these grids whose row i holds the number i."""
    items = [Item.of(*g, picture=k) for k, g in enumerate(grids)]
    total = sum(i.grid.rows for i in items)
    rows = torch.arange(total).to(dtype)[:, None].expand(-1, width)
    return pack(rows.split([i.grid.rows for i in items]), items)


# ---- items and grids


@pytest.mark.usefixtures("as_in_production")
def test_item_keeps_host_numbers_whatever_it_was_given():
    item = Item(Grid(np.int64(2), 3, 4), (0, np.float32(0.5)), np.int64(7), (0, 0, 40, 30))  # type: ignore[arg-type]
    assert item.grid == (2, 3, 4)
    assert {type(n) for n in (*item.grid, item.picture)} == {int}
    assert item.times_s == (0.0, 0.5)
    assert {type(v) for v in (*item.times_s, *item.box)} == {float}
    assert hash(item) == hash(Item(Grid(2, 3, 4), (0.0, 0.5), 7, (0.0, 0.0, 40.0, 30.0)))


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize(
    ("grid", "times_s", "picture", "box", "message"),
    [
        ((0, 2, 2), (), 0, (0, 0, 1, 1), "at least one patch"),
        ((1, -2, 2), (0.0,), 0, (0, 0, 1, 1), "at least one patch"),
        ((1, 2.5, 2), (0.0,), 0, (0, 0, 1, 1), "three integers"),
        ((1, 2), (0.0,), 0, (0, 0, 1, 1), "three integers"),
        ((1, 2**16, 2**15), (0.0,), 0, (0, 0, 1, 1), "do not fit int32"),
        ((1, 2**70, 1), (0.0,), 0, (0, 0, 1, 1), "do not fit int32"),
        ((2, 2, 2), (0.0,), 0, (0, 0, 1, 1), "1 times for 2 rows of time"),
        ((1, 2, 2), (math.nan,), 0, (0, 0, 1, 1), "finite"),
        ((1, 2, 2), (math.inf,), 0, (0, 0, 1, 1), "finite"),
        ((1, 2, 2), ("0",), 0, (0, 0, 1, 1), "numbers as times_s"),
        ((1, 2, 2), (0.0,), 0, (0, 0, 1), "four numbers"),
        ((1, 2, 2), (0.0,), 0, (0, 0, math.inf, 1), "finite"),
        ((1, 2, 2), (0.0,), 0, (4, 0, 4, 1), "some area"),
        ((1, 2, 2), (0.0,), 0, (0, 3, 4, 1), "some area"),
        ((1, 2, 2), (0.0,), -1, (0, 0, 1, 1), "counts from 0"),
        ((1, 2, 2), (0.0,), 0.5, (0, 0, 1, 1), "an integer as picture"),
    ],
)
def test_an_item_that_contradicts_itself_is_refused(grid, times_s, picture, box, message):
    with pytest.raises(ShapeError, match=message):
        Item(grid, times_s, picture, box)


def test_the_largest_grid_is_allowed_and_one_row_more_is_not():
    assert Item.of(1, 1, MAX_ROWS).grid.rows == 2**31 - 1
    with pytest.raises(ShapeError) as caught:
        Item.of(1, 1, MAX_ROWS + 1)
    assert (caught.value.limit, caught.value.got) == (MAX_ROWS, (1, 1, MAX_ROWS + 1))


# ---- places


def test_positions_are_the_drawing_in_the_docstring():
    raster, block = positions(Grid(1, 2, 4)), positions(Grid(1, 2, 4), merge=2)
    number = raster[:, 1] * 4 + raster[:, 2]
    assert number.tolist() == list(range(8))
    assert (block[:, 1] * 4 + block[:, 2]).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


@pytest.mark.parametrize(("grid", "merge"), [((1, 3, 4), 2), ((1, 4, 3), 2), ((1, 4, 4), 3), ((1, 4, 4), 0)])
def test_positions_need_whole_blocks(grid, merge):
    with pytest.raises(ShapeError, match="blocks"):
        positions(Grid(*grid), merge=merge)


def test_positions_made_in_inference_mode_can_be_used_in_training():
    with torch.inference_mode():
        positions(Grid(1, 5, 11))  # a grid no other test uses: the shared table is made here
    table = torch.randn(11, 4, requires_grad=True)
    table[positions(Grid(1, 5, 11))[:, 2].long()].sum().backward()
    torch.nn.functional.embedding(positions(Grid(1, 5, 11))[:, 2], table).sum().backward()
    assert table.grad is not None
    assert table.grad.eq(10).all()


def test_positions_stay_on_the_host_under_a_default_device():
    with torch.device("meta"):
        p = pack([torch.zeros(3, 2, device="cpu")], [Item.of(1, 1, 3)])
        assert p.keep(torch.tensor([0, 2], device="cpu")).lengths == (2,)
        assert p.grid_thw.device.type == p.cu_seqlens.device.type == "cpu"
    assert positions(Grid(1, 1, 3)).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2]]


def test_positions_of_a_large_grid_are_not_hoarded():
    first, second = positions(Grid(2, 128, 128)), positions(Grid(2, 128, 128))
    assert first.data_ptr() != second.data_ptr()
    assert torch.equal(first, second)


# ---- what a Packed refuses (C2)


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize(
    ("x", "pos", "grids", "lengths", "message"),
    [
        ((6, 2), (6, 3), [(1, 2, 3)], (5,), "lengths sum to 5, x has 6 rows and pos 6"),
        ((5, 2), (6, 3), [(1, 2, 3)], (6,), "lengths sum to 6, x has 5 rows and pos 6"),
        ((6, 2), (5, 3), [(1, 2, 3)], (6,), "lengths sum to 6, x has 6 rows and pos 5"),
        ((6, 2), (6, 3), [(1, 2, 2)], (6,), "6 rows cannot come from a grid of 4"),
        ((6, 2), (6, 3), [(1, 2, 3), (1, 1, 1)], (7, -1), "7 rows cannot come from a grid of 6"),
        ((6, 2), (6, 3), [(1, 2, 3), (1, 2, 3)], (6,), "2 items with 1 lengths"),
        ((6, 2), (6, 3), [(1, 2, 3)], (6.5,), "lengths must be integers"),
        ((6,), (6, 3), [(1, 2, 3)], (6,), r"x must be \(T, D\)"),
        ((6, 2, 1), (6, 3), [(1, 2, 3)], (6,), r"x must be \(T, D\)"),
        ((6, 2), (6, 2), [(1, 2, 3)], (6,), r"pos \(T, 3\)"),
        ((6, 2), (18,), [(1, 2, 3)], (6,), r"pos \(T, 3\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(x, pos, grids, lengths, message):
    with pytest.raises(ShapeError, match=message):
        Packed(torch.zeros(x), torch.zeros(pos, dtype=torch.int32), tuple(Item.of(*g) for g in grids), lengths)


def test_a_refusal_names_the_item_and_the_numbers():
    with pytest.raises(ShapeError) as caught:
        Packed(torch.zeros(5, 1), torch.zeros(5, 3, dtype=torch.int32), (Item.of(1, 1, 2), Item.of(1, 1, 2)), (2, 3))
    assert (caught.value.item, caught.value.limit, caught.value.got) == (1, 2, 3)


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64, torch.uint8])
def test_places_must_be_signed_integers(dtype):
    with pytest.raises(ShapeError, match="signed integers"):
        Packed(torch.zeros(1, 1), torch.zeros(1, 3, dtype=dtype), (Item.of(1, 1, 1),), (1,))


def test_rows_beyond_int32_are_refused_before_anything_else_is_made():
    x = torch.zeros(2**31, 1, device="meta")
    pos = torch.zeros(2**31, 3, dtype=torch.int32, device="meta")
    with pytest.raises(ShapeError, match="int32 cu_seqlens") as caught:
        Packed(x, pos, (Item.of(1, 1, MAX_ROWS), Item.of(1, 1, 1)), (MAX_ROWS, 1))
    assert (caught.value.limit, caught.value.got) == (MAX_ROWS, 2**31)


def test_rows_and_places_live_on_one_device():
    with pytest.raises(ShapeError, match="x is on meta and pos on cpu"):
        Packed(torch.zeros(1, 1, device="meta"), torch.zeros(1, 3, dtype=torch.int32), (Item.of(1, 1, 1),), (1,))


@pytest.mark.parametrize("place", [(0, 0, 3), (0, 2, 0), (1, 0, 0), (0, -1, 0)])
def test_check_finds_a_place_outside_its_grid_and_names_the_item(place):
    p = counted((1, 1, 4), (1, 2, 3))
    pos = p.pos.clone()
    pos[4] = torch.tensor(place)
    with pytest.raises(ShapeError, match="outside the grid") as caught:
        Packed(p.x, pos, p.items, p.lengths).check()
    assert (caught.value.item, caught.value.limit, caught.value.got) == (1, (1, 2, 3), place)


def test_check_finds_a_place_that_occurs_twice():
    p = counted((1, 1, 4), (1, 2, 3))
    pos = p.pos.clone()
    pos[9] = pos[5]
    with pytest.raises(ShapeError, match="same place") as caught:
        Packed(p.x, pos, p.items, p.lengths).check()
    assert (caught.value.item, caught.value.got) == (1, [0, 0, 1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_check_finds_what_is_not_finite_only_on_request(value):
    p = counted((1, 1, 4), (1, 2, 3), (1, 1, 1))
    p.x[7, 1] = value
    assert p.check() is p
    with pytest.raises(NotFinite) as caught:
        p.check(finite=True)
    assert caught.value.item == 1


def test_check_accepts_items_that_share_places_and_uint8_rows():
    p = counted((1, 2, 2), (1, 2, 2), dtype=torch.uint8)
    assert p.check(finite=True) is p


# ---- sizes


def test_sizes_are_those_flash_attention_and_hugging_face_use():
    p = counted((1, 2, 3), (2, 1, 2)).keep(torch.tensor([0, 2, 9]))
    assert p.lengths == (2, 1)
    assert p.starts == (0, 2, 3)
    assert p.cu_seqlens.tolist() == [0, 2, 3]
    assert p.cu_seqlens.dtype == torch.int32
    assert p.grid_thw.tolist() == [[1, 2, 3], [2, 1, 2]]
    assert p.grid_thw.dtype == torch.int64
    assert (len(p), p.whole, counted((1, 2, 3)).whole) == (2, False, True)


def test_repr_shows_shapes_and_no_values():
    p = counted(*[(1, 2, k) for k in range(1, 9)])
    text = repr(p.keep(torch.arange(1, len(p.x))))
    assert text == (
        "Packed(T=71, D=2, float32, cpu, 8 items: [1x2x1 (1 kept), 1x2x2, 1x2x3, 1x2x4, 1x2x5, 1x2x6, ... 2 more])"
    )


def test_packed_is_compared_by_equal_and_hashed_by_identity():
    p, same = counted((1, 2, 3)), counted((1, 2, 3))
    assert p != same
    assert len({p, same}) == 2
    assert p.equal(same)
    assert not p.equal(same.with_x(same.x + 1))
    assert not p.equal(same.to(dtype=torch.float64))
    assert not p.equal(counted((1, 3, 2)))
    assert not p.equal(p.to("meta"))


# ---- other values, other place


def test_with_x_keeps_everything_else_and_refuses_another_row_count():
    p = counted((1, 2, 3), (1, 1, 2))
    assert p.cu_seqlens.tolist() == [0, 6, 8]
    q = p.with_x(torch.ones(8, 5))
    assert (q.items, q.lengths, q.x.shape, p.x.shape) == (p.items, p.lengths, (8, 5), (8, 2))
    assert torch.equal(q.pos, p.pos)
    for wrong in ((7, 2), (9, 2), (8,), (8, 2, 1)):
        with pytest.raises(ShapeError, match="expected 8 rows"):
            p.with_x(torch.zeros(wrong))


def test_moving_takes_places_and_derived_tensors_along():
    p = counted((1, 2, 3))
    assert p.cu_seqlens.device.type == "cpu"
    for moved in (p.to("meta"), p.with_x(p.x.to("meta"))):
        assert moved.pos.device == moved.cu_seqlens.device == moved.device == torch.device("meta")


def test_a_cast_leaves_pixels_alone():
    assert counted((1, 1, 3)).to(dtype=torch.bfloat16).dtype == torch.bfloat16
    assert counted((1, 1, 3), dtype=torch.uint8).to(dtype=torch.bfloat16).dtype == torch.uint8


# ---- keep


def test_keep_takes_a_mask_or_indices_and_keeps_true_places():
    p = counted((1, 2, 3), (1, 1, 4))
    mask = torch.tensor([1, 0, 0, 0, 1, 0, 0, 0, 0, 1], dtype=torch.bool)
    for kept in (p.keep(mask), p.keep(torch.tensor([0, 4, 9])), p.keep(torch.tensor([0, 4, 9]), lengths=[2, 1])):
        assert kept.x[:, 0].tolist() == [0, 4, 9]
        assert kept.pos.tolist() == [[0, 0, 0], [0, 1, 1], [0, 0, 3]]
        assert (kept.lengths, kept.items) == ((2, 1), p.items)


def test_keep_follows_the_order_wanted_within_an_item():
    kept = counted((1, 2, 3), (1, 1, 4)).keep(torch.tensor([5, 0, 3, 8, 6], dtype=torch.int32))
    assert kept.x[:, 0].tolist() == [5, 0, 3, 8, 6]
    assert kept.lengths == (3, 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 10], "row 10 is outside 0..9"),
        ([-1, 3], "row -1 is outside"),
        ([3, 3], "row 3 is named more than once"),
        ([7, 0], "interleaved"),
        ([0, 7, 1], "interleaved"),
    ],
)
def test_keep_refuses_rows_that_are_not_a_choice(rows, message):
    p = counted((1, 2, 3), (1, 1, 4))
    with pytest.raises(ShapeError, match=message):
        p.keep(torch.tensor(rows))
    with pytest.raises(ShapeError, match=message):
        p.keep(torch.tensor(rows), lengths=[1, len(rows) - 1])


@pytest.mark.parametrize(
    "rows",
    [
        torch.ones(9, dtype=torch.bool),
        torch.ones(10, 1, dtype=torch.bool),
        torch.tensor([[0, 1]]),
        torch.tensor([0.0, 1.0]),
        torch.tensor([0j]),
    ],
)
def test_keep_refuses_what_is_no_index(rows):
    with pytest.raises(ShapeError):
        counted((1, 2, 3), (1, 1, 4)).keep(rows)


def test_keep_refuses_lengths_that_are_not_what_is_kept():
    with pytest.raises(ShapeError, match="lengths are not") as caught:
        counted((1, 2, 3), (1, 1, 4)).keep(torch.tensor([0, 1, 7]), lengths=[1, 2])
    assert (caught.value.expected, caught.value.got) == ((2, 1), (1, 2))


def test_keep_passes_gradients_only_to_what_is_kept():
    p = counted((1, 2, 3))
    x = p.x.clone().requires_grad_()
    p.with_x(x).keep(torch.tensor([4, 1])).x.sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].tolist() == [0, 1, 0, 0, 1, 0]


# ---- nothing at all (C4)


def test_an_empty_pack_goes_through_everything():
    p = pack([], [])
    assert (len(p), p.starts, p.lengths, p.whole, repr(p)) == (
        0,
        (0,),
        (),
        True,
        "Packed(T=0, D=0, float32, cpu, 0 items: [])",
    )
    assert (p.unpack(), p.split([]), p.grid_thw.shape, p.cu_seqlens.tolist()) == ([], [], (0, 3), [0])
    for same in (
        p.check(finite=True),
        p.reorder([]),
        p.keep(torch.zeros(0, dtype=torch.long)),
        p.keep(torch.zeros(0, dtype=torch.bool)),
        concat([]),
        concat([p, p]),
        from_padded(p, to_padded(p)[0]),
    ):
        assert same.equal(p)
    x = torch.zeros(0, 4, requires_grad=True)
    p.with_x(x).x.sum().backward()
    assert x.grad is not None


def test_an_item_may_lose_every_row_and_stays():
    p = counted((1, 1, 2), (1, 2, 2), (1, 1, 3))
    kept = p.keep(torch.tensor([1, 7]))
    assert (kept.lengths, kept.starts, len(kept)) == ((1, 0, 1), (0, 1, 1, 2), 3)
    assert [tuple(r.shape) for r in kept.unpack()] == [(1, 2), (0, 2), (1, 2)]
    padded, real = to_padded(kept, fill=-1.0)
    assert padded[:, 0, 0].tolist() == [1.0, -1.0, 7.0]
    assert real.tolist() == [[True], [False], [True]]
    assert from_padded(kept, padded).equal(kept)
    assert kept.reorder([1, 2, 0]).lengths == (0, 1, 1)
    assert concat(kept.split([1, 1, 1]), renumber=False).equal(kept)
    assert kept.check(finite=True) is kept
    nothing = p.keep(torch.zeros(9, dtype=torch.bool))
    assert (nothing.lengths, nothing.x.shape) == ((0, 0, 0), (0, 2))


def test_an_empty_pack_does_not_disturb_a_concat():
    p = counted((1, 1, 2), width=5)
    assert concat([pack([], []), p, pack([], [])]).equal(p)


# ---- pack, concat, split, reorder


@pytest.mark.parametrize(
    ("shapes", "item", "message"),
    [
        ([(6, 2), (3, 2)], 1, r"grid \(1, 1, 4\) needs 4 rows"),
        ([(6, 2), (4, 3)], 1, "same width, type and device"),
        ([(6,), (4, 2)], 0, "needs 6 rows"),
    ],
)
def test_pack_names_the_item_whose_rows_do_not_fit(shapes, item, message):
    with pytest.raises(ShapeError, match=message) as caught:
        pack([torch.zeros(s) for s in shapes], [Item.of(1, 2, 3), Item.of(1, 1, 4)])
    assert caught.value.item == item


def test_pack_refuses_another_number_of_items_and_mixed_types():
    with pytest.raises(ShapeError, match="1 row tensors for 2 items"):
        pack([torch.zeros(6, 2)], [Item.of(1, 2, 3), Item.of(1, 1, 4)])
    with pytest.raises(ShapeError, match="same width, type and device"):
        pack([torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.uint8)], [Item.of(1, 1, 1), Item.of(1, 1, 1)])


def test_concat_numbers_pictures_of_different_inputs_apart():
    views = pack([torch.zeros(1, 2)] * 3, [Item.of(1, 1, 1, picture=k) for k in (0, 0, 1)])
    assert [i.picture for i in concat([views, views]).items] == [0, 0, 1, 2, 2, 3]
    assert [i.picture for i in concat([views, views], renumber=False).items] == [0, 0, 1, 0, 0, 1]


def test_concat_refuses_packs_that_differ():
    p = counted((1, 1, 2))
    for other in (counted((1, 1, 2), width=3), counted((1, 1, 2), dtype=torch.float64), p.to("meta")):
        with pytest.raises(ShapeError, match="pack 1 differs"):
            concat([p, other])


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("order", [[0, 0], [0, 2], [-1], [0.5]])
def test_reorder_refuses_what_is_no_choice_of_items(order):
    with pytest.raises(ShapeError):
        counted((1, 1, 2), (1, 1, 3)).reorder(order)


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("counts", [[1], [1, 2], [3, -1], [1.0, 1.0]])
def test_split_refuses_counts_that_do_not_divide_the_items(counts):
    with pytest.raises(ShapeError):
        counted((1, 1, 2), (1, 1, 3)).split(counts)


def test_split_gives_views():
    p = counted((1, 1, 2), (1, 1, 3))
    assert p.split([1, 1])[1].x.data_ptr() == p.x[2:].data_ptr()


@pytest.mark.parametrize("shape", [(1, 3, 2), (2, 2, 2), (2, 3)])
def test_from_padded_refuses_another_form(shape):
    with pytest.raises(ShapeError, match=r"expected \(2, 3 or more, D\)"):
        from_padded(counted((1, 1, 2), (1, 1, 3)), torch.zeros(shape))


# ---- files


def test_a_saved_pack_carries_further_tensors_and_says_what_it_is(tmp_path):
    p = counted((2, 2, 3), (1, 1, 4))
    p.save(tmp_path / "p.safetensors", {"pooled": torch.ones(2, 7), "same": p.x, "part": p.x[2:]})
    with safe_open(str(tmp_path / "p.safetensors"), framework="pt") as f:
        meta = f.metadata()
        assert set(f.keys()) == {"x", "pos", "pooled", "same", "part"}
        assert torch.equal(f.get_tensor("same"), p.x)
        assert torch.equal(f.get_tensor("part"), p.x[2:])
    assert meta["format"] == FORMAT
    assert json.loads(meta["items"])[0] == {
        "grid": [2, 2, 3],
        "times_s": [0.0, 1.0],
        "picture": 0,
        "box": [0.0, 0.0, 3.0, 2.0],
    }
    assert Packed.load(tmp_path / "p.safetensors").equal(p)


def test_a_part_of_a_pack_saves_its_own_rows_only(tmp_path):
    p = counted((1, 40, 40), (1, 1, 1))
    p.split([1, 1])[1].save(tmp_path / "part.safetensors")
    assert (tmp_path / "part.safetensors").stat().st_size < 2_000
    assert Packed.load(tmp_path / "part.safetensors").x.tolist() == [[1600.0, 1600.0]]


def test_save_refuses_the_packs_own_names(tmp_path):
    with pytest.raises(ShapeError, match="pack's own"):
        counted((1, 1, 2)).save(tmp_path / "p.safetensors", {"pos": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    target = tmp_path / "p.safetensors"
    p = counted((1, 1, 2))
    p.save(target)
    before = target.read_bytes()
    with pytest.raises(InputError, match="without values"):
        p.save(target, {"extra": torch.zeros(3, device="meta")})
    assert target.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["p.safetensors"]
    with pytest.raises(RunError, match=r"p\.safetensors: the file could not be written"):
        p.save(tmp_path / "no such folder" / "p.safetensors")


def test_two_writers_of_one_file_leave_one_whole_file(tmp_path):
    target = tmp_path / "p.safetensors"
    packs = [counted((1, 1, n)) for n in range(1, 9)]
    threads = [threading.Thread(target=p.save, args=(target,)) for p in packs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Packed.load(target)
    assert any(found.equal(p) for p in packs)
    assert [f.name for f in tmp_path.iterdir()] == ["p.safetensors"]


def damaged(**changes: str) -> dict[str, str]:
    item = '[{"grid": [1, 1, 2], "times_s": [0.0], "picture": 0, "box": [0.0, 0.0, 2.0, 1.0]}]'
    return {"format": FORMAT, "items": item, "lengths": "[2]", **changes}


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize(
    ("meta", "error"),
    [
        (damaged(format="tubelet-packed-9"), UnsafeFile),
        ({}, UnsafeFile),
        ({k: v for k, v in damaged().items() if k != "lengths"}, UnsafeFile),
        (damaged(items="[{"), UnsafeFile),
        (damaged(items="7"), UnsafeFile),
        (damaged(items='["grid"]'), UnsafeFile),
        (damaged(items='[{"grid": [1, 1, 2], "times_s": [0.0], "picture": 0}]'), UnsafeFile),
        (damaged(items=damaged()["items"].replace("[1, 1, 2]", "[1, 1, 2, 3]")), UnsafeFile),
        (damaged(items="[" * 100_000), UnsafeFile),
        (damaged(items=damaged()["items"].replace("[1, 1, 2]", "[1, 1, " + "9" * 5000 + "]")), UnsafeFile),
        (damaged(items=damaged()["items"].replace("[1, 1, 2]", "[1, 2.0, 1]")), ShapeError),
        (damaged(items=damaged()["items"].replace("[1, 1, 2]", '"112"')), ShapeError),
        (damaged(items=damaged()["items"].replace("[0.0]", "[NaN]")), ShapeError),
        (damaged(items=damaged()["items"].replace("[0.0]", "[1e999]")), ShapeError),
        (damaged(items=damaged()["items"].replace("[1, 1, 2]", "[1, 1, 1]")), ShapeError),
        (damaged(items=damaged()["items"].replace("[1, 1, 2]", "[1, 2, 1]")), ShapeError),
        (damaged(lengths="[1]"), ShapeError),
        (damaged(lengths="[2.0]"), ShapeError),
        (damaged(lengths="[1, 1]"), ShapeError),
    ],
)
def test_a_file_whose_metadata_lie_is_refused_by_name(tmp_path, meta, error):
    good = counted((1, 1, 2))
    save_file({"x": good.x.contiguous(), "pos": good.pos}, str(tmp_path / "bad.safetensors"), metadata=meta)
    with pytest.raises(error) as caught:
        Packed.load(tmp_path / "bad.safetensors")
    assert caught.value.source == "bad.safetensors"
    assert str(tmp_path) not in str(caught.value)


def test_a_file_cut_at_any_byte_is_refused(tmp_path):
    whole = tmp_path / "whole.safetensors"
    counted((1, 1, 2), (1, 2, 1)).save(whole)
    data = whole.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        with pytest.raises(UnsafeFile):
            Packed.load(cut)


@pytest.mark.parametrize("tensors", [{"x": torch.zeros(2, 2)}, {"pos": torch.zeros(2, 3, dtype=torch.int32)}])
def test_a_file_without_its_tensors_is_refused(tmp_path, tensors):
    save_file(tensors, str(tmp_path / "bad.safetensors"), metadata=damaged())
    with pytest.raises(UnsafeFile):
        Packed.load(tmp_path / "bad.safetensors")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(InputError):
            Packed.load(path)


# ---- the size of the value


def test_packed_stays_small():
    """Everybody imports Packed; conversions to other libraries' forms live at the edges."""
    public = [name for name in vars(Packed) if not name.startswith("_")]
    assert len(public) <= 20, sorted(public)


def test_packed_is_public():
    assert tubelet.Packed is Packed
    assert tubelet.pack is pack


def test_a_saved_pack_can_be_read_by_whom_the_umask_lets(tmp_path):
    p = pack([torch.zeros(6, 4)], [Item.of(1, 2, 3)])
    p.save(tmp_path / "a.safetensors")
    (tmp_path / "b").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "b").stat().st_mode


# ---- pictures that do not fill their views


def test_the_content_says_which_cells_show_something():
    item = Item(Grid(1, 4, 4), (0.0,), 0, box=(-4.0, 0.0, 12.0, 16.0), content=(0, 0, 8, 20))
    assert item.seen == (range(4), range(1, 3))
    assert replace(item, content=None).seen == (range(4), range(4))
    assert replace(item, box=(-4.5, 0.0, 11.5, 16.0)).seen[1] == range(1, 4)  # half a cell of it is enough
    assert replace(item, box=(30.0, 0.0, 46.0, 16.0)).seen[1] == range(0)
    assert hash(item) != hash(replace(item, content=(0, 0, 8, 21))) and item != replace(item, content=None)


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("content", [(0, 0, 5), (0, 0, 0, 5), (0, 0, 5, math.inf), (3, 0, 1, 1), 7, "abcd"])
def test_content_is_a_box(content: Any):
    with pytest.raises(ShapeError):
        Item(Grid(1, 1, 1), (0.0,), 0, (0, 0, 1, 1), content)


def test_files_keep_contents_and_those_without_are_as_before(tmp_path: Path):
    sized = Item(Grid(1, 1, 2), (0.0,), 0, (0, 0, 28, 14), content=(0, 0, 20, 14))
    for item in (sized, Item.of(1, 1, 2)):
        p = pack([torch.ones(2, 3)], [item])
        p.save(tmp_path / "p.safetensors")
        assert Packed.load(tmp_path / "p.safetensors").equal(p)
        with safe_open(str(tmp_path / "p.safetensors"), framework="pt") as f:
            [said] = json.loads(f.metadata()["items"])
        assert set(said) - {"content"} == {"grid", "times_s", "picture", "box"} and ("content" in said) == (
            item is sized
        )
