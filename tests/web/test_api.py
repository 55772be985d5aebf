"""What the routes give is what the library gives, and what they refuse they refuse in our own words."""

import asyncio
import io
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.web.asgi import ask, call, post, send_file
from tests.web.conftest import png

import tubelet
from tubelet.encoder.model import Encoder
from tubelet.inspect.budget.inputs import Input
from tubelet.inspect.budget.networks import LANGUAGE
from tubelet.inspect.budget.plan import plan
from tubelet.inspect.budget.values import Downstream
from tubelet.inspect.draw.cells import layers_of
from tubelet.language.placing.place import place
from tubelet.language.placing.rules import QWEN2_5_VL, TokenIds
from tubelet.packed.order import rows_in
from tubelet.pixels.views_plan import ViewRule
from tubelet.reduce.encoded import EncodedFile, encode_file
from tubelet.reduce.methods import METHODS, choose
from tubelet.web.api import PAGE, RECEIVED, TURN, Api
from tubelet.web.costs import costs
from tubelet.web.look import NEVER


@pytest.fixture(scope="module")
def page(app: Any) -> dict[str, Any]:
    return post(app, "/api/open", {"file": 0}).json


@pytest.fixture(scope="module")
def clip(app: Any) -> dict[str, Any]:
    return post(app, "/api/open", {"file": 1, "fps": 4}).json


@pytest.fixture(scope="module")
def seen(encoder: Encoder, media: dict[str, Path]) -> EncodedFile:
    return encode_file(str(media["page"]), encoder, ("attention", "keys"), isolate="never")


def parts(body: bytes) -> dict[str, Any]:
    """A choice as web.look describes it, taken apart by the description alone."""
    magic, rows, budget, flags, length, low, high = struct.unpack("<8sIIIIff", body[:32])
    rest = body[32:]
    assert magic == b"tubelet\0"
    assert length == len(rest)
    found: dict[str, Any] = {"rows": rows, "budget": budget, "scale": (low, high)}
    if flags & 4:
        return found | {"resized": json.loads(rest)}
    if flags & 1:
        found["scores"], rest = np.frombuffer(rest[: 4 * rows], "<f4"), rest[4 * rows :]
    if flags & 2:
        return found | {"ranks": np.frombuffer(rest, "<u4")}
    bits = np.unpackbits(np.frombuffer(rest, np.uint8), bitorder="little")
    assert len(bits) == -(-rows // 8) * 8
    return found | {"kept": bits[:rows].astype(bool)}


def scores(app: Any, opened: dict[str, Any], method: str, budget: int = 9) -> dict[str, Any]:
    return parts(ask(app, f"/api/scores/{opened['id']}/{method}?budget={budget}").body)


# ---- files


def test_a_picture_is_told_as_it_is(page: dict[str, Any]):
    assert (page["name"], page["width"], page["height"], page["is_video"]) == ("page.png", 160, 112, False)
    assert page["tokens"] == page["patches"] == 70
    [item] = page["items"]
    expected = {"grid": [1, 7, 10], "box": [0, 0, 160, 112], "times_s": [0], "frames": [0], "start": 0, "rows": 70}
    assert item == expected
    assert page["panels"] == [{"items": [0], "extent": [0, 0, 160, 112]}]
    assert page["again"] == {"file": 0}


def test_a_clip_has_its_true_times(clip: dict[str, Any], media: dict[str, Path]):
    [read] = tubelet.read([media["clip"]], fps=4.0)
    assert clip["times_s"] == list(read.times_s)
    assert clip["items"][0]["grid"] == [8, 3, 4]
    assert clip["items"][0]["frames"] == list(range(8))
    assert clip["duration_s"] == read.duration_s


def test_views_are_items_and_tiles_lie_in_one_panel(app: Any, page: dict[str, Any]):
    cut = post(app, "/api/open", {"doc": page["id"], "views": "64:128x64"}).json
    assert len(cut["items"]) == 3  # two tiles and the whole
    assert sorted(len(panel["items"]) for panel in cut["panels"]) == [1, 2]
    assert cut["asked"]["views"] == "64:128x64"
    assert sum(item["rows"] for item in cut["items"]) == cut["tokens"]


def test_what_is_sent_is_what_a_path_names(app: Any, page: dict[str, Any], media: dict[str, Path]):
    hostile = "<img src=x onerror=alert(1)>\u202e\n.png"
    sent = send_file(app, media["page"].read_bytes(), name=hostile).json
    assert sent["name"] == hostile  # shown as text by the page
    assert sent["id"] != page["id"]
    assert sent["again"] == {}
    ours, theirs = (ask(app, f"/api/scores/{one['id']}/edges").body for one in (sent, page))
    assert ours == theirs
    assert post(app, "/api/open", {"path": "page.png"}).json["again"] == {"path": "page.png"}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"path": "../page.png"}, "InputError"),
        ({"path": "/etc/passwd"}, "InputError"),
        ({"path": "broken.png"}, "DecodeError"),
        ({"path": "text.png"}, "UnsupportedFormat"),
        ({"file": 2}, "InputError"),
        ({"file": -1}, "InputError"),
        ({"file": True}, "InputError"),
        ({"file": 0, "fps": 0}, "InputError"),
        ({"file": 0, "fps": "4"}, "InputError"),
        ({"file": 0, "fps": 2, "num_frames": 2}, "InputError"),
        ({"file": 0, "views": "nothing"}, "InputError"),
        ({"file": 0, "views": 4}, "InputError"),
        ({}, "InputError"),
        ([], "InputError"),
    ],
)
def test_what_cannot_be_opened_is_refused(app: Any, body: Any, error: str, media: dict[str, Path]):
    answer = post(app, "/api/open", body)
    assert (answer.status, answer.json["error"]) == (422, error)
    assert set(answer.json) == {"error", "message"}
    assert str(media["page"].parent) not in answer.body.decode()


