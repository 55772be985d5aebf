"""Saving and converting: whole folders, exact tensors, refusals with reasons."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.weights.tiny_models import random_encoder, tiny_config

from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, RunError, WeightsError
from tubelet.families import onevision as ov
from tubelet.language.project.files import fold_of, load_projector
from tubelet.language.project.projector import Projector, build_projector
from tubelet.packed import Item, pack
from tubelet.pixels.patchify import from_pixels
from tubelet.weights.convert import check_network, convert
from tubelet.weights.load import load_encoder, report_of, untrained
from tubelet.weights.locate import SINGLE
from tubelet.weights.save import save_encoder
from tubelet.weights.tensors import read_state


@pytest.mark.parametrize("to", ov.FORMATS)
def test_every_format_into_every_other_is_exact(fmt: ov.Format, to: ov.Format, tmp_path: Path):
    first = random_encoder(tiny_config(fmt, use_head=False))
    merger = first.config.merger is not None and to != "ov2"
    drop = ["merger", "spans"] if merger else []
    if fmt == "source" and to != "source":
        drop = ["pool"]  # its final norm has no place in a model without a head
    source = save_encoder(first, tmp_path / "from", fmt)
    if fmt != "source" and to == "source":
        with pytest.raises(ConfigError, match="post_norm"):  # the training model always has its final norm
            convert(source, tmp_path / "to", to, drop=drop)
        return
    report = convert(source, tmp_path / "to", to, drop=drop)
    assert report.bit_equal
    assert (report.from_format, report.to_format) == (fmt, to)
    assert report.max_abs_diff == 0.0 or drop
    there = load_encoder(tmp_path / "to").state_dict()
    assert all(torch.equal(t, first.state_dict()[k]) for k, t in there.items())


@pytest.mark.parametrize("to", ["standard", "packing", "source"])
def test_a_head_survives(to: ov.Format, tmp_path: Path):
    source = save_encoder(random_encoder(tiny_config("standard")), tmp_path / "from", "standard")
    report = convert(source, tmp_path / "to", to)
    assert (report.max_abs_diff, report.max_abs_diff_pooled) == (0.0, 0.0)
    assert convert(tmp_path / "to", tmp_path / "back", "standard").bit_equal
    before, after = read_state(source), read_state(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


ROUND_TRIPS = [
    (a, b, head)
    for head in (True, False)
    for a in ov.FORMATS
    for b in ov.FORMATS
    if a != b and (head or "source" not in (a, b))
]  # the training model always has its final norm, which a model without a head has no place for


@pytest.mark.parametrize(("there", "other", "head"), ROUND_TRIPS, ids=str)
def test_there_and_back_is_the_same_file(there: ov.Format, other: ov.Format, head: bool, tmp_path: Path):
    fields = {"has_merger": False, "frame_windows_size": 0, "spatial_merge_size": 1} if there == "ov2" else {}
    first = random_encoder(tiny_config(there, use_head=head, **fields))
    source = save_encoder(first, tmp_path / "from", there)
    for start, end, to in ((source, "other", other), (tmp_path / "other", "back", there)):
        report = convert(start, tmp_path / end, to)
        assert (report.bit_equal, report.max_abs_diff, report.max_abs_diff_pooled or 0.0) == (True, 0.0, 0.0)
        assert (report.eps, report.head_eps) == (first.config.eps, first.config.head_eps or first.config.eps)
    before, after = read_state(source), read_state(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    configs = [(folder / "config.json").read_text(encoding="utf-8") for folder in (source, tmp_path / "back")]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("model_type", ["llava_vit", "onevision_encoder"], ids=["history", "released"])
def test_both_kinds_of_standard_checkpoint(model_type: str, tmp_path: Path):
    first = random_encoder(tiny_config("standard"))
    source = save_encoder(first, tmp_path / "from", "standard")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (source / "config.json").write_text(json.dumps({**config, "model_type": model_type}), encoding="utf-8")
    report = convert(source, tmp_path / "to", "packing")
    assert (report.from_format, report.bit_equal, report.max_abs_diff) == ("standard", True, 0.0)
    assert load_encoder(tmp_path / "to").config == first.config


def test_the_released_ov2_tower_has_no_head(tmp_path: Path):
    source = save_encoder(random_encoder(tiny_config("standard")), tmp_path / "from", "standard")
    report = convert(source, tmp_path / "to", "ov2", drop=["pool"])
    assert (report.bit_equal, report.max_abs_diff_pooled, report.dropped) == (True, None, ("pool",))
    assert report.max_abs_diff > 0  # the final norm goes with the head


def test_training_eps_is_kept_unless_upstreams_is_asked_for(tmp_path: Path):
    source = save_encoder(random_encoder(tiny_config("source")), tmp_path / "from", "source")
    kept = convert(source, tmp_path / "kept", "packing")
    assert (kept.eps, kept.head_eps) == (1e-5, torch.finfo(torch.float32).eps)
    assert (kept.max_abs_diff, kept.max_abs_diff_pooled) == (0.0, 0.0)
    changed = convert(source, tmp_path / "changed", "packing", eps="upstream")
    assert (changed.eps, changed.head_eps) == (1e-6, 1e-6)
    assert changed.bit_equal
    assert changed.max_abs_diff > 0


def test_the_report_is_written_beside_the_weights(packing: Path, tmp_path: Path):
    report = convert(packing, tmp_path / "out", "standard")
    written = json.loads((tmp_path / "out" / "conversion.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(report.as_dict()))
    inner = hashlib.sha256((packing / SINGLE).read_bytes()).digest()
    assert written["source_sha256"] == hashlib.sha256(inner).hexdigest()
    assert written["table"] == ov.FAMILY.table_id
    assert load_encoder(tmp_path / "out").config.layers == 2


def test_untrained_stays_untrained(tmp_path: Path):
    source = save_encoder(untrained(tiny_config("packing")), tmp_path / "from", "packing")
    convert(source, tmp_path / "to", "standard")
    report = report_of(load_encoder(tmp_path / "to"))
    assert report is not None
    assert report.untrained


def test_the_standard_huge_is_not_made_a_packing_huge():
    standard = ov.VARIANTS["llava_vit_huge"]
    with pytest.raises(ConfigError, match=r"27 layers x 1536.*32 layers x 1280") as caught:
        check_network(standard, ov.FAMILY, "standard", "packing", None)
    assert "27 layers x 1536" in caught.value.got
    assert "32 layers x 1280" in caught.value.expected
    with pytest.raises(ConfigError):
        check_network(standard, ov.FAMILY, "standard", "packing", "llava_vit_packing_huge")
    check_network(standard, ov.FAMILY, "standard", "packing", "custom")
    for size in ("small", "base", "large", "giant"):
        check_network(ov.VARIANTS[f"llava_vit_{size}"], ov.FAMILY, "standard", "packing", None)
    check_network(ov.SOURCES["llava_vit_huge_ln"], ov.FAMILY, "source", "packing", None)
    check_network(ov.VARIANTS["ov_encoder_base"], ov.FAMILY, "standard", "packing", None)


def test_a_file_of_the_standard_huge_is_refused_and_nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The whole way, with small networks in the place of the two that are called huge."""
    tall, wide = tiny_config("standard", num_hidden_layers=3), tiny_config("packing", num_hidden_layers=1)
    monkeypatch.setitem(ov.FAMILY.variants, "llava_vit_huge", tall)
    monkeypatch.setitem(ov.FAMILY.variants, "llava_vit_packing_huge", wide)
    source = save_encoder(random_encoder(tall), tmp_path / "from", "standard")
    with pytest.raises(ConfigError, match=r"3 layers x 64.*llava_vit_packing_huge is 1 layers x 64") as caught:
        convert(source, tmp_path / "to", "packing")
    assert "3 layers" in caught.value.got
    assert "1 layers" in caught.value.expected
    assert [p.name for p in tmp_path.iterdir()] == ["from"]
    assert convert(source, tmp_path / "to", "packing", variant="custom").bit_equal
    assert convert(tmp_path / "to", tmp_path / "back", "standard").variant == "llava_vit_huge"


