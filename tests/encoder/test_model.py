"""The packed encoder against its slow twin, against itself one by one, and in every way it can run."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.encoder.encoder_cases import GRIDS, make, make_merging, make_pack
from tests.encoder.encoder_reference import hidden, norm, pooled
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from tubelet.encoder import cpu
from tubelet.encoder.attention import Segments
from tubelet.encoder.config import EncoderConfig, Merger, Rope
from tubelet.encoder.model import Encoder
from tubelet.encoder.options import RunOptions
from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Item, Packed, concat, pack
from tubelet.pixels.recipe import PixelRecipe

VARIATIONS = {
    "plain": {},
    "rms": {"norm": "rms"},
    "eps": {"eps": 3e-3, "head_eps": 0.1},
    "tanh": {"act": "gelu_tanh"},
    "quick": {"act": "quick_gelu"},
    "rotation": {"rope": Rope(mode="rotation", theta=100.0)},
    "patch bias": {"patch_bias": True},
    "head dim 96": {"hidden": 192, "layers": 1},
}


@pytest.mark.parametrize("name", VARIATIONS)
@pytest.mark.parametrize("grad", [False, True])
def test_equals_the_slow_twin(name: str, grad: bool, packed: Packed) -> None:
    encoder = make(**VARIATIONS[name])
    with torch.set_grad_enabled(grad):
        states = encoder.hidden_states(packed)
        tokens = encoder(packed)
        pools = encoder.pooled(tokens)
    for i, (a, b) in enumerate(zip(packed.starts, packed.starts[1:], strict=False)):
        expected = hidden(encoder, packed.x[a:b], packed.pos[a:b], [b - a])
        for got, want in zip(states, expected, strict=True):
            torch.testing.assert_close(got.x[a:b].double(), want, atol=3e-5, rtol=1e-5)
        final = norm(encoder.norm_post, expected[-1])
        torch.testing.assert_close(tokens.x[a:b].double(), final, atol=3e-5, rtol=1e-5)
        torch.testing.assert_close(pools[i].double(), pooled(encoder, final), atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("only", [(0,), (3,), (2, 0), (1, 1, 3), ()], ids=str)
def test_only_the_hidden_states_asked_for(only: tuple[int, ...], grad: bool, packed: Packed) -> None:
    encoder = make()
    with torch.set_grad_enabled(grad):
        every, some = encoder.hidden_states(packed), encoder.hidden_states(packed, only=only)
    assert len(some) == len(only)
    for i, state in zip(only, some, strict=True):
        assert state.equal(every[i])


@pytest.mark.parametrize("number", [-1, 4])
def test_a_hidden_state_there_is_none_of_is_an_error(number: int, packed: Packed) -> None:
    with pytest.raises(ConfigError, match=r"0\.\.3"):
        make().hidden_states(packed, only=(1, number))


@pytest.mark.parametrize("window", [1, 2, 3])
def test_windows_cut_attention_by_frames(window: int) -> None:
    encoder = make(spans=("frame",), span_frames=window)
    p = make_pack(((5, 2, 3),))
    lengths = [min(window, 5 - first) * 6 for first in range(0, 5, window)]
    expected = hidden(encoder, p.x, p.pos, lengths)
    with torch.no_grad():
        torch.testing.assert_close(encoder.hidden_states(p)[-1].x.double(), expected[-1], atol=3e-5, rtol=1e-5)
        given_segments = make().hidden_states(p, segments=Segments(tuple(lengths)))[-1]
        assert torch.equal(given_segments.x, encoder.hidden_states(p)[-1].x)


def test_given_positions_replace_the_grid(encoder: Encoder) -> None:
    p = make_pack(((2, 3, 2),))
    places = p.pos.float() * torch.tensor([7.5, 1.0, 1.0]) + 0.25
    expected = hidden(encoder, p.x, places, [12])
    with torch.no_grad():
        torch.testing.assert_close(
            encoder.hidden_states(p, positions=places)[-1].x.double(), expected[-1], atol=3e-5, rtol=1e-5
        )
        assert torch.equal(encoder(p, positions=p.pos.float()).x, encoder(p).x)


@settings(max_examples=25, deadline=None)
@given(
    grids=st.lists(st.tuples(*[st.integers(1, 4)] * 3), min_size=1, max_size=6),
    data=st.data(),
)
def test_packed_equals_one_by_one_in_any_order(grids: list[tuple[int, int, int]], data: st.DataObject) -> None:
    encoder, p = make(layers=2), make_pack(tuple(grids))
    order = data.draw(st.permutations(range(len(grids))))
    with torch.no_grad():
        whole, shuffled = encoder(p), encoder(p.reorder(order))
        alone = concat([encoder(one) for one in p.split([1] * len(p))], renumber=False)
        torch.testing.assert_close(whole.x, alone.x, atol=1e-5, rtol=0)
        torch.testing.assert_close(shuffled.x, whole.reorder(order).x, atol=1e-5, rtol=0)
        torch.testing.assert_close(encoder.pooled(shuffled), encoder.pooled(whole)[list(order)], atol=1e-5, rtol=0)
        assert shuffled.items == tuple(p.items[i] for i in order)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("grad", [False, True])
def test_a_sick_item_harms_no_other(bad: float, grad: bool, encoder: Encoder, packed: Packed) -> None:
    rows = packed.x.clone()
    rows[packed.starts[1] + 3, 7] = bad
    healthy = [i for i in range(len(packed)) if i != 1]
    with torch.set_grad_enabled(grad):
        clean, sick = encoder(packed), encoder(packed.with_x(rows))
        assert torch.equal(sick.reorder(healthy).x, clean.reorder(healthy).x)
        assert torch.equal(encoder.pooled(sick)[healthy], encoder.pooled(clean)[healthy])
        assert sick.unpack()[1].isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, packed: Packed) -> None:
    half, full = make().to(dtype), make()
    full.load_state_dict(half.float().state_dict())
    half = half.to(dtype)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            got, want = half(packed), full(packed)
            pools = torch.cosine_similarity(half.pooled(got).float(), full.pooled(want), dim=1)
        assert got.dtype == dtype
        assert torch.cosine_similarity(got.x.float(), want.x, dim=1).min() > 0.999
        assert pools.min() > 0.999


def test_without_half_arithmetic_the_work_is_float32(monkeypatch: pytest.MonkeyPatch, packed: Packed) -> None:
    half = make().to(torch.bfloat16)
    full = make()
    full.load_state_dict(half.state_dict())
    with torch.no_grad():
        monkeypatch.setattr(cpu, "has_arithmetic", lambda dtype: dtype == torch.float32)
        wide = half(packed)
        assert torch.equal(wide.x, half.norm_post(full.hidden_states(packed)[-1].x.bfloat16()))
        monkeypatch.setattr(cpu, "has_arithmetic", lambda dtype: True)
        narrow = half(packed)
    assert torch.cosine_similarity(narrow.x.float(), wide.x.float(), dim=1).min() > 0.999
    assert not torch.equal(narrow.x, wide.x)


def test_in_place_inference_leaves_its_input_alone_and_repeats_bit_for_bit(encoder: Encoder, packed: Packed) -> None:
    before = packed.x.clone()
    with torch.no_grad():
        first, second = encoder(packed), encoder(packed)
    assert torch.equal(packed.x, before)
    assert first.equal(second)


def test_more_rows_than_a_block(encoder: Encoder) -> None:
    p = make_pack(((1, 97, 89), (2, 9, 9)))
    assert p.x.shape[0] > cpu.BLOCK
    with torch.no_grad():
        fast = encoder(p)
    torch.testing.assert_close(fast.x, encoder(p).x.detach(), atol=2e-5, rtol=1e-5)


def test_anything_attached_to_a_layer_is_called(encoder: Encoder, packed: Packed) -> None:
    seen: list[str] = []
    with torch.no_grad():
        plain = encoder(packed)
        handle = encoder.layers[1].qkv.register_forward_hook(lambda *_: seen.append("hook"))  # pyright: ignore
        hooked = encoder(packed)
        handle.remove()

        class Doubled(torch.nn.Linear):
            def forward(self, input: torch.Tensor) -> torch.Tensor:
                return super().forward(input) * 2

        swapped = make()
        doubled = Doubled(64, 96)
        doubled.load_state_dict(swapped.layers[0].fc1.state_dict())  # pyright: ignore
        swapped.layers[0].fc1 = doubled  # pyright: ignore
        other = swapped(packed)

        class Half(torch.nn.Module):
            def forward(self, w: torch.Tensor) -> torch.Tensor:
                return w / 2

        halved = make()
        parametrize.register_parametrization(halved.layers[0].fc1, "weight", Half())  # pyright: ignore
        third = halved(packed)
    assert seen == ["hook"]
    torch.testing.assert_close(hooked.x, plain.x, atol=2e-5, rtol=0)
    assert (other.x - plain.x).abs().max() > 0.01
    assert (third.x - plain.x).abs().max() > 0.01


def test_gradients_reach_everything_and_checkpointing_keeps_them(packed: Packed) -> None:
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        encoder = make()
        encoder.set_run_options(RunOptions(gradient_checkpointing=checkpointing))
        tokens = encoder(packed.with_x(packed.x.clone().requires_grad_()))
        (tokens.x.square().mean() + encoder.pooled(tokens).square().mean()).backward()
        return {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}

    plain, saved = gradients(False), gradients(True)
    assert plain.keys() == saved.keys() == {n for n, _ in make().named_parameters()}
    for name, g in plain.items():
        assert g.isfinite().all()
        assert g.abs().max() > 0, name
        torch.testing.assert_close(saved[name], g, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("merge", [2, 3])
def test_merger_joins_neighbours(merge: int) -> None:
    encoder = make_merging(merge)
    p = make_pack(((2, 2 * merge, 3 * merge), (1, merge, merge)), merge=merge)
    with torch.no_grad():
        trunk, out = encoder.trunk(p), encoder(p)
        assert [tuple(i.grid) for i in out.items] == [(2, 2, 3), (1, 1, 1)]
        assert out.pos.tolist() == [[t, h, w] for t in (0, 1) for h in (0, 1) for w in (0, 1, 2)] + [[0, 0, 0]]
        merger = encoder.merger
        assert merger is not None
        for row in (0, 7, 12):
            owner, place = (0, out.pos[row]) if row < 12 else (1, out.pos[row])
            a, b = trunk.starts[owner], trunk.starts[owner + 1]
            here = [
                x
                for x, (t, h, w) in zip(trunk.x[a:b], trunk.pos[a:b].tolist(), strict=True)
                if t == place[0] and h // merge == place[1] and w // merge == place[2]
            ]
            by_hand = merger.fc2(torch.nn.functional.gelu(merger.fc1(torch.cat([merger.norm(x) for x in here]))))
            torch.testing.assert_close(out.x[row], by_hand, atol=1e-5, rtol=1e-5)


def test_merger_for_inference_equals_the_module_in_every_type() -> None:
    p = make_pack(((2, 4, 6), (1, 2, 2)), merge=2)
    for dtype, close in ((torch.float32, 0.99999), (torch.bfloat16, 0.999)):
        encoder = make_merging(2).to(dtype)
        with torch.no_grad():
            fast = encoder(p)
        slow = encoder(p)
        assert fast.dtype == dtype
        assert torch.cosine_similarity(fast.x.float(), slow.x.float(), dim=1).min() > close


def test_merger_refuses_rows_it_would_scramble() -> None:
    encoder = make_merging(2)
    raster = make_pack(((1, 4, 4),))
    with torch.no_grad():
        with pytest.raises(ShapeError, match="block order"):
            encoder(raster)
        block = make_pack(((1, 4, 4),), merge=2)
        for rows in (torch.arange(13), torch.arange(2, 14), torch.tensor([0, 1, 3, 2])):
            with pytest.raises(ShapeError, match="every row of its blocks"):
                encoder(block.keep(rows))
        assert encoder(block.keep(torch.arange(4, 16))).pos.tolist() == [[0, 0, 1], [0, 1, 0], [0, 1, 1]]
        odd = make_pack(((1, 4, 4), (1, 3, 4)))
        with pytest.raises(ShapeError, match="no 2 x 2 blocks") as e:
            encoder(odd)
    assert e.value.item == 1


def test_wrong_input_is_named(encoder: Encoder, packed: Packed) -> None:
    with pytest.raises(ShapeError, match="rows hold 20 values, this encoder reads 48") as e:
        encoder(packed.with_x(torch.zeros(len(packed.x), 20)))
    assert (e.value.expected, e.value.got) == (48, 20)
    with pytest.raises(ShapeError, match="positions must be"):
        encoder(packed, positions=torch.zeros(3, 3))
    with pytest.raises(ShapeError, match="segments sum to 4"):
        encoder(packed, segments=Segments((4,)))
    with pytest.raises(ConfigError, match="no pooling head"):
        make(pool=False).pooled(packed)


def test_empty_packs_and_empty_items(encoder: Encoder, packed: Packed) -> None:
    empty = Packed(torch.zeros(0, 48), torch.zeros(0, 3, dtype=torch.int32), (), ())
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            out = encoder(empty)
            assert out.x.shape == (0, 64)
            assert encoder.pooled(out).shape == (0, 64)
            few = packed.keep(torch.arange(packed.starts[1], packed.starts[3]))
            tokens = encoder(few)
            assert tokens.lengths[0] == 0
            pools = encoder.pooled(tokens)
            assert pools.isfinite().all()
            assert torch.equal(pools[0], torch.zeros(64))
            whole = encoder.pooled(encoder(packed.reorder([1, 2])))
            torch.testing.assert_close(pools[1:3], whole, atol=1e-5, rtol=0)


def test_keeping_everything_changes_nothing(encoder: Encoder, packed: Packed) -> None:
    with torch.no_grad():
        assert encoder(packed.keep(torch.arange(len(packed.x)))).equal(encoder(packed))


def test_uint8_rows_equal_normalised_rows() -> None:
    encoder = make(pixels=PixelRecipe(patch=4, temporal=2))
    recipe = encoder.pixels
    items = [Item.of(2, 3, 3), Item.of(1, 2, 5)]
    g = torch.Generator().manual_seed(5)
    p = pack([torch.randint(0, 256, (i.grid.rows, 96), generator=g, dtype=torch.uint8) for i in items], items)
    mean, std = (torch.tensor(v).repeat_interleave(32) for v in (recipe.mean, recipe.std))
    floats = p.with_x((p.x.float() / 255 - mean) / std)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(encoder(p).x, encoder(floats).x, atol=3e-5, rtol=1e-5)
    half = encoder.to(torch.bfloat16)
    with torch.no_grad():
        assert torch.cosine_similarity(half(p).x.float(), half(floats).x.float(), dim=1).min() > 0.999


def test_the_fold_is_differentiable_and_follows_the_weights() -> None:
    encoder = make()
    rows = torch.randint(0, 256, (6, 48), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    p = pack([rows], [Item.of(1, 2, 3)])
    mean, std = (torch.tensor(v).repeat_interleave(16) for v in (encoder.pixels.mean, encoder.pixels.std))
    normal = p.with_x((p.x.float() / 255 - mean) / std)
    grads = []
    for q in (p, normal):
        encoder.zero_grad()
        encoder(q).x.square().mean().backward()
        assert encoder.patch.weight.grad is not None
        grads.append(encoder.patch.weight.grad.clone())
    torch.testing.assert_close(grads[0], grads[1], atol=1e-5, rtol=1e-3)
    with torch.no_grad():
        before = encoder(p).x
        encoder.patch.weight.mul_(1.5)
        assert not torch.equal(encoder(p).x, before)


class NoSync(TorchDispatchMode):
    """Fails when anything reads a value back to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func), f"{func} waits for the device"
        assert "nonzero" not in str(func), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("build_one", [make, make_merging])
