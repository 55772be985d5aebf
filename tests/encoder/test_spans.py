"""Layers with spans of their own: frames, items, scenes and windows in one encoder, against one dense mask for each."""

from dataclasses import replace

import pytest
import torch
from tests.encoder.encoder_cases import make, make_pack
from tests.encoder.span_reference import states_of

import tubelet
from tubelet.encoder.attention import Segments
from tubelet.encoder.attention_scores import attention_scores
from tubelet.encoder.config import EncoderConfig, Rope
from tubelet.encoder.layout import layout_of
from tubelet.encoder.model import Encoder
from tubelet.encoder.options import RunOptions
from tubelet.encoder.spans import span_lengths, whole_cuts
from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Packed
from tubelet.pixels.recipe import PixelRecipe

BARE: dict = {"pre_norm": False, "pool": False, "post_norm": False}
BLOCK = PixelRecipe(patch=4, merge=2, order="block")
SPANS: dict[str, dict] = {
    "vggt": {
        **BARE,
        "spans": ("frame", "scene"),
        "layers": 4,
        "prefix": 5,
        "prefix_per": "frame",
        "prefix_first": True,
        "qk_norm": "layer",
        "eps": 1e-5,
        "patch_bias": True,
        "scale": True,
        "rope": Rope("rotation", 100.0, (0, 1, 1), layout="halves", origin=1),
    },
    "prefix of items": {"spans": ("frame", "item"), "prefix": 2, "pool": False, "qk_norm": "rms", "norm": "rms"},
    "windows behind prefixes": {
        **BARE,
        "pixels": BLOCK,
        "spans": ("window", "frame", "scene"),
        "span_side": 4,
        "prefix": 3,
        "prefix_per": "frame",
    },
    "windows in two frames": {
        "pool": False,
        "spans": ("window", "frame", "item"),
        "span_side": 2,
        "span_frames": 2,
        "prefix": 2,
        "prefix_per": "frame",
        "qk_norm": "layer",
    },
    "windows behind items": {"pool": False, "spans": ("window", "item"), "span_side": 3, "prefix": 1, "layers": 2},
    "no prefix": {"pool": False, "spans": ("scene", "item", "frame"), "qk_norm": "rms"},
}
GRIDS = ((1, 4, 6), (1, 4, 6), (1, 4, 6), (3, 2, 4), (1, 6, 2), (3, 4, 4), (1, 2, 2))
SCENES = (3, 1, 2, 1)
close = {"atol": 5e-5, "rtol": 2e-5}


def build_spans(name: str) -> Encoder:
    return make(**SPANS[name])


def pack_spans(encoder: Encoder) -> Packed:
    return make_pack(GRIDS, encoder.pixels.width, merge=encoder.pixels.merge)


def scenes_for(encoder: Encoder) -> tuple[int, ...] | None:
    return SCENES if "scene" in encoder.config.spans else None


def twin(encoder: Encoder, p: Packed) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return states_of(encoder, p, scenes_for(encoder) or (1,) * len(p))


@pytest.mark.parametrize("name", SPANS)
@pytest.mark.parametrize("grad", [False, True], ids=["in place", "modules"])
@pytest.mark.parametrize("dropped", [False, True])
def test_equals_one_dense_mask_for_each_span(name: str, grad: bool, dropped: bool) -> None:
    encoder = build_spans(name)
    p, every = pack_spans(encoder), range(encoder.config.layers + 1)
    if dropped:  # half of the rows, the whole first item, and so the first frame of a scene, among them
        keep = torch.rand(len(p.x), generator=torch.Generator().manual_seed(3)) < 0.5
        keep[: p.starts[1]] = False
        p = p.keep(keep)
    with torch.set_grad_enabled(grad):
        got = encoder.features(p, only=every, scenes=scenes_for(encoder))
    for i, (rows, prefix) in enumerate(twin(encoder, p)):
        torch.testing.assert_close(got.hidden[i].x.double(), rows, **close)
        if encoder.config.prefix:
            own = got.hidden_prefix[i]
            assert own is not None
            torch.testing.assert_close(own.double(), prefix, **close)


