"""Adapters: hand counts, values before and after, files that peft reads, merges, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tubelet
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, InputError, KeyMismatch, RunError, UnsafeFile, WeightsError
from tubelet.language.project.projector import build_projector
from tubelet.language.vlm.lavida import LAVIDA_TOWER, FrontEnd
from tubelet.packed import Packed
from tubelet.pixels.patchify import from_pixels
from tubelet.pixels.views_plan import ViewRule
from tubelet.train.lora import SEED, UPSTREAM, Lora, add_lora, load_lora, lora_numbers, merge_lora, save_lora
from tubelet.train.parts import percent, set_trainable

WIDTH, HIDDEN = 24, 16
RULE = ViewRule(28, ((28, 56), (56, 28)), pool="bilinear", join="flat")
SMALL = Lora(
    ("projector.0", "projector.2", "encoder.layers.1.qkv.q", "encoder.layers.1.qkv.v", "encoder.layers.0.fc1"), 3
)


def front(seed: int = 0, **changes: object) -> FrontEnd:
    torch.manual_seed(seed)
    config = replace(LAVIDA_TOWER, hidden=HIDDEN, layers=2, heads=2, mlp=20, **changes)
    encoder = tubelet.untrained(config)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.normal_(0, 0.2)
    return FrontEnd(encoder, build_projector("mlp2x_gelu", HIDDEN, WIDTH), RULE, depth=2).eval()


def moved(model: nn.Module, seed: int = 1) -> nn.Module:
    """Adapters with values that are not their starting ones."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=g) * 0.2)
    return model


def values(model: FrontEnd) -> Tensor:
    """What the model makes of fixed patches, with gradients on so that no shortcut is taken."""
    g = torch.Generator().manual_seed(5)
    pixels = torch.rand(2, 3, 28, 42, generator=g) * 2 - 1
    p: Packed = from_pixels(pixels, model.encoder.pixels)
    return model.projector(model.features(p).rows).x.detach()


# ---- counts


def whole_front() -> FrontEnd:
    """LaViDa's front end at full size, without memory."""
    with torch.device("meta"):
        encoder = Encoder(LAVIDA_TOWER)
        return FrontEnd(
            encoder,
            build_projector("mlp2x_gelu", 1152, 4096),
            depth=26,
            newline=torch.zeros(4096, device="meta"),
        )


def by_hand(rank: int, shapes: list[tuple[int, int]]) -> int:
    return sum(rank * (fan_in + fan_out) for fan_in, fan_out in shapes)


MATRICES = [(1152, 4096), (4096, 4096)]


@pytest.mark.parametrize(
    ("preset", "count", "share"),
    [
        (SEED, by_hand(64, MATRICES), "0.011"),
        (UPSTREAM, by_hand(64, [*MATRICES, *[(1152, 1152)] * (4 * 3 + 2 * 2)]), "0.040"),
    ],
)
def test_presets_count_what_shapes_say(preset: Lora, count: int, share: str):
    model = whole_front()
    assert count in (860_160, 3_219_456)
    assert add_lora(model, preset) == lora_numbers(model) == count
    [line] = set_trainable(model, "lora")
    assert (line.parameters, line.tensors) == (count, 2 * len(preset.targets))
    # LLaDA 8B: 32 layers of four 4096 x 4096 and three 4096 x 12288, 126,464 words in and out, norms
    language_model = 32 * (4 * 4096**2 + 3 * 4096 * 12288 + 2 * 4096) + 2 * 126_464 * 4096 + 4096
    assert language_model == 8_015_581_184
    assert percent(count, language_model) == share


# ---- values


def test_fresh_adapters_change_nothing_and_moved_ones_do_as_the_formula_says():
    model = front()
    before, old = values(model), {k: v.clone() for k, v in model.state_dict().items()}
    add_lora(model, SMALL)
    torch.testing.assert_close(values(model), before, rtol=1e-6, atol=1e-6)
    moved(model)
    x = torch.randn(4, HIDDEN)
    a, b = (model.get_parameter(f"projector.0.lora_{t}.default.weight") for t in "AB")
    want = x @ old["projector.0.weight"].T + old["projector.0.bias"] + 16 / 3 * (x @ a.T @ b.T)
    torch.testing.assert_close(model.get_submodule("projector.0")(x), want, rtol=1e-5, atol=1e-5)
    q, v = (
        [model.get_parameter(f"encoder.layers.1.qkv.{part}.lora_{t}.default.weight") for t in "AB"] for part in "qv"
    )
    fused = x @ old["encoder.layers.1.qkv.weight"].T + old["encoder.layers.1.qkv.bias"]
    zero = torch.zeros(4, HIDDEN)
    added = torch.cat([x @ q[0].T @ q[1].T, zero, x @ v[0].T @ v[1].T], dim=1) * 16 / 3
    torch.testing.assert_close(model.get_submodule("encoder.layers.1.qkv")(x), fused + added, rtol=1e-5, atol=1e-5)


