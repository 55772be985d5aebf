"""`tubelet plan`: the numbers for programs, the tables for people, what fits, the drawing, and wrong command lines."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.cli.cli_inputs import write_picture
from tests.cli.conftest import Run
from tests.language.vlm.spatial_folder import write_spatial_folder

from tubelet.cli.terminal import UsageError
from tubelet.cli.values import parse_bytes
from tubelet.inspect.draw.chart import ticks


def planned(tubelet: Run, *args: object) -> dict[str, Any]:
    done = tubelet("plan", *args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_known_run(tubelet: Run):
    known = ("--size", "644x476x16", "--patch", 14, "--temporal", 2, "--merge", 2, "--geometry", "vggt")
    found = planned(tubelet, *known, "--llm", "qwen2.5-3b")
    shapes = {s["name"]: s["shape"] for s in found["stages"]}
    assert shapes["patches"] == [12512, 1176]
    assert shapes["merged"] == [3128, None]
    assert shapes["aggregator"] == [16, 1569, 2048]
    assert shapes["connector input"] == [3128, 16384]
    assert found["tokens"] == 3128
    assert found["kv_cache_bytes"]["bfloat16"] == 2 * 36 * 2 * 128 * 3128 * 2


def test_the_known_run_of_single_frames(tubelet: Run):
    """Two frames and two by two patches side by side: eight widths of whatever tower made them."""
    known = ("--size", "644x476x16", "--patch", 14, "--merge", 2, "--merge-time", 2)
    assert [s["shape"] for s in planned(tubelet, *known)["stages"] if s["name"] == "merged"] == [[3128, None]]
    assert "3,128 x 8 D" in tubelet("plan", *known).stdout


def test_a_geometry_network_says_its_parts_and_that_scenes_are_long(tubelet: Run):
    known = ("--size", "644x476x16", "--patch", 14, "--temporal", 2, "--merge", 2)
    found = planned(tubelet, *known, "--geometry", "vggt")
    flop = {s["name"]: round(s["flop"] / 2e12, 1) for s in found["stages"] if s["flop"]}
    assert flop == {"geometry patches": 9.5, "geometry frame layers": 9.5, "geometry scene layers": 38.6}
    assert found["scene_attention"]["frames"] == 16 and found["scene_attention"]["halved"] == 10
    memory = found["memory_bytes"]["float32"]
    assert memory["weights"] == 4 * 909_111_296 < memory["inference"] < 1.5 * memory["weights"]
    assert "training" not in memory
    done = tubelet("plan", *known, "--geometry", "vggt-heads")
    for words in ("geometry camera", "geometry depth", "10 frames halve it", "the geometry network"):
        assert words in done.stdout, words
    short = planned(tubelet, "--size", "644x476x4", "--patch", 14, "--temporal", 2, "--merge", 2, "--geometry", "vggt")
    assert "scene_attention" not in short and "warnings" not in short


def test_a_whole_model_s_folder_says_what_follows(tubelet: Run, files: dict[str, Path], tmp_path: Path):
    """Spatial-MLLM: clips as its own processor sizes them, geometry and language model from its own files."""
    folder = write_spatial_folder(tmp_path)
    found = planned(tubelet, files["clip"], "--num-frames", 4, "--model", folder)
    names = [s["name"] for s in found["stages"]]
    assert names[-3:] == ["connector input", "connector", "prefill"] and "geometry scene layers" in names
    assert found["stages"][-1]["shape"] == [found["tokens"], 64] and found["llm"] == folder.name
    assert found["language_model_bytes"]["bfloat16"] > 0
    assert found["memory_bytes"]["float32"]["inference"] > found["memory_bytes"]["float32"]["weights"]
    said = tubelet("plan", files["clip"], "--num-frames", 4, "--model", folder).stdout
    assert "language model" in said and "encoder and the geometry network" in said
    other = planned(tubelet, files["clip"], "--num-frames", 4, "--model", folder, "--llm-width", 128)  # another's
    stages = {s["name"]: s for s in other["stages"]}
    assert stages["projected"]["shape"] == [other["tokens"], 128] and stages["projected"]["flop"] > 0


def test_files_cost_what_encoding_them_gives(tubelet: Run, files: dict[str, Path], model: Path):
    inputs = (files["wide"], files["clip"], "--model", model, "--num-frames", 3)
    found = planned(tubelet, *inputs)
    done = tubelet("encode", *inputs, "--out", "tokens.safetensors", "--json")
    real = json.loads(done.stdout)
    assert [i["grid"] for i in found["items"]] == [f["grid"] for f in real["files"]]
    assert (found["tokens"], found["stages"][-1]["shape"][1]) == (real["tokens"], real["width"])
    assert set(found["memory_bytes"]) == {"float32", "bfloat16", "float16"}
    assert found["flop"] == sum(s["flop"] for s in found["stages"]) > 0


def test_the_tables_say_it(tubelet: Run):
    done = tubelet(
        *("plan", "--model", "llava_vit_packing_small", "--size", "1920x1080,640x360x16", "--llm", "qwen3-8b"),
        *("--measure", "--memory", "--fit-tokens", 1000),
    )
    assert done.returncode == 0, done.stderr
    for words in (
        "grid",
        "18,160",
        "fitted to 4,080 of 8,040",
        "of which attention",
        "training, checkpointed",
        "qwen3-8b",
        "GFLOP/s",
        "fits",
    ):
        assert words in done.stdout, words


def test_a_variant_is_counted_without_torch(tmp_path: Path):
    """In a new process: pictures and clips, files and sizes, views and language models."""
    write_picture(tmp_path / "a.png", 300, 200)
    tower = ["--model", "qwen2_5_vl_7b_vision", "--llm", "qwen2.5-vl-7b"]
    lavida = ["--size", "1000x600", "--patch", "14", "--views", "lavida"]
    runs = [["--model", "llava_vit_small", "--size", "1920x1080,640x360x16"], ["a.png", *tower], lavida]
    ran = f"print([main(['plan', *words]) for words in {runs}], 'torch' in sys.modules)"
    code = f"import sys; from tubelet.cli import main; {ran}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("[0, 0, 0] False\n"), done.stderr
    assert "projected" not in done.stdout and "merger" in done.stdout and "prefill" in done.stdout


def test_what_fits_is_told(tubelet: Run):
    named = ("--model", "llava_vit_packing_small")
    found = planned(tubelet, *named, "--size", "640x480", "--fit-tokens", 1200, "--fit-memory", "1GiB")
    width, height = found["fits"][0]["size"]
    again = planned(tubelet, *named, "--size", f"{width}x{height}", "--memory")
    assert again["tokens"] <= 1200
    assert again["memory_bytes"]["float32"]["inference"] <= 2**30
    assert found["fits"][0]["frames"] == 1


def test_views(tubelet: Run):
    lavida = ("--size", "1000x600", "--patch", 14, "--views", "lavida", "--llm", "llada-8b")
    found = planned(tubelet, *lavida)
    assert (found["tokens"], found["patches"]) == (660, 3645)
    assert [v["tokens"] for v in found["items"][0]["views"]] == [196, 112, 120, 112, 120]
    assert found["kv_cache_bytes"]["bfloat16"] == 2 * 32 * 32 * 128 * 660 * 2
    kept = planned(tubelet, *lavida, "--pool", "none", "--join", "flat", "--keep", 980)
    assert (kept["tokens"], kept["patches"]) == (980, 3645)
    own = planned(tubelet, "--size", "900x400", "--patch", 14, "--views", "336:672x336,336x672", "--pool", "average")
    assert [v["tokens"] for v in own["items"][0]["views"]] == [144] * 3
    done = tubelet("plan", *lavida)
    assert "views" in done.stdout and "bilinear pool" in done.stdout
    two = planned(tubelet, "--size", "800x600", "--patch", 14, "--views", "pyramid:672/336,672/672")
    assert (two["tokens"], [v["tokens"] for v in two["items"][0]["views"]]) == (4608, [576] * 4 + [2304])
    page = planned(tubelet, "--size", "1000x3000", "--patch", 14, "--views", "page:384/0.1")
    assert [v["name"] for v in page["items"][0]["views"]] == ["page", "crop 0", "crop 1", "crop 2", "crop 3"]
    few = planned(tubelet, "--size", "1000x3000", "--patch", 14, "--views", "page:384/.1/2")
    assert len(few["items"][0]["views"]) == 3
    said = tubelet("plan", "--size", "800x600", "--patch", 14, "--views", "pyramid:672/336,672/672+squash").stdout
    assert "in tiles of 336" in said


def test_the_projector_is_part_of_the_memory(tubelet: Run):
    how = ("--model", "llava_vit_packing_small", "--size", "448x448", "--memory")
    alone, both = (planned(tubelet, *how, *more) for more in ((), ("--llm", "qwen2.5-7b")))
    for dtype, of in both["memory_bytes"].items():
        assert of["projector"] > 0
        assert of["weights"] == alone["memory_bytes"][dtype]["weights"] + of["projector"]
        before = alone["memory_bytes"][dtype]["inference"] + of["projector"]
        assert of["inference"] >= before  # above it where its moment is the highest: always in float32
        assert of["inference"] > before or dtype != "float32"


@pytest.mark.parametrize("more", [(), ("--patch", 16), ("--views", "lavida"), ("--patch", 14, "--views", "lavida")])
def test_the_drawing_is_a_picture(tubelet: Run, tmp_path: Path, more: tuple[object, ...]):
    size = "320x240" if "--views" in more else "320x240x4"
    done = tubelet("plan", "--size", size, "--fit-tokens", 2000, "--plot", "plan.png", *more)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "plan.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 900
        assert picture.height > (300 if "--patch" in more else 600)
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or []}
    assert (0, 82, 190) in colours  # the curve
    assert (190, 38, 38) in colours  # the input and the limit


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--size", "640"),
        ("--size", "640x480", "a.png"),
        ("--size", "640x480", "--llm", "nobody"),
        ("--size", "640x480", "--temporal", "2"),
        ("--size", "640x480", "--fit-memory", "much"),
        ("--size", "640x480", "--patch", "14", "--fit-memory", "1GiB"),
        ("--size", "640x480", "--merge", "0"),
        ("--size", "640x480", "--views", "somebody"),
        ("--size", "640x480", "--views", "384:768x380"),
        ("--size", "640x480", "--views", "pyramid:672/300"),
        ("--size", "640x480", "--views", "page:384/1.5"),
        ("--size", "640x480", "--views", "page:0"),
        ("--size", "640x480", "--views", "pyramid:672/672", "--pool", "max"),
        ("--size", "640x480", "--views", "lavida", "--keep", "100"),
        ("--size", "640x480", "--views", "lavida", "--geometry", "vggt"),
        ("--size", "640x480", "--pool", "max"),
    ],
)
def test_a_wrong_command_line_is_one_line(tubelet: Run, args: tuple[str, ...]):
    done = tubelet("plan", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tubelet: ") and done.stderr.count("\n") == 1


def test_a_missing_file_is_an_error(tubelet: Run):
    done = tubelet("plan", "nowhere.png")
    assert done.returncode == 1
    assert "nowhere.png" in done.stderr


def test_sizes_in_words():
    assert [parse_bytes(t) for t in ("24GiB", "1.5 KiB", "2MB", "7 B")] == [24 * 2**30, 1536, 2_000_000, 7]
    for wrong in ("", "0", "0GiB", "-1GiB", "1TiB", "GiB", "24"):
        with pytest.raises(UsageError):
            parse_bytes(wrong)


def test_ticks_reach_the_highest_value():
    for highest in (0.3, 1.0, 7.0, 999.0, 12512.0):
        marks = ticks(highest)
        assert marks[0] == 0 and marks[-1] >= highest > marks[-2]
        assert 3 <= len(marks) <= 6
