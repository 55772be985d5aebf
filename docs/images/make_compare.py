"""Draw docs/images/compare.png: ways to keep 64 tokens of the example picture, beside each other.

python docs/images/make_compare.py
"""

from pathlib import Path

from PIL import Image

from tubelet.cli import main as tubelet

HERE = Path(__file__).parent
OUT = HERE / "compare.png"
COMMAND = (
    *("compare", str(HERE.parents[1] / "examples" / "receipt.png"), "--quiet", "--max-side", "1300"),
    *("--methods", "edges,divprune,visionzip", "--budget", "64", "--max-pixels", "230000"),
    *("--boxes", "340,565,525,605", "--show", str(OUT)),
)


def main() -> None:
    """Write the PNG and print its size."""
    OUT.unlink(missing_ok=True)
    if tubelet(COMMAND):
        raise SystemExit(1)
    with Image.open(OUT) as page:
        small = page.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT)
    small.save(OUT, optimize=True)
    print(f"{OUT.name}: {small.width} x {small.height}, {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
