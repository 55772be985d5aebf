"""The public names of tubelet, in the order data flows. `__init__.py` reads this table: a line here is all it takes."""

from collections.abc import Callable
from typing import Any

from tubelet import errors as errors
from tubelet import inspect as inspect
from tubelet import language as language
from tubelet import reduce as reduce
from tubelet.encoder.model import Encoder as Encoder
from tubelet.inspect.budget.plan import plan as plan
from tubelet.language.placing.place import place as place
from tubelet.language.project.files import load_projector as load_projector
from tubelet.language.project.files import save_projector as save_projector
from tubelet.language.vlm.model import VLM as VLM
from tubelet.packed.grid import Grid as Grid
from tubelet.packed.grid import Item as Item
from tubelet.packed.packed import Packed as Packed
from tubelet.packed.packed import concat as concat
from tubelet.packed.packed import pack as pack
from tubelet.packed.token_file import TokenFile as TokenFile
from tubelet.pixels.load import load_patches as load_patches
from tubelet.pixels.patchify import patchify as patchify
from tubelet.pixels.recipe import PixelRecipe as PixelRecipe
from tubelet.pixels.sparse import read_sparse as read_sparse
from tubelet.reading.clip import Clip as Clip
from tubelet.reading.limits import Limits as Limits
from tubelet.reading.read import probe as probe
from tubelet.reading.read import read as read
from tubelet.reduce.merge import merge as merge
from tubelet.reduce.merge import pool as pool
from tubelet.reduce.select import select as select
from tubelet.weights.load import load_encoder as load_encoder
from tubelet.weights.load import untrained as untrained
from tubelet.weights.save import save_encoder as save_encoder

__version__: str

def face(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]: ...
