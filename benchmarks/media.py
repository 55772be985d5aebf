"""Pictures and clips for benchmarks, made from seeds. Nothing is downloaded; the same seed gives the same pixels.

    python benchmarks/media.py FOLDER [--clips]

Pictures are noise with the spectrum of photographs, with edges and strokes in it, saved as JPEG of quality 90 with
4:2:0 chroma: their bytes per pixel are those of camera pictures (about 0.3). Clips pan and zoom over such a picture,
with things that move across it.
"""

import argparse
import hashlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

SIZES = {"vga": (640, 480), "hd": (1920, 1080), "12mp": (4032, 3024)}
SMALLEST, LARGEST = (320, 240), (1920, 1080)  # of mixed pictures


@dataclass(frozen=True)
class ClipKind:
    """codec: FFmpeg's name. options: of the encoder. seconds at 30 frames a second, 1920 x 1080 unless said."""

    name: str
    codec: str
    options: tuple[tuple[str, str], ...]
    seconds: int = 60
    width: int = 1920
    height: int = 1080


CLIPS = (
    ClipKind("h264_gop60", "libx264", (("preset", "veryfast"), ("crf", "23"), ("g", "60"), ("bf", "0"))),
    ClipKind(
        "h264_gop150_b3",
        "libx264",
        (("preset", "veryfast"), ("crf", "23"), ("x264-params", "keyint=150:min-keyint=150:scenecut=0:bframes=3")),
    ),
    ClipKind(
        "hevc_gop250",
        "libx265",
        (("preset", "ultrafast"), ("crf", "26"), ("x265-params", "keyint=250:bframes=4:log-level=error")),
    ),
)


def photograph(width: int, height: int, seed: int) -> np.ndarray:
    """(height, width, 3) uint8: amplitudes fall as in photographs, with sharp edges and fine grain."""
    rng = np.random.default_rng(seed)
    h, w = min(height, 1080), min(width, 1440)
    fy, fx = np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / max(h, w)) ** 1.35
    planes = []
    for _ in range(3):
        wave = rng.standard_normal((h, w // 2 + 1)) + 1j * rng.standard_normal((h, w // 2 + 1))
        plane = np.fft.irfft2(wave * amplitude, s=(h, w))
        planes.append((plane - plane.mean()) / plane.std())
    light, *chroma = planes  # luminance varies much more than colour does
    colour = np.stack([light + 0.25 * chroma[0], light, light + 0.25 * chroma[1]], axis=-1)
    small = Image.fromarray(np.clip(colour * 52 + 120, 0, 255).astype(np.uint8))
    picture = small.resize((width, height), Image.Resampling.BICUBIC)
    _strokes(picture, rng)
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * 1.2
    return np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)


def _strokes(picture: Image.Image, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    for _ in range(40):
        x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
        r = float(rng.uniform(0.01, 0.08)) * height
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        shape = rng.integers(3)
        if shape == 0:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        elif shape == 1:
            draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r / 2)], fill=colour)
        else:
            for line in range(6):  # like lines of print
                draw.line((x, y + line * r / 4, x + 4 * r, y + line * r / 4), fill=colour, width=max(1, int(r / 20)))


def make_pictures(folder: Path, counts: dict[str, int]) -> dict[str, list[Path]]:
    """JPEG files, as many of each size as `counts` says; those that exist already are kept. Paths by size."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, list[Path]] = {}
    for name, count in counts.items():
        width, height = SIZES[name]
        paths[name] = []
        for i in range(count):
            path = folder / f"{name}_{i}.jpg"
            if not path.exists():
                Image.fromarray(photograph(width, height, seed=1000 + i)).save(path, quality=90)
            paths[name].append(path)
    return paths


def make_mixed(folder: Path, count: int, seed: int = 3) -> list[Path]:
    """So many JPEG files of sizes from 320 x 240 to 1920 x 1080, spread evenly by the logarithm of their pixels, of
    ratios from 4:3 to 16:9, a third of them upright. Those that exist already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, paths = np.random.default_rng(seed), []
    for i in range(count):
        least, most = (np.log(w * h) for w, h in (SMALLEST, LARGEST))
        pixels, ratio = np.exp(draw.uniform(least, most)), draw.uniform(4 / 3, 16 / 9)
        size = round(np.sqrt(pixels * ratio)), round(np.sqrt(pixels / ratio))
        width, height = size[::-1] if draw.random() < 1 / 3 else size
        paths.append(folder / f"mixed_{i:03d}.jpg")
        if not paths[-1].exists():
            Image.fromarray(photograph(width, height, seed=2000 + i)).save(paths[-1], quality=90)
    return paths


def make_clip(folder: Path, kind: ClipKind, seed: int = 7) -> Path:
    """One MP4 of this kind; kept if it exists."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind.name}_{kind.seconds}s.mp4"
    if path.exists():
        return path
    partial = path.with_suffix(".partial")
    with av.open(str(partial), "w", format="mp4") as out:
        stream = out.add_stream(kind.codec, rate=30, options=dict(kind.options))
        stream.width, stream.height, stream.pix_fmt = kind.width, kind.height, "yuv420p"
        stream.time_base = Fraction(1, 30)
        for number, pixels in enumerate(_scenes(kind, seed)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    partial.rename(path)
    return path


def _scenes(kind: ClipKind, seed: int):
    """Frames of a camera that pans over a large picture, cut to another one every ten seconds, and a moving disc."""
    rng = np.random.default_rng(seed)
    frames = kind.seconds * 30
    margin = kind.height // 3
    scene = np.zeros(0, np.uint8)
    for number in range(frames):
        if number % 300 == 0:
            scene = photograph(kind.width + 2 * margin, kind.height + 2 * margin, seed + number)
            phase = rng.uniform(0, 6.28, 3)
        t = number / 30
        left = margin + int(margin * 0.9 * np.sin(t / 3 + phase[0]))
        top = margin + int(margin * 0.9 * np.sin(t / 4 + phase[1]))
        pixels = scene[top : top + kind.height, left : left + kind.width].copy()
        side = kind.height // 8
        x = int((kind.width - side) * (0.5 + 0.5 * np.sin(t + phase[2])))
        pixels[side : 2 * side, x : x + side] = 255 - pixels[side : 2 * side, x : x + side]
        yield pixels


def describe(path: Path) -> dict[str, object]:
    """Name, size in bytes and the start of the SHA-256 of a file, for a results file."""
    data = path.read_bytes()
    return {"name": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()[:16]}


def gops(path: Path) -> dict[str, object]:
    """Frames, key frames and the share of droppable packets of a clip, from its packets."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    keys = sum(p.is_keyframe for p in packets)
    return {**describe(path), "frames": len(packets), "keyframes": keys}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the pictures, and with --clips the clips, in FOLDER.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", action="store_true")
    arguments = parser.parse_args()
    for paths in make_pictures(arguments.folder, {"vga": 4, "hd": 4, "12mp": 4}).values():
        for path in paths:
            print(describe(path))
    if arguments.clips:
        for kind in CLIPS:
            print(gops(make_clip(arguments.folder, kind)))


if __name__ == "__main__":
    main()
