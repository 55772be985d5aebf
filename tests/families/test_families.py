"""Laws of every family: its published networks survive their own configuration, names and prefixes."""

import ast
import json
import re
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import pytest
import torch
from tests.families.cases import CASES
from torch import Tensor

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, KeyMismatch
from tubelet.families.catalogue import (
    MODULES,
    differences,
    families,
    find,
    format_of,
    home_of,
    read_config,
    require_variant,
    variant_of,
    variants,
    vision_part,
    write_config,
)
from tubelet.families.family import Family, expand, from_theirs, to_theirs
from tubelet.families.fields import CODE_FIELDS
from tubelet.families.match import matches

FAMILIES = families()
PUBLISHED = [(name, family) for name, (family, _) in variants().items()]


@lru_cache(maxsize=4)
def meta_state(config: EncoderConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return Encoder(config).state_dict()


def names_of(family: Family, config: EncoderConfig, fmt: str) -> dict[str, Tensor]:
    return to_theirs(meta_state(config), family.formats[fmt], config)


def smallest(family: Family) -> tuple[str, EncoderConfig]:
    """The variant with the narrowest layers, its name first, cut to the first two of them."""
    name, config = min(family.variants.items(), key=lambda v: v[1].hidden)
    return name, replace(
        config,
        layers=2,
        spans=("window", "frame") if "window" in config.spans else config.spans,
        deepstack=(0,) if config.deepstack else (),
    )


def test_names_are_unique():
    assert len({f.name for f in FAMILIES}) == len(FAMILIES) == sum(len(names) for _, names in MODULES)
    assert len(PUBLISHED) == sum(len(f.variants) for f in FAMILIES)
    formats = [fmt for f in FAMILIES for fmt in f.formats]
    assert len(set(formats)) == len(formats)  # so that a format's name says the family too
    types = [t for f in FAMILIES for t in f.model_types]
    assert len(set(types)) == len(types)


@pytest.mark.parametrize(("name", "family"), PUBLISHED, ids=lambda v: v if isinstance(v, str) else v.name)
def test_published_networks_survive_their_own_configuration(name: str, family: Family):
    config, fmt = family.variants[name], format_of(family, name)
    written = json.loads(json.dumps(write_config(config, family, fmt)))
    assert not CODE_FIELDS & written.keys()
    assert written["model_type"] in family.model_types
    assert differences(read_config(written, family, fmt), config) == []
    whole = {"model_type": "some_vlm", "vision_config": written, "text_config": {"hidden_size": 1}}
    assert differences(read_config(whole, family, fmt), config) == []
    other = variant_of(config, family, fmt)
    assert other is not None
    assert names_of(family, family.variants[other], fmt).keys() == names_of(family, config, fmt).keys()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_every_tensor_has_one_name_and_comes_back(family: Family):
    name, config = smallest(family)
    fmt = format_of(family, name)
    generator = torch.Generator().manual_seed(0)
    state = {k: torch.randn(t.shape, generator=generator) for k, t in meta_state(config).items()}
    theirs = to_theirs(state, family.formats[fmt], config)
    assert sum(t.numel() for t in theirs.values()) <= sum(t.numel() for t in state.values())
    back = from_theirs({k: tuple(t.shape) for k, t in state.items()}, family.formats[fmt], config, theirs.__getitem__)
    assert back.keys() == state.keys()
    again = to_theirs(back, family.formats[fmt], config)
    assert all(torch.equal(again[k], t) for k, t in theirs.items())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.parametrize("prefix", ["", "module.", "model.visual.", "visual.", "vision_tower.", "model.vision_tower."])
def test_the_names_alone_find_the_family(family: Family, prefix: str):
    name, config = smallest(family)
    fmt = format_of(family, name)
    keys = [prefix + own for own in names_of(family, config, fmt)]
    rest = [] if prefix in ("", "module.") else ["model.language_model.layers.0.mlp.up_proj.weight", "lm_head.weight"]
    found = matches(FAMILIES, keys + rest)
    assert (family.name, fmt) in [(m.family.name, m.format) for m in found]
    match = next(m for m in found if m.family is family and m.format == fmt)
    assert sorted(match.named.values()) == sorted(keys)
    assert list(match.ignored) == rest
    twins = {m.family.name for m in found}
    same = {
        f.name
        for f in FAMILIES
        for other in f.formats
        if set(keys_of(f, other, config)) == set(keys_of(family, fmt, config))
    }
    assert twins <= {*same, family.name}, "another family is taken for it"


def keys_of(family: Family, fmt: str, config: EncoderConfig) -> list[str]:
    try:
        lines = list(expand(family.formats[fmt], config, meta_state(config)))
        return [name for line in lines for name in line.right if name]
    except ConfigError:
        return []


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_the_model_type_decides(family: Family):
    name, config = smallest(family)
    fmt = format_of(family, name)
    written = write_config(config, family, fmt)
    keys = list(names_of(family, config, fmt))
    for whole in (written, {"model_type": "llava", "vision_config": written}):
        found = find(whole, [f"{family.prefixes[0]}{key}" for key in keys])
        assert {m.family.name for m in found} == {family.name}
        assert found[0].format == fmt
    for holder in family.holders:
        silent = {k: v for k, v in written.items() if k != "model_type"}
        assert family.name in {m.family.name for m in find({"model_type": holder, "vision_config": silent}, keys)}


def test_an_unknown_variant_lists_the_known():
    with pytest.raises(ConfigError, match="llava_vit_packing_small") as caught:
        require_variant("vit_b")
    assert caught.value.got == "vit_b"


def test_what_was_found_is_said():
    with pytest.raises(ConfigError, match=r"no family knows these tensor names; they begin with blocks\.0, cls_token"):
        find(None, ["blocks.0.unknown", "cls_token"])
    with pytest.raises(ConfigError, match="it has none"):
        find(None, [])
    with pytest.raises(ConfigError, match="no family here has the model_type 'bert'"):
        find({"model_type": "bert"}, ["conv1.weight"])
    with pytest.raises(ConfigError, match="in its vision_config"):
        find({"model_type": "llava", "vision_config": {"model_type": "bert"}}, ["conv1.weight"])
    with pytest.raises(ConfigError, match="vision_config is an object"):
        find({"model_type": "llava", "vision_config": "clip"}, ["conv1.weight"])
    with pytest.raises(
        ConfigError,
        match=re.escape(
            "is clip, but no tensor has one of its names: they begin with conv1.weight; they are those of onevision"
        ),
    ):
        find({"model_type": "clip_vision_model"}, ["conv1.weight"])


def test_two_encoders_in_one_file_are_refused():
    keys = [f"{p}.encoder.layers.0.self_attn.qkv.weight" for p in ("visual", "vision_tower")]
    with pytest.raises(KeyMismatch, match="two onevision encoders"):
        matches(FAMILIES, keys)


@pytest.mark.parametrize("name", sorted(CODE_FIELDS))
def test_the_rest_of_a_whole_configuration_is_searched_for_code(name: str):
    with pytest.raises(ConfigError, match=f"{name} can name code"):
        vision_part({"model_type": "x", "vision_config": {}, "text_config": {"deep": [{name: "a.B"}]}})


def test_an_encoder_of_no_family_has_no_home():
    config = EncoderConfig(64, 1, 2, 64, variants()["llava_vit_packing_small"][1].pixels, gated=True, scale=True)
    assert home_of(config) is None


# ---- what a family says is proved

CHECKS = {
    "check_outputs": "outputs",
    "check_gradients": "gradients",
    "check_bf16": "bf16",
    "check_save_back": "save_back",
    "check_pictures": "pixels",
    "check_images": "pixels",
}
CONSTANTS = {name: module for module, names in MODULES for name in names}


def names_in(node: ast.AST) -> set[str]:
    """Every name and attribute in a piece of code."""
    plain = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return plain | {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}


def called_in(node: ast.AST) -> set[str]:
    """The last names of everything that is called."""
    calls = (n.func for n in ast.walk(node) if isinstance(n, ast.Call))
    return {f.id if isinstance(f, ast.Name) else f.attr for f in calls if isinstance(f, ast.Name | ast.Attribute)}


def checked_in(node: ast.AST) -> set[str]:
    return {CHECKS[name] for name in called_in(node) if name in CHECKS}


def proved(source: str, constant: str) -> set[str]:
    """What the test functions of a file check for the family of this name.

    A function is about a family if it names it or its module, or if the file knows no other.
    """
    body = ast.parse(source).body
    known = {a.name for n in body if isinstance(n, ast.ImportFrom) for a in n.names} & CONSTANTS.keys()
    tests = [n for n in body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]
    out: set[str] = set()
    for test in tests:
        named = names_in(test) & {constant, CONSTANTS[constant]}
        if constant in known and (named or known == {constant}):
            out |= checked_in(test)
    return out


@pytest.mark.parametrize(("module", "constant"), [(m, c) for m, names in MODULES for c in names])
def test_what_is_verified_is_what_the_tests_check(module: str, constant: str):
    family: Family = getattr(import_module(f"tubelet.families.{module}"), constant)
    folder = Path(__file__).parent
    compared = any(case.family is family for case in CASES)
    found = checked_in(ast.parse((folder / "test_parity.py").read_text(encoding="utf-8"))) if compared else set()
    for file in folder.glob("test_*.py"):
        if file.name not in ("test_families.py", "test_parity.py"):
            found |= proved(file.read_text(encoding="utf-8"), constant)
    assert set(family.verified) == found


def test_a_check_that_is_gone_is_missed():
    """The reader of test files is no rubber stamp: without a call, or about another family, nothing is proved."""
    two = (
        "from tubelet.families.siglip import SIGLIP\nfrom tubelet.families.siglip2 import SIGLIP2\n"
        "def test_outputs(tower):\n    parity.check_outputs(tower, SIGLIP)\n"
        "def test_pixels():\n    check_pictures(SIGLIP2.processor_to(config))\n"
        "def test_bf16(tower):\n    tower.check_bf16\n"
        "def helper(tower):\n    check_gradients(tower)\n"
    )
    assert proved(two, "SIGLIP") == {"outputs"}
    assert proved(two, "SIGLIP2") == {"pixels"}
    assert proved(two, "CLIP") == set()
    one = "from tubelet.families.clip import CLIP\ndef test_it(tower):\n    parity.check_save_back(tower)\n"
    assert proved(one, "CLIP") == {"save_back"}
