"""A stream is the one pack of all its inputs in parts: same rows, same order, bounded, each input opened twice."""

import io
import itertools
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import enumerate as enumerate_threads
from threading import get_ident
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.forked import Forked
from tests.reading.video.video_clips import encoded, numbered

import tubelet.pixels.stream as stream_module
from tubelet.errors import DecodeError, InputError, LimitError, TubeletError, UnsupportedFormat
from tubelet.packed import Packed
from tubelet.packed.grid import Grid, Item
from tubelet.pixels.inputs import clip_of
from tubelet.pixels.load import Loaded, load_patches
from tubelet.pixels.patchify import patchify
from tubelet.pixels.planned import LoadConfig, PlannedInput
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.stream import packs, plan_inputs, stream
from tubelet.reading import source as source_module
from tubelet.reading.clip import Clip
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.sampling import Sampling

RECIPE = PixelRecipe(patch=8, temporal=2)
JOB = ReadJob(sampling=Sampling(num_frames=3))
MP4 = encoded("mp4", "libx264", [numbered(n) for n in range(6)])


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(height: int, width: int, seed: int = 0) -> bytes:
    Image.fromarray(noise(height, width, seed)).save(out := io.BytesIO(), "PNG")
    return out.getvalue()


class Unseekable:
    """A file object that can be read once."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise io.UnsupportedOperation

    def tell(self) -> int:
        raise io.UnsupportedOperation


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Pictures of 4, 12, 30 and 1 cells, a clip, and a picture of 12 again."""
    for name, data in {
        "a.png": png(16, 16),
        "b.png": png(24, 32, 1),
        "c.png": png(48, 40, 2),
        "d.png": png(8, 8, 3),
        "e.mp4": MP4,
        "f.png": png(24, 32, 4),
    }.items():
        (tmp_path / name).write_bytes(data)
    return sorted(tmp_path.iterdir())


def same(parts: list[Loaded], want: Packed) -> None:
    """The packs one after the other are `want`, and pictures count over all of them."""
    for part in parts:
        part.packed.check()
    assert torch.equal(torch.cat([part.packed.x for part in parts]), want.x)
    assert torch.equal(torch.cat([part.packed.pos for part in parts]), want.pos)
    assert [item for part in parts for item in part.packed.items] == list(want.items)
    assert [length for part in parts for length in part.packed.lengths] == list(want.lengths)


# ---- what comes out