def test_a_named_variant_must_be_that_network(packing: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="llava_vit_small"):
        convert(packing, tmp_path / "out", "standard", variant="llava_vit_small")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="no variant"):
        convert(packing, tmp_path / "out", "standard", variant="vit")


def test_parts_are_given_up_only_by_name(tmp_path: Path):
    config = tiny_config("ov2", use_head=False, spatial_merge_size=2, out_hidden_size=24)
    source = save_encoder(random_encoder(config), tmp_path / "from", "ov2")
    with pytest.raises(ConfigError, match="merger"):
        convert(source, tmp_path / "to", "packing")
    with pytest.raises(ConfigError, match="spans"):
        convert(source, tmp_path / "to", "packing", drop=["merger"])
    report = convert(source, tmp_path / "to", "packing", drop=["merger", "spans"])
    assert report.dropped == ("merger", "spans")
    assert report.max_abs_diff > 0  # a clip longer than its 4 frames shows what was given up
    assert convert(source, tmp_path / "tower", "ov2", drop=["merger"]).max_abs_diff == 0.0
    with pytest.raises(ConfigError, match="merger"):
        convert(source, tmp_path / "x", "packing", drop=["layers"])
    with pytest.raises(ConfigError, match="upstream"):
        convert(source, tmp_path / "x", "packing", eps="1e-6")


