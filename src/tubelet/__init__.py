"""tubelet: images and videos in, the visual tokens a language model reads out.

Importing does no work: each public name is loaded from its module when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tubelet.reading import read as read  # also rebinds the name from the package to the function, as users call it

__version__ = "0.1.0"

_HOME = {
    "Clip": "tubelet.reading.clip",
    "Limits": "tubelet.reading.limits",
    "Grid": "tubelet.packed",
    "Item": "tubelet.packed",
    "Packed": "tubelet.packed",
    "pack": "tubelet.packed",
    "concat": "tubelet.packed",
    "PixelRecipe": "tubelet.pixels.recipe",
    "patchify": "tubelet.pixels.patchify",
    "from_pixels": "tubelet.pixels.patchify",
    "load_patches": "tubelet.pixels.load",
    "ViewRule": "tubelet.pixels.views",
    "Pyramid": "tubelet.pixels.views",
    "PageCrops": "tubelet.pixels.views",
    "LAVIDA": "tubelet.pixels.views",
    "codec_signals": "tubelet.reading.codec.decode",
    "read_sparse": "tubelet.pixels.sparse",
    "merge": "tubelet.reduce.merge",
    "pool": "tubelet.reduce.merge",
    "select": "tubelet.reduce.select",
    "build_projector": "tubelet.language.project.projector",
    "load_projector": "tubelet.language.project.files",
    "save_projector": "tubelet.language.project.files",
    "TokenIds": "tubelet.language.placing.align",
    "PositionRule": "tubelet.language.placing.mrope",
    "rope_index": "tubelet.language.placing.mrope",
    "expand_placeholders": "tubelet.language.placing.prompt",
    "place": "tubelet.language.placing.place",
    "VLM": "tubelet.language.vlm.model",
    "plan": "tubelet.inspect.budget.plan",
    "contact_sheet": "tubelet.inspect.draw.frames",
    "draw_grid": "tubelet.inspect.draw.frames",
    "load_encoder": "tubelet.weights.load",
    "untrained": "tubelet.weights.load",
}

if TYPE_CHECKING:
    from tubelet.inspect.budget.plan import plan as plan
    from tubelet.inspect.draw.frames import contact_sheet as contact_sheet
    from tubelet.inspect.draw.frames import draw_grid as draw_grid
    from tubelet.language.placing.align import TokenIds as TokenIds
    from tubelet.language.placing.mrope import PositionRule as PositionRule
    from tubelet.language.placing.mrope import rope_index as rope_index
    from tubelet.language.placing.place import place as place
    from tubelet.language.placing.prompt import expand_placeholders as expand_placeholders
    from tubelet.language.project.files import load_projector as load_projector
    from tubelet.language.project.files import save_projector as save_projector
    from tubelet.language.project.projector import build_projector as build_projector
    from tubelet.language.vlm.model import VLM as VLM
    from tubelet.packed import Grid as Grid
    from tubelet.packed import Item as Item
    from tubelet.packed import Packed as Packed
    from tubelet.packed import concat as concat
    from tubelet.packed import pack as pack
    from tubelet.pixels.load import load_patches as load_patches
    from tubelet.pixels.patchify import from_pixels as from_pixels
    from tubelet.pixels.patchify import patchify as patchify
    from tubelet.pixels.recipe import PixelRecipe as PixelRecipe
    from tubelet.pixels.sparse import read_sparse as read_sparse
    from tubelet.pixels.views import LAVIDA as LAVIDA
    from tubelet.pixels.views import PageCrops as PageCrops
    from tubelet.pixels.views import Pyramid as Pyramid
    from tubelet.pixels.views import ViewRule as ViewRule
    from tubelet.reading.clip import Clip as Clip
    from tubelet.reading.codec.decode import codec_signals as codec_signals
    from tubelet.reading.limits import Limits as Limits
    from tubelet.reduce.merge import merge as merge
    from tubelet.reduce.merge import pool as pool
    from tubelet.reduce.select import select as select
    from tubelet.weights.load import load_encoder as load_encoder
    from tubelet.weights.load import untrained as untrained


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tubelet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
