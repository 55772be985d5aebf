"""What is written for vLLM has the names, shapes and order that vLLM reads, as recorded from its wheel."""

import base64
import io
import json
import os
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from unittest import TestCase

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.integrations.record_servers import RECORDERS, Source, divisions, embedding_fields
from tests.language.vlm.tiny_speakers import whole_model  # pyright: ignore[reportMissingImports]

import tubelet
from tubelet import Clip, Item, Packed
from tubelet.errors import AlignmentError, ConfigError, InputError, RunError, ShapeError, UnsafeFile
from tubelet.integrations.served import require_model
from tubelet.integrations.vllm import MODELS, content_parts, load, multi_modal_data, npy, register, save
from tubelet.language.vlm.chat import patchify_clips, timestamps
from tubelet.language.vlm.features import VisualRows
from tubelet.language.vlm.model import VLM

ROOT = Path(__file__).parents[2]
SAID: dict[str, Any] = json.loads((Path(__file__).parent / "servers" / "vllm.json").read_text(encoding="utf-8"))
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
TIMES = [None, (0.25, 1.25), None]


def mixed(seed: int = 0, dtype: torch.dtype = torch.float32) -> Packed:
    """A picture, a clip of two rows of time a second apart, a picture; values drawn."""
    items = [Item.of(1, 2, 3), Item.of(2, 1, 2, 1), Item.of(1, 3, 2, 2)]
    generator = torch.Generator().manual_seed(seed)
    return tubelet.pack([torch.randn(i.grid.rows, 8, generator=generator).to(dtype) for i in items], items)


def clips() -> list[Clip]:
    draw = np.random.default_rng(1)
    pictures = [Clip(draw.integers(0, 256, (1, 60, 90, 3), np.uint8), (0.0,), "picture") for _ in range(2)]
    frames = draw.integers(0, 256, (4, 56, 84, 3), np.uint8)
    return [pictures[0], Clip(frames, (0.0, 0.5, 1.0, 1.5), "film", is_video=True), pictures[1]]


def fits(shape: tuple[int, ...], axes: list[Any], sizes: dict[str, int]) -> bool:
    """Whether a shape is that of a TensorShape: letters stand for the same size wherever they occur."""
    return len(shape) == len(axes) and all(
        size == (axis if isinstance(axis, int) else sizes.setdefault(axis, size))
        for size, axis in zip(shape, axes, strict=True)
    )


# ---- against the recorded interfaces


@pytest.mark.parametrize("model", QWEN)
def test_every_field_is_one_the_parser_wants_and_none_is_missing(model: Any):
    data = multi_modal_data(mixed(), model, timestamps=TIMES)
    wanted, divided = SAID["embedding_fields"][model], SAID["divided"][model]
    assert set(data) == {"image", "video"}
    for kind, fields in data.items():
        assert set(wanted[kind]) <= set(fields)
        assert all(divided[name][1] == kind for name in fields)
        items = 2 if kind == "image" else 1
        for name, value in fields.items():
            whole = sum(fields[f"{kind}_grid_thw"].prod(dim=1).tolist()) // 4
            assert len(value) == (items if divided[name][0] == "batched" else whole)


@pytest.mark.parametrize("model", ["qwen2_vl", "qwen2_5_vl"])
def test_shapes_are_those_of_the_schemas(model: Any):
    for kind, fields in multi_modal_data(mixed(), model).items():
        sizes: dict[str, int] = {}
        for name, axes in SAID["schemas"][model][kind].items():
            assert fits(tuple(fields[name].shape), axes, sizes), name


def test_llava_is_one_tensor_of_three_axes():
    p = mixed().keep(torch.tensor([5, 1, 9, 6, 10, 15]))
    sent = multi_modal_data(p, "llava")["image"]
    assert fits(tuple(sent.shape), SAID["schemas"]["llava"]["image"]["data"], {})
    assert torch.equal(sent[0], p.x[[1, 0]])  # raster order
    assert torch.equal(sent[1], p.x[[3, 2]])


