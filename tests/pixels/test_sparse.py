"""Sparse clips: real rows of the whole clip in their true places, an exact budget, cuts and motion found."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.encoder.encoder_cases import make, make_merging
from tests.reading.codec.codec_clips import glide, gliding, made, scenes, still, three_scenes
from tests.reading.video.video_clips import encoded

import tubelet
from tubelet.errors import DecodeError, InputError, LimitError, UnsupportedFormat
from tubelet.packed import Packed
from tubelet.pixels.patchify import patchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.sparse import MOTION_LEVELS, Sparse, read_sparse, shares
from tubelet.reading.limits import Limits

PLAIN = PixelRecipe(patch=8)  # 12 x 20 patches
BLOCK = PixelRecipe(patch=8, merge=2, order="block")
TIME = PixelRecipe(patch=8, merge=2, order="block", temporal=2)
RECIPES = [
    PLAIN,
    BLOCK,
    TIME,
    PixelRecipe(patch=8, merge=2),
    PixelRecipe(patch=7, rule="shortest_crop", size=63),
    PixelRecipe(patch=6, rule="smart", max_pixels=4000),
]


def sparse(data: bytes, recipe: PixelRecipe = PLAIN, **options: object) -> Sparse:
    found = read_sparse(data, recipe, **{"isolate": "never", "fps": 25.0, **options})
    found.packed.check()
    return found


def key_of(p: Packed) -> np.ndarray:
    """A number for each row's place."""
    _, h, w = p.items[0].grid
    pos = p.pos.long().numpy()
    return (pos[:, 0] * h + pos[:, 1]) * w + pos[:, 2]


