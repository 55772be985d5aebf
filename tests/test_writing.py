"""What is written is there whole or not at all: every writer, killed and on a full disk, and places that are none."""

import fcntl
import gc
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.full_disk import full_disk
from tests.geometry.rooms import room
from tests.language.vlm.tiny_speakers import llama
from tests.weights.tiny_models import random_encoder, tiny_config

import tubelet
from tubelet.errors import InputError, RunError, TubeletError, WeightsError
from tubelet.geometry.cameras import Cameras
from tubelet.geometry.export import write_colmap, write_ply
from tubelet.geometry.scene import Scene
from tubelet.integrations import vllm
from tubelet.language import build_projector
from tubelet.language.placing.rules import TokenIds
from tubelet.language.project.files import convert_projector
from tubelet.language.vlm.model import VLM
from tubelet.language.vlm.scheme import Scheme
from tubelet.train.lora import Lora, add_lora, save_lora
from tubelet.train.order import cached_tokens
from tubelet.weights.convert import convert
from tubelet.writing import PREFIX, new_folder, save_png, scratch

Write = Callable[[Path], object]


@cache
def encoder(seed: int) -> Any:
    return random_encoder(tiny_config("packing"), seed)


@cache
def projector(seed: int) -> Any:
    torch.manual_seed(seed)
    return build_projector("linear", 64, 48)


def rows(seed: int) -> tubelet.Packed:
    return tubelet.pack([torch.full((6, 64), float(seed))], [tubelet.Item.of(1, 2, 3)])


@cache
def vlm(seed: int) -> VLM:
    vision = encoder(seed)
    scheme = Scheme(TokenIds(image=-200), pixels=vision.pixels)
    return VLM(vision, llama(seed), scheme, projector=build_projector("linear", 64, llama(seed).config.hidden_size))


@cache
def adapted(seed: int) -> Any:
    torch.manual_seed(seed)
    model = torch.nn.ModuleDict({"fc": torch.nn.Linear(4, 4)})
    add_lora(model, Lora(("fc",), rank=2))
    return model


@cache
def source(kind: str, seed: int) -> Path:
    """What is converted."""
    folder = Path(tempdir()) / f"{kind}{seed}"
    if kind == "encoder":
        return tubelet.save_encoder(encoder(seed), folder, overwrite=True)
    folder.mkdir(exist_ok=True)  # a full disk may have ended it half way
    return tubelet.save_projector(projector(seed), folder / "mm_projector.safetensors")


@cache
def tempdir() -> str:
    return os.environ["TUBELET_TEST_SOURCES"]


@pytest.fixture(scope="module", autouse=True)
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUBELET_TEST_SOURCES", str(tmp_path_factory.mktemp("sources")))
        yield


def cameras(seed: int) -> Cameras:
    return Cameras(torch.eye(4)[None, :3] + seed, torch.eye(3)[None], (8, 8), "a world")


@cache
def scene(seed: int) -> Scene:
    return room(1 + seed, (14, 14))


# ---- every writer: its place, and what writes version `seed` there

WRITERS: dict[str, tuple[str, Callable[[Path, int], object]]] = {
    "pack": ("p.safetensors", lambda place, seed: rows(seed).save(place)),
    "encoder": ("m", lambda place, seed: tubelet.save_encoder(encoder(seed), place, overwrite=True)),
    "convert": ("m", lambda place, seed: convert(source("encoder", seed), place, "standard", overwrite=True)),
    "projector": ("mm_projector.safetensors", lambda place, seed: tubelet.save_projector(projector(seed), place)),
    "convert projector": (
        "m",
        lambda place, seed: convert_projector(source("projector", seed), place, kind="linear", overwrite=True),
    ),
    "whole model": ("m", lambda place, seed: vlm(seed).save_pretrained(place, overwrite=True)),
    "adapters": ("a", lambda place, seed: save_lora(adapted(seed), place, overwrite=True)),
    "for vllm": ("r.safetensors", lambda place, seed: vllm.save(place, vllm.multi_modal_data(rows(seed), "qwen2_vl"))),
    "colmap": ("sparse", lambda place, seed: write_colmap(place, cameras(seed), ["0.png"])),
    "scene": ("room", lambda place, seed: scene(seed).save(place, overwrite=True)),
    "ply": ("points.ply", lambda place, seed: write_ply(place, torch.full((3, 3), float(seed)))),
    "png": ("a.png", lambda place, seed: save_png(Image.new("RGB", (9, 9), (seed, 0, 0)), place)),
    "counts": ("c.npz", lambda place, seed: cached_tokens(place, str(seed), lambda: [seed])),
}


