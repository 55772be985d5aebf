"""A model's chat template, which is a program of whoever made its folder, run where it can do no harm.

    messages, template -> the decoding process (tubelet.reading.isolated): sandboxed, 3.5 s, 512 MiB -> text

The text is what transformers' `apply_chat_template` gives. Cost: about a millisecond, and the start of a process (0.1
to 0.3 s) the first time.
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tubelet.errors import ConfigError, InputError, RunError, TubeletError, WorkerDied
from tubelet.reading.isolated.pool import SUPPORTED, ask_child
from tubelet.reading.isolated.wire import Reply
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.source import Source

Span = tuple[int, int]

_LIMITS = Limits(deadline_s=3.5, max_memory_bytes=512 << 20)
MOST_BYTES = 4 << 20  # of a conversation, and of a template


def render_template(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool,
    marks: bool = False,
    template: str | None = None,
) -> tuple[str, list[Span]]:
    """The messages in the template's words, and with `marks` the spans of letters inside its `{% generation %}`.

    template: None is the tokenizer's own.

    Raises ConfigError for a template that fails, does not end or grows too large, with what it said as the cause;
    InputError for messages that are not plain values; RunError on Windows, where no process can be confined.
    """
    if not SUPPORTED:
        raise RunError("chat templates are programs of strangers; on Windows they cannot be confined")
    program, special = _program(tokenizer, template)
    said = {
        "messages": [{name: value for name, value in m.items() if value is not None} for m in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        size = len(json.dumps(said))
    except (TypeError, ValueError, RecursionError) as e:
        raise InputError("messages are made of plain values: text, numbers, lists and objects") from e
    if size > MOST_BYTES:
        raise InputError(f"a conversation of {size:,} bytes", limit=MOST_BYTES, got=size)
    data = program.encode("utf-8", "surrogatepass")
    if len(data) > MOST_BYTES:
        raise ConfigError(f"a chat template of {len(data):,} bytes", limit=MOST_BYTES, got=len(data))
    request = {"kind": "words", "said": special | said, "marks": marks}
    source = Source("the chat template", io.BytesIO(data), len(data), "TEXT", foreign=True)
    try:
        return ask_child(request, source, ReadJob(limits=_LIMITS), _answer)
    except WorkerDied as e:
        raise ConfigError(
            f"the model's chat template did not end within {_LIMITS.deadline_s:g} s, or ended its process",
            limit=_LIMITS.deadline_s,
            got=e.got,
        ) from e
    except TubeletError as e:
        raise ConfigError("the model's chat template cannot put these messages into words", limit=e.limit) from (
            e.__cause__ or e
        )


def _program(tokenizer: Any, template: str | None) -> tuple[str, dict[str, str]]:
    """The template, the tokenizer's where none is given, and the names that the tokenizer gives it."""
    try:
        template = tokenizer.get_chat_template() if template is None else template
    except (ValueError, TypeError, LookupError) as e:
        raise ConfigError("the tokenizer has several chat templates, and none is called default") from e
    if not isinstance(template, str):
        raise ConfigError("a chat template is text", got=type(template).__name__)
    named = tokenizer.special_tokens_map
    return template, {name: str(token) for name, token in named.items() if not isinstance(token, list)}


def _answer(reply: Reply) -> tuple[str, list[Span]]:
    words, spans = reply.values["words"], reply.values["spans"] or []
    if not isinstance(words, str):
        raise TypeError
    return words, [(int(start), int(end)) for start, end in spans]
