"""Parts by name: what learns, counted by hand, and found in the optimizer."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import tubelet
from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError, RunError
from tubelet.families.catalogue import require_variant
from tubelet.language.placing.rules import TokenIds
from tubelet.language.project.projector import build_projector
from tubelet.language.vlm.model import VLM
from tubelet.language.vlm.scheme import Scheme
from tubelet.pixels.views_plan import ViewRule
from tubelet.train.lora import Lora, add_lora
from tubelet.train.parts import (
    check_optimizer,
    chosen_parts,
    parts_of,
    percent,
    set_modes,
    set_trainable,
)

WIDTH = 16


def encoder_config() -> EncoderConfig:
    _, whole = require_variant("siglip_base_patch16_224")
    return replace(whole, hidden=8, layers=2, heads=2, mlp=8, pool=False)


def vlm(*, newline: bool = False) -> VLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=31
    )
    encoder = tubelet.untrained(encoder_config())
    projector = build_projector("mlp2x_gelu", 8, WIDTH)
    views = ViewRule(224, ((224, 448),), pool="bilinear", join="unpad") if newline else None
    scheme = Scheme(TokenIds(image=-200), pixels=encoder.pixels, views=views)
    return VLM(
        encoder, LlamaForCausalLM(config), scheme, projector=projector, newline=torch.zeros(WIDTH) if newline else None
    )


def numbers(module: nn.Module) -> int:
    return sum(w.numel() for w in module.parameters())


def learning(model: nn.Module) -> set[str]:
    return {name for name, w in model.named_parameters() if w.requires_grad}


@pytest.mark.parametrize("name", ["projector", "mm_mlp_adapter"])
def test_a_projector_alone_by_its_own_name_and_by_llavas(name: str):
    model = vlm()
    [line] = set_trainable(model, name)
    own = 8 * WIDTH + WIDTH + WIDTH * WIDTH + WIDTH
    assert (line.tensors, line.parameters, line.total) == (4, own, numbers(model))
    assert str(line) == f"projector: 4 tensors, {own} of {numbers(model):,} ({percent(own, numbers(model))} %)"
    assert learning(model) == {f"projector.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}


def test_parts_share_no_weight_and_cover_the_model():
    model = vlm(newline=True)
    found = parts_of(model)
    names = [name for weights in found.values() for name, _ in weights]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters()) and not found[""]
    counts = {part: sum(w.numel() for _, w in weights) for part, weights in found.items()}
    assert counts["encoder"] == numbers(model.encoder) and counts["newline"] == WIDTH
    assert counts["language_model"] == numbers(model.speaker) and counts["projector"] == numbers(model.projector)


def test_llavas_language_model_takes_the_newline_with_it_where_there_is_one():
    lines = set_trainable(vlm(newline=True), "mm_language_model")
    assert [line.part for line in lines] == ["language_model", "newline"]
    assert [line.part for line in set_trainable(vlm(), "mm_language_model")] == ["language_model"]


def test_adapters_are_their_own_part():
    model = vlm()
    add_lora(model, Lora(("projector.0", "encoder.layers.0.qkv.q"), rank=2))
    [line] = set_trainable(model, "lora")
    assert (line.tensors, line.parameters) == (4, 2 * (8 + WIDTH) + 2 * (8 + 8))
    assert all("lora_" in name for name in learning(model))
    [line] = set_trainable(model, "projector")
    assert line.tensors == 4 and not any("lora_" in name for name in learning(model))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ("projectr", "did you mean projector"),
        ("mm_mlp_adaptor", "did you mean mm_mlp_adapter"),
        ("projector,encodr", "did you mean encoder"),
        ("", "no part is called"),
        ([], "no part is to learn"),
        ("connector", r"connector matches no weight; this model has projector \(4 tensors\)"),
        ("projector,lora", "lora matches no weight"),
    ],
)
def test_unknown_names_and_empty_matches_are_errors(parts: str | list[str], said: str):
    model = vlm()
    with pytest.raises(ConfigError, match=said):
        set_trainable(model, parts)


def test_names_are_seen_through_wrappers(tmp_path_factory: pytest.TempPathFactory):
    model = vlm()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        set_trainable(model, "projector")
        wrapped = DistributedDataParallel(model)
        assert len(parts_of(wrapped)["projector"]) == 4 and not parts_of(wrapped)[""]
    finally:
        torch.distributed.destroy_process_group()
    assert len(parts_of(torch.compile(model))["projector"]) == 4  # pyright: ignore[reportArgumentType]
    import peft

    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["projector.0"]))  # pyright: ignore[reportArgumentType]
    found = parts_of(adapted)
    assert (len(found["projector"]), len(found["lora"]), len(found[""])) == (4, 2, 0)


def test_counts_are_whole_where_ranks_hold_shares():
    model = vlm()
    weight = model.projector.get_parameter("0.weight")  # pyright: ignore[reportOptionalMemberAccess]
    weight.ds_numel = 1000  # pyright: ignore[reportAttributeAccessIssue]
    weight.data = torch.empty(0)  # what ZeRO-3 leaves on a rank
    [line] = set_trainable(model, "projector")
    assert line.parameters == 1000 + WIDTH + WIDTH * WIDTH + WIDTH


# ---- modes


def test_frozen_towers_stand_in_eval_mode_and_language_models_do_not():
    model = vlm().eval()
    add_lora(model, Lora(("encoder.layers.0.fc1",), rank=2))
    set_trainable(model, "lora")
    adapter = model.encoder.layers[0].fc1
    assert model.training and model.speaker.training and not model.encoder.training
    assert not model.encoder.layers[0].training and adapter.lora_dropout.training  # pyright: ignore
    set_trainable(model, "encoder")
    assert model.encoder.training and model.encoder.layers[0].training
    model.eval()
    set_modes(model, "projector")
    assert not model.encoder.training and not adapter.lora_dropout.training  # pyright: ignore


# ---- the optimizer


def trained(parts: str = "projector") -> tuple[VLM, torch.optim.AdamW]:
    model = vlm()
    set_trainable(model, parts)
    return model, torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=0.01)


def test_the_optimizer_holds_what_was_said():
    model, optimizer = trained()
    assert check_optimizer(model, optimizer, "projector") == set_trainable(model, "projector")
    with pytest.raises(RunError, match="4 never stepped"):
        check_optimizer(model, optimizer, "projector", stepped=True)
    p = tubelet.pack([torch.randn(6, 8)], [tubelet.Item.of(1, 2, 3)])
    assert model.projector is not None
    model.projector(p).x.sum().backward()
    optimizer.step()
    [line] = check_optimizer(model, optimizer, "mm_mlp_adapter", stepped=True)
    assert line.tensors == 4


def test_a_weight_that_the_forward_goes_around_is_named_after_the_first_step():
    model, optimizer = trained()
    assert model.projector is not None
    p = tubelet.pack([torch.randn(6, 8)], [tubelet.Item.of(1, 2, 3)])
    torch.nn.functional.linear(p.x, model.projector.get_parameter("0.weight")).sum().backward()
    optimizer.step()
    with pytest.raises(RunError, match=r"3 never stepped \(projector.0.bias"):
        check_optimizer(model, optimizer, "projector", stepped=True)


Change = Callable[[VLM, torch.optim.Optimizer], object]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m, o: o.param_groups[0]["params"].pop(), r"1 missing \(projector.2.bias\)"),
        (
            lambda m, o: o.param_groups[0]["params"].append(m.encoder.patch.weight),
            "1 not of these parts",
        ),
        (lambda m, o: o.param_groups[0]["params"].append(torch.zeros(2)), "a tensor that is not the model's"),
        (lambda m, o: o.param_groups[0]["params"].append(o.param_groups[0]["params"][0]), "1 held twice"),
    ],
)
def test_an_optimizer_that_holds_something_else_stops_the_run(change: Change, said: str):
    model, optimizer = trained()
    change(model, optimizer)
    with pytest.raises(RunError, match=said):
        check_optimizer(model, optimizer, "projector")


def test_names_are_taken_once_and_in_order():
    assert chosen_parts(["projector", "mm_mlp_adapter", "encoder"]) == ("projector", "encoder")
    assert [percent(n, 10_000) for n in (0, 1, 28, 1234, 9999)] == ["0", "0.010", "0.28", "12", "100"]
