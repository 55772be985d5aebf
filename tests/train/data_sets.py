"""Data sets in the forms that upstream publishes, written small; and the slow, obvious twins of what reads them."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(path: Path, width: int = 60, height: int = 44, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_bytes(width, height, seed, path.suffix))
    return path


def picture_bytes(width: int, height: int, seed: int = 0, suffix: str = ".png") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, {".png": "PNG", ".jpg": "JPEG"}[suffix])
    return out.getvalue()


def llava(number: int, image: str | list[str] | None, question: str, answer: str) -> dict[str, Any]:
    """A record as blip_laion_cc_sbu_558k.json has it."""
    said = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    record: dict[str, Any] = {"id": f"{number:09d}"}
    if image is not None:
        record["image"] = image
    return {**record, "conversations": said}


def lcs558k(folder: Path, count: int = 6) -> Path:
    """A JSON list with the tag before or behind the question, as upstream mixes them, and its pictures in folders."""
    records = []
    for i in range(count):
        name = f"{i // 4:05d}/{i:09d}.jpg"
        picture(folder / name, 40 + 7 * i, 60, i)
        words = "Give a brief description of the image."
        question = f"<image>\n{words}" if i % 2 else f"{words}\n<image>"
        records.append(llava(i, name, question, f"picture number {i}, \u00e9t\u00e9 \U0001f600"))
    path = folder / "blip_laion_cc_sbu_558k.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def lines(path: Path, records: Sequence[object]) -> Path:
    path.write_text("".join(f"{json.dumps(r)}\n" for r in records), encoding="utf-8")
    return path


def archive(path: Path, members: Mapping[str, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
