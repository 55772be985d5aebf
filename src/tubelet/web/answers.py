"""A question about a document, answered as a stream of lines: JSON objects, one for each piece of text, then the rest.

{"text": "Rye"}  {"text": " bread"}  {"done": true, "tokens": {...}, "seconds": {...}}
a reader of pages: {"look": 1, "of": 2}  ...  {"text": "Rye bread"}  {"done": true, ..., "sure": true, "places": [...]}
"""

import json
import time
from collections.abc import Callable
from typing import Any

import torch

from tubelet.errors import InputError
from tubelet.language.vlm.chat import ask
from tubelet.language.vlm.model import VLM
from tubelet.language.vlm.pages import answer_pages, see_pages, surest
from tubelet.web.documents import Document

MOST_NEW_TOKENS = 256
LONGEST = 2_000  # letters of a question

Tell = Callable[[dict[str, Any]], None]


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

    def tell(value: dict[str, Any]) -> None:
        say(json.dumps(value) + "\n")

    tell_answer = _stream if vlm.scheme.pointer is None else _surest
    tell({"done": True, "untrained": vlm.untrained, **tell_answer(vlm, document, question, tell)})


def _stream(vlm: VLM, document: Document, question: str, tell: Tell) -> dict[str, Any]:
    """The answer as it comes; what it took."""
    from tubelet.language.vlm.stream import TokenStreamer  # transformers, which pages without a reader do without

    start = time.perf_counter()
    asked = ask(vlm, [document.clip], question)
    encoded = time.perf_counter()
    streamer = TokenStreamer(vlm.tokenizer, lambda text: tell({"text": text}))
    with torch.no_grad():
        vlm.generate(asked.ready, max_new_tokens=MOST_NEW_TOKENS, streamer=streamer)
    end = time.perf_counter()
    first = end if streamer.first is None else streamer.first
    visual = int(asked.ready.visual.sum())
    return {
        "tokens": {"visual": visual, "text": asked.ready.input_ids.shape[1] - visual, "answer": streamer.tokens},
        "seconds": {"encode": encoded - start, "first_token": first - start, "answer": end - start},
    }


def _surest(vlm: VLM, document: Document, question: str, tell: Tell) -> dict[str, Any]:
    """The surest answer of all pages, whole, after a line {"look": how many} for each; what it took, and where it was
    read."""
    start = time.perf_counter()
    asked = see_pages(vlm, [document.clip]).ask(vlm, question)
    encoded = time.perf_counter()
    answers = answer_pages(
        vlm, asked, max_new_tokens=MOST_NEW_TOKENS, tick=lambda looks: tell({"look": looks, "of": len(asked.pages)})
    )
    best = surest(answers)
    if best.text:
        tell({"text": best.text})
    end = time.perf_counter()
    ready = [page.question.ready for page in asked.pages]
    visual = sum(int(one.visual.sum()) for one in ready)
    return {
        "tokens": {
            "visual": visual,
            "text": sum(one.input_ids.shape[1] for one in ready) - visual,
            "answer": sum(one.tokens for one in answers),
        },
        "seconds": {"encode": encoded - start, "first_token": end - start, "answer": end - start},
        "sure": best.found.sure,
        "probability": best.found.probability,
        "places": [{"frame": p.frame, "box": list(p.box), "share": p.share} for p in best.found.places],
    }