@pytest.mark.parametrize("model", QWEN)
def test_content_parts_have_known_types_and_no_pickle(model: Any):
    data = multi_modal_data(mixed(dtype=torch.bfloat16), model, timestamps=TIMES)
    parts = content_parts(data)
    assert SAID["npy_before_pickle"]
    assert {part["type"] for part in parts} == set(SAID["content_parts"])
    seen: dict[str, list[torch.Tensor]] = {}
    for part in parts:
        for name, text in part[part["type"]].items():
            seen.setdefault(name, []).append(unpacked(text))
    for kind, fields in data.items():
        for name, value in fields.items():
            got = seen[name]
            if SAID["divided"][model][name][0] == "flat_from_sizes":
                assert torch.equal(torch.cat(got), value.float())  # exact, also out of bfloat16
                sizes = [int(g.prod()) // 4 for g in fields[f"{kind}_grid_thw"]]
                assert [len(x) for x in got] == sizes
            else:
                assert torch.equal(torch.stack(got).double(), torch.as_tensor(value, dtype=torch.float64))


def test_content_parts_of_llava_are_strings():
    sent = multi_modal_data(mixed().keep(torch.tensor([0, 6, 10])), "llava")
    for part, rows in zip(content_parts(sent), sent["image"], strict=True):
        assert torch.equal(unpacked(part["image_embeds"]), rows)


def unpacked(text: str) -> torch.Tensor:
    data = base64.b64decode(text, validate=True)
    assert data[:6] == b"\x93NUMPY"
    return torch.from_numpy(np.load(io.BytesIO(data), allow_pickle=False))


def test_the_plugin_is_in_the_group_that_vllm_loads():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"][SAID["plugins_group"]] == {"tubelet": "tubelet.integrations.vllm:register"}
    assert SAID["plugin_is_called_with"] == []
    named = project["entry-points"][SAID["plugins_group"]]["tubelet"]
    assert EntryPoint("tubelet", named, SAID["plugins_group"]).load() is register


def test_the_plugin_tells_transformers_of_the_towers(tmp_path: Path):
    from transformers import AutoConfig

    from tubelet.integrations.transformers.model import TubeletModel

    assert register()
    assert register()  # vLLM may call it again in any process
    TubeletModel.from_encoder(tubelet.untrained("llava_vit_packing_small")).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is TubeletModel.config_class


@pytest.mark.parametrize("version", ["5.20.1", "4.57.0.dev0"])
def test_the_plugin_leaves_older_transformers_alone(version: str, monkeypatch: pytest.MonkeyPatch):
    import transformers

    monkeypatch.setattr(transformers, "__version__", version)
    with TestCase().assertLogs("tubelet", "INFO") as said:
        assert not register()
    assert version in said.output[0]


WHEEL = '''
class Inputs(TensorSchema):
    """Not this."""
    type: Literal["image_embeds"]
    rows: Annotated[torch.Tensor, TensorShape("n", 3)]

class Parser:
    embedding_fields = {**Other.embedding_fields, "video": {**Other.embedding_fields["video"], "seconds": "metadata"}}
    def divided(self, hf, *, kind="x"):
        """Not this."""
        return dict(**more(), rows=Config.flat_from_sizes("image", sizes), seconds=Config.batched("video", cpu=True))
'''


def test_the_recorder_reads_definitions(tmp_path: Path):
    (tmp_path / "wheel.py").write_text(WHEEL, encoding="utf-8")
    source = Source(tmp_path / "wheel.py")
    assert source.schema("Inputs") == {"rows": ["n", 3]}
    assert source.parameters("Parser", "divided") == ["hf", "kind"]
    assert source.words("Parser", "divided") == ["image", "video", "x"]
    assert divisions(source.find("divided")) == {"rows": ["flat_from_sizes", "image"], "seconds": ["batched", "video"]}
    parent = {"image": {"a": "values"}, "video": {"b": "values"}}
    assert embedding_fields(source.inside("Parser", "embedding_fields"), parent) == {
        "image": {"a": "values"},
        "video": {"b": "values", "seconds": "metadata"},
    }
    with pytest.raises(LookupError, match="absent"):
        source.find("absent")


if "TUBELET_VLLM" in os.environ:

    def test_the_wheel_is_as_recorded():
        assert RECORDERS["vllm"](Path(os.environ["TUBELET_VLLM"])) == SAID


# ---- rows of real models


@pytest.mark.parametrize("kind", QWEN)
def test_rows_are_what_the_tower_of_the_model_gives(kind: Any, tmp_path: Path):
    """transformers' own tower on the same pixels, its mergers of deeper layers joined behind as vLLM's tower does."""
    peer = whole_model(kind, seed=3)
    peer.save_pretrained(tmp_path)
    vlm = VLM.from_pretrained(tmp_path)
    patches = patchify_clips(clips(), vlm.scheme)
    with torch.no_grad():
        rows = vlm.encode(patches)
        told = [timestamps(c.times_s, 2) if c.is_video else None for c in clips()]
        data = multi_modal_data(rows, kind, timestamps=told)
        for name, numbers in (("image", [0, 2]), ("video", [1])):
            pixels, grids = reference_pixels(patches, numbers, vlm)
            assert torch.equal(data[name][f"{name}_grid_thw"], grids)
            out = peer.model.visual(pixels, grid_thw=grids)
            wanted = torch.cat([out.pooler_output, *(getattr(out, "deepstack_features", None) or ())], dim=1)
            torch.testing.assert_close(data[name][f"{name}_embeds"], wanted, rtol=2e-4, atol=2e-5)
    if kind == "qwen3_vl":
        assert data["image"]["image_embeds"].shape[1] == 3 * 64
        assert data["video"]["timestamps"] == [[0.25, 1.25]]


def reference_pixels(p: Packed, numbers: list[int], vlm: VLM) -> tuple[torch.Tensor, torch.Tensor]:
    from tubelet.pixels.patchify import normalise

    some = p.reorder(numbers)
    return normalise(some, vlm.scheme.pixels).x, some.grid_thw


def test_rows_in_another_order_are_put_into_raster_order():
    p = mixed()
    order = torch.tensor([5, 3, 1, 0, 2, 4, 9, 8, 7, 6, 15, 14, 13, 12, 11, 10])
    assert torch.equal(multi_modal_data(p.keep(order), "qwen2_vl")["image"]["image_embeds"], torch.cat(p.unpack()[::2]))
    deep = VisualRows(p.keep(order), (p.with_x(2 * p.x).keep(order),))
    sent = multi_modal_data(deep, "qwen3_vl", timestamps=TIMES)["image"]["image_embeds"]
    assert torch.equal(sent, torch.cat([torch.cat([x, 2 * x], dim=1) for x in p.unpack()[::2]]))


# ---- files


@pytest.mark.parametrize("model", MODELS)
def test_a_file_gives_back_what_was_written(model: Any, tmp_path: Path):
    p = mixed(dtype=torch.bfloat16)
    if model == "llava":
        p = p.keep(torch.tensor([0, 1, 6, 7, 10, 11]))
    data = multi_modal_data(p, model, timestamps=TIMES) if model != "llava" else multi_modal_data(p, model)
    save(tmp_path / "rows.safetensors", data)
    again = load(tmp_path / "rows.safetensors")
    assert again.keys() == data.keys()
    torch.testing.assert_close(again, data, rtol=0, atol=0)
    names = set(load_file(tmp_path / "rows.safetensors"))
    known = {"image_embeds"} if model == "llava" else set(SAID["divided"][model])
    assert names <= known
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.safetensors"]


def test_files_that_are_not_such_files(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="cannot be opened"):
        load(path)
    path.write_bytes(b"not a header")
    with pytest.raises(UnsafeFile, match="damaged"):
        load(path)
    save_file({"image_embeds": torch.zeros(1, 2)}, path)
    with pytest.raises(UnsafeFile, match="not embeddings"):
        load(path)
    with pytest.raises(InputError, match="another kind"):
        save(path, {"image": {"image_embeds": torch.zeros(4, 2)}})
    path.unlink()
    data = multi_modal_data(mixed(), "qwen3_vl", timestamps=TIMES)
    data["video"]["timestamps"] = [[0.0]]
    save(path, data)
    with pytest.raises(UnsafeFile, match="timestamps"):
        load(path)
    save(path, {"image": {"image_embeds": torch.zeros(4, 2), "image_rows": torch.zeros(1)}})
    with pytest.raises(UnsafeFile, match="belong together"):
        load(path)
    with pytest.raises(RunError):
        save(tmp_path / "nowhere" / "x.safetensors", data)


# ---- what is refused


def test_what_vllm_could_not_count_is_refused():
    p = mixed()
    with pytest.raises(AlignmentError, match="whole grids") as lost:
        multi_modal_data(p.keep(torch.arange(1, 16)), "qwen2_vl")
    assert (lost.value.item, lost.value.expected, lost.value.got) == (0, 6, 5)
    with pytest.raises(InputError, match="one budget") as uneven:
        multi_modal_data(p, "llava")
    assert (uneven.value.item, uneven.value.expected, uneven.value.got) == (1, 6, 4)
    for told in (None, [None, None, None], [None, (0.0,), None]):
        with pytest.raises(InputError, match="timestamps") as e:
            multi_modal_data(p, "qwen3_vl", timestamps=told)
        assert e.value.item == 1
    item = Item(tubelet.Grid(3, 1, 1), (0.0, 0.5, 2.0), 0, (0.0, 0.0, 1.0, 1.0))
    odd = tubelet.concat([p.split([1, 2])[0], tubelet.pack([torch.zeros(3, 8)], [item])])
    with pytest.raises(InputError, match="evenly") as e:
        multi_modal_data(odd, "qwen2_5_vl")
    assert e.value.item == 1
    assert set(multi_modal_data(odd, "qwen2_vl")) == {"image", "video"}  # counts rows, asks for no time


def test_a_step_of_time_is_the_items_own():
    item = Item(tubelet.Grid(3, 1, 1), (1.0, 1.4, 1.8), 0, (0.0, 0.0, 1.0, 1.0))
    sent = multi_modal_data(tubelet.pack([torch.zeros(3, 8)], [item]), "qwen2_5_vl")["video"]
    assert sent["second_per_grid_ts"].tolist() == pytest.approx([0.4])


def test_wrong_calls_name_what_is_wrong():
    p = mixed()
    with pytest.raises(ConfigError, match="qwen2_vl"):
        require_model("molmo", MODELS, "vLLM")
    with pytest.raises(ShapeError, match="floating"):
        multi_modal_data(p.with_x(p.x.to(torch.uint8)), "qwen2_vl")
    with pytest.raises(InputError, match="without items"):
        multi_modal_data(tubelet.pack([], []), "qwen2_vl")
    view = tubelet.Item(tubelet.Grid(1, 2, 2), (0.0,), 0, (0, 0, 4, 4), content=(0, 0, 4, 3))
    with pytest.raises(InputError, match="view of a picture") as refused:
        multi_modal_data(tubelet.concat([p, tubelet.pack([torch.ones(4, p.x.shape[1])], [view])]), "llava")
    assert refused.value.item == len(p)
    with pytest.raises(InputError, match="merge"):
        multi_modal_data(p, "qwen2_vl", merge=0)
    with pytest.raises(InputError, match="2 kinds for 3"):
        multi_modal_data(p, "qwen2_vl", kinds=["image", "video"])
    with pytest.raises(InputError, match="one row of time") as e:
        multi_modal_data(p, "qwen2_vl", kinds=["image", "image", "image"])
    assert e.value.item == 1
    with pytest.raises(ShapeError, match="deepstack pack 1"):
        multi_modal_data(VisualRows(p, (p, p.with_x(p.x[:, :4]))), "qwen3_vl", timestamps=TIMES)
    data = multi_modal_data(p, "qwen2_vl")
    data["image"]["image_grid_thw"] = data["image"]["image_grid_thw"][:1]
    with pytest.raises(ShapeError, match="12 rows for grids of 6"):
        content_parts(data)


def test_one_row_of_time_may_be_a_video():
    p = tubelet.pack([torch.ones(6, 8)], [Item.of(1, 2, 3)])
    assert multi_modal_data(p, "qwen2_5_vl", kinds=["video"])["video"]["second_per_grid_ts"].tolist() == [1.0]
    assert npy(torch.zeros(2)).startswith(base64.b64encode(b"\x93NUMPY").decode("ascii"))
