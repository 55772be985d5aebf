"""Draw the pictures in docs/images that commands make of the example files: answer, select, compare and tokens.

python docs/images/make_commands.py
"""

import tempfile
from pathlib import Path

from PIL import Image

from tubelet.cli import main as tubelet
from tubelet.inspect.draw.lettering import PAPER

HERE = Path(__file__).parent
RECEIPT, WALK = (str(HERE.parents[1] / "examples" / name) for name in ("receipt.png", "walk.mp4"))
QUESTION = "What is the total?"
ASK = ("ask", RECEIPT, QUESTION)
SOUGHT = ("select", RECEIPT, "--text", QUESTION, "--budget", "24", "--max-side", "900")
SELECT = ("select", RECEIPT, "--method", "edges", "--heat", "--budget", "48")
COMPARE = (
    *("compare", RECEIPT, "--text", QUESTION, "--methods", "text,divprune,visionzip", "--budget", "24"),
    *("--boxes", "340,565,525,605"),
)
ENCODE = ("encode", RECEIPT, WALK, "--num-frames", "6")


def main() -> None:
    """Write the PNGs and print their sizes."""
    with tempfile.TemporaryDirectory() as folder:
        tokens = str(Path(folder) / "tokens.safetensors")
        run(*ENCODE, "--out", tokens)
        show = ("show", tokens, "--pictures", RECEIPT, WALK, "--like", "430,580")
        for command, option, name, side in (
            (SELECT, "--show", "select.png", 1000),
            (COMPARE, "--show", "compare.png", 1300),
            (show, "--out", "tokens.png", 1300),
        ):
            drawn = Path(folder) / name
            run(*command, "--max-side", str(side), option, str(drawn))
            with Image.open(drawn) as page:
                small = page.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT)
            save(small, name)
        one, other = Path(folder) / "ask.png", Path(folder) / "sought.png"
        run(*ASK, "--show", str(one))
        run(*SOUGHT, "--show", str(other))
        with Image.open(one) as left, Image.open(other) as right:
            page = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), PAPER)
            page.paste(left.convert("RGB"), (0, 0))
            page.paste(right.convert("RGB"), (left.width, 0))
        save(page.quantize(256, method=Image.Quantize.MEDIANCUT), "answer.png")


def save(picture: Image.Image, name: str) -> None:
    """Into this folder, with a line that says so."""
    picture.save(HERE / name, optimize=True)
    print(f"{name}: {picture.width} x {picture.height}, {(HERE / name).stat().st_size:,} bytes")


def run(*command: str) -> None:
    """Raises SystemExit where the command fails."""
    if tubelet((*command, "--quiet")):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