@pytest.mark.parametrize("name", SPANS)
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_those_of_the_dense_masks(name: str, recompute: bool) -> None:
    encoder = build_spans(name).set_run_options(RunOptions(gradient_checkpointing=recompute))
    p, last = pack_spans(encoder), encoder.config.layers
    g = torch.Generator().manual_seed(7)
    ran = encoder.run(p, only=[last], scenes=scenes_for(encoder))
    weights = [torch.randn(len(p.x), 64, generator=g), torch.randn(64, generator=g)]
    parts = [ran.rows(p, last).x, ran.prefixes(last)]
    loss = sum((x * w.to(x.dtype)).mean() for x, w in zip(parts, weights, strict=True) if x is not None)
    names = [n for n, _ in encoder.named_parameters() if not n.startswith("norm_post")]
    leaves = [encoder.get_parameter(n) for n in names]
    assert isinstance(loss, torch.Tensor)
    got = torch.autograd.grad(loss, leaves)
    rows, prefix = twin(encoder, p)[-1]
    expected = (rows * weights[0]).mean() + ((prefix * weights[1]).mean() if encoder.config.prefix else 0)
    for n, a, b in zip(names, got, torch.autograd.grad(expected, leaves), strict=True):
        assert a.abs().sum() > 0, n
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3, msg=n)


@pytest.mark.parametrize("name", SPANS)
@pytest.mark.parametrize("grad", [False, True], ids=["in place", "modules"])
def test_a_nan_stays_in_its_scene(name: str, grad: bool) -> None:
    encoder = build_spans(name)
    p, scenes = pack_spans(encoder), scenes_for(encoder)
    rows = p.x.clone()
    rows[p.starts[4]] = torch.nan  # in the third scene, of items 4 and 5
    with torch.set_grad_enabled(grad):
        clean = encoder.trunk(p, scenes=scenes).unpack()
        sick = encoder.trunk(p.with_x(rows), scenes=scenes).unpack()
    reached = {4, 5} if "scene" in encoder.config.spans else {4}
    for i in range(len(p)):
        assert torch.equal(sick[i], clean[i]) if i not in reached else sick[i].isnan().any(), i


@pytest.mark.parametrize("name", ["vggt", "windows behind prefixes"])
def test_a_scene_does_not_depend_on_its_neighbours(name: str) -> None:
    encoder = build_spans(name)
    p = pack_spans(encoder)
    with torch.no_grad():
        together = encoder(p, scenes=SCENES)
        for part, scene in zip(p.split(SCENES), together.split(SCENES), strict=True):
            alone = encoder(part, scenes=(len(part),))
            torch.testing.assert_close(alone.x, scene.x, atol=1e-5, rtol=0)
        apart = encoder(p)  # nobody says which items are one scene: each is one by itself
        torch.testing.assert_close(apart.x, encoder(p, scenes=[1] * len(p)).x, atol=0, rtol=0)
        assert (apart.x - together.x).abs().max() > 0.01


def test_frames_after_the_first_may_change_places() -> None:
    """VGGT knows no order of frames but which is the first."""
    encoder = build_spans("vggt")
    p = make_pack(((1, 4, 6),) * 4)
    order = [0, 3, 1, 2]
    with torch.no_grad():
        straight, turned = encoder(p, scenes=(4,)), encoder(p.reorder(order), scenes=(4,))
        torch.testing.assert_close(turned.x, straight.reorder(order).x, atol=1e-5, rtol=0)
        other = encoder(p.reorder([1, 0, 2, 3]), scenes=(4,)).reorder([1, 0, 2, 3])
    assert (other.x - straight.x).abs().max() > 0.01


@pytest.mark.parametrize("grad", [False, True], ids=["in place", "modules"])
def test_states_in_pairs(grad: bool) -> None:
    encoder = build_spans("vggt")
    p = pack_spans(encoder)
    with torch.set_grad_enabled(grad):
        every = encoder.hidden_states(p, scenes=SCENES)
        pairs = encoder.hidden_states(p, only=[(3, 4), 2], scenes=SCENES)
        ran = encoder.run(p, only=[(1, 2)], until=2, scenes=SCENES)
        got = encoder.features(p, only=[(1, 2)], scenes=SCENES)
    assert torch.equal(pairs[0].x, torch.cat([every[3].x, every[4].x], dim=1))
    assert torch.equal(pairs[1].x, every[2].x)
    assert set(ran.states) == {1, 2}
    assert torch.equal(ran.rows(p, (1, 2)).x, got.hidden[0].x)
    frames = sum(i.grid.t for i in p.items)
    camera = ran.prefixes((1, 2))
    assert camera is not None
    assert camera.shape == (frames, 5, 128)
    assert got.hidden_prefix[0] is not None
    assert torch.equal(camera, got.hidden_prefix[0])
    with pytest.raises(ConfigError, match=r"0\.\.4"):
        encoder.run(p, only=[(4, 5)])


