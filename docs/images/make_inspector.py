"""Take the pictures of the inspector in docs/images: inspector.png and inspector_clip.png, from the example files, and
inspector_scene.png, from a room whose every number is known.

python docs/images/make_inspector.py

Needs starlette, uvicorn, playwright and a Chromium: what .ci/run installs.
"""

import io
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from tubelet.web.bench import Bench

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLES = ROOT / "examples"
SHOTS = (
    ("inspector", "&method=text&budget=24&text=What%20is%20the%20total%3F", (0.25, 0.64), (1240, 1000)),
    ("inspector_clip", "&file=1&method=edges&budget=300&t=3&show=heat", (0.5, 0.6), (1240, 1000)),
)
QUESTION = "What is the total?"  # that is asked about the first


def main() -> None:
    """Write the PNGs and print their sizes."""
    sys.path.insert(0, str(ROOT))
    from tests.geometry.rooms import room

    from tubelet.cli.serve import Serve
    from tubelet.cli.terminal import Terminal
    from tubelet.inspect.draw.scene import save_scene

    files = tuple(str(EXAMPLES / file) for file in ("receipt.png", "walk.mp4"))
    with tempfile.TemporaryDirectory() as folder:
        scene = save_scene(room(6, (280, 420), "ahead"), Path(folder) / "room")
        take(Serve((*files, str(scene)), device="cpu").bench(Terminal(quiet=True)))


def take(bench: "Bench") -> None:
    """Write them."""
    from tests.web.browser import launched, served

    with served(bench) as serving, launched() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 1290}, color_scheme="light")
        page.goto(f"{serving.address}&file={len(bench.files) - 1}&t=2")
        page.wait_for_selector("#frames li:last-child img:last-of-type[src]")
        page.wait_for_load_state("networkidle")
        written(page, HERE / "inspector_scene.png", colours=None)
        page.close()
        for shot, fragment, at, size in SHOTS:
            page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme="light")
            page.set_default_timeout(240_000)
            page.goto(serving.address + fragment)
            if shot == "inspector":
                page.fill("#question", QUESTION)
                page.click("#asking button")
                page.locator("#answer", has_text="visual tokens").wait_for()
            taken(page, at, HERE / f"{shot}.png")
            page.close()


def taken(page: Any, at: tuple[float, float], out: Path) -> None:
    """The page once all of it is there, with the pointer on a token."""
    page.wait_for_selector("body[data-drawn]")
    page.wait_for_selector(".canvases:not(.waiting)")
    page.wait_for_selector("#costs td")
    page.wait_for_load_state("networkidle")
    canvas = page.locator("canvas.cells").first
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] * at[0], "y": box["height"] * at[1]})
    written(page, out)


def written(page: Any, out: Path, colours: int | None = 192) -> None:
    """The page as it stands, in so many colours; None: all."""
    page.wait_for_timeout(300)
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        small = picture.convert("RGB")
    if colours is not None:
        small = small.quantize(colours, method=Image.Quantize.MEDIANCUT)
    small.save(out, optimize=True)
    print(f"{out.name}: {small.width} x {small.height}, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
