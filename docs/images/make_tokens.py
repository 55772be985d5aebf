"""Draw docs/images/tokens.png: tokens of the two example files as colours, and their likeness with one of the receipt.

python docs/images/make_tokens.py
"""

import tempfile
from pathlib import Path

from PIL import Image

from tubelet.cli import main as tubelet

HERE = Path(__file__).parent
EXAMPLES = [str(HERE.parents[1] / "examples" / name) for name in ("receipt.png", "walk.mp4")]
OUT = HERE / "tokens.png"


def main() -> None:
    """Write the PNG and print its size."""
    OUT.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        tokens = str(Path(folder) / "tokens.safetensors")
        encode = ("encode", *EXAMPLES, "--num-frames", "6", "--max-pixels", "300000", "--out", tokens, "--quiet")
        show = ("show", tokens, "--pictures", *EXAMPLES, "--like", "430,580", "--max-side", "1300", "--out", str(OUT))
        if tubelet(encode) or tubelet((*show, "--quiet")):
            raise SystemExit(1)
    with Image.open(OUT) as page:
        small = page.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT)
    small.save(OUT, optimize=True)
    print(f"{OUT.name}: {small.width} x {small.height}, {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
