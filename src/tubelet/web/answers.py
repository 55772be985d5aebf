"""A question about a document, answered as a stream of lines: JSON objects, one for each piece of text, then the rest.

{"text": "Rye"}  {"text": " bread"}  {"done": true, "tokens": {...}, "seconds": {...}, "sure": true, "places": [...]}
"""

import json
import time
from collections.abc import Callable
from typing import Any

import torch

from tubelet.errors import InputError
from tubelet.language.vlm.answer_places import locate_answer
from tubelet.language.vlm.chat import ask
from tubelet.language.vlm.model import VLM
from tubelet.web.documents import Document

MOST_NEW_TOKENS = 256
LONGEST = 2_000  # letters of a question


class Gone(Exception):
    """Nobody listens any more."""


def checked_question(question: object) -> str:
    """The question, if it is one. Raises InputError."""
    if not isinstance(question, str) or not question.strip():
        raise InputError("a question is a text that is not empty", got=type(question).__name__)
    if len(question) > LONGEST:
        raise InputError(f"a question has at most {LONGEST:,} letters", limit=LONGEST, got=len(question))
    return question


def answer(vlm: VLM, document: Document, question: str, say: Callable[[str], None]) -> None:
    """Says every line of the answer. `say` may raise Gone, which ends it. Raises what `ask` and `generate` raise."""
    from tubelet.language.vlm.stream import TokenStreamer  # transformers, which pages without a reader do without

    def tell(value: dict[str, Any]) -> None:
        say(json.dumps(value) + "\n")

    start = time.perf_counter()
    asked = ask(vlm, [document.clip], question)
    encoded = time.perf_counter()
    streamer = TokenStreamer(vlm.tokenizer, lambda text: tell({"text": text}))
    with torch.no_grad():
        ids = vlm.generate(asked.ready, max_new_tokens=MOST_NEW_TOKENS, streamer=streamer)
    end = time.perf_counter()
    visual = int(asked.ready.visual.sum())
    last: dict[str, Any] = {
        "done": True,
        "untrained": vlm.untrained,
        "tokens": {
            "visual": visual,
            "text": asked.ready.input_ids.shape[1] - visual,
            "answer": streamer.tokens,
        },
        "seconds": {
            "encode": encoded - start,
            "first_token": (end if streamer.first is None else streamer.first) - start,
            "answer": end - start,
        },
    }
    if vlm.scheme.pointer is not None:
        found = locate_answer(vlm, asked, ids)
        last |= {
            "sure": found.sure,
            "probability": found.probability,
            "places": [{"frame": p.frame, "box": list(p.box), "share": p.share} for p in found.places],
        }
    tell(last)
