"""Draw docs/images/select.png: what is kept of the example picture, and the scores it was chosen by.

python docs/images/make_select.py
"""

from pathlib import Path

from PIL import Image

from tubelet.cli import main as tubelet

HERE = Path(__file__).parent
OUT = HERE / "select.png"
COMMAND = (
    *("select", str(HERE.parents[1] / "examples" / "receipt.png"), "--quiet", "--max-side", "1000"),
    *("--method", "edges", "--heat", "--budget", "96", "--max-pixels", "230000", "--show", str(OUT)),
)


def main() -> None:
    """Write the PNG and print its size."""
    OUT.unlink(missing_ok=True)
    if tubelet(COMMAND):
        raise SystemExit(1)
    with Image.open(OUT) as page:
        small = page.convert("RGB").quantize(200, method=Image.Quantize.MEDIANCUT)
    small.save(OUT, optimize=True)
    print(f"{OUT.name}: {small.width} x {small.height}, {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
