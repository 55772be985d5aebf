"""Everything an EncoderConfig can say, against the slow twin: tables, prefix tokens, windows, gated layers, mergers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.encoder.encoder_cases import make, make_pack
from tests.encoder.encoder_reference import merged, norm, segment

from tubelet.encoder.config import Head, Merger, Rope, Table
from tubelet.encoder.layout import layout_of
from tubelet.encoder.model import Encoder
from tubelet.encoder.options import RunOptions
from tubelet.encoder.table import sincos
from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Packed, concat
from tubelet.pixels.recipe import PixelRecipe

AXES = Rope("rotation", split=(0, 1, 1), layout="halves")
BLOCK = PixelRecipe(patch=4, merge=2, order="block")
FIRST = Head("first")
OPTIONS: dict[str, dict] = {
    "clip": {
        "rope": None,
        "table": Table(3, 5, "bicubic", prefix=True),
        "prefix": 1,
        "post_norm": "pooled",
        "head": FIRST,
        "act": "quick_gelu",
    },
    "mlcd": {"rope": AXES, "prefix": 1, "prefix_angles": True, "post_norm": "pooled", "head": FIRST},
    "siglip": {
        "rope": None,
        "table": Table(4, 4, "bilinear_antialias"),
        "pre_norm": False,
        "patch_bias": True,
        "act": "gelu_tanh",
        "head": Head(norm="layer"),
    },
    "dinov2": {
        "rope": None,
        "table": Table(3, 3, "bicubic_antialias", prefix=True),
        "prefix": 3,
        "pre_norm": False,
        "patch_bias": True,
        "scale": True,
        "gated": True,
        "act": "silu",
        "head": FIRST,
    },
    "dinov3": {
        "rope": Rope("rotation", 100.0, (0, 1, 1), layout="halves", places="centred"),
        "prefix": 5,
        "pre_norm": False,
        "scale": True,
        "key_bias": False,
        "head": FIRST,
    },
    "aimv2": {
        "rope": None,
        "table": Table(1, 1, "sincos"),
        "pre_norm": False,
        "embed_norm": True,
        "norm": "rms",
        "gated": True,
        "act": "silu",
        "qkv_bias": False,
        "proj_bias": False,
        "mlp_bias": False,
        "head": Head("query", bias=False),
    },
    "pixtral": {
        "rope": Rope("rotation", split=(0, 1, 1), shift=(0, 0, 0.5), layout="halves"),
        "norm": "rms",
        "gated": True,
        "act": "silu",
        "qkv_bias": False,
        "pool": False,
        "post_norm": False,
    },
    "windows": {
        "rope": AXES,
        "norm": "rms",
        "pixels": BLOCK,
        "pre_norm": False,
        "pool": False,
        "post_norm": False,
        "spans": ("window", "frame", "window"),
        "span_side": 4,
        "merger": Merger(2, 40, norm="rms"),
    },
    "deepstack": {
        "rope": AXES,
        "pixels": BLOCK,
        "table": Table(3, 3, "corners"),
        "pre_norm": False,
        "pool": False,
        "post_norm": False,
        "merger": Merger(2, 40),
        "deepstack": (0, 2),
        "deepstack_merger": Merger(2, 40, joined=True),
    },
}
GRIDS = ((1, 6, 10), (3, 2, 4), (1, 2, 2), (1, 4, 4), (1, 3, 5))


def build(name: str) -> Encoder:
    return make(**{"spans": ("frame",), "prefix_per": "frame", **OPTIONS[name]})


def pack_for(encoder: Encoder, grids: tuple[tuple[int, int, int], ...] = GRIDS) -> Packed:
    merge = encoder.pixels.merge
    fitting = tuple(g for g in grids if g[1] % merge == 0 and g[2] % merge == 0)
    return make_pack(fitting, encoder.pixels.width, merge=merge)


def frames(p: Packed) -> list[tuple[int, slice, tuple[int, int]]]:
    """(item, rows, grid of a frame) of every frame."""
    out = []
    for i, item in enumerate(p.items):
        area = item.grid.h * item.grid.w
        out += [
            (i, slice(p.starts[i] + t * area, p.starts[i] + (t + 1) * area), (item.grid.h, item.grid.w))
            for t in range(item.grid.t)
        ]
    return out


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got.double(), want, atol=5e-5, rtol=2e-5)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("grad", [False, True])
def test_equals_the_slow_twin(name: str, grad: bool) -> None:
    encoder = build(name)
    p, c = pack_for(encoder), encoder.config
    with torch.set_grad_enabled(grad):
        got = encoder.features(p, only=range(c.layers + 1))
        assert encoder(p).equal(got.tokens)
    firsts: dict[int, list[torch.Tensor]] = {}
    for s, (item, rows, grid) in enumerate(frames(p)):
        states = segment(encoder, p.x[rows], p.pos[rows], grid)
        for i, want in enumerate(states):
            close(got.hidden[i].x[rows], want[c.prefix :])
            if c.prefix:
                close(got.hidden_prefix[i][s], want[: c.prefix])  # pyright: ignore
        last = states[-1]
        normed = norm(encoder.norm_post, last) if c.post_norm else last
        final = last if c.post_norm == "pooled" else normed
        close(got.trunk.x[rows], final[c.prefix :])
        if c.prefix:
            close(got.prefix[s], final[: c.prefix])  # pyright: ignore
            firsts.setdefault(item, []).append(normed[0])
        if encoder.merger is not None:
            small = slice(rows.start // 4, rows.stop // 4)
            close(got.tokens.x[small], merged(encoder.merger, final))
            for k, layer in enumerate(c.deepstack):
                close(got.deepstack[k].x[small], merged(encoder.deepstack[k], states[layer + 1]))  # pyright: ignore
    assert (got.pooled is not None) == encoder.can_pool == c.pool
    if c.head == FIRST:
        close(got.pooled, torch.stack([torch.stack(each).mean(0) for each in firsts.values()]))  # pyright: ignore


def test_the_query_head_is_one_softmax_over_an_item() -> None:
    encoder = build("aimv2")
    p = pack_for(encoder)
    got = encoder.features(p)
    c, head = encoder.config, encoder.pool
    for i, rows in enumerate(got.trunk.unpack()):
        k, v = (x.view(-1, c.heads, c.head_dim) for x in (rows.double() @ head.kv.weight.double().T).chunk(2, 1))  # pyright: ignore
        q = head.probe.double().view(c.heads, -1)  # pyright: ignore
        weights = (torch.einsum("hk,jhk->hj", q, k) / c.head_dim**0.5).softmax(-1)
        out = torch.einsum("hj,jhk->hk", weights, v).flatten()
        close(got.pooled[i], out @ head.out_proj.weight.double().T + head.out_proj.bias.double())  # pyright: ignore


@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(sorted(OPTIONS)), data=st.data())
def test_packed_equals_one_by_one(name: str, data: st.DataObject) -> None:
    encoder = build(name)
    m = encoder.pixels.merge
    side = st.integers(1, 4).map(lambda n: n * m)
    grids = data.draw(st.lists(st.tuples(st.integers(1, 3), side, side), min_size=1, max_size=4))
    p = make_pack(tuple(grids), encoder.pixels.width, merge=m)
    with torch.no_grad():
        together = encoder.features(p)
        alone = [encoder.features(one) for one in p.split([1] * len(p))]
    torch.testing.assert_close(together.tokens.x, concat([f.tokens for f in alone]).x, atol=2e-5, rtol=1e-5)
    if together.pooled is not None:
        torch.testing.assert_close(together.pooled, torch.cat([f.pooled for f in alone]), atol=2e-5, rtol=1e-5)  # pyright: ignore


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_reach_every_parameter_and_checkpointing_keeps_them(name: str) -> None:
    encoder = build(name)
    p = pack_for(encoder)
    grads = []
    for recompute in (False, True):
        encoder.set_run_options(RunOptions(gradient_checkpointing=recompute)).zero_grad()
        f = encoder.features(p)
        parts = [f.tokens.x, *([f.prefix] if f.prefix is not None else []), *(d.x for d in f.deepstack)]
        loss = sum((x.square().mean() for x in parts), f.tokens.x.new_zeros(()))
        (loss if f.pooled is None else loss + f.pooled.square().mean()).backward()
        missing = [n for n, w in encoder.named_parameters() if w.grad is None or not w.grad.abs().sum() > 0]
        assert not missing
        grads.append({n: w.grad.clone() for n, w in encoder.named_parameters() if w.grad is not None})
    for n, g in grads[0].items():
        torch.testing.assert_close(grads[1][n], g, atol=1e-6, rtol=1e-5, msg=n)
    if not encoder.config.key_bias:
        d = encoder.config.hidden
        assert not grads[0]["layers.0.qkv.bias"][d : 2 * d].any()


@pytest.mark.parametrize("name", OPTIONS)
def test_a_sick_item_harms_no_other(name: str) -> None:
    encoder = build(name)
    p = pack_for(encoder)
    x = p.x.clone()
    x[p.starts[1]] = torch.nan
    with torch.no_grad():
        healthy, got = encoder(p).unpack(), encoder(p.with_x(x)).unpack()
    assert got[1].isnan().any()
    for i in (0, *range(2, len(p))):
        torch.testing.assert_close(got[i], healthy[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["clip", "dinov3", "windows"])
def test_dropped_rows_keep_their_places(name: str) -> None:
    """What is left attends to what is left: the same as a segment that never had the other rows."""
    encoder = build(name)
    p = pack_for(encoder)
    keep = torch.rand(len(p.x), generator=torch.Generator().manual_seed(3)) < 0.6
    some = p.keep(keep)
    with torch.no_grad():
        got = encoder.trunk(some)
    for item, rows, grid in frames(p):
        left = keep[rows]
        if not left.any():
            continue
        want = segment(encoder, p.x[rows][left], p.pos[rows][left], grid)[-1][encoder.config.prefix :]
        want = norm(encoder.norm_post, want) if encoder.config.post_norm is True else want
        first = int(keep[: rows.start].sum())
        close(got.x[first : first + int(left.sum())], want)
        assert item < len(p)


def test_windows_put_equal_lengths_together() -> None:
    encoder = build("windows")
    p = make_pack(((2, 14, 10),), encoder.pixels.width, merge=2)
    layout = layout_of(p, encoder.config)
    assert layout.spans["frame"].lengths == (140, 140)
    assert layout.spans["window"].lengths == (4, *[8] * 2, *[8] * 3, *[16] * 6) * 2
    assert [count for _, count, _ in layout.spans["window"].runs] == [1, 5, 6, 1, 5, 6]


def test_windows_refuse_rows_in_another_order() -> None:
    encoder = build("windows")
    with pytest.raises(ShapeError, match="block order of 2"):
        encoder.trunk(make_pack(((1, 6, 6),), encoder.pixels.width, merge=1))


def test_a_grid_of_the_tables_size_takes_it_as_it_stands() -> None:
    encoder = build("clip")
    assert encoder.table is not None and encoder.table.weight is not None
    assert torch.equal(encoder.table.resized(3, 5, torch.device("cpu")), encoder.table.weight)


def test_sincos_is_its_formula() -> None:
    got = sincos(3, 4, 8, torch.device("cpu"))
    x, y = 2.0, 1.0  # row 1, column 2
    want = [f(v * w) for v in (x, y) for f in (torch.sin, torch.cos) for w in torch.tensor([1.0, 0.01])]
    torch.testing.assert_close(got[1 * 4 + 2], torch.stack(want))
    with pytest.raises(ShapeError, match="four parts"):
        sincos(2, 2, 6, torch.device("cpu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": FIRST}, "needs one"),
        ({"post_norm": "pooled"}, "final norm to itself"),
        ({"prefix_angles": True}, "need prefix tokens"),
        ({"span_side": 3, "pixels": BLOCK}, "do not hold whole"),
        ({"spans": ("window",)}, "need their side"),
        ({"spans": ()}, "a span is one of"),
        ({"prefix_first": True}, "need prefix tokens"),
        ({"rope": Rope("rotation", places="centred", origin=1)}, "have no origin"),
        ({"deepstack": (1,)}, "both the layers and the form"),
        ({"deepstack": (7,), "pixels": BLOCK, "deepstack_merger": Merger(2, 8)}, "layers count 0..2"),
        ({"rope": Rope(layout="halves")}, "turns neighbours"),
    ],
)
def test_impossible_configurations_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"backend": "flashy"}, "backend is one of auto, sdpa, varlen, flash"),
        ({"products": "mkl"}, "products is one of auto, blas, onednn"),
        ({"compile": 3}, "compile is auto, the name of a backend"),
        ({"rows_ahead": -1}, "rows_ahead counts rows"),
    ],
)
def test_ways_to_run_that_mean_nothing_are_refused(how: dict, message: str, as_in_production: None) -> None:
    with pytest.raises(ConfigError, match=message):
        RunOptions(**how)


def test_a_row_outside_its_grid_is_refused() -> None:
    encoder = build("clip")
    p = pack_for(encoder, ((1, 3, 5),))
    beyond = Packed(p.x, p.pos + 3, p.items, p.lengths)
    with pytest.raises(ShapeError, match="outside its grid"):
        encoder(beyond)


def test_in_place_inference_in_half_types_stays_near() -> None:
    for name in OPTIONS:
        encoder = build(name)
        p = pack_for(encoder)
        with torch.no_grad():
            want = encoder(p).x
            got = encoder.bfloat16()(p.with_x(p.x.bfloat16())).x
        similar = torch.nn.functional.cosine_similarity(want, got.float(), dim=1)
        assert float(similar.min()) > 0.995, name