def test_every_adapter_learns_and_nothing_else():
    model = front()
    add_lora(model, SMALL)
    set_trainable(model, "lora")
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=0.01)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    g = torch.Generator().manual_seed(5)
    p = from_pixels(torch.rand(2, 3, 28, 42, generator=g), model.encoder.pixels)
    for _ in range(2):
        optimizer.zero_grad()
        model.projector(model.features(p).rows).x.square().mean().backward()
        optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if "lora_" in k} and len(changed) == 2 * len(SMALL.targets)


def test_without_gradients_the_fast_path_does_not_go_around_adapters():
    model = moved_front()
    g = torch.Generator().manual_seed(5)
    p = from_pixels(torch.rand(1, 3, 28, 28, generator=g), model.encoder.pixels)
    slow = model.features(p).rows.x.detach()
    with torch.no_grad():
        torch.testing.assert_close(model.features(p).rows.x, slow, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(front().features(p).rows.x, slow, atol=1e-3)


# ---- files


def moved_front() -> FrontEnd:
    model = front()
    add_lora(model, SMALL)
    moved(model)
    return model


def test_an_adapter_reloads_bit_by_bit(tmp_path: Path):
    model = moved_front()
    save_lora(model, tmp_path / "a")
    assert sorted(f.name for f in (tmp_path / "a").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert sum(t.numel() for t in load_file(tmp_path / "a" / "adapter_model.safetensors").values()) == lora_numbers(
        model
    )
    other = front()
    assert load_lora(other, tmp_path / "a") == SMALL
    mine, theirs = model.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert torch.equal(values(model), values(other))


def test_peft_itself_reads_the_files_where_nothing_was_split(tmp_path: Path):
    model, plain = front(), Lora(("projector.0", "encoder.layers.0.fc1"), 3)
    add_lora(model, plain)
    save_lora(moved(model), tmp_path / "a")
    theirs = front()
    wrapped = peft.PeftModel.from_pretrained(theirs, str(tmp_path / "a"))  # pyright: ignore[reportArgumentType]
    assert torch.equal(values(wrapped.base_model.model), values(model))  # pyright: ignore


def test_what_peft_saves_is_read(tmp_path: Path):
    theirs = front()
    config = peft.LoraConfig(
        r=3, lora_alpha=16, lora_dropout=0.05, target_modules=["projector.0", "encoder.layers.0.fc1"]
    )
    wrapped = peft.get_peft_model(theirs, config).eval()  # pyright: ignore[reportArgumentType]
    moved(wrapped)
    wrapped.save_pretrained(str(tmp_path / "a"))
    model = front()
    assert load_lora(model, tmp_path / "a") == Lora(("encoder.layers.0.fc1", "projector.0"), 3)
    assert torch.equal(values(model), values(theirs))


def test_a_folder_in_use_stays_and_a_model_without_adapters_saves_none(tmp_path: Path):
    model = moved_front()
    save_lora(model, tmp_path / "a")
    with pytest.raises(WeightsError):
        save_lora(model, tmp_path / "a")
    save_lora(model, tmp_path / "a", overwrite=True)
    with pytest.raises(InputError):
        save_lora(front(), tmp_path / "b")
    with pytest.raises(RunError, match="in shares"):
        model.get_parameter("projector.0.lora_A.default.weight").data = torch.empty(0)
        save_lora(model, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def damaged(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(folder / "adapter_model.safetensors")
    change(state)
    save_file(state, folder / "adapter_model.safetensors")


FIRST = "base_model.model.projector.0.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda s: s.pop(FIRST), "missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected"),
        (lambda s: s.update({FIRST: torch.zeros(3, HIDDEN + 1)}), "misshaped"),
    ],
)
def test_an_adapter_of_another_model_is_refused_and_changes_nothing(tmp_path: Path, change: Callable, field: str):
    save_lora(moved_front(), tmp_path / "a")
    damaged(tmp_path / "a", change)
    other = front()
    before = list(other.state_dict())
    with pytest.raises(KeyMismatch) as caught:
        load_lora(other, tmp_path / "a")
    assert len(getattr(caught.value, field)) == 1 and list(other.state_dict()) == before


@pytest.mark.parametrize(
    "change", [{"use_dora": True}, {"use_rslora": True}, {"bias": "all"}, {"peft_type": "IA3"}, {"r": "many"}]
)
def test_configurations_of_something_else_are_refused(tmp_path: Path, change: dict):
    save_lora(moved_front(), tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError):
        load_lora(front(), tmp_path / "a")


def test_a_file_that_is_none_and_a_second_adapter_are_refused(tmp_path: Path):
    model = moved_front()
    save_lora(model, tmp_path / "a")
    with pytest.raises(ConfigError, match="merge them first"):
        load_lora(model, tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(UnsafeFile):
        load_lora(front(), tmp_path / "a")
    with pytest.raises(ConfigError):
        load_lora(front(), tmp_path / "nowhere")


# ---- merging


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_model_is_one_of_its_own_kind_with_the_same_values(dtype: torch.dtype):
    model = moved_front().to(dtype)
    want, plain = values(model), front()
    assert merge_lora(model) == len(SMALL.targets)
    scale = float(want.abs().max())
    limit = (1e-5 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps) * scale
    torch.testing.assert_close(values(model), want, rtol=0, atol=limit)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    with pytest.raises(InputError):
        merge_lora(model)
    add_lora(model, SMALL)  # and it can be adapted again


def test_a_merged_projector_is_saved_as_any_other(tmp_path: Path):
    model = moved_front()
    merge_lora(model)
    path = tubelet.save_projector(model.projector, tmp_path / "p.safetensors")
    again = tubelet.load_projector(path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.projector.parameters(), strict=True))


def test_adapters_that_are_not_finite_are_not_merged():
    model = moved_front()
    before = values(model)
    with torch.no_grad():
        model.get_parameter("projector.2.lora_B.default.weight")[0, 0] = torch.nan
    with pytest.raises(RunError, match="NaN") as caught:
        merge_lora(model)
    assert caught.value.source == "projector.2"
    with torch.no_grad():
        moved(model)
    assert torch.equal(values(model), before)  # nothing had been merged


# ---- refusals


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("projector.1", "a GELU"),
        ("projector.3", "near it are projector"),
        ("mm_projector.0", "near it are projector.0"),
        ("encoder.layers.0.qkv.r", "no module"),
        ("encoder.layers.0.norm1", "a LayerNorm"),
        ("encoder.patch", "PatchEmbed"),
        ("encoder.layers.9.fc1", "near it are encoder.layers"),
    ],
)
def test_what_cannot_be_wrapped_is_refused_before_anything_changes(target: str, said: str):
    model = front()
    before = [(name, type(m)) for name, m in model.named_modules()]
    learns = [w.requires_grad for w in model.parameters()]
    with pytest.raises(ConfigError, match=said):
        add_lora(model, Lora(("encoder.layers.1.qkv.q", target), 2))
    assert [(name, type(m)) for name, m in model.named_modules()] == before
    assert [w.requires_grad for w in model.parameters()] == learns


