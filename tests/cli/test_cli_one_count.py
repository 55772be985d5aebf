"""The same folder counts the same in every command: `plan`, `show`, `encode`, `select`, `compare` and `ask`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.cli_inputs import write_clip, write_picture
from tests.language.vlm.tiny_peers import idefics3, number_words, paligemma
from tests.language.vlm.tiny_speakers import tokenizer, whole_model  # pyright: ignore[reportMissingImports]

from tubelet.cli import main
from tubelet.encoder.config import EncoderConfig
from tubelet.pixels.recipe import PixelRecipe
from tubelet.weights.load import untrained
from tubelet.weights.save import save_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A picture, one of a few pixels, a clip, a clip of one frame and an animation."""
    folder = tmp_path_factory.mktemp("one")
    still = np.zeros((40, 72, 3), np.uint8)
    frames = [Image.fromarray(still + 30 * i) for i in range(4)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:], duration=500)
    return [
        write_picture(folder / "wide.png", 240, 120),
        write_picture(folder / "small.png", 20, 9),
        write_clip(folder / "clip.mp4", 96, 64, 30),
        write_clip(folder / "one.mp4", 128, 96, 1),
        folder / "moving.gif",
    ]


def said(capsys: pytest.CaptureFixture[str], *args: object) -> list[int]:
    assert main([*map(str, args), "--json", "--animation"]) == 0
    out = capsys.readouterr().out
    found = json.loads(out[out.index("{\n") :])  # other libraries may have said something on the way
    return [one["tokens"] for one in found["items" if "items" in found else "files"]]


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_a_whole_model_s_folder(
    kind: str, folder: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    whole_model(kind, seed=7).save_pretrained(model)
    tokenizer().save_pretrained(model)
    pixels = {"shortest_edge": 4 * 28 * 28, "longest_edge": 30 * 28 * 28}
    processor = {"image_processor_type": "Qwen2VLImageProcessor", "size": pixels}
    (model / "preprocessor_config.json").write_text(json.dumps(processor))
    clips = {"video_processor_type": "Qwen2VLVideoProcessor", "size": {"shortest_edge": 6272, "longest_edge": 9408}}
    (model / "video_preprocessor_config.json").write_text(json.dumps(clips))
    how = ("--model", model, "--fps", 4, *(("--max-tokens", 12) if kind == "qwen3_vl" else ()))
    planned = said(capsys, "plan", *folder, *how)
    assert said(capsys, "encode", *folder, *how, "--out", tmp_path / "all.safetensors") == planned
    assert said(capsys, "select", *folder, *how, "--budget", 4, "--show", tmp_path) == planned
    assert said(capsys, "show", *folder, *how, "--out", tmp_path / "drawn") == planned
    assert said(capsys, "ask", *folder, "Why?", *how, "--max-new-tokens", 1) == planned
    assert kind != "qwen3_vl" or max(planned) <= 12


@pytest.mark.parametrize("kind", ["smolvlm", "paligemma"])
def test_a_whole_model_that_cuts_or_projects(
    kind: str, folder: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Tiles, frames and what its projector merges are counted as they are asked about."""
    monkeypatch.chdir(tmp_path)
    with number_words():
        model = (paligemma if kind == "paligemma" else idefics3)(kind, tmp_path / "model").folder
    planned = said(capsys, "plan", *folder, "--model", model, "--fps", 4)
    assert said(capsys, "ask", *folder, "Why?", "--model", model, "--fps", 4, "--max-new-tokens", 1) == planned
    assert planned[0] == (28 if kind == "smolvlm" else 16)


def test_an_encoder_with_the_default_budgets(
    folder: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    config = EncoderConfig(hidden=64, layers=2, heads=2, mlp=64, pixels=PixelRecipe(16, size=448))
    model = save_encoder(untrained(config, seed=5), tmp_path / "tiny", "packing")
    for most in ((), ("--max-tokens", 30), ("--max-tokens", "none")):
        how = ("--model", model, "--fps", 4, *most)
        planned = said(capsys, "plan", *folder, *how)
        assert said(capsys, "encode", *folder, *how, "--out", tmp_path / f"{most}.safetensors") == planned
        assert said(capsys, "select", *folder, *how, "--budget", 12, "--show", tmp_path, "--overwrite") == planned
        assert said(capsys, "show", *folder, *how, "--out", tmp_path / "drawn", "--overwrite") == planned
        page = ("--budget", 12, "--runs", 0, "--methods", "edges", "--show", tmp_path, "--overwrite")
        assert said(capsys, "compare", *folder, *how, *page) == planned
        assert max(planned) == (30 if "30" in map(str, most) else 288)
