"""`tubelet select`: what is written, what is drawn, what is said, and how it ends."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tests.reduce.tiny_siglip import saved

from tubelet import Packed, read
from tubelet.cli import main
from tubelet.families.siglip import SIGLIP
from tubelet.inspect.metrics import coverage
from tubelet.pixels.patchify import patchify
from tubelet.pixels.sparse import read_sparse
from tubelet.reduce.history.versions import VERSIONS
from tubelet.reduce.inputs import inputs_of
from tubelet.reduce.methods import METHODS, Inputs, choose
from tubelet.reduce.settings import Settings
from tubelet.reduce.share import held, shared_budgets
from tubelet.reduce.siglip_text import SiglipText
from tubelet.reduce.spelled_text import SpelledText
from tubelet.train.pages.reader import ReaderConfig, build_reader
from tubelet.weights.load import load_encoder, untrained
from tubelet.weights.save import save_encoder


def select(*args: object) -> int:
    return main(["select", *map(str, args)])


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("siglip"), image_size=64)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def document(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def drawn(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


# ---- what is written


def test_the_file_holds_what_the_library_chooses(files: dict[str, Path], model: Path, here: Path):
    names = [files[k] for k in ("wide", "clip", "tall")]
    args = ("--model", model, "--budget", 5, "--method", "edges", "--fps", 5, "--quiet")
    assert select(*names, *args, "--out", "t.safetensors") == 0
    got = Packed.load(here / "t.safetensors")
    encoder = load_encoder(model, dtype=torch.float32)
    wanted = []
    for name in names:
        with torch.inference_mode():
            found = inputs_of(encoder, patchify(read([name], fps=5.0), encoder.pixels))
        wanted.append(choose("edges", found, budget=5))
    assert got.lengths == (5, 5, 5)
    assert [item.picture for item in got.items] == [0, 1, 2]
    for rows, pos, want in zip(got.unpack(), got.pos.split(5), wanted, strict=True):
        torch.testing.assert_close(rows, want.kept.x, rtol=1e-5, atol=1e-5)
        assert torch.equal(pos, want.kept.pos)
    with safe_open("t.safetensors", framework="pt") as f:
        assert f.get_tensor("scores").shape == (15,)
        told = f.metadata()
    assert (told["method"], told["budget"], told["untrained"]) == ("edges", "5", "true")
    assert json.loads(told["files"])[1] == str(files["clip"])


@pytest.mark.parametrize(
    "name", [n for n in METHODS if n not in VERSIONS and not {"text", "boxes", "sparse"} & set(METHODS[n].needs)]
)
def test_every_method_that_needs_nothing_more_runs(
    name: str, files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str]
):
    assert select(files["wide"], files["clip"], "--model", model, "--budget", 6, "--method", name, "--json") == 0
    told = document(capsys)
    assert told["method"] == name
    assert told["kind"] == METHODS[name].kind
    for file in told["files"]:
        assert 0 < file["kept"] <= 6 or name == "pool"
        assert Path(file["picture"]).exists()


def test_a_historical_version(files: dict[str, Path], siglip: Path, capsys: pytest.CaptureFixture[str]):
    assert select(files["wide"], "--model", siglip, "--budget", 9, "--method", "shirg-fovea", "--json") == 0
    assert document(capsys)["kept"] == 9
    args = ("--model", siglip, "--budget", 9, "--method", "shirg-v2-views", "--json", "--overwrite")
    assert select(files["wide"], *args) == 1
    assert document(capsys)["error"] == "ShapeError"


# ---- a text


def test_a_question_is_read_by_the_text_tower_of_the_same_folder(files: dict[str, Path], siglip: Path, here: Path):
    question = "What is the total of the invoice?"
    args = ("--model", siglip, "--budget", 7, "--text", question, "--quiet", "--out", "t.safetensors")
    assert select(files["wide"], *args) == 0
    encoder = load_encoder(siglip)
    words = SiglipText.load(siglip).words(question)
    with torch.inference_mode():
        found = inputs_of(encoder, patchify(read([files["wide"]]), encoder.pixels), text=words)
    want = choose("shirg", found, budget=7, settings=Settings()).kept
    assert torch.equal(Packed.load(here / "t.safetensors").pos, want.pos)
    with safe_open("t.safetensors", framework="pt") as f:
        assert f.metadata()["text"] == question


def test_vectors_from_a_file_serve_any_model(files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str]):
    save_file({"words": torch.randn(3, 64)}, "words.safetensors")
    args = ("--model", model, "--budget", 4, "--text-embeddings", "words.safetensors", "--json", "--overwrite")
    assert select(files["wide"], *args) == 0
    assert document(capsys)["method"] == "shirg"
    assert select(files["wide"], *args, "--text-space", "rows", "--method", "cdpruner") == 0
    capsys.readouterr()
    save_file({"words": torch.randn(3, 65)}, "words.safetensors")
    assert select(files["wide"], *args) == 1
    told = document(capsys)
    assert (told["error"], told["expected"]) == ("ShapeError", 64)
    save_file({"a": torch.randn(3, 64), "b": torch.randn(3, 64)}, "words.safetensors")
    assert select(files["wide"], *args) == 1
    assert "must be called text" in document(capsys)["message"]
    save_file({"text": torch.randn(3)}, "words.safetensors")
    assert select(files["wide"], *args) == 1
    assert "(S, D)" in document(capsys)["message"]
    Path("words.safetensors").write_bytes(b"no")
    assert select(files["wide"], *args) == 1
    assert document(capsys)["error"] == "UnsafeFile"


def test_words_that_are_stored_beside_a_model_are_looked_for_by_their_letters(files: dict[str, Path], here: Path):
    small = ReaderConfig(hidden=64, heads=2, layers=1, mlp=64, text_layers=1, text_mlp=64, pointing=0)
    folder = here / "reader"
    build_reader(small).save_pretrained(folder)
    torch.manual_seed(0)
    SpelledText(64).save(folder)
    args = ("--model", folder, "--budget", 2, "--text", "What is the total?", "--quiet", "--out", "t.safetensors")
    assert select(files["wide"], *args, "--method", "text") == 0
    side, encoder = SpelledText.load(folder), load_encoder(folder)
    with torch.inference_mode():
        tokens = encoder(patchify(read([files["wide"]]), encoder.pixels))
        near = (side.rows(tokens).x @ side.embed(["total"]).T)[:, 0]
    kept = Packed.load(here / "t.safetensors")
    torch.testing.assert_close(kept.x, tokens.x[near.topk(2).indices.sort().values])
    assert select(files["wide"], *args, "--method", "text", "--text-space", "rows", "--overwrite") == 1  # 96 is not 64


@pytest.mark.parametrize("text", ["", "  ", "What is it?"])
def test_a_text_that_names_nothing(text: str, files: dict[str, Path], siglip: Path, capsys: pytest.CaptureFixture[str]):
    assert select(files["wide"], "--model", siglip, "--budget", 4, "--text", text, "--json") == 1
    assert "no word that names anything" in document(capsys)["message"]


def test_models_without_a_text_tower_say_what_to_give(
    files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str]
):
    for name in (model, "llava_vit_packing_small", "siglip_base_patch16_224"):
        assert select(files["small"], "--model", name, "--budget", 4, "--text", "total", "--json") == 1
        told = document(capsys)
        assert told["error"] == "InputError"
        assert "--text-embeddings FILE.safetensors" in told["message"]


# ---- what is drawn


def test_the_default_draws_what_is_kept(files: dict[str, Path], model: Path, here: Path):
    assert select(files["wide"], "--model", model, "--budget", 3) == 0
    outline = (drawn(here / "wide.kept.png") == (255, 170, 0)).all(axis=2)
    assert 100 < outline.sum() < 20_000


def test_heat_views_scaffold_and_boxes(
    files: dict[str, Path], siglip: Path, here: Path, capsys: pytest.CaptureFixture[str]
):
    args = ("--model", siglip, "--budget", 30, "--views", "64:128x64,128x128", "--scaffold", 9, "--method", "edges")
    assert select(files["wide"], *args, "--coverage", 2, "--heat", "--show", "views.png", "--json") == 0
    told = document(capsys)["files"][0]
    assert [v["grid"] for v in told["views"]] == [[1, 3, 3], [1, 8, 8], [1, 8, 8]]
    assert told["views"][0]["kept"] == 9
    assert told["kept"] == 30
    assert drawn(here / "views.png").shape[1] > 500
    args = ("--model", siglip, "--budget", 4, "--method", "boxes", "--boxes", "0,0,50,20", "--json")
    assert select(files["wide"], *args, "--out", "t.safetensors") == 0
    assert bool((Packed.load(here / "t.safetensors").pos[:, 2] < 4).all())


def test_shirg_keeps_the_whole_view_beside_tiles(
    files: dict[str, Path], siglip: Path, capsys: pytest.CaptureFixture[str]
):
    args = (
        files["wide"],
        "--model",
        siglip,
        "--views",
        "64:128x64,128x128",
        "--text",
        "total",
        "--json",
        "--overwrite",
    )
    assert select(*args, "--budget", 80) == 0
    told = document(capsys)
    assert told["settings"]["scaffold"] == 64
    assert (told["files"][0]["views"][0]["kept"], told["kept"]) == (64, 80)
    assert select(*args, "--budget", 80, "--scaffold", 0) == 0
    assert document(capsys)["files"][0]["views"][0]["kept"] == 0
    assert select(*args, "--budget", 60) == 1
    assert document(capsys)["error"] == "LimitError"


def test_boxes_by_file_name(files: dict[str, Path], siglip: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    Path("boxes.json").write_text(json.dumps({"wide.png": [[0, 0, 50, 20]], "tall.jpg": [[0, 0, 33, 40]]}))
    args = ("--model", siglip, "--budget", 4, "--method", "boxes", "--boxes", "boxes.json", "--json")
    assert select(files["wide"], files["tall"], *args) == 0
    capsys.readouterr()
    for bad in ("[]", "{", '{"wide.png": 3}'):
        Path("boxes.json").write_text(bad)
        assert select(files["wide"], *args) == 1
        assert document(capsys)["error"] == "InputError"


def test_a_clip_is_told_frame_by_frame(files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str]):
    args = ("--model", model, "--budget", 20, "--num-frames", 4, "--method", "uniform", "--json")
    assert select(files["clip"], *args) == 0
    told = document(capsys)["files"][0]
    assert told["kept_per_frame"] == [5, 5, 5, 5]
    assert told["kept"] == 20


def test_a_video_by_its_codec_is_encoded_where_it_changes(files: dict[str, Path], model: Path, here: Path):
    args = ("--model", model, "--budget", 17, "--num-frames", 4, "--method", "codec", "--heat", "--quiet")
    assert select(files["clip"], *args, "--out", "t.safetensors") == 0
    encoder = load_encoder(model, dtype=torch.float32)
    found = read_sparse(files["clip"], encoder.pixels, budget=17, num_frames=4)
    with torch.inference_mode():
        wanted = encoder(found.packed)
    got = Packed.load(here / "t.safetensors")
    assert torch.equal(got.pos, wanted.pos)
    torch.testing.assert_close(got.x, wanted.x)
    with safe_open("t.safetensors", framework="pt") as f:
        torch.testing.assert_close(f.get_tensor("scores"), found.scores.float())


def test_a_picture_has_no_codec(files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str]):
    assert select(files["wide"], "--model", model, "--budget", 3, "--method", "codec", "--json") == 1
    told = document(capsys)
    assert (told["error"], told["item"]) == ("UnsupportedFormat", 0)


# ---- how it ends


def test_the_command_line_is_checked_before_anything_is_loaded(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    wide = files["wide"]
    nowhere = ("--model", "no_such_model")
    for args, said in (
        ((wide, "--budget", -1), "--budget is a number of tokens from 1"),
        ((wide, "--budget", 0), "or a share such as 10%, got '0'"),
        ((wide, "--budget", "0%"), "or a share such as 10%, got '0%'"),
        ((wide, "--budget", 4, "--method", "best"), "no method best"),
        ((wide, "--budget", 4, "--method", "text"), "--text or --text-embeddings"),
        ((wide, "--budget", 4, "--method", "edges", "--text", "a"), "reads a text"),
        ((wide, "--budget", 4, "--text", "a", "--text-embeddings", "b"), "two ways"),
        ((wide, "--budget", 4, "--method", "boxes"), "needs --boxes"),
        ((wide, "--budget", 4, "--method", "boxes", "--boxes", "1,2,3"), "left,top,right,bottom"),
        ((wide, wide, "--budget", 4, "--boxes", "1,2,3,4"), "JSON file"),
        ((wide, "--budget", 4, "--coverage", 2), "cannot follow"),
        ((wide, "--budget", 4, "--scaffold", 9, "--method", "edges"), "belongs to --views"),
        ((wide, "--budget", 4, "--views", "some"), "--views takes"),
        ((wide, "--budget", 4, "--max-side", 100), "at least 500"),
        (("--budget", 4), "at least one file"),
        ((wide,), "budget"),
    ):
        assert select(*args, *nowhere) == 2, args
        assert said in capsys.readouterr().err


def test_several_pictures_say_how_far_their_numbers_can_be_trusted(
    files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str]
):
    args = ("--model", model, "--budget", 4, "--method", "uniform")
    assert select(files["wide"], files["tall"], *args, "--json") == 0
    told = document(capsys)
    encoder = load_encoder(model, dtype=torch.float32)
    p = patchify(read([files["wide"], files["tall"]]), encoder.pixels)
    wanted = coverage(p, choose("uniform", Inputs(p), budget=4).kept)
    assert told["metrics"]["coverage"] == pytest.approx(wanted.as_dict())
    assert sorted(f["metrics"]["coverage"] for f in told["files"]) == [wanted.low, wanted.high]
    assert select(files["wide"], *args, "--show", "again.png") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("spread"))
    assert line.endswith("(one input: no interval)") and "[" not in line


def test_one_file_that_cannot_be_read(files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str]):
    names = (files["wide"], files["broken"], files["tall"])
    args = ("--model", model, "--budget", 3, "--json", "--overwrite")
    assert select(*names, *args) == 1
    assert document(capsys)["item"] == 1
    assert select(*names, *args, "--on-error", "skip", "--out", "t.safetensors") == 1
    told = document(capsys)
    assert [f["kept"] for f in told["files"]] == [3, 3]
    assert told["errors"][0]["file"] == str(files["broken"])
    assert Packed.load("t.safetensors").lengths == (3, 3)


@pytest.mark.parametrize("budget", ["25%", 10_000])
def test_a_share_and_everything(
    budget: int | str, files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str]
):
    assert select(files["wide"], "--model", model, "--budget", budget, "--json", "--out", "t.safetensors") == 0
    told = document(capsys)
    assert (told["budget"], told["tokens"]) == (budget, 12)
    assert told["kept"] == (3 if budget == "25%" else 12)
    assert sum(Packed.load("t.safetensors").lengths) == told["kept"]


def test_a_person_is_told_that_weights_are_random(files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture):
    assert select(files["wide"], "--model", model, "--budget", 3, "--out", "t.safetensors") == 0
    said = capsys.readouterr().out
    assert "UNTRAINED" in said
    assert "3 (25.0%)" in said
    assert "t.safetensors: 3 tokens" in said


def test_attention_needs_layers_that_see_all(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture):
    config = SIGLIP.config_from(
        {
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 16,
        }
    )
    folder = save_encoder(untrained(config), tmp_path / "one", "siglip")
    args = ("--model", folder, "--budget", 2, "--method", "attention", "--json")
    assert select(files["small"], *args) == 1  # --layer -2 of one layer
    assert document(capsys)["error"] == "ConfigError"
    assert select(files["small"], *args, "--layer", -1) == 0


# ---- one budget for several files


def test_a_shared_budget_goes_where_there_is_something(
    files: dict[str, Path], model: Path, here: Path, capsys: pytest.CaptureFixture[str]
):
    Image.new("RGB", (100, 40), (240, 240, 240)).save(here / "blank.png")
    names, recipe = ("blank.png", files["wide"], files["clip"]), load_encoder(model).pixels
    packs = [patchify(read([name], num_frames=4 if name == files["clip"] else None), recipe) for name in names]
    rows, holds = [len(p.x) for p in packs], [held(p)[0] for p in packs]
    args = (*names, "--model", model, "--method", "edges", "--num-frames", 4, "--share", "--overwrite")
    for budget, total in (("20", 20), ("25%", sum(rows) // 4)):
        assert select(*args, "--budget", budget, "--json", "--out", "t.safetensors") == 0
        told = document(capsys)
        own = [f["budget"] for f in told["files"]]
        assert own == list(shared_budgets(holds, rows, total)) == [f["kept"] for f in told["files"]]
        assert told["shared"] and sum(own) == told["kept"] == total and own[0] < own[1]
        assert list(Packed.load("t.safetensors").lengths) == own
    assert select(*args, "--budget", 20) == 0
    assert "budget 20 for all, shared" in capsys.readouterr().out


def test_a_shared_budget_is_for_the_files_that_can_be_read(
    files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str]
):
    args = ("--model", model, "--method", "edges", "--budget", 12, "--share", "--json", "--on-error", "skip")
    assert select(files["wide"], files["broken"], files["tall"], *args, "--views", "32:64x32,32x64") == 1
    told = document(capsys)
    assert [f["file"] for f in told["files"]] == [str(files["wide"]), str(files["tall"])]
    assert told["kept"] == 12 and len(told["errors"]) == 1 and len(told["files"][0]["views"]) > 1
