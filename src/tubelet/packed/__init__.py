"""The value that travels: `Grid`, `Item` and `Packed`.

What holds tensors is loaded when it is first used, so that counting needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tubelet.packed.grid import MAX_ROWS as MAX_ROWS
from tubelet.packed.grid import Grid as Grid
from tubelet.packed.grid import Item as Item
from tubelet.packed.grid import all_positions as all_positions
from tubelet.packed.grid import positions as positions

if TYPE_CHECKING:
    from tubelet.packed.packed import Packed as Packed
    from tubelet.packed.packed import concat as concat
    from tubelet.packed.packed import pack as pack


def __getattr__(name: str) -> Any:
    if name not in ("Packed", "concat", "pack"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("tubelet.packed.packed"), name)
