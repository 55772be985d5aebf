"""What is said while it is being said: a streamer of transformers that also knows when the first token came.

Imports transformers at its top and is imported where it is used.
"""

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import TextStreamer


class TokenStreamer(TextStreamer):
    """Hands each finished piece of text to `say` and counts tokens. first: when the first one came, by `clock`."""

    def __init__(
        self, tokenizer: Any, say: Callable[[str], None], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.say, self.clock = say, clock
        self.tokens = 0
        self.first: float | None = None

    def put(self, value: Tensor) -> None:
        """Called by `generate`: the prompt first, then each token."""
        if not self.next_tokens_are_prompt:
            self.first = self.clock() if self.first is None else self.first
            self.tokens += value.numel()
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called with text that no later token can change."""
        if text:
            self.say(text)
