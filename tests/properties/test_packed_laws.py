"""Laws of Packed that hold for every pack: generated grids, widths, types, orders and choices of rows."""

import tempfile
from pathlib import Path

import einops
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.packed import Grid, Item, Packed, all_positions, concat, pack, positions
from tubelet.packed.padded import from_padded, to_padded

LAWS = settings(deadline=None, max_examples=60)
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
)
seconds = st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def an_item(draw: st.DrawFn, side: int = 5) -> Item:
    grid = Grid(*(draw(st.integers(1, side)) for _ in range(3)))
    times = tuple(draw(st.lists(seconds, min_size=grid.t, max_size=grid.t)))
    left, top = draw(seconds), draw(seconds)
    box = (left, top, left + draw(st.floats(1, 1e6)), top + draw(st.floats(1, 1e6)))
    return Item(grid, times, draw(st.integers(0, 9)), box)


def values(rows: int, width: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator).mul(40).abs().to(dtype)


@st.composite
def whole_pack(draw: st.DrawFn, min_items: int = 0, max_items: int = 6) -> Packed:
    items = draw(st.lists(an_item(), min_size=min_items, max_size=max_items))
    width, dtype = draw(st.integers(1, 4)), draw(st.sampled_from(DTYPES))
    return pack([values(item.grid.rows, width, dtype, seed=i) for i, item in enumerate(items)], items)


@st.composite
def a_mask(draw: st.DrawFn, total: int) -> torch.Tensor:
    """True at about an eighth, a half or nearly all of the rows, or at none, or at all."""
    share = draw(st.sampled_from((0.0, 0.125, 0.5, 0.9, 1.0)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    return torch.rand(total, generator=generator) < share


@st.composite
def any_pack(draw: st.DrawFn, min_items: int = 0) -> Packed:
    """A pack that may have lost rows, down to items with none."""
    p = draw(whole_pack(min_items=min_items))
    return p.keep(draw(a_mask(p.x.shape[0])))


# ---- places


@LAWS
@given(t=st.integers(1, 4), h=st.integers(1, 9), w=st.integers(1, 9))
def test_raster_positions_count_up(t: int, h: int, w: int):
    pos = positions(Grid(t, h, w)).long()
    assert torch.equal((pos[:, 0] * h + pos[:, 1]) * w + pos[:, 2], torch.arange(t * h * w))


@LAWS
@given(t=st.integers(1, 3), h=st.integers(1, 5), w=st.integers(1, 5), merge=st.integers(1, 4))
def test_block_positions_are_einops_blocks(t: int, h: int, w: int, merge: int):
    grid = Grid(t, h * merge, w * merge)
    in_blocks = einops.rearrange(positions(grid), "(t h a w b) c -> (t h w a b) c", t=t, h=h, w=w, a=merge, b=merge)
    assert torch.equal(positions(grid, merge=merge), in_blocks)


@LAWS
@given(st.lists(an_item(), max_size=5))
def test_positions_of_items_are_their_own_end_to_end(items: list[Item]):
    assert torch.equal(
        all_positions(items), torch.cat([torch.zeros(0, 3, dtype=torch.int32), *(positions(i.grid) for i in items)])
    )


# ---- in and out


@LAWS
@given(whole_pack())
def test_unpack_undoes_pack(p: Packed):
    rows = p.unpack()
    assert [len(r) for r in rows] == [i.grid.rows for i in p.items]
    assert pack(rows, p.items).equal(p if len(p) else pack([], []))
    assert p.whole


@LAWS
@given(any_pack(), st.data())
def test_concat_undoes_split(p: Packed, data: st.DataObject):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(p)), max_size=4)))
    counts = [b - a for a, b in zip([0, *cuts], [*cuts, len(p)], strict=True)]
    parts = p.split(counts)
    assert [len(part) for part in parts] == counts
    assert concat(parts, renumber=False).equal(p)


@LAWS
@given(st.lists(any_pack(min_items=1), min_size=1, max_size=4))
def test_concat_keeps_views_of_a_picture_together_and_inputs_apart(packs: list[Packed]):
    packs = [p.with_x(p.x[:, :1].to(torch.int64)) for p in packs]
    joined = concat(packs)
    owner = [k for k, p in enumerate(packs) for _ in p.items]
    before = [i.picture for p in packs for i in p.items]
    for i, a in enumerate(joined.items):
        for j, b in enumerate(joined.items):
            assert (a.picture == b.picture) == (owner[i] == owner[j] and before[i] == before[j])
    assert joined.lengths == tuple(n for p in packs for n in p.lengths)
    assert torch.equal(joined.x, torch.cat([p.x for p in packs]))


@LAWS
@given(any_pack(), st.randoms(use_true_random=False))
def test_reorder_moves_items_with_their_rows_and_back(p: Packed, random):
    order = list(range(len(p)))
    random.shuffle(order)
    moved = p.reorder(order)
    for new, old in enumerate(order):
        assert torch.equal(moved.unpack()[new], p.unpack()[old])
        assert moved.items[new] is p.items[old]
    back = sorted(range(len(p)), key=order.__getitem__)
    assert moved.reorder(back).equal(p)