def test_forward_reads_no_value_back(build_one: Callable[..., Encoder]) -> None:
    """On the meta device there is no value to read: every size must come from the host."""
    encoder = build_one().to("meta")
    merge = encoder.pixels.merge
    host = make_pack(((3, 2 * merge, merge), (1, merge, merge)), merge=merge)
    p = Packed(host.x.to("meta"), host.pos.to("meta"), host.items, host.lengths)
    with NoSync():
        tokens = encoder(p)
        assert tokens.x.shape == (len(p.x) // merge**2, encoder.config.out)
        if encoder.pool is not None:
            assert encoder.pooled(tokens).shape == (2, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 65}, "do not divide"),
        ({"hidden": 48}, "not a multiple of 32"),
        ({"layers": 0}, "at least 1"),
        ({"span_frames": 0}, "at least one row of time"),
        ({"post_norm": False}, "pool needs post_norm"),
        ({"merger": Merger(merge=2, out=8)}, "block order of 2"),
        ({"eps": -1.0}, "must not be negative"),
    ],
)
def test_impossible_configurations_are_refused(changes: dict, message: str) -> None:
    fields = {"hidden": 64, "layers": 1, "heads": 2, "mlp": 96, "pixels": PixelRecipe(patch=4), **changes}
    with pytest.raises(ConfigError, match=message):
        EncoderConfig(**fields)


def test_grids_of_the_fixture_cover_odd_even_and_single() -> None:
    assert {g[0] for g in GRIDS} >= {1, 3, 4}
    assert (1, 1, 1) in GRIDS


@pytest.mark.parametrize("part", ["patch", "norm_embed", "norm_pre", "norm_post", "layers.0", "layers.1.fc1"])
@pytest.mark.parametrize("way", ["hook", "forward"])
def test_what_hangs_on_any_part_is_called_in_place_too(part: str, way: str, packed: Packed) -> None:
    """A hook, and a forward put in place of a part's own, as offloading does."""
    encoder = make(embed_norm=True)
    seen: list[str] = []
    module = encoder.get_submodule(part)
    own: Any = module.forward

    def instead(*args: Any) -> Any:
        seen.append(part)
        return own(*args)

    if way == "hook":
        module.register_forward_hook(lambda *_: seen.append(part))
    else:
        module.forward = instead  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        encoder(packed)
    assert seen == [part]