@pytest.mark.parametrize(("workers", "ahead"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize("max_rows", [1, 15, 33, 10_000])
def test_the_packs_together_are_the_one_pack(files: list[Path], max_rows: int, workers: int, ahead: bool):
    whole = load_patches(files, RECIPE, num_frames=3)
    parts = list(stream(files, RECIPE, JOB, max_rows=max_rows, workers=workers, ahead=ahead))
    same(parts, whole.packed)
    reports = [report for part in parts for report in part.sources]
    assert [r.index for r in reports] == list(range(6))
    assert [r.name for r in reports] == [str(f) for f in files]
    assert [(r.grid, r.frames, r.notes) for r in reports] == [(r.grid, r.frames, r.notes) for r in whole.sources]
    assert all(len(part.sources) == 1 or len(part.packed.x) <= max_rows for part in parts)


def test_packs_do_not_depend_on_threads(files: list[Path]):
    cuts = [[len(p.sources) for p in stream(files * 5, RECIPE, JOB, max_rows=40, workers=n)] for n in (1, 2, 7)]
    assert cuts[0] == cuts[1] == cuts[2]
    assert len(cuts[0]) > 5


def test_so_many_inputs_at_most(files: list[Path]):
    assert [len(p.sources) for p in stream(files, RECIPE, JOB, max_inputs=4)] == [4, 2]


def test_one_input_and_none():
    [one] = stream(png(16, 16), RECIPE)
    assert one.packed.lengths == (4,)
    assert list(stream([], RECIPE)) == []


def test_an_iterable_is_read_as_far_as_needed():
    taken: list[int] = []

    def without_end() -> Iterator[bytes]:
        for n in itertools.count():
            taken.append(n)
            yield png(16, 16, n % 5)

    three = list(itertools.islice(stream(without_end(), RECIPE, max_inputs=2, workers=2), 3))
    assert [s.index for part in three for s in part.sources] == [0, 1, 2, 3, 4, 5]
    assert len(taken) < 20


def test_the_next_pack_is_read_while_the_caller_works_on_one(files: list[Path], monkeypatch: pytest.MonkeyPatch):
    begun: SimpleQueue[int] = SimpleQueue()
    really = stream_module.load_planned

    def noting(*args: Any, first: int, **options: Any) -> Any:
        begun.put(first)
        return really(*args, first=first, **options)

    monkeypatch.setattr(stream_module, "load_planned", noting)
    parts = stream(files, RECIPE, JOB, max_inputs=2, ahead=True)
    for first in (0, 2, 4):
        loaded = next(parts)
        assert [s.index for s in loaded.sources] == [first, first + 1]
        if first == 0:
            assert begun.get(timeout=30) == 0
        if first < 4:
            assert begun.get(timeout=30) == first + 2  # nobody has asked for it
    assert next(parts, None) is None
    assert begun.empty()


@pytest.mark.parametrize("ahead", [False, True])
def test_progress_is_told_in_the_callers_thread_before_the_pack(ahead: bool, files: list[Path]):
    told: list[tuple[int, int]] = []

    def tell(done: int, name: str) -> None:
        told.append((done, get_ident()))

    parts = stream(files, RECIPE, JOB, max_inputs=2, ahead=ahead, progress=tell)
    counts = [(len(told), loaded.sources[-1].index + 1) for loaded in parts]
    assert counts == [(2, 2), (4, 4), (6, 6)]
    assert {ident for _, ident in told} == {get_ident()}


@pytest.mark.parametrize("ahead", [False, True])
def test_a_stream_that_is_left_leaves_no_thread(ahead: bool, files: list[Path]):
    before = set(enumerate_threads())
    parts = stream(itertools.cycle(files), RECIPE, JOB, max_inputs=2, ahead=ahead)
    next(parts)
    assert set(enumerate_threads()) - before
    parts.close()
    assert set(enumerate_threads()) == before


INTERRUPTED = """
import sys
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.stream import stream

def interrupted(done, name):
    print(done)
    raise KeyboardInterrupt

try:
    list(stream(sys.argv[1:] * 20, PixelRecipe(8, temporal=2), workers=1, ahead=True, progress=interrupted))
except KeyboardInterrupt:
    print("ended")
"""


def test_an_interrupt_while_a_pack_is_read_ahead_ends_the_stream(files: list[Path], tmp_path: Path, forked: Forked):
    """What waits for a thread is dropped; that it ever comes is not waited for. In a process, for one that waits has no
    end."""
    done = forked(["-c", INTERRUPTED, *map(str, files)], tmp_path, timeout=60.0)
    assert (done.returncode, done.stdout) == (0, "1\nended\n"), done.stderr


def test_what_is_in_memory_already(files: list[Path]):
    turned = Image.fromarray(noise(24, 40, 7))
    turned.getexif()[0x0112] = 6
    shared = Image.open(io.BytesIO(png(16, 24, 8)))  # not loaded yet, and listed twice
    inputs = [
        files[0],
        turned,
        shared,
        shared,
        noise(17, 24),
        noise(24, 24)[..., 0],
        np.moveaxis(noise(16, 40), -1, 0),
        torch.from_numpy(noise(24, 16)).permute(2, 0, 1),
        Clip(np.stack([noise(16, 16, i) for i in range(3)]), (0.0, 0.5, 2.0), is_video=True),
        np.stack([noise(16, 24, i) for i in range(4)]),
        files[1].read_bytes(),
    ]
    want = patchify([clip_of(image) for image in inputs], RECIPE)
    parts = list(stream(inputs, RECIPE, max_rows=40, workers=3))
    same(parts, want)
    assert load_patches(inputs, RECIPE).packed.equal(want)
    assert [s.name for part in parts for s in part.sources][1:5] == ["<picture>"] * 3 + ["<array>"]


@pytest.mark.parametrize("file_format", ["TIFF", "JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_pillow_picture_that_is_turned(file_format: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(24, 40)).save(out := io.BytesIO(), file_format, exif=exif)
    want = patchify([clip_of(Image.open(io.BytesIO(out.getvalue())))], RECIPE)
    assert load_patches([Image.open(io.BytesIO(out.getvalue()))], RECIPE).packed.equal(want)
    assert want.items[0].grid == (Grid(1, 3, 5) if orientation in (1, 3) else Grid(1, 5, 3))


# ---- how often an input is opened


def inputs_to_open(folder: Path) -> dict[str, Any]:
    (folder / "a.png").write_bytes(png(16, 16))
    (folder / "a.mp4").write_bytes(MP4)
    frames = [Image.fromarray(noise(16, 16, i)) for i in range(4)]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    return {
        "path": folder / "a.png",
        "bytes": png(16, 16),
        "file object": io.BytesIO(png(16, 16)),
        "stream": Unseekable(png(16, 16)),
        "clip": folder / "a.mp4",
        "clip as bytes": MP4,
        "clip as a file object": io.BytesIO(MP4),
        "animation": folder / "a.gif",
    }


@pytest.mark.parametrize("isolate", ["auto", "always", "never"])
@pytest.mark.parametrize("how", ["stream", "load_patches", "plans"])
def test_an_input_is_opened_twice(how: str, isolate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Once for its plan and once for its pixels; what is in memory as pixels, never."""
    opened: list[str] = []
    really = source_module._recognised

    def noting(name: str, *args: Any, **options: Any) -> Any:
        opened.append(name)
        return really(name, *args, **options)

    monkeypatch.setattr(source_module, "_recognised", noting)
    job = ReadJob(sampling=Sampling(num_frames=3), animation=True)
    for kind, source in inputs_to_open(tmp_path).items():
        opened.clear()
        if how == "load_patches":
            loaded = load_patches([source], RECIPE, num_frames=3, animation=True, isolate=isolate)
        else:
            given = plan_inputs([source], RECIPE, job, isolate=isolate) if how == "plans" else [source]
            assert len(opened) == (how == "plans"), kind
            [loaded] = stream(given, RECIPE, job, isolate=isolate)
        assert len(loaded.packed.x) == loaded.packed.items[0].grid.rows > 0
        assert len(opened) == 2, kind
        assert len(set(opened)) == 1 or kind == "stream", kind
    opened.clear()
    list(stream([Clip(noise(16, 16)[None], (0.0,)), noise(16, 16), Image.fromarray(noise(16, 16))], RECIPE))
    assert opened == []


# ---- plans


def test_plans_are_values(files: list[Path]):
    sources = [*files, MP4, Clip(noise(16, 24)[None], (0.0,))]
    plans = plan_inputs(sources, RECIPE, JOB)
    sent = pickle.loads(pickle.dumps(plans))
    want = load_patches(sources, RECIPE, num_frames=3).packed
    assert [plan.rows for plan in sent] == list(want.lengths)
    assert load_patches(sent, RECIPE, num_frames=3).packed.equal(want)
    same(list(stream(sent, RECIPE, JOB, max_rows=40)), want)
    some = load_patches([sent[4], sent[1]], RECIPE, num_frames=3).packed  # any of them, in any order, numbered anew
    assert some.equal(load_patches([files[4], files[1]], RECIPE, num_frames=3).packed)


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        (PixelRecipe(patch=4), {"num_frames": 3}),
        (RECIPE, {"num_frames": 2}),
        (RECIPE, {"num_frames": 3, "isolate": "always"}),
        (RECIPE, {"num_frames": 3, "limits": Limits(max_side=9_999)}),
    ],
)
def test_a_plan_is_loaded_as_it_was_made(files: list[Path], recipe: PixelRecipe, options: dict[str, Any]):
    plans = plan_inputs(files, RECIPE, JOB)
    with pytest.raises(InputError, match="planned with other options") as caught:
        load_patches(plans, recipe, on_error="skip", **options)
    assert caught.value.item == 0


def test_a_file_that_changed_since_it_was_planned_is_an_error(files: list[Path]):
    plans = plan_inputs(files, RECIPE, JOB)
    files[1].write_bytes(png(32, 32))
    files[3].unlink()
    [loaded] = stream(plans, RECIPE, JOB, on_error="skip")
    assert [(e.item, type(e)) for e in loaded.errors] == [(1, DecodeError), (3, InputError)]
    assert [s.item for s in loaded.sources] == [0, None, 1, None, 2, 3]


def a_plan(rows: int, exact: bool) -> PlannedInput:
    item = Item(Grid(1, 1, rows), (0.0,), 0, (0.0, 0.0, 1.0, 1.0)) if rows else None
    return PlannedInput("x", "x", LoadConfig(RECIPE, ReadJob()), item=item, exact=exact)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans())),
    st.integers(1, 20),
    st.integers(1, 4),
)
def test_packs_hold_every_plan_once_and_stay_small(sizes: list[tuple[int, bool]], max_rows: int, max_inputs: int):
    plans = [a_plan(rows, exact) for rows, exact in sizes]
    cut = list(packs(plans, max_rows=max_rows, max_inputs=max_inputs))
    assert [plan for pack in cut for plan in pack] == plans
    for pack in cut:
        assert 1 <= len(pack) <= max_inputs
        assert len(pack) == 1 or (sum(plan.rows for plan in pack) <= max_rows and all(plan.exact for plan in pack))
    for pack, following in itertools.pairwise(cut):  # none could have been larger
        first = following[0]
        full = len(pack) == max_inputs or sum(plan.rows for plan in pack) + first.rows > max_rows
        assert full or not first.exact or not pack[-1].exact


# ---- what goes wrong


def test_skipped_errors_stand_in_their_places(files: list[Path], tmp_path: Path):
    (cut := tmp_path / "cut.png").write_bytes(png(48, 40)[:-300])
    sources = [files[0], b"no picture at all, and long enough", files[1], cut, files[4], object(), files[5]]
    told: list[int] = []
    parts = list(
        stream(sources, RECIPE, JOB, max_rows=20, on_error="skip", progress=lambda done, name: told.append(done))
    )
    reports = [report for part in parts for report in part.sources]
    assert [type(r.error) for r in reports if r.error] == [UnsupportedFormat, DecodeError, InputError]
    assert [e.item for part in parts for e in part.errors] == [1, 3, 5]
    assert [i.picture for part in parts for i in part.packed.items] == [0, 2, 4, 6]
    for part in parts:
        assert all(part.packed.items[r.item].picture == r.index for r in part.sources if r.item is not None)
    assert told == list(range(1, 8))
    good = [sources[i] for i in (0, 2, 4, 6)]
    assert torch.equal(torch.cat([p.packed.x for p in parts]), load_patches(good, RECIPE, num_frames=3).packed.x)


@pytest.mark.parametrize(("workers", "ahead"), [(1, False), (4, False), (4, True)])
def test_the_first_error_in_order_is_raised_after_the_packs_before_it(files: list[Path], workers: int, ahead: bool):
    sources = [*files[:4], b"the first that is no picture at all", files[5], b"and a second, found at the same time"]
    got: list[int] = []
    with pytest.raises(UnsupportedFormat) as caught:
        for part in stream(sources, RECIPE, max_inputs=2, workers=workers, ahead=ahead):
            got += [s.index for s in part.sources]
    assert (caught.value.item, got) == (4, [0, 1, 2, 3][: len(got)])
    assert len(got) >= 2


def test_one_input_needs_no_number():
    with pytest.raises(UnsupportedFormat) as caught:
        list(stream(b"GARBAGE" * 30, RECIPE))
    assert caught.value.item is None


def test_a_large_input_is_by_itself_and_the_limit_is_what_none_may_pass(files: list[Path]):
    parts = list(stream(files[:4], RECIPE, max_rows=14))
    assert [len(part.sources) for part in parts] == [1, 1, 1, 1]  # 4, 12, 30, 1 rows
    job = ReadJob(Limits(max_tokens=29))
    with pytest.raises(LimitError) as caught:
        list(stream(files[:4], RECIPE, job))
    assert (caught.value.item, caught.value.limit, caught.value.got) == (2, 29, 30)
    assert caught.value.plan is not None and caught.value.plan.patches == 30
    parts = list(stream(files[:4], RECIPE, job, on_error="skip"))
    assert [len(part.packed.x) for part in parts] == [16, 0, 1]
    [error] = [e for part in parts for e in part.errors]
    assert (type(error), error.item) == (LimitError, 2)
    assert [r.grid is None for part in parts for r in part.sources] == [False, False, True, False]
    together_too_many = load_patches([files[1], files[2]], RECIPE, limits=Limits(max_tokens=29), on_error="skip")
    assert together_too_many.packed.lengths == (12,)


def test_an_avif_sampled_by_time_is_by_itself(files: list[Path], tmp_path: Path):
    """Its frames are known once they are decoded; it is refused by itself then."""
    frames = [Image.fromarray(noise(16, 16, i)) for i in range(6)]
    frames[0].save(tmp_path / "m.avif", save_all=True, append_images=frames[1:], duration=100)
    sources = [files[0], tmp_path / "m.avif", files[0]]
    job = ReadJob(sampling=Sampling(fps=5.0), animation=True)
    parts = list(stream(sources, RECIPE, job))
    assert [part.packed.lengths for part in parts] == [(4,), (2 * 4,), (4,)]
    small = ReadJob(Limits(max_tokens=5), job.sampling, animation=True)
    parts = list(stream(sources, RECIPE, small, on_error="skip"))
    assert [part.packed.lengths for part in parts] == [(4,), (), (4,)]
    assert [(type(e), e.item) for part in parts for e in part.errors] == [(LimitError, 1)]


def test_a_pillow_picture_that_is_cut_is_an_error_of_ours():
    [loaded] = stream([noise(8, 8), Image.open(io.BytesIO(png(48, 40)[:-300]))], RECIPE, on_error="skip")
    assert [(type(e), e.item) for e in loaded.errors] == [(DecodeError, 1)]


@pytest.mark.parametrize("wrong", [{"max_rows": 0}, {"max_inputs": 0}, {"workers": 0}])
def test_numbers_that_mean_nothing_are_refused_at_once(wrong: dict[str, Any]):
    with pytest.raises(InputError):
        stream([], RECIPE, **wrong)
    with pytest.raises(InputError):
        stream(3, RECIPE)


def test_leaving_early_leaves_no_thread(files: list[Path]):
    import threading

    before = threading.active_count()
    for _ in stream(files * 10, RECIPE, JOB, max_inputs=1, workers=3):
        break
    assert threading.active_count() == before


def test_errors_of_plans_pickle():
    [plan] = plan_inputs([b"no picture at all, and long enough"], RECIPE, on_error="skip")
    assert isinstance(plan.error, TubeletError)
    again = pickle.loads(pickle.dumps(plan))
    assert (type(again.error), str(again.error), again.rows) == (UnsupportedFormat, str(plan.error), 0)
    assert Counter(type(e) for e in load_patches([again], RECIPE, on_error="skip").errors) == {UnsupportedFormat: 1}
