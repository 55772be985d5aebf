"""A Space: a picture of a page and a question in; out come the tokens its words keep, and an answer with its place.

python examples/space/app.py
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

import tubelet
from tubelet.errors import TubeletError
from tubelet.inspect.draw.cells import layers_of
from tubelet.inspect.draw.kept import draw_kept
from tubelet.inspect.draw.places import outlined
from tubelet.language.vlm.answer_places import locate_answer
from tubelet.language.vlm.chat import ask
from tubelet.reduce.encoded import encode_file
from tubelet.reduce.methods import choose
from tubelet.reduce.spelled_text import SpelledText

Seen = tuple[Image.Image, Image.Image, str]


@lru_cache(maxsize=1)
def reader() -> tuple[tubelet.VLM, SpelledText]:
    """The model, and words in the space of its rows."""
    return tubelet.VLM.from_pretrained("reader"), SpelledText.load("reader")


def look(file: str, question: str, percent: float) -> Seen:
    """The tokens that the question's words are nearest to, the page with the place of the answer, and the answer.

    Raises TubeletError.
    """
    vlm, words = reader()
    data = Path(file).read_bytes()  # bytes are decoded in a child process
    side = {"text": words.words(question), "space": words.rows}
    seen = encode_file(data, vlm.encoder, ("text",), recipe=vlm.scheme.pixels, **side)
    tokens = seen.inputs.tokens
    budget = max(1, round(len(tokens.x) * percent / 100))
    choice = choose("text", seen.inputs, budget=budget)
    clip = replace(seen.clip, source=Path(file).name)
    kept = draw_kept(clip, layers_of(tokens, choice.kept, 0, choice.scores), heat=True)
    asked = ask(vlm, [clip], question)
    said = vlm.generate(asked.ready, max_new_tokens=64)
    found = locate_answer(vlm, asked, said)
    page = outlined(clip, found.places, (0.0,))
    answer = vlm.tokenizer.decode(said[0], skip_special_tokens=True).strip() or "it is not there"
    notes = [f"{len(choice.kept.x):,} of {len(tokens.x):,} tokens kept", "sure" if found.sure else "not sure"]
    notes += ["UNTRAINED: random weights, this means nothing"] if vlm.untrained else []
    return kept, Image.fromarray(page.frames[0]), f"{answer}\n({'; '.join(notes)})"


def demo() -> Any:
    """The page, as Gradio's blocks."""
    import gradio as gr

    def run(file: str | None, question: str, percent: float) -> Seen:
        if not file or not question.strip():
            raise gr.Error("give a picture and a question")
        try:
            return look(file, question, percent)
        except TubeletError as e:
            raise gr.Error(e.message) from e

    with gr.Blocks(title="tubelet") as blocks:
        gr.Markdown(
            "# tubelet\nA small reader of printed pages: what it keeps for a question, and where it reads the answer."
        )
        with gr.Row():
            file = gr.Image(type="filepath", label="page")
            with gr.Column():
                question = gr.Textbox("What is the total?", label="question")
                percent = gr.Slider(1, 100, 15, step=1, label="tokens kept, in percent")
                go = gr.Button("Look", variant="primary")
                answer = gr.Textbox(label="answer", lines=2)
        with gr.Row():
            kept, page = gr.Image(label="kept tokens, and their scores"), gr.Image(label="where the answer was read")
        gr.on([go.click, question.submit], run, [file, question, percent], [kept, page, answer])
    return blocks


if __name__ == "__main__":
    demo().launch()