def test_matrices_that_their_owner_reads_are_refused():
    """An adapter there would be gone around: its owner multiplies by the weight and never calls the module."""
    pooled = front(pool=True)
    with pytest.raises(ConfigError, match="AttentionPool reads"):
        add_lora(pooled, Lora(("encoder.pool.in_proj",)))
    add_lora(pooled, Lora(("encoder.pool.fc1",)))
    keyless = front(key_bias=False)
    for target in ("encoder.layers.0.qkv", "encoder.layers.0.qkv.q"):
        with pytest.raises(ConfigError, match="Layer reads"):
            add_lora(keyless, Lora((target,)))
    linear = nn.ModuleDict({"projector": build_projector("linear", 4, 5)})
    with pytest.raises(ConfigError, match="a Linear, adapters"):
        add_lora(linear, Lora(("projector",)))


def test_a_target_is_one_module_and_not_those_that_end_like_it():
    model = nn.ModuleDict({"projector": build_projector("mlp2x_gelu", 4, 5), "other": nn.ModuleDict()})
    inner: nn.ModuleDict = model["other"]  # pyright: ignore[reportAssignmentType]
    inner["projector"] = build_projector("mlp2x_gelu", 4, 5)
    assert add_lora(model, Lora(("projector.0",), 2)) == 2 * (4 + 5)


def test_adapters_do_not_stack():
    model = front()
    add_lora(model, SMALL)
    with pytest.raises(ConfigError, match="already"):
        add_lora(model, Lora(("projector.0",)))


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"targets": ()}, {"targets": ("a", "a")}]
)
def test_presets_that_mean_nothing_are_refused(wrong: dict):
    with pytest.raises(ConfigError):
        replace(SEED, **wrong)
