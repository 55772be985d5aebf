"""Input from strangers: bytes are decoded in a child process, under limits, and a bad one harms only itself.

python examples/from_strangers.py
"""

from pathlib import Path

import tubelet
from tubelet import Limits
from tubelet.errors import TubeletError

receipt = Path("examples/receipt.png").read_bytes()
uploads = {
    "receipt.png": receipt,
    "cut.png": receipt[: len(receipt) // 2],
    "page.html": b"<!doctype html><script>alert(1)</script>",
    "playlist": b"#EXTM3U\nhttp://192.0.2.1/walk.mp4\n",
    "walk.mp4": Path("examples/walk.mp4").read_bytes(),
}
limits = Limits(max_pixels=2_000_000, max_seconds=60.0, deadline_s=20.0)
results = tubelet.read(list(uploads.values()), num_frames=4, limits=limits, on_error="skip")
for name, result in zip(uploads, results, strict=True):
    if isinstance(result, TubeletError):
        print(f"{name}: refused, {type(result).__name__}: {result.message}")
    else:
        print(f"{name}: {result.width} x {result.height}, {len(result)} frames, complete: {result.complete}")
