"""One JSON object to a sample: LLaVA's form and the chat form, every value checked.

    LLaVA   {"id", "image": "a.png" | [..], "video": .., "conversations": [{"from": "human" | "gpt", "value": ".."}]}
    chat    {"id", "images": [..], "videos": [..], "messages": [{"role": "user", "content": ".." | [
                {"type": "image", "image": "a.png"}, {"type": "video"}, {"type": "text", "text": ".."}]}]}

"<image>" and "<video>" in a user's text are places, filled in the order of the lists; so is a part without a name.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tubelet.errors import AlignmentError, DecodeError, InputError
from tubelet.train.data.sample import MAX_MEDIA, MAX_TURNS, Kind, Media, Part, Role, Sample, Turn

ROLES: dict[str, Role] = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
ROLES["system"] = "system"
_TAG = re.compile("<(image|video)>")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_LISTS: tuple[tuple[str, Kind], ...] = (
    ("image", "image"),
    ("images", "image"),
    ("video", "video"),
    ("videos", "video"),
)

_KINDS: dict[str, Kind] = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}

Locate = Callable[[object, Kind], Media]
"""The picture or clip of a name. Raises InputError, UnsafePath."""


def parse_json(data: bytes, where: str) -> Any:
    """The value of a JSON text, by the standard alone: no NaN, no half of a surrogate pair. Raises DecodeError."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse)
        if _SURROGATE.search(data):  # an escape may stand for half of a letter, which no tokenizer takes
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as e:  # UnicodeError and JSONDecodeError are ValueErrors
        raise DecodeError(f"broken JSON: {_why(e)}", source=where, got=_shown(data)) from e
    return value


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _why(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.lower().removesuffix(' at')} at letter {error.pos + 1}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    return "a number that JSON does not have"


def _shown(data: bytes) -> str:
    return data[:80].decode("utf-8", "replace")


def sample_of(
    record: object, where: str, locate: Locate, number: int | str = 0, beside: Sequence[Media] = ()
) -> Sample:
    """The sample of a record. number: its name where it has no id. beside: what fills the places of a record that
    names no file itself.

    A conversation that begins with the assistant loses that turn, as in LLaVA's code.
    Raises InputError telling file, line, field and value, AlignmentError for placeholders that do not match the
    pictures; UnsafePath for a name that leads out of the folder.
    Source: haotian-liu/LLaVA:llava/train/train.py@0034661 (preprocess_v1).

        >>> said = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
        >>> [turn.role for turn in sample_of(said, "a.json:1", lambda name, kind: Media(kind, str(name))).turns]
        ['user', 'assistant']
    """
    if not isinstance(record, Mapping):
        raise _wrong("a sample is a JSON object", where, record)
    given: dict[Kind, list[Media]] = {"image": [], "video": []}
    for field, kind in _LISTS:
        for name in _names(record.get(field), field, where):
            given[kind].append(locate(name, kind))
    if not any(given.values()):
        for media in beside:
            given[media.kind].append(media)
    said = record.get("messages", record.get("conversations"))
    if not isinstance(said, list) or not said:
        raise _wrong("a sample has a list `conversations` or `messages`", where, said)
    if len(said) > MAX_TURNS:
        raise InputError(f"{len(said):,} turns are above {MAX_TURNS:,}", source=where, limit=MAX_TURNS, got=len(said))
    reader = _Reader(where, locate, {kind: list(media) for kind, media in given.items()})
    turns = [reader.turn(i, one) for i, one in enumerate(said)]
    left = sum(len(media) for media in reader.waiting.values())
    if left:
        raise AlignmentError(
            f"{len(reader.media)} placeholders for {len(reader.media) + left} pictures and clips",
            source=where,
            expected=len(reader.media) + left,
            got=len(reader.media),
        )
    first = 1 if turns[0].role == "system" else 0
    if len(turns) > first and turns[first].role == "assistant":
        del turns[first]
    return Sample(_id(record.get("id", number), where), where, tuple(turns), tuple(reader.media))


