"""Questions: words scored by a model with a text side, and answers that stream from a whole model."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.language.vlm.tiny_speakers import tokenizer, whole_model
from tests.reduce.tiny_siglip import saved
from tests.web.asgi import HOST, TOKEN, ask, post, send_file
from tests.web.conftest import png, tiny_encoder
from tests.web.test_api import parts

from tubelet import read
from tubelet.cli.serve import Serve
from tubelet.cli.terminal import Terminal
from tubelet.encoder.model import Encoder
from tubelet.language.vlm.chat import ask as ask_model
from tubelet.language.vlm.model import VLM
from tubelet.reduce.encoded import encode_file
from tubelet.reduce.methods import choose
from tubelet.reduce.spelled_text import SpelledText
from tubelet.train.pages.reader import ReaderConfig, build_reader
from tubelet.web.api import Api
from tubelet.web.bench import Bench
from tubelet.web.guard import Guard, Rules
from tubelet.weights.save import save_encoder


def app_of(bench: Bench) -> tuple[Api, Guard]:
    api = Api(bench)
    return api, Guard(api.router, Rules(TOKEN, frozenset({HOST}), 1_000_000))


def test_an_answer_comes_in_lines_and_is_the_models_own(encoder: Encoder, tmp_path: Path):
    whole_model("qwen2_5_vl", seed=7).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    vlm = VLM.from_pretrained(tmp_path / "model")
    api, app = app_of(Bench("tiny", encoder, encoder.pixels, True, reader=vlm, reader_name="model"))
    picture = png(84, 56)
    opened = send_file(app, picture, name="a.png").json
    answer = post(app, "/api/ask", {"id": opened["id"], "question": "what is the total"})
    assert answer.status == 200
    lines = [json.loads(line) for line in answer.body.decode().splitlines()]
    said = "".join(line["text"] for line in lines[:-1])
    asked = ask_model(vlm, read(picture), "what is the total")
    ids = vlm.generate(asked.ready, max_new_tokens=256)
    assert said == vlm.tokenizer.decode(ids[0], skip_special_tokens=True)
    last = lines[-1]
    assert last["done"] and not last["untrained"]
    assert last["tokens"]["visual"] == int(asked.ready.visual.sum())
    assert post(app, "/api/ask", {"id": "none", "question": "what"}).status == 404
    api.close()


def test_of_a_clip_each_frame_is_a_page_of_a_reader(encoder: Encoder, media: dict[str, Path]):
    sizes = ReaderConfig(hidden=64, heads=2, layers=1, mlp=64, text_layers=1, text_mlp=64, pointing=0)
    vlm = build_reader(sizes).eval()
    api, app = app_of(Bench("tiny", encoder, encoder.pixels, True, reader=vlm, reader_name="model"))
    opened = send_file(app, media["clip"].read_bytes(), name="a.mp4").json
    answer = post(app, "/api/ask", {"id": opened["id"], "question": "Total?"})
    *pages, last = [json.loads(line) for line in answer.body.decode().splitlines()]
    frames = opened["items"][0]["grid"][0]
    assert frames > 1
    assert [line for line in pages if "look" in line] == [{"look": n + 1, "of": frames} for n in range(frames)]
    assert last["sure"] is False
    assert all(0 <= place["frame"] < frames for place in last["places"])
    api.close()


def siglip(folder: Path) -> Path:
    return saved(folder, image_size=64)


def spelled(folder: Path) -> Path:
    """An encoder with words by their letters beside it."""
    made = save_encoder(tiny_encoder(), folder, "packing")
    torch.manual_seed(0)
    SpelledText(width=64).save(made)
    return made


@pytest.mark.parametrize("model", [siglip, spelled])
def test_words_are_scored_by_the_models_own_text_side(model: Callable[[Path], Path], tmp_path: Path):
    folder = model(tmp_path / "model")
    bench = Serve(model=str(folder)).bench(Terminal())
    assert bench.words is not None
    api, app = app_of(bench)
    picture = png(64, 64)
    opened = send_file(app, picture, name="a.png").json
    for question in ("total invoice", "date"):  # another text is another choice
        for method, budget in (("text", opened["tokens"]), ("cdpruner", 9)):
            words, space = bench.words(question)
            seen = encode_file(picture, bench.encoder, ("text",), text=words, space=space)
            path = f"/api/scores/{opened['id']}/{method}?budget={budget}&text={question.replace(' ', '%20')}"
            told = parts(ask(app, path).body)
            scores = choose(method, seen.inputs, budget=budget).scores
            assert scores is not None
            assert np.allclose(told["scores"], scores.numpy(), atol=1e-6)
    assert ask(app, f"/api/scores/{opened['id']}/text").status == 422  # no text
    api.close()
