"""What a request says, checked: JSON, numbers of a query, how a file is to be read."""

from typing import Any

from starlette.requests import Request

from tubelet.errors import InputError
from tubelet.packed.header import strict_json
from tubelet.reading.sampling import Sampling
from tubelet.web import look
from tubelet.web.documents import Asked


def json_of(data: bytes) -> dict[str, Any]:
    """The object that a request holds. Raises InputError."""
    found = strict_json(data, InputError, "the request")
    if not isinstance(found, dict):
        raise InputError("a request is a JSON object", got=type(found).__name__)
    return found


def integer_of(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InputError(f"{name} is a whole number", got=text[:20])
    return int(text)


def side_of(request: Request) -> int:
    side = integer_of(request, "side", look.LONGEST)
    if not 16 <= side <= look.LONGEST:
        raise InputError(f"side is 16 to {look.LONGEST}", limit=look.LONGEST, got=side)
    return side


def asked_of(said: dict[str, Any]) -> Asked:
    """How a file is to be read: fps or num_frames, views, animation. Raises InputError."""
    fps, count, views = said.get("fps"), said.get("num_frames"), said.get("views")
    kinds = ((fps, int | float, "fps"), (count, int, "num_frames"), (views, str, "views"))
    for value, kind, name in kinds:
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise InputError(f"{name} cannot be {type(value).__name__}", got=type(value).__name__)
    sampling = Sampling(None if fps is None else float(fps), count)
    return Asked(sampling, views, said.get("animation") is True)
