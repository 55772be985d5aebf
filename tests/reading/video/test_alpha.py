"""Clips with transparent parts lie on the background by every door, as pictures do."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tubelet.pixels.load import load_patches
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.sparse import read_sparse
from tubelet.reading.codec.decode import codec_signals
from tubelet.reading.read import read
from tubelet.reading.video.alpha import opaque
from tubelet.reading.video.frames import Painter, Upright

# container, encoder, its pixels, levels by which its colours may be off
KINDS = {
    "qtrle": ("mov", "qtrle", "argb", 0),
    "png": ("mov", "png", "rgba", 0),
    "png of 16 bits": ("mov", "png", "rgba64be", 1),
    "png of grey": ("mov", "png", "ya8", 1),
    "prores": ("mov", "prores_ks", "yuva444p10le", 6),
    "ffv1 of RGB": ("matroska", "ffv1", "bgra", 0),
    "ffv1 of YUV": ("matroska", "ffv1", "yuva444p", 3),
    "utvideo": ("avi", "utvideo", "gbrap", 0),
    "vp9": ("webm", "libvpx-vp9", "yuva420p", 12),
}
NOTE = "transparent parts composited on RGB"


def picture(n: int, grey: bool = False) -> np.ndarray:
    """Red of no alpha around a blue box, with a half transparent bar; the colour that is hidden changes with `n`."""
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[..., 0] = 255 - 20 * n
    rgba[8:40, 16:48] = (0, 0, 200, 255)
    rgba[16:32, 24:40, 3] = 128
    if grey:
        rgba[..., 1] = rgba[..., 2] = rgba[..., 0]
    return rgba


def made(kind: str, pictures: list[np.ndarray]) -> bytes:
    container, codec, pixels, _ = KINDS[kind]
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=10)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        if codec == "libvpx-vp9":
            stream.options = {"lossless": "1", "deadline": "realtime", "cpu-used": "8"}
        for n, one in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(one, format="rgba").reformat(format=pixels)
            frame.pts, frame.time_base = n, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def shown(rgba: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """By exact arithmetic."""
    alpha = rgba[..., 3:].astype(int)
    mixed = rgba[..., :3].astype(int) * alpha + np.array(background) * (255 - alpha)
    return (2 * mixed + 255) // 510


def close(frame: np.ndarray, expected: np.ndarray, within: int) -> bool:
    """Equal but for coding; where colours of half the size meet, nothing is known."""
    off = np.abs(frame.astype(int) - expected).max(axis=-1)
    edge = np.zeros(off.shape, bool)
    if within:
        for at in (8, 16, 32, 40):
            edge[at - 2 : at + 2] = True
        for at in (16, 24, 40, 48):
            edge[:, at - 2 : at + 2] = True
    return bool((off[~edge] <= within).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("isolate", ["never", "always"])
def test_hidden_colours_are_not_shown(kind: str, isolate: Any):
    pictures = [picture(n, KINDS[kind][2] == "ya8") for n in range(4)]
    background = (40, 220, 90)
    [clip] = read(made(kind, pictures), num_frames=4, background=background, isolate=isolate)
    assert any(note == f"{NOTE} {background}" for note in clip.notes)
    for frame, rgba in zip(clip.frames, pictures, strict=True):
        assert close(frame, shown(rgba, background), KINDS[kind][3])


@pytest.mark.parametrize("kind", KINDS)
def test_an_opaque_clip_is_as_without_alpha(kind: str):
    whole = picture(0)
    whole[..., 3] = 255
    data = made(kind, [whole] * 2)
    [clip] = read(data, num_frames=2, background=(0, 0, 0), isolate="never")
    with av.open(io.BytesIO(data)) as file:
        plain = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert clip.notes == () and np.array_equal(clip.frames, np.stack(plain))


def test_pixels_that_are_not_square_keep_hidden_colours_hidden():
    frame = av.VideoFrame.from_ndarray(picture(0), format="rgba")
    painter = Painter(Upright(64, 48, 96, 48))
    rgb = painter.paint(frame)
    assert rgb.shape == (48, 96, 3)
    red, green, blue = np.moveaxis(rgb.astype(int), -1, 0)
    assert ((red <= blue + 6) & (green <= blue + 6)).all()  # between white and blue; the red never shows
    assert (rgb[:, :20] == 255).all() and painter.notes


@pytest.mark.parametrize("door", ["path", "bytes"])
def test_rows_sparse_rows_and_signals_do_not_see_hidden_colours(tmp_path: Path, door: str):
    recipe = PixelRecipe(patch=16)
    hidden = [picture(n) for n in range(4)]
    bare = [np.dstack([shown(picture(0), (255, 255, 255)), np.full((48, 64), 255)]).astype(np.uint8)] * 4
    sources: list[Any] = []
    for n, pictures in enumerate((hidden, bare)):
        data = made("ffv1 of RGB", pictures)
        path = tmp_path / str(n)
        path.write_bytes(data)
        sources.append(path if door == "path" else data)
    first, second = (load_patches([s], recipe, num_frames=4).packed for s in sources)
    assert first.x.equal(second.x)
    sparse, plain = (read_sparse(s, recipe, budget=20, num_frames=4) for s in sources)
    assert sparse.packed.x.equal(plain.packed.x) and sparse.packed.pos.equal(plain.packed.pos)
    assert any(NOTE in note for note in sparse.notes)
    assert not codec_signals(sources[0], num_frames=4).error_levels.any()
    dark = read_sparse(sources[0], recipe, budget=20, num_frames=4, background=(0, 0, 0))
    assert not dark.packed.x.equal(sparse.packed.x)


def test_a_frame_keeps_what_it_carries_when_its_opaque_form_goes():
    """Else a number of a packet is lost, or that of a later one at the same address, and its picture with it."""

    class Tag:
        pass

    for _ in range(3):
        frame = av.VideoFrame.from_ndarray(picture(0), format="rgba")
        frame.opaque = tag = Tag()
        shown = opaque(frame, av.video.reformatter.VideoReformatter(), (255, 255, 255))
        assert shown is not None
        del shown
        assert frame.opaque is tag