def described(
    id: str, where: str, media: Sequence[Media], record: bytes | None, text: bytes | None, locate: Locate
) -> Sample:
    """The sample of pictures and clips and what stands beside them: a record, a text, or metadata with a caption.

    Raises InputError, UnsafePath.
    """
    said = None if record is None else parse_json(record, f"{where}.json")
    if isinstance(said, dict) and ("messages" in said or "conversations" in said):
        return sample_of(said, f"{where}.json", locate, id, media)
    if not media:
        raise InputError("a text and neither picture nor clip beside it", source=where)
    if len(media) > MAX_MEDIA:
        raise InputError(f"{len(media):,} pictures and clips in one sample", source=where, limit=MAX_MEDIA)
    if text is not None:
        try:
            words = text.decode("utf-8")
        except UnicodeDecodeError as e:
            raise InputError("the text is not UTF-8", source=f"{where}.txt") from e
    elif isinstance(said, dict) and isinstance(said.get("caption"), str):
        words = said["caption"]
    else:
        raise InputError("neither turns nor a text or caption beside it", source=where)
    user = Turn("user", tuple(range(len(media))))
    return Sample(id, where, (user, Turn("assistant", (words.strip(),))), tuple(media))


class _Reader:
    """Turns one after the other, and the pictures and clips that wait for their places."""

    def __init__(self, where: str, locate: Locate, waiting: dict[Kind, list[Media]]) -> None:
        self.where, self.locate, self.waiting = where, locate, waiting
        self.media: list[Media] = []

    def turn(self, i: int, said: object) -> Turn:
        if not isinstance(said, Mapping):
            raise _wrong(f"turn {i} is an object", self.where, said)
        speaker = said.get("from", said.get("role"))
        if not isinstance(speaker, str) or speaker not in ROLES:
            raise _wrong(f"turn {i} is by one of {', '.join(ROLES)}", self.where, speaker)
        content = said.get("value", said.get("content"))
        role = ROLES[speaker]
        if isinstance(content, str):
            return Turn(role, tuple(self.text(content, role)))
        if not isinstance(content, list):
            raise _wrong(f"turn {i} has a text or a list of parts", self.where, content)
        return Turn(role, tuple(part for one in content for part in self.part(i, one, role)))

    def text(self, content: str, role: Role) -> list[Part]:
        """Words and places; only a user's tags are places."""
        if role != "user":
            return [content] if content else []
        parts: list[Part] = []
        for n, piece in enumerate(_TAG.split(content)):
            if n % 2:
                parts.append(self.next("image" if piece == "image" else "video"))
            elif piece:
                parts.append(piece)
        return parts

    def part(self, i: int, said: object, role: Role) -> list[Part]:
        """One typed part of a message; an `image_url` is one with a name, which may not be an address."""
        if not isinstance(said, Mapping):
            raise _wrong(f"turn {i}: a part is an object", self.where, said)
        kind = said.get("type")
        if kind == "text":
            if not isinstance(said.get("text"), str):
                raise _wrong(f"turn {i}: the text of a part is a text", self.where, said.get("text"))
            return [said["text"]] if said["text"] else []
        found = _KINDS.get(kind) if isinstance(kind, str) else None
        if found is None:
            raise _wrong(f"turn {i}: a part is text, image or video", self.where, kind)
        if role != "user":
            raise _wrong(f"turn {i}: pictures and clips stand in the user's turns", self.where, role)
        name = next((said[k] for k in (kind, "path", "url") if said.get(k) is not None), None)
        if isinstance(name, Mapping):
            name = name.get("url")
        if name is None:
            return [self.next(found)]
        return [self.put(self.locate(name, found))]

    def next(self, kind: Kind) -> int:
        """The number of the next picture or clip that waits for a place."""
        if not self.waiting[kind]:
            raise AlignmentError(
                f"a placeholder <{kind}> and no {kind} left for it", source=self.where, got=f"<{kind}>"
            )
        return self.put(self.waiting[kind].pop(0))

    def put(self, media: Media) -> int:
        if len(self.media) == MAX_MEDIA:
            text = f"more than {MAX_MEDIA:,} pictures and clips in one sample"
            raise InputError(text, source=self.where, limit=MAX_MEDIA)
        self.media.append(media)
        return len(self.media) - 1


def _names(value: object, field: str, where: str) -> Sequence[object]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise _wrong(f"`{field}` is a file name or a list of them", where, value)
    if len(value) > MAX_MEDIA:
        text = f"`{field}` lists {len(value):,} files, above {MAX_MEDIA:,}"
        raise InputError(text, source=where, limit=MAX_MEDIA, got=len(value))
    return value


def _id(value: object, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _wrong("an id is a text or a whole number", where, value)
    return str(value)[:1000]


def _wrong(what: str, where: str, value: object) -> InputError:
    shown = repr(value)[:80]
    return InputError(f"{what}, got {shown}", source=where, got=shown)
