"""An input looked at once is decoded to what reading it gives, and of a clip only what is asked for."""

import io
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.reading.video.video_clips import encoded, numbered

from tubelet.errors import InputError, UnsupportedFormat
from tubelet.pixels.budget import told
from tubelet.pixels.planned import LoadConfig, clip_for, plan_input
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.clip import Clip
from tubelet.reading.job import ReadJob
from tubelet.reading.outlined import clip_of_outlined, outline_input
from tubelet.reading.read import read
from tubelet.reading.sampling import Sampling

MP4 = encoded("mp4", "libx264", [numbered(n) for n in range(12)])
FAST = encoded("mp4", "libx264", [numbered(n) for n in range(48)], options={"g": "6"}, muxing={"movflags": "faststart"})
JOB = ReadJob(sampling=Sampling(num_frames=9))


def png(**more: Any) -> bytes:
    made = [Image.fromarray(np.full((20, 30, 3), 40 * n, np.uint8)) for n in range(3)]
    made[0].save(out := io.BytesIO(), "PNG", **({"save_all": True, "append_images": made[1:]} | more))
    return out.getvalue()


def same(one: Clip, other: Clip) -> None:
    assert np.array_equal(one.frames, other.frames)
    for name in ("times_s", "source", "is_video", "duration_s", "complete", "frames_expected", "notes"):
        assert getattr(one, name) == getattr(other, name), name


@pytest.mark.parametrize("isolate", ["never", "always"])
@pytest.mark.parametrize("animation", [False, True])
@pytest.mark.parametrize("data", [MP4, png(), FAST[: 3 * len(FAST) // 4]], ids=["clip", "animation", "cut"])
def test_it_is_what_is_read(data: bytes, animation: bool, isolate: Any, tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(data)
    job = ReadJob(sampling=JOB.sampling, animation=animation)
    [want] = read(path, num_frames=9, animation=animation, isolate=isolate)
    found = pickle.loads(pickle.dumps(outline_input(path, job, isolate)))
    assert found.outline is not None
    assert (found.outline.width, found.outline.height) == (want.width, want.height)
    assert len(found.outline.times_s) == len(want) or not want.complete
    same(clip_of_outlined(found, workers=2), want)


def test_what_is_in_memory_is_as_it_is():
    pixels = np.zeros((2, 8, 9, 3), np.uint8)
    found = outline_input(pixels, JOB)
    assert found.whole and found.name == "<array>"
    same(clip_of_outlined(found), read(pixels)[0])


def test_frames_that_are_not_taken_are_not_decoded(tmp_path: Path):
    path = tmp_path / "a.mp4"
    path.write_bytes(MP4)
    found, recipe = outline_input(path, JOB), PixelRecipe(16, max_clip_tokens=4)
    assert found.outline is not None
    want = told(read(path, num_frames=9)[0], recipe)
    assert 0 < len(want) < 9 and want.notes
    same(clip_for(found, recipe), want)
    taken: list[int] = []
    clip = clip_of_outlined(found, lambda outline: taken.append(len(outline.times_s)) or [2, 5])
    assert taken == [9]
    same(clip, read(path, times_s=[found.outline.times_s[n] for n in (2, 5)])[0])


def test_what_cannot_be_read_says_so_twice(tmp_path: Path):
    (tmp_path / "notes.png").write_text("not a picture, by far")
    found = outline_input(tmp_path / "notes.png", JOB)
    assert isinstance(found.error, UnsupportedFormat) and found.error.source == str(tmp_path / "notes.png")
    with pytest.raises(UnsupportedFormat):
        clip_of_outlined(found)


def test_it_is_planned_under_the_options_it_was_looked_at_with():
    found, config = outline_input(io.BytesIO(MP4), JOB), LoadConfig(PixelRecipe(8), ReadJob())
    with pytest.raises(InputError, match="other options"):
        plan_input(found, "a", config, nullcontext())