def test_an_unknown_format_lists_the_known(packing: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="packing"):
        convert(packing, tmp_path / "x", "gguf")
    with pytest.raises(ConfigError, match="packing"):
        save_encoder(load_encoder(packing), tmp_path / "x", "gguf")


# ---- saving


def test_bfloat16_comes_back(tmp_path: Path):
    encoder = random_encoder(tiny_config("packing")).bfloat16()
    again = load_encoder(save_encoder(encoder, tmp_path / "b", "packing"))
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert json.loads((tmp_path / "b" / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"


def test_a_folder_in_use_is_left_alone(encoder: Encoder, fmt: ov.Format, tmp_path: Path):
    target = tmp_path / "model"
    target.mkdir()
    save_encoder(encoder, target, fmt)  # an empty folder is free
    marker = target / "mine.txt"
    marker.write_text("x", encoding="utf-8")
    before = {p.name: p.read_bytes() for p in target.iterdir()}
    for overwrite in (False, True):  # only a checkpoint and nothing else is replaced
        with pytest.raises(WeightsError, match="mine.txt" if overwrite else "overwrite"):
            save_encoder(encoder, target, fmt, overwrite=overwrite)
    assert {p.name: p.read_bytes() for p in target.iterdir()} == before
    marker.unlink()
    save_encoder(encoder, target, fmt, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_file_is_never_replaced_by_a_folder(encoder: Encoder, fmt: ov.Format, tmp_path: Path):
    (tmp_path / "model").write_text("mine", encoding="utf-8")
    with pytest.raises(WeightsError):
        save_encoder(encoder, tmp_path / "model", fmt, overwrite=True)
    assert (tmp_path / "model").read_text(encoding="utf-8") == "mine"


def test_an_error_while_writing_leaves_the_old_folder(packing: Path, monkeypatch: pytest.MonkeyPatch):
    before = {p.name: p.read_bytes() for p in packing.iterdir()}

    def disk_full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tubelet.packed.file.save_file", disk_full)
    with pytest.raises(RunError, match="No space left"):
        save_encoder(random_encoder(tiny_config("packing"), seed=5), packing, "packing", overwrite=True)
    assert {p.name: p.read_bytes() for p in packing.iterdir()} == before
    assert [p.name for p in packing.parent.iterdir()] == [packing.name]


def test_what_a_format_cannot_hold_is_not_saved(tmp_path: Path):
    config = replace(tiny_config("packing"), spans=("frame",), span_frames=2)
    with pytest.raises(ConfigError, match="spans"):
        save_encoder(random_encoder(config), tmp_path / "w", "packing")
    assert list(tmp_path.iterdir()) == []


def test_converted_files_give_the_same_features(tmp_path: Path):
    first = random_encoder(tiny_config("source"))
    convert(save_encoder(first, tmp_path / "s", "source"), tmp_path / "p", "packing")
    p = pack([torch.randint(0, 256, (12, 12), dtype=torch.uint8)], [Item.of(2, 2, 3)])
    with torch.inference_mode():
        assert torch.equal(first(p).x, load_encoder(tmp_path / "p")(p).x)


# ---- a LLaVA's projector as the merger of LLaVA-OneVision-2's tower


def a_projector(width: int = 64, out: int = 24) -> Projector:
    projector = build_projector("spatial_merge", width, out)
    for i, p in enumerate(projector.parameters()):
        p.data.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.3)
    return projector


@pytest.mark.parametrize("fmt", ["standard", "packing", "ov2"])
@pytest.mark.parametrize("select_layer", [-1, -2])
def test_a_folded_tower_gives_what_tower_and_projector_give(fmt: ov.Format, select_layer: int, tmp_path: Path):
    config = tiny_config(fmt, num_hidden_layers=3, **({"has_merger": False} if fmt == "ov2" else {}))
    first, projector = random_encoder(config), a_projector()
    report = convert(
        save_encoder(first, tmp_path / "from", fmt), tmp_path / "to", "ov2", fold=fold_of(projector, select_layer)
    )
    assert (report.bit_equal, report.max_abs_diff, report.max_abs_diff_pooled) == (True, 0.0, None)
    assert report.dropped == ("pool",)
    tower = load_encoder(tmp_path / "to")
    assert tower.config.layers == 3 + 1 + select_layer
    pictures = torch.randn(2, 3, 12, 20, generator=torch.Generator().manual_seed(5))
    clip = torch.randn(1, 3, 3, 8, 8, generator=torch.Generator().manual_seed(6))
    for pixels in (pictures, clip):
        # the slow way: rows in raster order, a hidden state, neighbours joined by their places
        states = first.hidden_states(from_pixels(pixels, replace(first.pixels, merge=1, order="raster")))
        want = projector(states[select_layer])
        got = tower(from_pixels(pixels, tower.pixels))
        assert [tuple(i.grid) for i in got.items] == [tuple(i.grid) for i in want.items]
        torch.testing.assert_close(got.x, want.x, atol=1e-4, rtol=1e-4)


def test_folded_and_taken_apart_again(tmp_path: Path):
    first, projector = random_encoder(tiny_config("standard", use_head=False)), a_projector()
    source = save_encoder(first, tmp_path / "from", "standard")
    convert(source, tmp_path / "ov2", "ov2", fold=fold_of(projector))
    assert convert(tmp_path / "ov2", tmp_path / "back", "standard", drop=["merger"]).bit_equal
    before, after = read_state(source), read_state(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    again = load_projector(tmp_path / "ov2", kind="spatial_merge")
    assert again.config == projector.config
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in projector.state_dict().items())


def test_a_wider_projector_is_not_rounded(tmp_path: Path):
    first = random_encoder(tiny_config("packing", use_head=False)).to(torch.bfloat16)
    convert(save_encoder(first, tmp_path / "from", "packing"), tmp_path / "to", "ov2", fold=fold_of(a_projector()))
    tower = load_encoder(tmp_path / "to")
    assert tower.merger is not None
    assert torch.equal(tower.merger.fc1.weight, a_projector().state_dict()["mlp.0.weight"])
    assert torch.equal(tower.patch.weight, first.patch.weight.float())


def test_what_cannot_be_folded_says_why(tmp_path: Path):
    source = save_encoder(random_encoder(tiny_config("standard", use_head=False)), tmp_path / "from", "standard")
    for fold, why in (
        (fold_of(a_projector(32)), "rows of 32"),
        (fold_of(a_projector(), -3), "counts from -1 to -2"),
        (fold_of(a_projector(), 0), "counts from -1 to -2"),
        (fold_of(build_projector("spatial_merge", 64, 24, eps=1e-3)), "merger"),
    ):
        with pytest.raises(ConfigError, match=why):
            convert(source, tmp_path / "to", "ov2", fold=fold)
    with pytest.raises(ConfigError, match="packing"):
        convert(source, tmp_path / "to", "packing", fold=fold_of(a_projector()))
    merged = save_encoder(random_encoder(tiny_config("ov2", use_head=False)), tmp_path / "merged", "ov2")
    with pytest.raises(ConfigError, match="has a merger"):
        convert(merged, tmp_path / "to", "ov2", fold=fold_of(a_projector()))
    for kind, compat in (("mlp2x_gelu", None), ("patch_merger", "consecutive"), ("spatial_merge", "infer_hw")):
        with pytest.raises(ConfigError, match=compat or kind):
            fold_of(build_projector(kind, 64, 24, compat=compat))
    assert not (tmp_path / "to").exists()
