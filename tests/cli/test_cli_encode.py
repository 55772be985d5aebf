"""`tubelet encode`: what is written, what is said, and how it ends."""

import errno
import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.cli.cli_inputs import write_clip
from tests.families.pooling_towers import pooled_by_peer, write_tower

from tubelet import Item, Packed, pack, read
from tubelet.cli import main
from tubelet.encoder.config import EncoderConfig
from tubelet.pixels import stream as stream_module
from tubelet.pixels.patchify import patchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading import source as source_module
from tubelet.weights.load import load_encoder, untrained
from tubelet.weights.save import save_encoder

Run = Callable[..., subprocess.CompletedProcess[str]]


def encode(*args: object) -> int:
    return main(["encode", *map(str, args)])


def metadata(path: Path) -> dict[str, str]:
    with safe_open(str(path), framework="pt") as file:
        return file.metadata()


# ---- what is written


def test_the_file_holds_what_one_pack_through_the_encoder_gives(
    files: dict[str, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    names = [files[k] for k in ("wide", "clip", "tall")]
    assert encode(*names, "--model", model, "--out", tmp_path / "o.safetensors", "--pool", "--fps", 5) == 0
    got = Packed.load(tmp_path / "o.safetensors")
    encoder = load_encoder(model, dtype=torch.float32)
    with torch.inference_mode():
        want = encoder(patchify(read(names, fps=5.0), encoder.pixels))
        pooled = encoder.pooled(want)
    assert got.items == want.items
    assert got.lengths == want.lengths == (12, 120, 10)
    assert torch.equal(got.pos, want.pos)
    torch.testing.assert_close(got.x, want.x, rtol=1e-5, atol=1e-5)
    with safe_open(str(tmp_path / "o.safetensors"), framework="pt") as file:
        torch.testing.assert_close(file.get_tensor("pooled"), pooled, rtol=1e-5, atol=1e-5)
    assert got.items[1].times_s == pytest.approx([0.2 * i for i in range(10)])


@pytest.mark.parametrize("name", ["clip", "dinov3"])
def test_families_that_pool_their_class_token(name: str, files: dict[str, Path], tmp_path: Path):
    peer = write_tower(name, tmp_path / "tower")
    names = [files[k] for k in ("wide", "clip", "tall")]
    args = ("--model", tmp_path / "tower", "--pool", "--num-frames", 3, "--quiet")
    assert encode(*names, *args, "--out", tmp_path / "o.safetensors") == 0
    recipe = load_encoder(tmp_path / "tower").pixels
    want = torch.stack([pooled_by_peer(peer, clip, recipe) for clip in read(names, num_frames=3)])
    with safe_open(str(tmp_path / "o.safetensors"), framework="pt") as file:
        torch.testing.assert_close(file.get_tensor("pooled"), want, rtol=1e-4, atol=1e-4)


def test_a_variant_that_cannot_pool_is_refused_before_its_weights_are_drawn(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tubelet.cli.model.untrained", lambda *_, **__: pytest.fail("weights were drawn"))
    assert encode(files["wide"], "--model", "llava_onevision2", "--pool", "--out", tmp_path / "o.safetensors") == 2
    assert "neither a pooling head nor a class token" in capsys.readouterr().err


def test_what_cannot_pool_is_refused(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = EncoderConfig(64, 1, 2, 64, PixelRecipe(16), post_norm=False, pool=False)
    folder = save_encoder(untrained(config), tmp_path / "tiny", "packing")
    assert encode(files["wide"], "--model", folder, "--pool", "--out", tmp_path / "o.safetensors") == 2
    assert "neither a pooling head nor a class token" in capsys.readouterr().err
    assert not (tmp_path / "o.safetensors").exists()


def test_packs_change_neither_order_nor_values(
    files: dict[str, Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    names = [files[k] for k in ("tall", "wide", "broken", "small", "clip", "wide")]
    args = (*names, "--model", model, "--pool", "--on-error", "skip", "--quiet")
    assert encode(*args, "--out", tmp_path / "one.safetensors") == 1
    monkeypatch.setattr(stream_module, "stream", partial(stream_module.stream, max_rows=20))
    assert encode(*args, "--out", tmp_path / "many.safetensors") == 1
    one, many = Packed.load(tmp_path / "one.safetensors"), Packed.load(tmp_path / "many.safetensors")
    assert [i.picture for i in one.items] == [0, 1, 3, 4, 5]
    assert one.items == many.items
    assert one.lengths == many.lengths
    assert torch.equal(one.pos, many.pos)
    torch.testing.assert_close(one.x, many.x, rtol=1e-5, atol=1e-5)
    told = [metadata(tmp_path / f"{n}.safetensors") for n in ("one", "many")]
    assert told[0] == told[1]
    assert json.loads(told[0]["left_out"]) == {"2": "DecodeError"}
    assert json.loads(told[0]["files"])[2] == str(files["broken"])


@pytest.mark.parametrize("isolate", ["auto", "always"])
def test_a_file_is_opened_twice_to_plan_and_to_decode(
    files: dict[str, Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolate: str
):
    opened: list[str] = []
    really = source_module._open_path
    monkeypatch.setattr(source_module, "_open_path", lambda path: (opened.append(path), really(path))[1])
    names = [str(files[k]) for k in ("wide", "tall", "clip")]
    args = ("--model", model, "--out", tmp_path / "o.safetensors", "--isolate", isolate, "--quiet")
    assert encode(*names, *args) == 0
    assert Counter(opened) == dict.fromkeys(names, 2)


def test_the_written_file_says_what_made_it(files: dict[str, Path], model: Path, tmp_path: Path):
    out = tmp_path / "o.safetensors"
    assert encode(files["small"], "--model", model, "--out", out, "--dtype", "bfloat16", "--quiet") == 0
    assert Packed.load(out).dtype == torch.bfloat16
    told = metadata(out)
    about = json.loads(told["model"])
    assert (about["dtype"], about["hidden"], about["patch"]) == ("bfloat16", 64, 16)
    assert told["untrained"] == "true"  # the folder of this test says so of itself


def test_max_pixels_bounds_every_picture(files: dict[str, Path], model: Path, tmp_path: Path):
    out = tmp_path / "o.safetensors"
    args = ("--model", model, "--out", out, "--max-pixels", 1024, "--quiet")
    assert encode(files["wide"], files["clip"], *args, "--num-frames", 3) == 0
    grids = [i.grid for i in Packed.load(out).items]
    assert grids[1].t == 3
    assert all(g.h * g.w * 256 <= 1024 for g in grids)


def test_times_are_the_frames_at_those_seconds(files: dict[str, Path], model: Path, tmp_path: Path):
    out = tmp_path / "o.safetensors"
    assert encode(files["clip"], "--model", model, "--out", out, "--times", "0,0.55,1.9", "--quiet") == 0
    assert Packed.load(out).items[0].times_s == pytest.approx((0.0, 0.5, 1.9))


def test_animations_are_clips_on_request(model: Path, tmp_path: Path):
    from PIL import Image

    frames = [Image.new("RGB", (32, 32), (60 * i, 0, 0)) for i in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=500)
    for extra, t in (((), 1), (("--animation", "--fps", "2"), 4)):
        args = ("--model", model, "--out", tmp_path / "o.safetensors", "--quiet", "--overwrite", *extra)
        assert encode(tmp_path / "a.gif", *args) == 0
        assert Packed.load(tmp_path / "o.safetensors").items[0].grid.t == t


# ---- what is said


def test_the_table_tells_sizes_grids_tokens_times_and_untrained(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    named = ("--model", "llava_vit_packing_small")
    assert encode(files["wide"], files["clip"], "--out", "o.safetensors", "--pool", *named) == 0
    said = capsys.readouterr()
    assert said.err == ""
    for text in ("wide.png", "100 x 40", "1 x 2 x 6", "clip.mp4", "4 x 3 x 4", "2 files", "60"):
        assert text in said.out
    for stage in ("open", "decode", "resize", "pack", "encode"):
        assert stage in said.out
    assert "UNTRAINED" in said.out
    assert "llava_vit_packing_small" in said.out
    assert "MiB at most" in said.out
    assert "60 tokens of 384 values, and a pooled vector for each of 2 files" in said.out


def test_the_default_is_trained(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert encode(files["wide"], "--out", "o.safetensors") == 0
    said = capsys.readouterr()
    assert "reader (trained weights), float32" in said.out
    assert "3 tokens of 256 values" in said.out
    assert encode(files["wide"], "--out", "p.safetensors", "--pool") == 2
    assert "neither a pooling head nor a class token" in capsys.readouterr().err


def test_quiet_says_nothing(files: dict[str, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert encode(files["wide"], "--model", model, "--out", tmp_path / "o.safetensors", "--quiet") == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


def test_json_is_one_document_with_every_number(
    files: dict[str, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    args = ("--model", model, "--out", tmp_path / "o.safetensors", "--json", "--on-error", "skip")
    assert encode(files["tall"], files["broken"], files["clip"], *args) == 1
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"tubelet: {files['broken']}: ")
    tall, broken, clip = told["files"]
    assert (tall["width"], tall["height"], tall["grid"], tall["tokens"]) == (33, 80, [1, 5, 2], 10)
    assert broken["error"]["error"] == "DecodeError"
    assert broken["error"]["item"] == 1
    assert [e["error"] for e in told["errors"]] == ["DecodeError"]
    assert clip["frames"] == 4
    assert clip["times_s"] == pytest.approx([0, 0.5, 1.0, 1.5])
    assert set(clip["seconds"]) == {"open", "decode", "resize", "pack", "encode"}
    assert told["tokens"] == tall["tokens"] + clip["tokens"] == Packed.load(tmp_path / "o.safetensors").x.shape[0]
    assert told["untrained"] is True
    assert told["peak_memory_bytes"]["host"] > 10_000_000


def test_an_incomplete_clip_is_marked(
    files: dict[str, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    cut = write_clip(tmp_path / "cut.mkv", 320, 240, frames=20, noise=90)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 7 // 10])
    args = (cut, "--model", model, "--out", tmp_path / "o.safetensors", "--fps", 10, "--overwrite")
    assert encode(*args, "--json") == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["complete"] is False
    assert encode(*args) == 0
    assert "INCOMPLETE" in capsys.readouterr().out


def test_names_cannot_move_the_cursor_or_fake_markup(
    files: dict[str, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    evil = tmp_path / "a\n\x1b[31m[bold]\N{RIGHT-TO-LEFT OVERRIDE}:smile:.png"
    evil.write_bytes(files["wide"].read_bytes())
    bad = tmp_path / "b\n\x1b[2J.png"
    bad.write_bytes(b"not a picture at all, and long enough")
    args = (evil, bad, "--model", model, "--out", tmp_path / "o.safetensors", "--on-error", "skip", "--overwrite")
    assert encode(*args) == 1
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert "\x1b" not in text
        assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in text
    flat = said.out.replace("\n", "").replace(" ", "")
    assert r"a\n\x1b[31m[bold]\u202e:smile:.png" in flat
    assert said.err.count("\n") == 1
    assert encode(*args, "--json") == 1
    assert json.loads(capsys.readouterr().out)["files"][0]["file"].endswith(evil.name)


# ---- how it ends


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    """Exit code and the one line on stderr."""
    code = encode(*args)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err
    return code, said.err


def test_inputs_that_are_no_files(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    os.mkfifo(tmp_path / "pipe")
    out = tmp_path / "o.safetensors"
    for source, word in (
        (tmp_path / "missing.png", "no such file"),
        (tmp_path, "no picture or clip is there, only pipe (not a regular file)"),
        (tmp_path / "*.png", "no file has such a name"),
        (tmp_path / "pipe", "pipe"),
        ("/dev/zero", "device"),
        ("http://localhost/a.png", "http"),
    ):
        code, line = refused(capsys, source, "--model", model, "--out", out)
        assert code == 1
        assert word in line
        assert not out.exists()


def test_outputs_are_checked_before_anything_is_read(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    os.mkfifo(tmp_path / "pipe")
    before = files["wide"].read_bytes()
    (tmp_path / "link").symlink_to(files["wide"])
    (tmp_path / "diary.txt").write_text("dear diary")
    for out, word in (
        (tmp_path / "diary.txt", "of another kind"),
        (tmp_path, "holds diary.txt, link, pipe, which a run does not write"),
        (tmp_path / "tokens.png", "ends with .safetensors"),
        (tmp_path / "pipe", "not a regular file"),
        ("/dev/null", "not a regular file"),
        (files["wide"], "one of the inputs"),
        (tmp_path / "link", "one of the inputs"),
        (tmp_path / "nowhere" / "o.safetensors", "No such file or directory"),
    ):
        code, line = refused(capsys, files["wide"], tmp_path / "missing.png", "--out", out, "--model", "/nowhere/x")
        assert code == (2 if "ends with" in word else 1)
        assert word in line
    assert files["wide"].read_bytes() == before


def test_a_folder_that_is_read_only(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def forbidden(self: Path, *_: object) -> None:  # what mkdir does there; for root, no folder is read-only
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    code, line = refused(capsys, files["wide"], "--out", tmp_path / "o.safetensors", "--model", "/nowhere/x")
    assert code == 1
    assert line.endswith("o.safetensors: the output cannot be written: Permission denied\n")


def test_an_old_output_survives_a_failure(files: dict[str, Path], model: Path, tmp_path: Path):
    out = tmp_path / "o.safetensors"
    pack([torch.zeros(6, 4)], [Item.of(1, 2, 3)]).save(out)
    old = out.read_bytes()
    assert encode(files["wide"], files["broken"], "--model", model, "--out", out, "--quiet") == 1
    assert out.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["o.safetensors"]


def test_nothing_is_written_when_every_file_fails(
    files: dict[str, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "o.safetensors"
    assert encode(files["broken"], "--model", model, "--out", out, "--on-error", "skip", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["error"] == "InputError"
    assert "none of the 1 files" in told["message"]
    assert not out.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--fps", "-1"],
        ["--fps", "2", "--num-frames", "3"],
        ["--times", "3,1"],
        ["--times", "a"],
        ["--max-pixels", "10"],
        ["--workers", "0"],
        ["--dtype", "int8"],
        ["--model", "no_such_variant"],
        ["--model", "llava_onevision2", "--pool"],
        ["--bogus"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_2_and_json_stays_valid(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]
):
    args = (files["wide"], "--out", tmp_path / "o.safetensors", *wrong)
    assert encode(*args) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err
    assert encode(*args, "--json") == 2
    assert json.loads(capsys.readouterr().out)["error"] == "UsageError"


def test_an_error_carries_its_fields_into_json(
    files: dict[str, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "o.safetensors"
    assert encode(files["wide"], tmp_path / "gone.png", "--model", model, "--out", out, "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["error"] == "InputError"
    assert told["item"] == 1
    assert told["source"].endswith("gone.png")


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Path):
    args = (tmp_path / "gone.png", "--model", model, "--out", tmp_path / "o.safetensors")
    assert encode(*args, "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_isolated_decoding_gives_the_same_tokens(files: dict[str, Path], model: Path, tmp_path: Path):
    for isolate in ("never", "always"):
        args = ("--model", model, "--out", tmp_path / f"{isolate}.safetensors", "--isolate", isolate, "--quiet")
        assert encode(files["tall"], files["clip"], *args) == 0
    never, always = (Packed.load(tmp_path / f"{n}.safetensors") for n in ("never", "always"))
    assert never.items == always.items
    assert torch.equal(never.x, always.x)


def test_a_thousand_files(files: dict[str, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert encode(*[files["small"]] * 1000, "--model", model, "--out", tmp_path / "o.safetensors") == 0
    said = capsys.readouterr().out
    assert "1,000 files" in said
    assert "and 960 more files" in said
    assert Packed.load(tmp_path / "o.safetensors").lengths == (4,) * 1000


def test_config_stands_in_for_a_config_json_that_is_refused(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = save_encoder(untrained("llava_vit_packing_small", seed=3), tmp_path / "hub", "packing")
    named = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(named))
    out = tmp_path / "o.safetensors"
    assert encode(files["small"], "--model", folder, "--out", out) == 1
    assert "auto_map" in capsys.readouterr().err
    assert not out.exists()
    assert encode(files["small"], "--model", folder, "--config", "llava_vit_packing_small", "--out", out) == 0
    assert Packed.load(out).x.shape == (4, 384)
    assert encode(files["small"], "--model", folder, "--config", "nothing", "--out", out, "--overwrite") == 2
    assert encode(files["small"], "--config", "llava_vit_small", "--out", out, "--overwrite") == 2
