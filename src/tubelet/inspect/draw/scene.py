"""A scene on one sheet: its frames over their depth and confidence, and the cameras' path from above.

+-------+ +-------+ +-------+      a column a frame: as the network saw it,
| frame | | frame | | frame |      its depth, near light and far dark,
| depth | | depth | | depth |      its confidence, low dark and high light
| conf. | | conf. | | conf. |
+-------+ +-------+ +-------+
0  0.00 s 1  0.50 s 2  1.00 s
[the path from above, with the points that are kept]
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from tubelet.doors import door
from tubelet.errors import ShapeError
from tubelet.geometry.scene import Cloud, Scene
from tubelet.inspect.draw.cameras import draw_camera_path
from tubelet.inspect.draw.frames import FRAME, GAP, LABEL, MARGIN, NARROW, label
from tubelet.inspect.draw.kept import warning
from tubelet.inspect.draw.lettering import INK, PAPER, TextLine, caption, drawable, shorten, time_text, words
from tubelet.inspect.draw.scene_page import scene_page
from tubelet.inspect.draw.shades import GREYS, UNKNOWN, VIRIDIS, ends, legend, shaded
from tubelet.writing import save_png

COLUMNS, WIDEST = 8, 300  # columns of a sheet, and pixels of one
WIDTH, PATH_SIDE = 1556, 760  # pixels of all columns and of the picture of a path, at most
BETWEEN = 3  # pixels between a frame, its depth and its confidence
MOST_DRAWN = 300_000  # points on the picture of a path


def scene_lines(scene: Scene, cloud: Cloud) -> list[TextLine]:
    """What stands above pictures of a scene: name, counts, network, and whether its weights are random."""
    h, w = scene.cameras.size
    count = f"{len(scene)} frames" if len(scene) != 1 else "1 frame"
    kept = f"{len(cloud.points):,} of {cloud.total:,} points, those it is surest of"
    lines = [TextLine((scene.name,), 19, INK), TextLine((f"{count} of {w} x {h}", kept, scene.network))]
    if scene.untrained:
        lines.append(warning(f"{scene.network} is UNTRAINED", "random weights: this scene means nothing"))
    return lines


@door
def scene_sheet(scene: Scene, cloud: Cloud | None = None, *, max_frames: int = 24) -> Image.Image:
    """Frames, depth and confidence side by side, and below them the cameras' path from above, as an RGB picture.

    Colours of depth go from what 1 % of the pixels is nearer than to what 1 % is farther than, and the legend says both
    numbers; so those of confidence. cloud: the points that are drawn; None: those of `Scene.cloud()`. Of more than
    `max_frames` frames, evenly chosen ones are shown, and the sheet says so. Raises ShapeError, and NotFinite where no
    pixel has a point. Cost: three resizes a shown frame.

        >>> from tubelet.geometry.look import frames_of_clips, look_at
        >>> from tubelet.geometry.network import load_network
        >>> seen = frames_of_clips(tubelet.read(["walk.mp4"], num_frames=2), fit="square", side=56)
        >>> scene_sheet(look_at(load_network("vggt_tiny"), seen)).mode
        'RGB'
    """
    if max_frames < 1:
        raise ShapeError(f"a sheet has at least one frame, got {max_frames}", limit=1, got=max_frames)
    cloud = scene.cloud() if cloud is None else cloud
    chosen = [round(i) for i in np.linspace(0, len(scene) - 1, min(len(scene), max_frames))]
    lines = scene_lines(scene, cloud)
    if len(chosen) < len(scene):
        lines.append(TextLine((f"{len(chosen)} of {len(scene)} frames are shown",)))
    cells, legends = _frames_over_maps(scene, chosen)
    across = max(NARROW, cells.width)
    pieces = [caption(across, lines), cells, *legends]
    some = cloud.thinned(MOST_DRAWN)
    path = draw_camera_path(scene.cameras, some.points, some.colours, side=min(across, PATH_SIDE))
    down = MARGIN + sum(one.height + GAP // 2 for one in pieces)
    page = Image.new("RGB", (across + 2 * MARGIN, down + path.height), PAPER)
    y = MARGIN
    for one in pieces:
        page.paste(one, (MARGIN, y))
        y += one.height + GAP // 2
    page.paste(path, (0, y))  # which has margins of its own
    return page


def _frames_over_maps(scene: Scene, chosen: Sequence[int]) -> tuple[Image.Image, list[Image.Image]]:
    """A column for each of these frames: itself, its depth, its confidence, its time. And what the colours mean."""
    usable, inside = scene.usable.numpy(), scene.inside.numpy()
    (near, far), (low, high) = scene.depth_range(), scene.confidence_range()
    rows = math.ceil(len(chosen) / COLUMNS)
    columns = math.ceil(len(chosen) / rows)
    h, w = scene.cameras.size
    wide = min(WIDEST, w * max(1, WIDEST // w), (WIDTH + GAP) // columns - GAP)
    size = (wide, max(1, round(wide * h / w)))
    how = Image.Resampling.NEAREST if wide > w else Image.Resampling.BOX
    stack = 3 * (size[1] + BETWEEN) + LABEL
    page = Image.new("RGB", (columns * (wide + GAP) - GAP, rows * (stack + GAP) - GAP), PAPER)
    for cell, i in enumerate(chosen):
        x, y = cell % columns * (wide + GAP), cell // columns * (stack + GAP)
        depth = shaded(np.where(usable[i], scene.depth[i].numpy(), np.nan), far, near)
        sure = shaded(scene.confidence[i].numpy(), low, high, GREYS)
        for one in (depth, sure):
            one[~inside[i]] = FRAME
        for j, one in enumerate((scene.frames[i], depth, sure)):
            page.paste(Image.fromarray(one).resize(size, how), (x, y + j * (size[1] + BETWEEN)))
        when = PurePath(scene.names[i]).name if scene.times_s is None else time_text(scene.times_s[i])
        label(page, x, y + stack - LABEL, wide, str(i), shorten(drawable(when), 13, wide))
    legends = [
        legend("depth", f"near {ends(near, far)[0]}", f"far {ends(near, far)[1]}", VIRIDIS[::-1]),
        legend("confidence", f"low {ends(low, high)[0]}", f"high {ends(low, high)[1]}", GREYS),
    ]
    if bool((inside & ~usable).any()):
        legends.append(words("red: no depth", 13, UNKNOWN))
    return page, legends


def save_scene(
    scene: Scene, folder: str | os.PathLike[str], cloud: Cloud | None = None, *, overwrite: bool = False
) -> Path:
    """`Scene.save` with three pictures: sheet.png, path.png, and index.html, which turns the points in any browser.

    cloud: the points; None: those of `Scene.cloud()`. Raises what `Scene.save` raises.

        >>> from tubelet.geometry.look import frames_of_clips, look_at
        >>> from tubelet.geometry.network import load_network
        >>> seen = frames_of_clips(tubelet.read(["walk.mp4"], num_frames=2), fit="square", side=56)
        >>> folder = save_scene(look_at(load_network("vggt_tiny"), seen), "walk")
        >>> (folder / "index.html").exists()
        True
    """
    points = scene.cloud() if cloud is None else cloud

    def sheet(place: Path) -> None:
        save_png(scene_sheet(scene, points), place)

    def path(place: Path) -> None:
        some, lines = points.thinned(MOST_DRAWN), scene_lines(scene, points)
        save_png(draw_camera_path(scene.cameras, some.points, some.colours, lines=lines), place)

    def page(place: Path) -> None:
        place.write_text(scene_page(scene, points), encoding="utf-8")

    return scene.save(
        folder, cloud=points, overwrite=overwrite, also={"sheet.png": sheet, "path.png": path, "index.html": page}
    )
