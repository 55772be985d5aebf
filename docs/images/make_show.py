"""Draw docs/images/show.png: the example picture with its patch grid beside the sampled frames of the example clip.

python docs/images/make_show.py
"""

from pathlib import Path

from PIL import Image

import tubelet
from tubelet.families.onevision import VARIANTS
from tubelet.inspect.draw.lettering import PAPER
from tubelet.pixels.fit import item_of

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
HEIGHT = 800


def main() -> None:
    """Write the PNG and print its size."""
    recipe = VARIANTS["llava_vit_packing_small"].pixels
    receipt, walk = tubelet.read([EXAMPLES / "receipt.png", EXAMPLES / "walk.mp4"], fps=2.0)
    items = [item_of(c.height, c.width, c.times_s, i, recipe) for i, c in enumerate((receipt, walk))]
    left = tubelet.inspect.draw_grid(receipt, items[0], recipe.patch, max_side=HEIGHT)
    right = tubelet.inspect.contact_sheet(walk, items[1], recipe.patch, max_side=1080)
    page = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), PAPER)
    page.paste(left, (0, (page.height - left.height) // 2))
    page.paste(right, (left.width, (page.height - right.height) // 2))
    out = HERE / "show.png"
    page.quantize(256, method=Image.Quantize.MEDIANCUT).save(out, optimize=True)
    print(f"{out.name}: {page.width} x {page.height}, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