def content(place: Path) -> Any:
    """All that stands at a place, in a form that can be compared; None for nothing."""
    if not place.exists():
        return None
    files = sorted(f for f in place.rglob("*") if f.is_file()) if place.is_dir() else [place]
    return {
        str(f.relative_to(place.parent)): {n: t.numpy().tobytes() for n, t in load_file(f).items()}
        if f.suffix == ".safetensors"  # the order of its metadata is not the same every time
        else f.read_bytes()
        for f in files
    }


def forked(do: Callable[[], object]) -> int:
    """The process in which it is being done."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads; the child starts none
        child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            do()
            code = 0
        finally:
            os._exit(code)
    return child


def until_event(do: Callable[[], object], last: int, said: int | None = None) -> None:
    """Do it and be killed at the n-th thing that Python does to a file; said: a pipe that gets how many there were."""
    count = 0

    def on(event: str, _: object) -> None:
        nonlocal count
        if event == "open" or event.startswith(("os.", "shutil.", "fcntl.", "ctypes.")):
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(on)
    do()
    last = -1
    if said is not None:
        os.write(said, str(count).encode())


def measured(do: Callable[[], object]) -> tuple[int, float]:
    """How many such events there are, and how long it takes."""
    got, said = os.pipe()
    start = time.monotonic()
    assert os.waitpid(forked(lambda: until_event(do, -1, said)), 0)[1] == 0
    took = time.monotonic() - start
    count = int(os.read(got, 20))
    os.close(got)
    os.close(said)
    return count, took


def dies(child: int, after: float | None = None) -> bool:
    """Whether it was killed: by itself, or by us after so many seconds."""
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    return code != 0


def killed(kind: str, folder: Path, kills: int) -> int:
    """Writers killed at random events and moments, over an old version and over nothing, in turn. How many died."""
    name, write = WRITERS[kind]
    place, aside = folder / "place" / name, folder / name
    place.parent.mkdir()
    write(place, 0)
    old = content(place)
    place.rename(aside)
    write(place, 1)
    new = content(place)
    assert old != new
    (shutil.rmtree if place.is_dir() else os.unlink)(place)
    events, took = measured(lambda: write(place, 1))
    rng, died = random.Random(kind), 0
    for n in range(kills):
        (shutil.rmtree if place.is_dir() else os.unlink)(place)
        if n % 2 == 0:
            (shutil.copytree if aside.is_dir() else shutil.copy)(aside, place)
        if n % 4 < 2:  # at an event: of all, or of the last ones, when it takes its place
            at = rng.randint(1, events) if n % 8 < 4 else rng.randint(max(1, events - 20), events)
            died += dies(forked(lambda at=at: until_event(lambda: write(place, 1), at)))
        else:
            died += dies(forked(lambda: write(place, 1)), rng.uniform(0, took))
        assert content(place) in (old if n % 2 == 0 else None, new), n
        if kind == "counts" and place.exists():  # which are not written where they stand already
            place.unlink()
        write(place, 1)  # the next run
        assert content(place) == new
        assert [f.name for f in place.parent.iterdir()] == [name], "leftovers of a dead writer"
    return died


@pytest.mark.parametrize("kind", WRITERS)
def test_a_killed_writer_leaves_the_old_or_the_new(kind: str, tmp_path: Path):
    assert killed(kind, tmp_path, 2) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_fifty_kills(kind: str, tmp_path: Path, record_property: Callable[[str, object], None]):
    died = killed(kind, tmp_path, 50)
    record_property("say", f"{kind}: {died} of 50 writers died before they had ended")
    assert died >= 25


# ---- full disks


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("size", [0, 60])
def test_a_full_disk_leaves_the_old(kind: str, size: int, tmp_path: Path):
    name, write = WRITERS[kind]
    write(tmp_path / name, 0)
    before = content(tmp_path / name)
    with full_disk(size), pytest.raises(RunError, match="File too large"):
        write(tmp_path / name, 1)
    assert content(tmp_path / name) == before
    assert [f.name for f in tmp_path.iterdir()] == [name]


def test_an_error_of_a_full_disk_goes_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A view of the archive in the error's traceback kept that from being freed: BufferError in a finalizer, and with
    Python 3.12.1 the end of the process."""
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    for _ in range(3):
        with full_disk(60), pytest.raises(RunError, match="File too large"):
            cached_tokens(tmp_path / "c.npz", "1", lambda: [1])
        gc.collect()
    assert told == []


