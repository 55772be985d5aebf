"""The array annotations of the library: jaxtyping's, checked in every test run and free in production.

Tests import the package through a hook (tests/typed.py), which checks each annotated call. jaxtyping is not a
dependency: where it is not installed, `Float[Tensor, "T D"]` is just `Tensor`.

Letters, once for the whole library: T tokens (rows), N items, D channels, H heads, K head dim, F frames, S text
sequence.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Annotated as Bool
    from typing import Annotated as Float
    from typing import Annotated as Int
    from typing import Annotated as Int32
    from typing import Annotated as Int64
    from typing import Annotated as Num
    from typing import Annotated as Shaped
    from typing import Annotated as UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, Int32, Int64, Num, Shaped, UInt8
    except ImportError:

        class _Unchecked:
            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Int = Int32 = Int64 = Num = Shaped = UInt8 = _Unchecked

__all__ = ["Bool", "Float", "Int", "Int32", "Int64", "Num", "Shaped", "UInt8"]
