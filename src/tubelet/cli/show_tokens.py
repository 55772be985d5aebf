"""`tubelet show tokens.safetensors`: what a file of tokens holds, as maps at the places of the tokens."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from tubelet.cli.terminal import UsageError, file_name

if TYPE_CHECKING:
    from PIL.Image import Image

    from tubelet.inspect.draw.token_maps import Point
    from tubelet.packed.token_file import TokenFile
    from tubelet.reading.clip import Clip

SUFFIX = ".safetensors"


def place_of(text: str | None) -> "Point | None":
    """[N:]X,Y[,SECONDS] as a place; N is 0 where it is not said. Raises UsageError."""
    if text is None:
        return None
    from tubelet.inspect.draw.token_maps import Point

    number, colon, rest = text.rpartition(":")
    try:
        values = [float(v) for v in rest.split(",")]
        if len(values) not in (2, 3):
            raise ValueError(rest)
        return Point(int(number) if colon else 0, *values)
    except ValueError as e:
        raise UsageError(f"--like is [PICTURE:]X,Y[,SECONDS], such as 340,565 or 1:120,80,2.5, got {text}") from e


def draw_file(
    path: str, pictures: Sequence[str], like: "Point | None", max_side: int, **reading: Any
) -> "tuple[Image, dict[str, Any]]":
    """The page of a file's tokens, and what is said of it.

    pictures: what the tokens were made of, found by the names in the file; nothing that a file names is opened by
    itself. like: counts the inputs that are in the file. Raises UsageError for a picture that the file does not name,
    and what `TokenFile.load`, `read` and `draw_tokens` raise.
    """
    from tubelet.inspect.draw.kept import warning
    from tubelet.inspect.draw.lettering import INK, TextLine
    from tubelet.inspect.draw.tokens import draw_tokens
    from tubelet.packed.token_file import TokenFile

    found = TokenFile.load(path)
    p = found.tokens
    numbers = sorted({item.picture for item in p.items})
    if like is not None:
        if not 0 <= like.picture < len(numbers):
            raise UsageError(f"--like counts the {len(numbers)} inputs of {file_name(path)} from 0, got {like.picture}")
        like = like._replace(picture=numbers[like.picture])
    clips = _clips(found, pictures, numbers, **reading)
    method = found.metadata.get("method", "")
    beside = [f"beside them: {', '.join(found.tensors)}"] if found.tensors else []
    about = f"{len(p.x):,} tokens of {p.x.shape[1]:,} values", *([f"chosen by {method}"] if method else []), *beside
    model = _model(found)
    lines = [TextLine((PurePath(path).name,), 19, INK), TextLine(about)]
    if found.untrained:
        lines.append(warning(f"{model} is UNTRAINED", "random weights: its tokens mean nothing"))
    elif model:
        lines.append(TextLine((model,)))
    page = draw_tokens(
        p, clips, [PurePath(name).name for name in found.names], like=like, lines=lines, max_side=max_side
    )
    names = found.names or ("",) * len(p)
    return page, {
        "tokens": len(p.x),
        "width": p.x.shape[1],
        "untrained": found.untrained,
        "beside": sorted(found.tensors),
        "items": [
            {"name": name, "picture": item.picture, "grid": list(item.grid), "box": list(item.box), "tokens": n}
            for name, item, n in zip(names, p.items, p.lengths, strict=True)
        ],
        "like": None if like is None else dict(zip(("picture", "x", "y", "time_s"), like, strict=True)),
    }


def _model(found: "TokenFile") -> str:
    """The name of the model that the file says."""
    from tubelet.errors import UnsafeFile
    from tubelet.packed.header import strict_json

    said = strict_json(found.metadata.get("model", "{}").encode(), UnsafeFile, found.source)
    return str(said.get("name") or "the encoder") if isinstance(said, dict) else "the encoder"


def _clips(found: "TokenFile", pictures: Sequence[str], numbers: Sequence[int], **reading: Any) -> "list[Clip | None]":
    """The pictures at their numbers, by the last part of their names; by their order where the file has no names."""
    from tubelet.reading.read import read

    if not pictures:
        return []
    first = {item.picture: i for i, item in reversed(list(enumerate(found.tokens.items)))}
    names = [PurePath(found.names[first[n]]).name if found.names else "" for n in numbers]
    out: list[Clip | None] = [None] * (max(numbers, default=-1) + 1)
    for i, picture in enumerate(pictures):
        own = PurePath(picture).name
        places = (
            [n for n, name in zip(numbers, names, strict=True) if name == own] if found.names else numbers[i : i + 1]
        )
        if not places:
            raise UsageError(
                f"the tokens of {found.source} are not of {file_name(own)}; they are of {', '.join(names)}"
            )
        for n in places:
            item = found.tokens.items[first[n]]
            times = item.times_s if item.grid.t > 1 else None
            out[n] = read([picture], times_s=times, **reading)[0]
    return out
