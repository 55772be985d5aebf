"""The value that travels: `Grid`, `Item` and `Packed`."""

from tubelet.packed.grid import MAX_ROWS as MAX_ROWS
from tubelet.packed.grid import Grid as Grid
from tubelet.packed.grid import Item as Item
from tubelet.packed.grid import all_positions as all_positions
from tubelet.packed.grid import positions as positions
from tubelet.packed.packed import Packed as Packed
from tubelet.packed.packed import concat as concat
from tubelet.packed.packed import pack as pack