@LAWS
@given(any_pack(min_items=1), st.data())
def test_reorder_can_choose(p: Packed, data: st.DataObject):
    chosen = data.draw(st.lists(st.integers(0, len(p) - 1), unique=True))
    some = p.reorder(chosen)
    assert (some.items, some.lengths) == (tuple(p.items[i] for i in chosen), tuple(p.lengths[i] for i in chosen))
    assert some.x.shape[1] == p.x.shape[1]
    some.check()


# ---- fewer rows


@LAWS
@given(any_pack())
def test_keeping_everything_is_the_identity(p: Packed):
    total = p.x.shape[0]
    assert p.keep(torch.ones(total, dtype=torch.bool)).equal(p)
    assert p.keep(torch.arange(total)).equal(p)
    assert p.keep(torch.arange(total), lengths=p.lengths).equal(p)


@LAWS
@given(whole_pack(), st.data())
def test_a_mask_its_indices_and_its_lengths_say_the_same(p: Packed, data: st.DataObject):
    mask = data.draw(a_mask(p.x.shape[0]))
    kept = p.keep(mask).check()
    counts = [int(m.sum()) for m in mask.split(p.lengths)] if len(p) else []
    assert list(kept.lengths) == counts
    assert p.keep(mask.nonzero().squeeze(1)).equal(kept)
    assert p.keep(mask.nonzero().squeeze(1), lengths=counts).equal(kept)
    assert torch.equal(kept.x, p.x[mask])
    assert torch.equal(kept.pos, p.pos[mask])


@LAWS
@given(any_pack(), st.data())
def test_keeping_twice_is_keeping_what_both_keep(p: Packed, data: st.DataObject):
    first = data.draw(a_mask(p.x.shape[0]))
    second = data.draw(a_mask(int(first.sum())))
    both = first.clone()
    both[first] = second
    assert p.keep(first).keep(second).equal(p.keep(both))


@LAWS
@given(whole_pack(), st.data())
def test_rows_kept_in_another_order_still_know_their_places(p: Packed, data: st.DataObject):
    mask = data.draw(a_mask(p.x.shape[0]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    chosen = []
    for start, length in zip(p.starts, p.lengths, strict=False):
        rows = mask[start : start + length].nonzero().squeeze(1) + start
        chosen.append(rows[torch.randperm(len(rows), generator=generator)])
    kept = p.keep(torch.cat([torch.zeros(0, dtype=torch.long), *chosen])).check()
    for k, (item, rows) in enumerate(zip(kept.items, kept.unpack(), strict=True)):
        grid, pos = item.grid, kept.pos.split(kept.lengths)[k].long()
        number = (pos[:, 0] * grid.h + pos[:, 1]) * grid.w + pos[:, 2]
        assert torch.equal(rows, p.unpack()[k][number])


@LAWS
@given(any_pack(min_items=1), st.randoms(use_true_random=False), st.data())
def test_keep_and_reorder_commute(p: Packed, random, data: st.DataObject):
    mask = data.draw(a_mask(p.x.shape[0]))
    order = list(range(len(p)))
    random.shuffle(order)
    pieces = mask.split(p.lengths)
    assert p.keep(mask).reorder(order).equal(p.reorder(order).keep(torch.cat([pieces[i] for i in order])))


# ---- sizes


@LAWS
@given(any_pack())
def test_starts_and_cu_seqlens_are_the_running_sum(p: Packed):
    assert p.cu_seqlens.tolist() == list(p.starts)
    assert torch.equal(p.cu_seqlens.diff().long(), torch.tensor(p.lengths, dtype=torch.long))
    assert p.starts[-1] == p.x.shape[0]
    assert [tuple(g) for g in p.grid_thw.tolist()] == [tuple(i.grid) for i in p.items]
    assert p.whole == (p.x.shape[0] == sum(i.grid.rows for i in p.items))


# ---- other forms


@LAWS
@given(any_pack(), st.integers(0, 3))
def test_the_padded_form_gives_back_the_rows(p: Packed, spare: int):
    padded, real = to_padded(p)
    assert int(real.sum()) == p.x.shape[0]
    assert torch.equal(padded[real], p.x)
    assert not padded[~real].any()
    assert from_padded(p, padded).equal(p)
    longer = torch.cat([padded, padded.new_ones(len(p), spare, p.x.shape[1])], dim=1)
    assert from_padded(p, longer).equal(p)


@LAWS
@given(any_pack())
def test_a_file_gives_back_the_pack_bit_for_bit(p: Packed):
    with tempfile.TemporaryDirectory() as folder:
        p.save(Path(folder) / "p.safetensors")
        loaded = Packed.load(Path(folder) / "p.safetensors")
    assert loaded.equal(p)
    assert (loaded.items, loaded.lengths, loaded.pos.dtype) == (p.items, p.lengths, p.pos.dtype)