def test_a_full_disk_of_ours_cuts_no_bytecode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Once it left half a file of torch's behind, and nothing that imports it ran again."""
    source = tmp_path / "imported_on_a_full_disk.py"
    source.write_text(f"VALUE = {'x' * 500!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    with full_disk(60):
        __import__(source.stem)
    assert not Path(cache_from_source(str(source))).exists() and not sys.dont_write_bytecode


# ---- what is not replaced, and places that are none


@pytest.mark.parametrize("kind", WRITERS)
def test_only_what_is_recognised_is_replaced(kind: str, tmp_path: Path):
    name, write = WRITERS[kind]
    place = tmp_path / name
    if place.suffix:
        place.write_bytes(b"dear diary")
    else:
        write(place, 0)
        (place / "diary.txt").write_bytes(b"dear diary")
    before = content(place) if not place.suffix else place.read_bytes()
    if kind == "counts":  # a file of the run's own, whatever it holds
        write(place, 0)
        return
    with pytest.raises((InputError, WeightsError)):
        write(place, 1)
    assert (content(place) if not place.suffix else place.read_bytes()) == before


def odd_places(folder: Path) -> dict[str, Path]:
    (folder / "loop").symlink_to("loop")
    (folder / "file").write_bytes(b"x")
    (folder / "full").mkdir()
    (folder / "full" / "diary.txt").touch()
    os.mkfifo(folder / "pipe")
    names = {"loop": "loop", "long": "x" * 5000, "deep": "x/" * 5000 + "x", "NUL": "a\0b", "surrogate": "\ud800"}
    names |= {"in a file": "file/x", "pipe": "pipe", "device": "/dev/full", "device folder": "/dev/null/x"}
    names |= {"full folder": "full", "no place": "", "root": "/", "proc": "/proc/x"}
    return {kind: folder / name if name else Path() for kind, name in names.items()}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_place_that_is_none(kind: str, tmp_path: Path):
    """Nothing but our errors, and nothing changed."""
    _, write = WRITERS[kind]
    places = odd_places(tmp_path)
    if kind == "projector":  # its file stands in whatever folder it is given
        for folder in ("full folder", "no place", "root"):
            del places[folder]
    before = sorted(f.name for f in tmp_path.iterdir())
    for name, place in places.items():
        with pytest.raises(TubeletError):
            write(place, 0)
            pytest.fail(f"{name} was written")
    assert sorted(f.name for f in tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", ["pack", "encoder", "convert", "projector", "adapters", "for vllm", "png"])
def test_an_empty_name_is_not_the_current_folder(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As of a variable that a script forgot to set. The folder is empty, so that it could be taken."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="empty"):
        WRITERS[kind][1]("", 0)  # pyright: ignore[reportArgumentType]  a name
    assert not list(tmp_path.iterdir())


def test_a_name_of_a_folder_is_not_that_of_a_file(tmp_path: Path):
    for target in (f"{tmp_path}/p.safetensors/", tmp_path):
        with pytest.raises(InputError):
            rows(0).save(target)
    assert not list(tmp_path.iterdir())


def test_conversion_onto_its_own_source_is_refused(tmp_path: Path):
    tubelet.save_encoder(encoder(0), tmp_path / "m")
    before = content(tmp_path / "m")
    with pytest.raises(InputError, match="folder of the source"):
        convert(tmp_path / "m", tmp_path / "m", "standard", overwrite=True)
    assert content(tmp_path / "m") == before


def test_conversion_that_fails_its_proof_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tubelet.save_encoder(encoder(0), tmp_path / "m")
    monkeypatch.setattr("tubelet.weights.convert.same_bits", lambda *_: False)
    with pytest.raises(WeightsError, match="differ"):
        convert(tmp_path / "m", tmp_path / "new", "standard")
    assert [f.name for f in tmp_path.iterdir()] == ["m"]


def test_links_are_followed(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.safetensors").symlink_to("real/p.safetensors")
    for seed in (0, 1):
        rows(seed).save(tmp_path / "link.safetensors")
        assert tubelet.Packed.load(tmp_path / "real" / "p.safetensors").equal(rows(seed))
    assert (tmp_path / "link.safetensors").is_symlink()


# ---- whose leftovers are removed


def test_only_leftovers_of_dead_writers_are_removed(tmp_path: Path):
    def left(name: str, *parts: str) -> Path:
        (tmp_path / name / "new").mkdir(parents=True)
        for part in parts:
            (tmp_path / name / part).touch()
        return tmp_path / name

    dead, strange = left(f"{PREFIX}0123456789ab", "lock"), left(f"{PREFIX}of-mine", "lock", "diary.txt")
    unlocked, other = left(f"{PREFIX}ba9876543210"), left(".hidden", "lock")
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / f"{PREFIX}empty").mkdir()
    living = left(f"{PREFIX}living", "lock")
    with (living / "lock").open("r+") as lock, scratch(tmp_path) as mine:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows(0).save(tmp_path / "p.safetensors")
        assert mine.is_dir()
    expected = {strange.name, unlocked.name, other.name, f"{PREFIX}file", "p.safetensors"}
    assert not dead.exists()
    assert {f.name for f in tmp_path.iterdir()} - {living.name} == expected


def test_what_a_dead_writer_moved_aside_comes_back(tmp_path: Path):
    """Where a system cannot exchange two folders in one step."""
    aside = tmp_path / f"{PREFIX}0123456789ab"
    (aside / "old" / "m").mkdir(parents=True)
    (aside / "old" / "m" / "config.json").write_text("{}")
    (aside / "lock").touch()
    rows(0).save(tmp_path / "p.safetensors")
    assert (tmp_path / "m" / "config.json").read_text() == "{}"
    assert not aside.exists()


def test_folders_are_replaced_without_an_exchange_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tubelet.writing._exchange", lambda *_: False)
    for text in ("one", "two"):
        with new_folder(tmp_path / "m", {"a"}.__contains__, overwrite=True) as beside:
            (beside / "a").write_text(text)
    assert (tmp_path / "m" / "a").read_text() == "two"
    assert [f.name for f in tmp_path.iterdir()] == ["m"]


def test_everything_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []
    sync = os.fsync

    def noted(number: int) -> None:
        done.append(str(Path(f"/proc/self/fd/{number}").readlink()))
        sync(number)

    monkeypatch.setattr(os, "fsync", noted)
    rows(0).save(tmp_path / "p.safetensors")
    assert [Path(p).name for p in done] == ["p.safetensors", tmp_path.name]
    assert PREFIX in done[0]
    done.clear()
    tubelet.save_encoder(encoder(0), tmp_path / "m")
    assert {Path(p).name for p in done} == {"config.json", "model.safetensors", "m", tmp_path.name}
    assert Path(done[-1]) == tmp_path