@pytest.mark.parametrize("data", [b"", b"x", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, png(40, 40)[:-30]])
def test_damaged_files_are_refused(app: Any, data: bytes):
    assert send_file(app, data, name="a.png").status == 422


def test_a_header_that_is_no_json_is_refused(app: Any):
    more = [("x-tubelet-file", "{")]
    assert ask(app, "/api/open", method="POST", more=more, body=png(8, 8)).status == 422


def test_few_bodies_are_received_at_a_time(app: Any, api: Api):
    """Memory holds each of them whole."""

    async def together() -> list[int]:
        answers = [call(app, "/api/open", method="POST", body=[b"x"] * 4, pause_s=0.05) for _ in range(RECEIVED + 3)]
        return sorted([answer.status for answer in await asyncio.gather(*answers)])

    found = asyncio.run(together())
    assert found[-3:] == [503, 503, 503]
    assert set(found) <= {422, 503}  # some of them wait for the model and are too many there
    assert api.receiving == 0


@pytest.mark.parametrize("name", ["isolated_outline", "isolated_read"])
def test_files_are_looked_at_and_decoded_in_a_child(app: Any, monkeypatch: pytest.MonkeyPatch, name: str):
    from tubelet.reading import outlined

    asked = []
    monkeypatch.setattr(outlined, name, lambda src, *how: asked.append(src) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        send_file(app, png(32, 32), name="a.png")
    assert len(asked) == 1


def test_the_oldest_is_forgotten(app: Any, api: Api, page: dict[str, Any]):
    first = send_file(app, png(32, 32), name="first.png").json
    for level in range(api.documents.most):
        send_file(app, png(32, 32, level), name="more.png")
    assert len(api.documents) == api.documents.most
    answer = ask(app, f"/api/document/{first['id']}")
    assert (answer.status, answer.json["error"]) == (404, "InputError")


# ---- tokens


@pytest.mark.parametrize("method", ["edges", "variance", "norm", "attention", "random"])
def test_ranks_keep_what_the_method_keeps_at_every_budget(app: Any, seen: EncodedFile, method: str):
    page = post(app, "/api/open", {"file": 0}).json
    told, tokens = scores(app, page, method), seen.inputs.tokens
    for budget in (1, 2, 7, 35, 69, 70):
        choice = choose(method, seen.inputs, budget=budget)
        rows = np.flatnonzero(told["ranks"] < budget)
        assert rows.tolist() == rows_in(tokens, choice.kept).tolist(), budget
        assert choice.scores is not None
        assert np.array_equal(told["scores"], choice.scores.float().numpy())
    assert told["scale"] == pytest.approx(layers_of(tokens, tokens, 0, choice.scores)[0].scale)


@pytest.mark.parametrize("method", ["divprune", "uniform", "visionzip", "prumerge", "tome"])
def test_a_method_without_an_order_is_asked_for_that_budget(app: Any, seen: EncodedFile, method: str):
    page = post(app, "/api/open", {"file": 0}).json
    scores(app, page, "attention")  # tome would use the keys that this finds, and nobody asked it to
    inputs = seen.inputs if "keys" in METHODS[method].needs else replace(seen.inputs, attention=None, keys=None)
    for budget in (5, 40):
        told = scores(app, page, method, budget)
        choice = choose(method, inputs, budget=budget)
        assert "ranks" not in told
        assert np.flatnonzero(told["kept"]).tolist() == sorted(rows_in(seen.inputs.tokens, choice.kept).tolist())
        assert ("scores" in told) == (choice.scores is not None)
        assert told["budget"] == budget


@pytest.mark.parametrize("method", ["pool", "downsample"])
def test_a_method_that_resizes_tells_its_own_grid(app: Any, seen: EncodedFile, method: str):
    page = post(app, "/api/open", {"file": 0}).json
    told, kept = scores(app, page, method, 20), choose(method, seen.inputs, budget=20).kept
    assert told["resized"]["rows"] == len(kept.x) <= 20
    assert [one["grid"] for one in told["resized"]["items"]] == [list(item.grid) for item in kept.items]


def test_a_clip_is_chosen_from_by_its_codec(app: Any):
    clip = post(app, "/api/open", {"file": 1, "fps": 4}).json
    told = scores(app, clip, "codec", 12)
    assert told["kept"].sum() <= 12
    assert np.isneginf(told["scores"][~told["kept"]]).all()  # no score was given, and none is made up


def test_rows_that_are_never_kept_have_no_rank(encoder: Encoder):
    """A black border is kept at no budget, so no slider may show it as kept."""
    from tubelet.reduce.methods import Inputs
    from tubelet.web.look import choice_bytes

    item = tubelet.Item(tubelet.Grid(1, 4, 4), (0.0,), 0, (0, -32, 64, 32), (0, 0, 64, 32))
    p = tubelet.pack([torch.randn(16, 8)], [item])
    choice = choose("norm", Inputs(p), budget=16)
    told = parts(choice_bytes(p, choice, 16, ranks=True))
    assert len(choice.kept.x) < 16
    assert (told["ranks"] == NEVER).sum() == 16 - len(choice.kept.x)
    for budget in (1, 4, 8):
        kept = choose("norm", Inputs(p), budget=budget).kept
        assert np.flatnonzero(told["ranks"] < budget).tolist() == rows_in(p, kept).tolist()


def test_positions_are_those_of_a_prompt(app: Any, seen: EncodedFile):
    page = post(app, "/api/open", {"file": 0}).json
    places = np.frombuffer(ask(app, f"/api/positions/{page['id']}").body, "<i4").reshape(-1, 3)
    assert np.array_equal(places, seen.inputs.tokens.pos.numpy())


def test_positions_of_a_clip_count_its_seconds(app: Any, encoder: Encoder, media: dict[str, Path]):
    clip = post(app, "/api/open", {"file": 1, "fps": 4}).json
    found = np.frombuffer(ask(app, f"/api/positions/{clip['id']}?rule=qwen2.5-vl").body, "<i4").reshape(-1, 3)
    tokens = encoder(tubelet.patchify(tubelet.read([media["clip"]], fps=4.0), encoder.pixels))
    prompt = place(tokens, torch.zeros(len(tokens.x), dtype=torch.int64), TokenIds(image=0), rule=QWEN2_5_VL)
    assert np.array_equal(found, prompt.position_ids.T.numpy())
    assert found[:, 0].max() == 3  # 1.75 s at 2 a second
    answer = ask(app, f"/api/positions/{clip['id']}?rule=nothing")
    assert answer.status == 422


def test_colours_are_one_for_each_row(app: Any):
    page = post(app, "/api/open", {"file": 0}).json
    answer = ask(app, f"/api/colours/{page['id']}")
    assert len(answer.body) == 3 * 70
    assert 0 < float(answer.headers["x-tubelet-share"]) <= 1


def test_frames_are_the_decoded_pixels(app: Any, media: dict[str, Path]):
    page = post(app, "/api/open", {"file": 0}).json
    answer = ask(app, f"/api/frame/{page['id']}/0")
    assert answer.headers["content-type"] == "image/png"
    shown = np.asarray(Image.open(io.BytesIO(answer.body)))
    assert np.array_equal(shown, tubelet.read([media["page"]])[0].frames[0])
    small = Image.open(io.BytesIO(ask(app, f"/api/frame/{page['id']}/0?side=40").body))
    assert small.size == (40, 28)
    for path in ("1", "0?side=4", "0?side=99999", "0?side=-1", "0?side=x"):
        assert ask(app, f"/api/frame/{page['id']}/{path}").status == 422
    assert ask(app, f"/api/frame/{page['id']}/-1").status == 404


@pytest.mark.parametrize(
    "path",
    [
        *("scores/ID/nothing", "scores/ID/boxes", "scores/ID/text?text=a", "scores/ID/divprune?budget=-1"),
        *("scores/ID/divprune?budget=x", "scores/ID/codec?budget=4", "scores/ID/shirg"),
    ],
)
def test_what_a_method_cannot_do_is_refused(app: Any, path: str):
    page = post(app, "/api/open", {"file": 0}).json
    answer = ask(app, "/api/" + path.replace("ID", page["id"]))
    assert answer.status == 422
    assert ask(app, "/api/" + path.replace("ID", "none")).status in (404, 422)


# ---- costs


def test_costs_are_those_of_the_planner(app: Any, encoder: Encoder):
    told = ask(app, "/api/plan?width=640&height=480&duration=8&fps=2&budget=300&llm=qwen2.5-3b").json
    after = Downstream(select=300, llm=LANGUAGE["qwen2.5-3b"])
    found = plan([Input(640, 480, 16, duration_s=8.0)], encoder.config, after)
    assert told["frames"] == 16
    assert (told["tokens"], told["patches"], told["flop"]) == (300, found.patches, found.flop)
    assert told["memory_bytes"] == found.memory().total_bytes
    assert told["kv_bytes"] == found.kv_bytes()


def test_chosen_rows_of_views_are_neither_pooled_nor_joined(encoder: Encoder):
    side = 4 * encoder.config.pixels.patch
    rule = ViewRule(side, ((side, 2 * side), (2 * side, side)), pool="bilinear", join="unpad")
    asked = {"width": "80", "height": "160", "budget": "9"}
    told = costs(asked, encoder.config, rule)
    assert told == costs(asked, encoder.config, replace(rule, pool=None, join="flat"))
    assert told["tokens"] == 9
    assert told["patches"] == 3 * 4 * 4  # the whole and two tiles


@pytest.mark.parametrize(
    "query",
    [
        *("", "width=1", "width=0&height=9", "width=x&height=9", "width=nan&height=9", "width=1e99&height=9"),
        *("width=9&height=9&budget=0", "width=9&height=9&llm=none", "width=9&height=9&duration=1e9"),
        *("width=9&height=9&duration=9&fps=0", "width=9&height=9&views=nothing"),
    ],
)
def test_costs_of_nothing_are_refused(app: Any, query: str):
    assert ask(app, f"/api/plan?{query}").status == 422


# ---- the page


@pytest.mark.parametrize("path", ["/", *(f"/{name}" for name in (*PAGE, TURN))])
def test_the_page_is_a_list_of_files(app: Any, path: str):
    answer = ask(app, path)
    assert answer.status == 200
    assert len(answer.body) > 100


@pytest.mark.parametrize(
    "path",
    ["/../guard.py", "/static/app.js", "/app.js/", "//app.js", "/%2e%2e/guard.py", "/api", "/api/none", "/app.py"],
)
def test_there_is_no_other_file(app: Any, path: str):
    assert ask(app, path).status == 404


def test_methods_are_those_of_http(app: Any):
    assert ask(app, "/", method="DELETE").status == 405
    assert ask(app, "/api/open").status == 405
    assert ask(app, "/api/about", method="POST").status == 405
    assert ask(app, "/favicon.ico").status == 204


def test_the_page_is_told_what_there_is(app: Any):
    told = ask(app, "/api/about").json
    assert [one["name"] for one in told["methods"]] == list(METHODS)
    assert told["files"] == ["page.png", "clip.mp4"]
    assert told["root"] == ["broken.png", "clip.mp4", "page.png", "text.png"]
    assert told["model"] == {"name": "tiny", "untrained": True, "option": None}
    ready = {one["name"] for one in told["methods"] if one["why"] is None}
    assert ready == set(METHODS) - {"shirg", "text", "cdpruner", "boxes"}


def test_questions_without_a_reader_say_how_to_get_one(app: Any):
    page = post(app, "/api/open", {"file": 0}).json
    answer = post(app, "/api/ask", {"id": page["id"], "question": "What?"})
    assert answer.status == 422
    assert "--reader" in answer.json["message"]
    for question in ("", " ", 7, None, "x" * 3000):
        assert post(app, "/api/ask", {"id": page["id"], "question": question}).status == 422