def test_half_types_stay_near() -> None:
    for name in SPANS:
        encoder = build_spans(name)
        p, scenes = pack_spans(encoder), scenes_for(encoder)
        with torch.no_grad():
            want, got = encoder(p, scenes=scenes).x, encoder.bfloat16()(p.with_x(p.x.bfloat16()), scenes=scenes).x
        slow = encoder(p.with_x(p.x.bfloat16()), scenes=scenes).x
        for x in (got, slow):
            assert torch.nn.functional.cosine_similarity(want, x.float(), dim=1).min() > 0.99, name


@pytest.mark.parametrize("name", SPANS)
def test_lengths_are_those_of_the_layout(name: str) -> None:
    encoder = build_spans(name)
    p, scenes = pack_spans(encoder), scenes_for(encoder)
    layout = layout_of(p, encoder.config, scenes=scenes)
    counted = span_lengths(encoder.config, [whole_cuts(encoder.config, i.grid) for i in p.items], scenes)
    assert {span: segments.lengths for span, segments in layout.spans.items()} == counted
    assert {segments.total for segments in layout.spans.values()} == {layout.total}


def test_attention_received_goes_by_the_layers_span() -> None:
    encoder = build_spans("no prefix")
    p = make_pack(GRIDS)
    for layer, parts in ((1, len(p)), (2, sum(i.grid.t for i in p.items))):
        got = attention_scores(encoder, p, layer=layer).received
        torch.testing.assert_close(got.sum(), torch.tensor(float(parts)), atol=1e-3, rtol=0)
    cls = make(**SPANS["prefix of items"])
    with pytest.raises(ConfigError, match="one for each item"):
        attention_scores(cls, p, layer=0, queries="first")
    assert attention_scores(cls, p, layer=1, queries="first").received.shape == (len(p.x),)


def test_keys_are_those_that_attention_compares() -> None:
    encoder = build_spans("no prefix")
    p = make_pack(GRIDS)
    block = encoder.layers[0]
    with torch.no_grad():
        k = block.heads_of(encoder.hidden_states(p, only=[0])[0].x)[1]  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(attention_scores(encoder, p, layer=0).keys, k.flatten(1))
    torch.testing.assert_close(
        k.square().mean(-1), (block.norm_k.weight**2).mean().expand(k.shape[:2]), atol=0.5, rtol=1
    )  # pyright: ignore


def test_random_weights_fill_every_parameter() -> None:
    encoder = tubelet.untrained(EncoderConfig(hidden=64, heads=2, mlp=96, pixels=PixelRecipe(4), **SPANS["vggt"]))
    assert encoder.prefix_first is not None
    assert bool(encoder.prefix_first.abs().min() > 0)
    assert torch.equal(encoder.layers[0].norm_q.weight, torch.ones(32))  # pyright: ignore


def test_equal_encoders_have_equal_configurations() -> None:
    config = make(layers=4, spans=("frame", "scene")).config
    assert config == make(layers=4, spans=("frame", "scene", "frame", "scene")).config
    assert replace(config, layers=1).spans == ("frame",)
    assert make(layers=2, spans=("item", "item", "scene")).config.spans == ("item",)


def test_what_does_not_fit_is_named() -> None:
    p = make_pack(GRIDS)
    encoder = build_spans("vggt")
    with pytest.raises(ShapeError, match="do not make the pack's 7") as e:
        encoder(p, scenes=(3, 3))
    assert (e.value.expected, e.value.got) == (7, (3, 3))
    with pytest.raises(ShapeError, match="do not make"):
        encoder(p, scenes=(7, 0))
    with pytest.raises(ConfigError, match="several spans makes its segments itself"):
        encoder(p, segments=Segments((len(p.x),)))
    with pytest.raises(ConfigError, match="no part of this encoder sees scenes"):
        make()(p, scenes=(7,))
