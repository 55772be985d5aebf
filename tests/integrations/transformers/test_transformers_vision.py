"""`accelerate_vision` on small random models of transformers: the same answers, the same memory, and the way back."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.clip.modeling_clip import CLIPVisionModel

from tubelet.errors import ConfigError
from tubelet.integrations.transformers.vision import accelerate_vision

IMAGE, VIDEO, START, END = 90, 91, 92, 93
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 4096,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
}
IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}
GRIDS = [(1, 6, 8), (1, 4, 4), (1, 10, 6)]


@dataclass
class Case:
    build: Callable[[], PreTrainedModel]
    inputs: Callable[[], dict[str, Tensor]]
    packed: bool


def qwen(cls: type, config: type, vision: dict, rope: dict) -> Callable[[], PreTrainedModel]:
    return lambda: cls(config(text_config={**TEXT, "rope_parameters": rope}, vision_config=vision, **IDS))


def qwen_inputs(width: int) -> Callable[[], dict[str, Tensor]]:
    def inputs() -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(5)
        ids: list[int] = [1, 2]
        for t, h, w in GRIDS:
            ids += [START, *[IMAGE] * (t * h * w // 4), END, 3]
        rows = torch.randn(sum(t * h * w for t, h, w in GRIDS), width, generator=g)
        input_ids = torch.tensor([ids])
        return {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "mm_token_type_ids": (input_ids == IMAGE).int(),
            "pixel_values": rows,
            "image_grid_thw": torch.tensor(GRIDS),
        }

    return inputs


QWEN2: dict[str, Any] = {
    "depth": 2,
    "embed_dim": 64,
    "num_heads": 2,
    "hidden_size": 32,
    "mlp_ratio": 2,
    "patch_size": 4,
}
QWEN25: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
    "window_size": 16,
    "fullatt_block_indexes": [1],
}
QWEN3: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
    "num_position_embeddings": 25,
    "deepstack_visual_indexes": [0, 1],
}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
SIGLIP: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "patch_size": 8,
}


def onevision() -> PreTrainedModel:
    vision = SiglipVisionConfig(image_size=32, vision_use_head=False, **SIGLIP)
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=Qwen2Config(**TEXT),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[32, 64], [64, 64]],
    )
    return LlavaOnevisionForConditionalGeneration(config)


def onevision_inputs() -> dict[str, Tensor]:
    pixels = torch.randn(1, 5, 3, 32, 32, generator=torch.Generator().manual_seed(2))  # a global view and 2 x 2 tiles
    tokens = 4 * 4 + (8 * 8 + 8)  # the global view, the tiles together, a newline for each row
    ids = torch.tensor([[1, *[IMAGE] * tokens, 2, 3]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels,
        "image_sizes": torch.tensor([[64, 64]]),
    }


def pictures() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))}


CASES = {
    "qwen2_vl": Case(qwen(Qwen2VLForConditionalGeneration, Qwen2VLConfig, QWEN2, MROPE), qwen_inputs(96), True),
    "qwen2_5_vl": Case(
        qwen(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, QWEN25, MROPE), qwen_inputs(96), True
    ),
    "qwen3_vl": Case(qwen(Qwen3VLForConditionalGeneration, Qwen3VLConfig, QWEN3, MROPE), qwen_inputs(96), True),
    "llava_onevision": Case(onevision, onevision_inputs, False),
    "siglip": Case(lambda: SiglipVisionModel(SiglipVisionConfig(image_size=32, **SIGLIP)), pictures, False),
    "clip": Case(lambda: CLIPVisionModel(CLIPVisionConfig(image_size=32, **SIGLIP)), pictures, False),
}
WRITERS = [name for name, case in CASES.items() if "input_ids" in case.inputs()]


def made(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = CASES[name].build().eval()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * (0.3 if p.ndim < 2 else p.shape[-1] ** -0.5))
    return model


def tower_of(model: PreTrainedModel) -> nn.Module:
    return accelerate_vision(model).towers[0]


@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_and_the_way_back(name: str) -> None:
    model, inputs = made(name), CASES[name].inputs()
    keys = list(model.state_dict())
    with torch.no_grad():
        want = model(**inputs)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with accelerate_vision(model) as handle:
            got = model(**inputs)
            assert list(model.state_dict()) == keys
            assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        again = model(**inputs)
    field = "logits" if "logits" in want else "last_hidden_state"
    difference = float((got[field] - want[field]).abs().max())
    assert difference <= 1e-4, difference
    assert not torch.equal(got[field], want[field]) or difference == 0
    torch.testing.assert_close(again[field], want[field], atol=0, rtol=0)
    assert all("forward" not in vars(tower) for tower in handle.towers)
    handle.remove()  # a second time changes nothing


@pytest.mark.parametrize("name", WRITERS)
def test_generation_is_identical(name: str) -> None:
    model, inputs = made(name), CASES[name].inputs()
    want = model.generate(**inputs, max_new_tokens=12, do_sample=False)  # pyright: ignore
    with accelerate_vision(model):
        got = model.generate(**inputs, max_new_tokens=12, do_sample=False)  # pyright: ignore
    assert torch.equal(got, want)
    assert want.shape[1] == inputs["input_ids"].shape[1] + 12


@pytest.mark.parametrize("name", CASES)
def test_weights_are_shared_not_copied(name: str) -> None:
    model = made(name)
    with accelerate_vision(model) as handle:
        tower = handle.towers[0]
        ours = vars(tower)["forward"].call.encoder
        mine = {p.untyped_storage().data_ptr() for p in ours.parameters()}
        theirs = [p for p in tower.parameters() if p.untyped_storage().data_ptr() not in mine]
        assert not theirs, "the tower keeps memory of its own"
        total = sum({p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in ours.parameters()}.values())
        assert total == sum(p.numel() * p.element_size() for p in tower.parameters())


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_the_models_own_parameters(name: str) -> None:
    model, inputs = made(name), CASES[name].inputs()
    tower = tower_of(model)
    vars(tower).pop("forward")

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        out = model(**inputs)
        value = out["logits"] if "logits" in out else out["pooler_output"]
        value.square().mean().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    want = gradients()
    with accelerate_vision(model):
        got = gradients()
    assert got.keys() == want.keys()
    assert any(n in got for n, _ in model.named_parameters() if "qkv" in n or "q_proj" in n)
    for n, g in want.items():
        torch.testing.assert_close(got[n], g, atol=1e-5 * max(1.0, float(g.abs().max())), rtol=1e-3, msg=n)


@pytest.mark.parametrize("name", ["siglip", "clip", "llava_onevision"])
def test_hidden_states_as_the_tower_gives_them(name: str) -> None:
    model = made(name)
    tower = tower_of(model)
    vars(tower).pop("forward")
    pixels = pictures()["pixel_values"]
    for kwargs in ({}, {"output_hidden_states": True}, {"return_dict": False}):
        with torch.no_grad():
            want = tower(pixels, **kwargs)
            with accelerate_vision(model):
                got = tower(pixels, **kwargs)
        assert type(got) is type(want)
        flat_want, flat_got = (list(x if isinstance(x, tuple) else x.to_tuple()) for x in (want, got))
        assert len(flat_got) == len(flat_want)
        for a, b in zip(flat_got, flat_want, strict=True):
            pairs = zip(a, b, strict=True) if isinstance(b, tuple) else [(a, b)]
            for x, y in pairs:
                torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


def test_what_the_encoder_does_not_give_comes_from_the_tower() -> None:
    model = made("siglip")
    model.set_attn_implementation("eager")
    big = torch.randn(1, 3, 48, 40, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), accelerate_vision(model):
        out = model(**pictures(), output_attentions=True)
        assert len(out.attentions) == 3
        with pytest.raises(RuntimeError, match="must match the size"):
            model(pixel_values=big)
        got = model(pixel_values=big, interpolate_pos_encoding=True).last_hidden_state
    with torch.no_grad():
        want = model(pixel_values=big, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "siglip"])
def test_a_cast_or_loaded_model_is_followed(name: str) -> None:
    model, other, inputs = made(name), made(name), CASES[name].inputs()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.9)
    with accelerate_vision(model), torch.no_grad():
        model.load_state_dict(other.state_dict())
        got, want = model(**inputs), other(**inputs)
        field = "logits" if "logits" in want else "last_hidden_state"
        torch.testing.assert_close(got[field], want[field], atol=1e-4, rtol=1e-4)
        model.bfloat16()
        half = model(**{k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()})[field]
    assert half.dtype == torch.bfloat16
    assert float(torch.nn.functional.cosine_similarity(half.float(), want[field], dim=-1).mean()) > 0.99


def test_a_copy_stays_accelerated_by_itself() -> None:
    model = made("siglip")
    with accelerate_vision(model), torch.no_grad():
        twin = copy.deepcopy(model)
        for p in twin.parameters():
            p.mul_(0)
        assert float(twin(**pictures()).last_hidden_state.abs().max()) == 0
        assert float(model(**pictures()).last_hidden_state.abs().max()) > 0


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks by the old name
@pytest.mark.parametrize("what", ["adapters", "hook", "forward"])
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_what_is_attached_afterwards_is_heeded(what: str, grad: bool) -> None:
    """As if the model had never been accelerated; and it is again, once that is gone."""
    model, plain = made("siglip"), made("siglip")
    accelerate_vision(model)
    undo: list[Callable[[], Any]] = []
    for one in (model, plain):
        part: Any = one.encoder.layers[1].mlp.fc1  # pyright: ignore
        if what == "adapters":
            torch.manual_seed(5)
            lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
            undo.append(get_peft_model(one, lora).unload)  # pyright: ignore
        elif what == "hook":
            undo.append(part.register_forward_hook(lambda module, given, out: out + 1).remove)
        else:
            part.forward = lambda x: torch.ones(*x.shape[:-1], 96)
            undo.append(lambda part=part: vars(part).pop("forward"))
    with torch.set_grad_enabled(grad):
        got, want = (one(**pictures()).last_hidden_state for one in (model, plain))
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        for each in undo:
            each()
        without = model(**pictures()).last_hidden_state
        torch.testing.assert_close(without, plain(**pictures()).last_hidden_state, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(without, want, atol=1e-3)


def test_what_cannot_be_done_is_said() -> None:
    model = made("siglip")
    with accelerate_vision(model), pytest.raises(ConfigError, match="already"):
        accelerate_vision(model)
    with pytest.raises(ConfigError, match="no vision tower"):
        accelerate_vision(made("qwen2_vl").model.language_model)  # pyright: ignore
    model.encoder.layers[0].mlp.fc1 = nn.Identity()  # pyright: ignore
    with pytest.raises(ConfigError, match="not those of a plain"):
        accelerate_vision(model)
