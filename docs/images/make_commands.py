"""Draw the pictures in docs/images that commands make of the example files: select.png, compare.png, tokens.png.

python docs/images/make_commands.py
"""

import tempfile
from pathlib import Path

from PIL import Image

from tubelet.cli import main as tubelet

HERE = Path(__file__).parent
RECEIPT, WALK = (str(HERE.parents[1] / "examples" / name) for name in ("receipt.png", "walk.mp4"))
SELECT = ("select", RECEIPT, "--method", "edges", "--heat", "--budget", "96", "--max-pixels", "230000")
COMPARE = (
    *("compare", RECEIPT, "--methods", "edges,divprune,visionzip", "--budget", "64"),
    *("--max-pixels", "230000", "--boxes", "340,565,525,605"),
)
ENCODE = ("encode", RECEIPT, WALK, "--num-frames", "6", "--max-pixels", "300000")


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
            small.save(HERE / name, optimize=True)
            print(f"{name}: {small.width} x {small.height}, {(HERE / name).stat().st_size:,} bytes")


def run(*command: str) -> None:
    """Raises SystemExit where the command fails."""
    if tubelet((*command, "--quiet")):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
