"""`VLM.encode` gives what it would with an empty cache, whoever wrote to the weights and however."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.language.vlm.tiny_speakers import llama
from torch import Tensor, nn

from tubelet import Packed, patchify, untrained
from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.options import RunOptions
from tubelet.language import build_projector
from tubelet.language.placing.rules import LLAVA
from tubelet.language.vlm.model import VLM
from tubelet.language.vlm.scheme import Scheme
from tubelet.language.vlm.state_key import state_key
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.clip import Clip

PIXELS = PixelRecipe(14)


def model() -> VLM:
    torch.manual_seed(0)
    encoder = untrained(EncoderConfig(hidden=48, layers=2, heads=2, mlp=64, pixels=PIXELS, rope=None, table=None))
    projector = build_projector("linear", 48, 48)
    return VLM(encoder, llama(), Scheme(LLAVA, PIXELS), projector=projector).eval()


def patches(seed: int = 0) -> Packed:
    frames = np.random.default_rng(seed).integers(0, 256, (1, 28, 42, 3), dtype=np.uint8)
    return patchify([Clip(frames, (0.0,))], PIXELS)


def rows(vlm: VLM, p: Packed) -> Tensor:
    with torch.no_grad():
        return vlm.encode(p).tokens.x.clone()


def weight_of(vlm: VLM) -> Tensor:
    layer: Any = vlm.encoder.layers[0]
    return layer.fc1.weight


# ---- writers: what changes weights, and by which way


def optimiser(**how: Any) -> Callable[[VLM], None]:
    def step(vlm: VLM) -> None:
        made = torch.optim.AdamW(vlm.encoder.parameters(), lr=1e-2, **how)
        vlm.encode(patches()).tokens.x.sum().backward()
        made.step()

    return step


def frozen_again(vlm: VLM) -> None:
    """Trained by a fused step and frozen before anybody asks."""
    optimiser(fused=True)(vlm)
    vlm.encoder.requires_grad_(False)


def written(vlm: VLM) -> None:
    with torch.no_grad():
        weight_of(vlm).mul_(1.5)


def behind_its_back(vlm: VLM) -> None:
    weight_of(vlm).data.mul_(1.5)


def by_numpy(vlm: VLM) -> None:
    weight_of(vlm).detach().numpy()[:] *= 1.5


def loaded(vlm: VLM) -> None:
    vlm.encoder.load_state_dict({name: t * 1.5 for name, t in vlm.encoder.state_dict().items()})


def replaced(vlm: VLM) -> None:
    layer: Any = vlm.encoder.layers[0]
    layer.fc1.weight = nn.Parameter(layer.fc1.weight.detach() * 1.5)


def one_value(vlm: VLM) -> None:
    weight_of(vlm).data[3, 5] += 0.5


def another_eps(vlm: VLM) -> None:
    for part in vlm.encoder.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = 10.0


def doubled(_: nn.Module, __: Any, out: Any) -> Any:
    return out * 2


def hooked(vlm: VLM) -> None:
    vlm.encoder.layers[0].register_forward_hook(doubled)


def early_hook(vlm: VLM) -> None:
    vlm.encoder.layers[0].register_forward_pre_hook(lambda _, given: (given[0] * 2, *given[1:]))


def forward_replaced(vlm: VLM) -> None:
    layer = vlm.encoder.layers[0]
    own = layer.forward
    layer.forward = lambda x, inputs: own(x, inputs) * 2  # pyright: ignore[reportAttributeAccessIssue]


def fewer_layers(vlm: VLM) -> None:
    vlm.encoder.layers = vlm.encoder.layers[:1]


def parametrised(vlm: VLM) -> None:
    class Twice(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight * 2

    torch.nn.utils.parametrize.register_parametrization(vlm.encoder.get_submodule("layers.0.fc1"), "weight", Twice())


WRITERS = [
    optimiser(foreach=True), optimiser(fused=True), frozen_again, written, behind_its_back, by_numpy, loaded, replaced,
    one_value, another_eps, hooked, early_hook, forward_replaced, fewer_layers, parametrised,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITERS, ids=lambda w: w.__qualname__.removesuffix(".<locals>.step"))
def test_what_is_served_is_what_an_empty_cache_gives(write: Callable[[VLM], None]):
    vlm, p = model(), patches()
    before = rows(vlm, p)
    write(vlm)
    served = rows(vlm, p)
    vlm.cache.clear()
    true = rows(vlm, p)
    assert torch.equal(served, true)
    assert not torch.allclose(before, true, atol=1e-3)


def test_adapters_switched_scaled_and_merged_are_never_served_stale():
    vlm, p = model(), patches()
    rows(vlm, p)
    adapted: Any = get_peft_model(
        vlm.encoder,  # pyright: ignore[reportArgumentType]
        LoraConfig(r=2, lora_alpha=64, target_modules=["qkv", "fc1"], init_lora_weights=False),
    )

    def scaled() -> None:
        parts: list[Any] = [part for part in vlm.encoder.modules() if hasattr(part, "scaling")]
        for part in parts:
            part.scaling["default"] *= 3

    seen = []
    for change in (
        lambda: None,
        adapted.base_model.disable_adapter_layers,
        adapted.base_model.enable_adapter_layers,
        scaled,
        adapted.merge_adapter,
        adapted.unmerge_adapter,
    ):
        change()
        served = rows(vlm, p)
        vlm.cache.clear()
        true = rows(vlm, p)
        assert torch.equal(served, true)
        seen.append(true)
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)
    assert not torch.allclose(seen[2], seen[3], atol=1e-3)


def test_weights_of_another_type_are_other_weights():
    vlm, p = model(), patches()
    narrow = copy.deepcopy(vlm)
    rows(vlm, p)
    narrow.cache = vlm.cache
    narrow.encoder.to(torch.bfloat16)
    assert narrow.features(p)[0].x.dtype == torch.bfloat16
    with torch.no_grad():
        assert narrow.cache.counts.hits == 0
        narrow.projector.to(torch.bfloat16)  # pyright: ignore[reportOptionalMemberAccess]
        narrow.encode(p)
    assert vlm.cache.counts.hits == 0
    with torch.no_grad():
        vlm.encode(p)
    assert vlm.cache.counts.hits == 1


def test_what_is_served_may_be_written_to():
    """Rows of one item, with no projector between them and the cache."""
    vlm, p = model(), patches()
    vlm.projector = None
    want = rows(vlm, p)
    for _ in range(2):
        with torch.no_grad():
            given = vlm.encode(p).tokens
            given.x.zero_()
            given.pos.zero_()
    assert vlm.cache.counts.hits == 2
    assert torch.equal(rows(vlm, p), want)


def test_features_of_weights_that_change_meanwhile_are_not_kept():
    """Another thread writes between the look at the weights and the end of the run, and undoes it later."""
    vlm, p = model(), patches()
    run, kept = vlm.features, weight_of(vlm).detach().clone()

    def disturbed(patches: Packed) -> tuple[Packed, ...]:
        weight_of(vlm).data.mul_(2)
        return run(patches)

    vlm.features = disturbed  # pyright: ignore[reportAttributeAccessIssue]
    rows(vlm, p)
    del vlm.features
    weight_of(vlm).data.copy_(kept)
    served = rows(vlm, p)
    vlm.cache.clear()
    assert torch.equal(served, rows(vlm, p))


def test_threads_get_the_rows_of_their_own_items():
    vlm = model()
    packs = [patches(i) for i in range(6)]
    want = [rows(vlm, p) for p in packs]
    vlm.cache.clear()
    vlm.cache.limit_bytes = 4 * (want[0].nbytes + 700)
    wrong: list[int] = []

    def work(start: int) -> None:
        for i in range(6):
            n = (start + i) % len(packs)
            if not torch.allclose(rows(vlm, packs[n]), want[n], atol=1e-6):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert vlm.cache.bytes <= vlm.cache.limit_bytes
    rows(vlm, packs[0])  # whether threads met what others had left is theirs; now it is there
    before = vlm.cache.counts.hits
    assert torch.allclose(rows(vlm, packs[0]), want[0], atol=1e-6)
    assert vlm.cache.counts.hits == before + 1


# ---- the key


def odd_weights() -> nn.Module:
    """Every length mod 8 bytes, views that begin anywhere, and one that takes several sums."""
    drawn = torch.randn(150_000, generator=torch.Generator().manual_seed(1))
    part = nn.Linear(3, 3)
    for i in range(1, 9):
        part.register_buffer(f"b{i}", drawn[i : 2 * i + 3].to(torch.bfloat16))
        part.register_buffer(f"v{i}", drawn[i : 2 * i + 3])
    part.register_buffer("long", drawn.clone())
    part.register_buffer("turned", drawn[:12].clone().view(3, 4).T)
    return part


def test_every_bit_of_every_weight_is_in_the_key():
    part = odd_weights()
    first = state_key(part)
    assert first is not None
    assert state_key(part) == first
    seen: set[str | None] = {first}
    generator = torch.Generator().manual_seed(2)
    for name, t in [*part.named_parameters(), *part.named_buffers()]:
        flat = t.detach().clone().reshape(-1).view(torch.uint8)
        for at in {0, len(flat) - 1, int(torch.randint(len(flat), (), generator=generator))}:
            changed = copy.deepcopy(part)
            bits = flat.clone()
            bits[at] ^= 1
            getattr(changed, name).data.copy_(bits.view(t.dtype).view(t.shape))
            seen.add(state_key(changed))
    assert None not in seen
    assert len(seen) > 2 * (len(list(part.buffers())) + 2)


def test_changes_that_cancel_in_a_plain_sum_do_not_cancel():
    """Two signs flipped, two values swapped, all negated, a value moved: bits that add up to the same."""
    part = nn.Linear(64, 64, bias=False)
    seen = [state_key(part)]
    weight = part.weight.data
    for change in (
        lambda: weight[0, 1::2].neg_(),
        lambda: weight[0, 1].neg_() + weight[0, 3].neg_(),
        lambda: weight[1, :2].copy_(weight[1, :2].flip(0)),
        lambda: weight.neg_(),
        lambda: weight.copy_(weight.flip(0)),
        lambda: weight.fill_(1.0),
        lambda: weight.fill_(0.5),
    ):
        change()
        seen.append(state_key(part))
    assert None not in seen
    assert len(set(seen)) == len(seen)


def test_parts_of_unknown_kinds_have_no_key():
    encoder = model().encoder
    assert state_key(encoder) is not None
    assert state_key(nn.Sequential(nn.Linear(2, 2), nn.Dropout())) is None
    assert state_key(nn.Linear(2, 2, device="meta")) is None
    encoder.set_run_options(RunOptions(compile=lambda graph, _: graph))
    assert state_key(encoder) is None
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert state_key(model().encoder) is None
    finally:
        handle.remove()


def test_the_key_is_that_of_the_values():
    """A copy has it, training or not is another, and weights made in inference mode have one."""
    encoder = model().encoder
    assert state_key(copy.deepcopy(encoder)) == state_key(encoder)
    training = copy.deepcopy(encoder).train()
    assert state_key(training) != state_key(encoder)
    with torch.inference_mode():
        assert state_key(nn.Linear(2, 2)) is not None