def assert_rows_of(found: Sparse, whole: Packed) -> None:
    """Every row is the one that `patchify(read())` has in that place; order and item are its too."""
    assert found.packed.items == whole.items and found.packed.dtype == torch.uint8
    index = {k: i for i, k in enumerate(key_of(whole).tolist())}
    rows = [index[k] for k in key_of(found.packed).tolist()]
    assert rows == sorted(rows)
    assert torch.equal(found.packed.x, whole.x[rows])


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("signal", ["auto", "difference"])
def test_rows_are_those_of_the_whole_clip(recipe: PixelRecipe, signal: str):
    data = three_scenes()
    whole = patchify(tubelet.read(data, num_frames=11, isolate="never"), recipe)
    total, group = whole.x.shape[0], recipe.merge**2
    for budget in (0, 7, total // 2, total + 1):
        found = sparse(data, recipe, budget=budget, num_frames=11, fps=None, signal=signal)
        assert_rows_of(found, whole)
        assert found.packed.x.shape[0] == min(budget, total) // group * group
        assert found.scores.shape == (found.packed.x.shape[0],)


def test_everything_is_the_clip_itself():
    data = three_scenes()
    whole = patchify(tubelet.read(data, fps=5.0, isolate="never"), TIME)
    assert sparse(data, TIME, budget=10**6, fps=5.0).packed.equal(whole)


@pytest.mark.parametrize("recipe", [BLOCK, TIME, PixelRecipe(patch=8, merge=2)], ids=str)
def test_merge_blocks_stay_whole(recipe: PixelRecipe):
    found = sparse(three_scenes(), recipe, budget=333)
    assert found.packed.x.shape[0] == 332
    blocks = found.packed.pos.long() // torch.tensor([1, 2, 2])
    counts = torch.unique(blocks, dim=0, return_counts=True)[1]
    assert (counts == 4).all()
    if recipe.order == "block":
        assert (blocks.view(-1, 4, 3) == blocks.view(-1, 4, 3)[:, :1]).all()


def slow_energy(found: Sparse, recipe: PixelRecipe) -> np.ndarray:
    """(t, h, w) energy of patches that are 8 x 8 cells themselves, summed over the frames of a row of time."""
    energy = found.signals.error_levels + found.signals.motion_px * (MOTION_LEVELS / recipe.patch)
    pad = -len(energy) % recipe.temporal
    energy = np.concatenate([energy, np.zeros((pad, *energy.shape[1:]))])
    return energy.reshape(-1, recipe.temporal, *energy.shape[1:]).sum(1)


@pytest.mark.parametrize("recipe", [PLAIN, TIME], ids=str)
def test_scores_are_energies_of_blocks(recipe: PixelRecipe):
    """Where patches are cells, a block's energy is the mean over its cells; below the noise it counts as none."""
    found = sparse(three_scenes(), recipe, budget=10**6)
    energy, m = slow_energy(found, recipe), recipe.merge
    t, h, w = found.packed.items[0].grid
    blocks = energy.reshape(t, h // m, m, w // m, m).mean((2, 4)).repeat(m, 1).repeat(m, 2)
    pos = found.packed.pos.long().numpy()
    want = blocks[pos[:, 0], pos[:, 1], pos[:, 2]]
    np.testing.assert_allclose(found.scores.numpy(), np.where(want < 0.5, 0, want), rtol=1e-4, atol=1e-3)


def test_shares_of_cells():
    edges = (0.0, 8.0, 16.0, 20.0)
    found = shares(edges, np.array([0.0, 5.0, 12.0]), np.array([5.0, 12.0, 20.0]))
    want = np.zeros((3, 3))
    for p, (a, b) in enumerate(((0, 5), (5, 12), (12, 20))):
        for x in range(a, b):
            want[p, sum(x >= e for e in edges[1:])] += 1 / (b - a)
    np.testing.assert_allclose(found, want)


# ---- what is kept


def kept(found: Sparse) -> list[int]:
    """Rows of each t."""
    return torch.bincount(found.packed.pos[:, 0].long(), minlength=found.packed.items[0].grid.t).tolist()


@pytest.mark.parametrize("kind", ["h264_b", "mpeg2", "vp9", "hevc"])
def test_first_frame_and_cuts_are_whole_and_what_moves_is_kept(kind: str):
    found = sparse(three_scenes(kind), budget=1440)  # six frames' worth
    assert found.cut_t == (13, 29) and found.whole_t == (0, 13, 29)
    rows = kept(found)
    assert [rows[t] for t in (0, 13, 29)] == [240] * 3 and sum(rows) == 1440
    moving = [t for t in range(40) if t not in (0, 13, 29)]
    square = found.packed.pos.long()[torch.isin(found.packed.pos[:, 0].long(), torch.tensor(moving))]
    inside = (square[:, 1] >= 2) & (square[:, 1] < 8) & (square[:, 2] >= 1) & (square[:, 2] < 11)
    assert inside.float().mean() > (0.7 if kind == "mpeg2" else 0.85) and min(rows) > 0  # its noise fades slowly


def test_a_tight_budget_starves_no_cut():
    found = sparse(made("h264_b", scenes((6, 6, 6, 6, 6))), budget=100)
    assert found.cut_t == (6, 12, 18, 24) and found.whole_t == ()
    rows = kept(found)
    assert all(rows[t] >= 10 for t in (0, 6, 12, 18, 24))


def test_key_frames_are_whole_when_cuts_leave_room():
    options = {"crf": "12", "x264-params": "keyint=10:min-keyint=10:bframes=2:scenecut=0"}
    data = encoded("mp4", "libx264", gliding(40, 1.0), options=options)
    found = sparse(data, budget=1920)
    assert found.cut_t == () and found.whole_t == (0, 10, 20, 30)
    assert sparse(data, budget=1200, dense=0.4).whole_t == (0, 20)  # spread, not the first ones
    assert sparse(data, budget=1200, dense=0.0).whole_t == ()


def test_a_still_clip_is_covered_evenly():
    found = sparse(still(), budget=4 * 240)
    assert found.whole_t == (0,)
    rows = kept(found)
    assert sum(r == 240 for r in rows) == 4 and sum(r > 0 for r in rows) == 4
    assert np.diff([t for t, r in enumerate(rows) if r]).max() <= 8


def test_a_rotated_clip_keeps_what_moves_upright():
    options = {"g": "60", "bf": "0", "refs": "1", "sc_threshold": "0", "crf": "12"}
    data = encoded("mp4", "libx264", gliding(12, 2.0), options=options, turn={"degrees": 90})
    whole = patchify(tubelet.read(data, fps=25.0, isolate="never"), PLAIN)
    found = sparse(data, budget=900)
    assert_rows_of(found, whole)
    plain = sparse(encoded("mp4", "libx264", gliding(12, 2.0), options=options), budget=900)
    h, w = found.packed.items[0].grid[1:]
    assert (h, w) == (20, 12)
    masks = []
    for p in (plain.packed, found.packed):
        mask = np.zeros(p.items[0].grid, bool)
        mask[tuple(p.pos.long().numpy().T)] = True
        masks.append(mask[1:])  # of the first frame all patches are kept
    turned = [np.rot90(masks[0], k, axes=(1, 2)) for k in (1, 3)]
    assert max((t == masks[1]).mean() for t in turned) > 0.97


def test_uneven_times_stay_true():
    stamps = [0, 1, 2, 10, 11, 12, 40, 41]
    data = encoded("mp4", "libx264", gliding(8, 2.0), stamps=stamps, tick=Fraction(1, 20))
    found = sparse(data, TIME, budget=200, num_frames=100, fps=None)
    assert found.packed.items[0].times_s == pytest.approx((0.0, 0.1, 0.55, 2.0))
    assert found.signals.times_s == pytest.approx(tuple(s / 20 for s in stamps))


def test_the_same_each_time():
    once, again = (sparse(three_scenes("mpeg2"), TIME, budget=500) for _ in range(2))
    assert once.packed.equal(again.packed) and torch.equal(once.scores, again.scores)


# ---- on through an encoder


def test_an_encoder_takes_it_directly():
    found = sparse(three_scenes(), PixelRecipe(patch=4), budget=300, fps=5.0)
    encoder = make(pixels=PixelRecipe(patch=4))
    tokens = encoder(found.packed)
    assert tokens.items == found.packed.items and torch.equal(tokens.pos, found.packed.pos)


def test_a_merger_takes_whole_blocks():
    encoder = make_merging()
    recipe = encoder.pixels
    found = sparse(three_scenes(), recipe, budget=400, fps=5.0)
    merged = encoder(found.packed)
    assert merged.x.shape == (100, 40)
    assert torch.equal(merged.pos[:, 1:].long(), found.packed.pos[::4, 1:].long() // 2)
    assert merged.items[0].grid == (8, 12, 20)
    broken = found.packed.keep(torch.arange(1, 401 - 4))
    with pytest.raises(tubelet.errors.ShapeError, match="every row of its blocks"):
        encoder(broken)
    odd = found.packed.keep(torch.arange(1, 400))
    with pytest.raises(tubelet.errors.ShapeError, match="every row of its blocks"):
        encoder(odd)


def test_a_merger_gives_each_block_what_it_gives_alone():
    """Without attention between frames, a block's token does not depend on which other frames were kept."""
    encoder = make_merging(spans=("frame",))
    whole = patchify(tubelet.read(three_scenes(), fps=5.0, isolate="never"), encoder.pixels)
    frames = whole.keep((whole.pos[:, 0] == 2) | (whole.pos[:, 0] == 5))
    want = encoder(whole)
    chosen = want.keep((want.pos[:, 0] == 2) | (want.pos[:, 0] == 5))
    torch.testing.assert_close(encoder(frames).x, chosen.x, atol=1e-5, rtol=1e-5)


# ---- wrong and damaged input


def test_budgets_and_shares_that_make_no_sense():
    with pytest.raises(InputError, match="0 rows or more"):
        sparse(still(), budget=-1)
    with pytest.raises(InputError, match=r"a share of 0\.\.1"):
        sparse(still(), budget=5, dense=1.5)
    with pytest.raises(LimitError, match="rows to keep"):
        sparse(still(), budget=500, limits=Limits(max_tokens=100))
    with pytest.raises(InputError, match="exports no motion vectors"):
        sparse(still("vp9"), budget=5, signal="vectors")
    assert sparse(still(), budget=0).packed.x.shape == (0, PLAIN.width)


def test_a_picture_is_no_video():
    with pytest.raises(UnsupportedFormat, match="not a video"):
        read_sparse(Path(__file__).parents[2] / "examples" / "receipt.png", PLAIN, budget=10)


@pytest.mark.parametrize("isolate", ["never", "always"])
def test_a_cut_file(isolate: str):
    data = made("h264_b", scenes((13, 16, 11)), muxing={"movflags": "faststart"})
    cut = data[: len(data) * 2 // 3]
    found = sparse(cut, TIME, budget=500, num_frames=10, fps=None, isolate=isolate)
    assert not found.complete and any("cut or damaged" in note for note in found.notes)
    assert_rows_of(found, patchify(tubelet.read(cut, num_frames=10, isolate="never"), TIME))
    assert found.packed.x.shape[0] == 500
    with pytest.raises(DecodeError):
        sparse(data[: len(data) // 20], budget=5, isolate=isolate)


@pytest.mark.parametrize("seed", range(4))
def test_damage_in_the_middle(seed: int):
    data = bytearray(made("h264_b", scenes((13, 16, 11))))
    rng = np.random.default_rng(seed)
    for place in rng.integers(len(data) // 4, len(data) * 3 // 4, 6):
        data[place] ^= 1 << int(rng.integers(8))
    try:
        clips = tubelet.read(bytes(data), num_frames=20, isolate="never")
    except InputError as error:
        with pytest.raises(type(error)):
            sparse(bytes(data), TIME, budget=500, num_frames=20, fps=None)
        return
    found = sparse(bytes(data), TIME, budget=500, num_frames=20, fps=None)
    assert_rows_of(found, patchify(clips, TIME))
    assert found.packed.x.shape[0] == min(500, found.packed.items[0].grid.rows)


@pytest.mark.parametrize("recipe", [PLAIN, TIME], ids=str)
@pytest.mark.parametrize("kind", ["h264_b", "vp9"])
def test_the_child_gives_the_same(kind: str, recipe: PixelRecipe):
    data = three_scenes(kind)
    here, there = (sparse(data, recipe, budget=444, isolate=i) for i in ("never", "always"))
    assert here.packed.equal(there.packed) and torch.equal(here.scores, there.scores)
    assert (here.whole_t, here.cut_t) == (there.whole_t, there.cut_t)


def test_a_large_motion_is_followed_in_the_right_place():
    """Energy lies where the square is, also when the picture is resized and cropped."""
    recipe = PixelRecipe(patch=7, rule="shortest_crop", size=63)
    found = sparse(glide("h264_p", 2.0), recipe, budget=10**6)
    left, top, right, bottom = found.packed.items[0].box
    _, h, w = found.packed.items[0].grid
    pos, score = found.packed.pos.long().numpy(), found.scores.numpy()
    y = top + (pos[:, 1] + 0.5) * (bottom - top) / h
    x = left + (pos[:, 2] + 0.5) * (right - left) / w
    for t in range(3, 12):
        mine = pos[:, 0] == t
        cx, cy = 16 + 2 * t + 24, 16 + 24
        inside = mine & (np.abs(x - cx) < 14) & (np.abs(y - cy) < 14)
        outside = mine & ((np.abs(x - cx) > 40) | (np.abs(y - cy) > 40))
        assert score[inside].mean() > 2 and score[outside].mean() < 0.1
