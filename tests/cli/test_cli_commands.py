"""`tubelet show`, `convert` and `models`, and the words all commands use."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tubelet
from tubelet.cli import main
from tubelet.cli.models import PROOFS
from tubelet.cli.terminal import file_name, seconds, visible
from tubelet.encoder.kernels import chosen
from tubelet.families.catalogue import families, variants
from tubelet.weights.load import load_encoder


def run(*args: object) -> int:
    return main([str(a) for a in args])


# ---- show


def test_show_draws_pictures_and_clips(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert run("show", files["wide"], files["clip"], "--fps", 4) == 0
    said = capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.frames.png", "wide.grid.png"]
    assert "wide.grid.png  (100 x 40, grid 1 x 1 x 3, 3 tokens)" in said  # the default joins 2 x 2 patches of 16
    assert "clip.frames.png  (64 x 48, 8 frames, grid 8 x 1 x 2, 16 tokens)" in said
    for path in tmp_path.iterdir():
        with Image.open(path) as drawn:
            assert drawn.format == "PNG"
            assert 100 < max(drawn.size) <= 1600
            assert len(np.unique(np.asarray(drawn))) > 20


def test_show_takes_patches_from_a_model_or_a_number(
    files: dict[str, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for extra, grid in (
        (("--patch", 8), [1, 5, 12]),
        (("--model", "ov_encoder_base"), [1, 2, 7]),
        (("--model", model), [1, 2, 6]),
        (("--patch", 8, "--max-pixels", 640), [1, 2, 5]),
    ):
        assert run("show", files["wide"], "--out", tmp_path / "o.png", "--json", "--overwrite", *extra) == 0
        drawn = json.loads(capsys.readouterr().out)["files"][0]
        assert drawn["grid"] == grid
        assert drawn["out"] == str(tmp_path / "o.png")


def test_show_draws_every_view(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    args = ("show", files["wide"], "--patch", 14, "--out", tmp_path / "v.png", "--json", "--views")
    assert run(*args, "lavida") == 0
    [said] = json.loads(capsys.readouterr().out)["files"]
    views = tubelet.pixels.views.LAVIDA.views(said["height"], said["width"])
    assert [v["name"] for v in said["views"]] == [v.name for v in views]
    assert said["tokens"] == 729 * len(views) and said["grid"] == [1, 27, 27]
    with Image.open(tmp_path / "v.png") as picture:
        assert min(picture.size) > 500
    assert run(*args, "page:10") == 1  # smaller than a patch
    assert run(*args, "nothing") == 2


def test_show_into_a_folder_keeps_equal_names_apart(files: dict[str, Path], tmp_path: Path):
    other = tmp_path / "in"
    other.mkdir()
    (other / "wide.png").write_bytes(files["small"].read_bytes())
    assert run("show", files["wide"], other / "wide.png", "--out", f"{tmp_path}/new/", "--quiet") == 0
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["wide-2.grid.png", "wide.grid.png"]


def test_show_refuses_what_it_must_not_write(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    before = files["wide"].read_bytes()
    assert run("show", files["wide"], "--out", files["wide"]) == 1
    assert run("show", files["wide"], "--out", "/dev/null") == 1
    assert run("show", files["wide"], files["tall"], "--out", tmp_path / "one.png") == 2
    assert run("show", files["wide"], "--max-side", 10) == 2
    assert run("show", files["wide"], "--patch", 0) == 2
    assert run("show", files["broken"]) == 1
    assert capsys.readouterr().err.count("\n") == 6
    assert files["wide"].read_bytes() == before
    assert list(tmp_path.iterdir()) == []
    Path("x.grid.png").write_bytes(before)
    assert run("show", "x.grid.png", "--out", ".") == 0
    assert Path("x.grid.png").read_bytes() == before
    Path("x.png").write_bytes(before)
    assert run("show", "x.png", "x.grid.png", "--out", ".") == 1
    assert Path("x.grid.png").read_bytes() == before


def test_show_leaves_out_what_it_cannot_read_when_told_to(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    args = ("show", files["wide"], files["broken"], files["tall"], "--out", tmp_path, "--json", "--overwrite")
    assert run(*args) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["error"], told["item"]) == ("DecodeError", 1)
    assert run(*args, "--on-error", "skip") == 1
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert [Path(f["out"]).name for f in told["files"]] == ["wide.grid.png", "tall.grid.png"]
    assert [(e["error"], e["item"]) for e in told["errors"]] == [("DecodeError", 1)]
    assert said.err.count("\n") == 1


# ---- convert


def test_convert_reports_no_difference(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run("convert", model, tmp_path / "standard", "--to", "standard", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["from_format"], told["to_format"], told["bit_equal"], told["max_abs_diff"]) == (
        "packing",
        "standard",
        True,
        0.0,
    )
    assert run("convert", tmp_path / "standard", tmp_path / "back", "--to", "packing") == 0
    said = capsys.readouterr().out
    assert "bit for bit the same" in said
    assert "max abs difference 0" in said
    first, back = load_encoder(model).state_dict(), load_encoder(tmp_path / "back").state_dict()
    assert all(torch.equal(first[k], back[k]) for k in first)


def test_convert_fails_in_one_line_and_leaves_nothing(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    (tmp_path / "model.pt").write_bytes(b"not really")
    for source, out, code in (
        (tmp_path / "missing", tmp_path / "o", 1),
        (tmp_path / "model.pt", tmp_path / "o", 1),
        (model, tmp_path / "used", 1),
    ):
        assert run("convert", source, out, "--to", "standard") == code
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
    assert run("convert", model, tmp_path / "o", "--to", "nothing", "--json") == 2
    assert json.loads(capsys.readouterr().out)["error"] == "UsageError"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "used"]
    assert (tmp_path / "used" / "mine.txt").read_text() == "mine"


@pytest.mark.usefixtures("confined_forks")
def test_convert_reads_a_pickle_only_when_told_to(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from safetensors.torch import load_file

    torch.save(load_file(model / "model.safetensors"), tmp_path / "weights.pth")
    args = (
        "convert",
        tmp_path / "weights.pth",
        tmp_path / "o",
        "--to",
        "packing",
        "--config",
        "llava_vit_packing_small",
    )
    assert run(*args) == 1
    assert "--unsafe-pickle" in capsys.readouterr().err
    assert run(*args, "--unsafe-pickle") == 1  # read, and found to be another network than the one named
    assert "do not fit" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


# ---- models


def test_models_lists_every_variant_with_its_true_size(capsys: pytest.CaptureFixture[str]):
    assert run("models", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    told = {m["name"]: m for m in document["models"]}
    assert list(told) == list(variants())
    assert [f["name"] for f in document["families"]] == [f.name for f in families()]
    assert {name for f in document["families"] for name in f["variants"]} == told.keys()
    assert [(m["name"], m["merge"]) for m in document["built_in"]] == [("reader", 2)]
    assert document["default"] == "reader"
    assert all(
        f["verified"][p] == (p in g.verified)
        for f, g in zip(document["families"], families(), strict=True)
        for p in PROOFS
    )
    assert told["llava_vit_packing_small"]["parameters"] == 12_716_928
    assert told["llava_vit_huge"]["parameters"] == 662_025_216
    assert run("models") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*told, *(f.name for f in families())))
    assert "12.7 M" in said
    assert max(map(len, said.splitlines())) <= 100
    assert "UNTRAINED" in said


# ---- words


@settings(deadline=None)
@given(st.text())
def test_visible_text_is_one_printable_line(text: str):
    shown = visible(text)
    shown.encode("utf-8")
    assert shown.isprintable() or not text.isprintable()
    assert not set(shown) & {"\n", "\r", "\x1b", "\t", "\u202e", "\u2028", "\u2029", "\x85"}


@settings(deadline=None)
@given(st.binary(max_size=60).filter(lambda b: b"\0" not in b))
def test_any_file_name_becomes_valid_json_text(name: bytes):
    import os

    json.dumps(file_name(os.fsdecode(name)), ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0 ms"),
        (0.00123, "1.2 ms"),
        (0.0123, "12 ms"),
        (0.9996, "1.00 s"),
        (12.345, "12.35 s"),
        (125, "2:05 min"),
    ],
)
def test_seconds_in_few_letters(value: float, text: str):
    assert seconds(value) == text


# ---- bench


def test_bench_explains_what_multiplies_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    chosen.cache_clear()
    try:
        assert run("bench", "--explain", "--dtype", "float32,bfloat16", "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert run("bench", "--explain") == 0
        said = capsys.readouterr().out
    finally:
        chosen.cache_clear()
    assert set(told["products"]) == {"float32", "bfloat16"}
    assert told["products"]["float32"]["products"] in ("blas", "onednn")
    assert said.startswith(f"float32: {told['products']['float32']['products']}, ")
    assert str(tmp_path / "tubelet") in said.replace("\n", "") and told["cpu"] in said
