"""What a notebook shows, and the parts of a pack by index."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import tubelet
from tubelet import Clip, Item, Packed, PixelRecipe, pack, patchify
from tubelet.errors import ShapeError
from tubelet.inspect.budget.inputs import Input
from tubelet.inspect.metrics import Estimate
from tubelet.packed import Grid


def three() -> Packed:
    sizes = [(1, 2, 3), (2, 2, 2), (1, 1, 4)]
    items = [Item.of(*size, picture=i) for i, size in enumerate(sizes)]
    return pack([torch.full((item.grid.rows, 4), float(i)) for i, item in enumerate(items)], items)


# ---- items by index


def test_an_item_is_a_pack_of_its_rows():
    p = three()
    for i in range(-3, 3):
        one = p[i]
        assert one.lengths == (p.lengths[i],)
        assert one.items == (p.items[i],)  # with its picture's number
        assert torch.equal(one.x, p.unpack()[i])
    assert p[1].x.data_ptr() == p.unpack()[1].data_ptr()  # no copy


@pytest.mark.parametrize(
    "which", [slice(None), slice(1, None), slice(0, 2), slice(2, 1), slice(-2, None), slice(9, 12)]
)
def test_a_slice_is_a_pack_of_views(which: slice):
    p = three()
    assert p[which].items == p.items[which]
    assert p[which].lengths == p.lengths[which]
    assert torch.equal(p[which].x, torch.cat([p.x[:0], *p.unpack()[which]]))


def test_other_steps_and_loops():
    p = three()
    assert p[::-1].items == p.items[::-1]
    assert torch.equal(p[::2].x, torch.cat([p.unpack()[0], p.unpack()[2]]))
    assert [one.items[0] for one in p] == list(p.items)
    assert tubelet.concat(list(p), renumber=False).equal(p)


def test_an_index_beyond_the_last():
    with pytest.raises(IndexError):
        three()[3]
    with pytest.raises(TypeError):
        three()["a"]  # pyright: ignore


# ---- displays


def picture(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as page:
        assert page.format == "PNG"
        return np.asarray(page.convert("RGB"))


def test_a_clip_is_a_contact_sheet():
    frames = np.full((30, 36, 64, 3), 90, np.uint8)
    clip = Clip(frames, tuple(i / 10 for i in range(30)), "walk.mp4", is_video=True)
    page = picture(clip._repr_png_())
    assert max(page.shape) <= 900
    assert (page == 90).all(axis=2).mean() > 0.2


def test_a_pack_is_a_table_of_its_items():
    html = three().keep(torch.tensor([0, 1, 6]))._repr_html_()
    assert "3 rows of 4 values, float32, cpu; 3 items" in html
    assert "2 x 2 x 2" in html and "1 of 8" in html and "0.00 .. 1.00 s" in html
    many = pack([torch.zeros(1, 1)] * 50, [Item.of(1, 1, 1)] * 50)
    assert "... 30 more" in many._repr_html_()
    assert len(many._repr_html_()) < 20_000


def test_a_table_escapes_what_it_holds():
    html = tubelet.plan([Input(64, 64, name="<script>x</script>")], PixelRecipe(16))._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_a_plan_and_an_estimate():
    html = tubelet.plan([Input(64, 48), Input(32, 32, frames=2)], PixelRecipe(16))._repr_html_()
    assert "input 0" in html and "64 x 48" in html and "<tfoot>" in html and "20" in html
    assert Estimate(0.5, 0.25, 0.75, 12)._repr_html_() == "<b>0.500</b> <small>[0.250, 0.750] n=12</small>"
    assert Estimate(0.5, math.nan, math.nan, 1)._repr_html_() == "<b>0.500</b> <small>[unknown] n=1</small>"


# ---- p.show


def test_a_pack_is_shown_on_its_clips():
    clips = [Clip(np.full((1, 64, 96, 3), 100, np.uint8), (0.0,), "wall.png")]
    p = patchify(clips, PixelRecipe(16))
    whole = np.asarray(p.show(clips))
    kept = np.asarray(p.keep(torch.tensor([0, 7])).show(clips))
    assert (whole == 100).all(axis=2).sum() > 4 * (kept == 100).all(axis=2).sum() > 0
    assert max(whole.shape) <= 1200


def test_without_clips_the_grids_are_blank_and_of_many_some_are_shown():
    assert p_show(three()).shape[1] <= 1200
    clip = Clip(np.zeros((9, 16, 16, 3), np.uint8), tuple(map(float, range(9))), "w.mp4", is_video=True)
    p = patchify([clip] * 9, PixelRecipe(16))
    assert max(p_show(p).shape) < 3000


def p_show(p: Packed) -> np.ndarray:
    return np.asarray(p.show())


def test_clips_that_are_not_its_own():
    p = three()
    with pytest.raises(ShapeError, match="picture 1 of 1 clips"):
        p.show([Clip(np.zeros((1, 8, 8, 3), np.uint8), (0.0,), "a.png")])
    far = pack([torch.zeros(1, 1)], [Item(Grid(1, 1, 1), (0.0,), 0, (50.0, 50.0, 60.0, 60.0))])
    with pytest.raises(ShapeError, match="no part"):
        far.show([Clip(np.zeros((1, 8, 8, 3), np.uint8), (0.0,), "a.png")])
    with pytest.raises(ShapeError, match="no item"):
        pack([], []).show()


def test_a_box_of_any_size_is_drawn_as_small_as_others():
    """A file may say anything: without clips nothing as large as the box is made."""
    item = replace(Item.of(1, 2, 3), box=(5.0, -7.0, 3e9, 2e9))
    p = pack([torch.zeros(6, 4)], [item])
    shown = p.show()
    assert np.array_equal(np.asarray(shown), np.asarray(pack([torch.zeros(6, 4)], [Item.of(1, 2, 3)]).show()))
    assert max(p.keep(torch.tensor([0, 5])).show().size) < 1200
