"""Pages as files: PNGs, a chat JSONL to train or ask with, and what stands where.

page-0000012.png
chat.jsonl        {"id", "images": ["page-0000012.png"], "messages": [user, assistant, user, ...]}   one line a page
questions.jsonl   {"page", "image", "text", "answer", "kind", "form", "box"}                          one a question
                  (answer "" and box null: it is not on the page)
recipe.json       the recipe, the fonts and their hash
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from tubelet.errors import RunError
from tubelet.train.pages.fonts import Fonts
from tubelet.train.pages.page import Page, PageRecipe, Question, print_page
from tubelet.writing import new_folder

CHAT, QUESTIONS, RECIPE = "chat.jsonl", "questions.jsonl", "recipe.json"


def write_pages(
    folder: Path, recipe: PageRecipe, fonts: Fonts, numbers: Iterable[int], *, overwrite: bool = False
) -> Iterator[Page]:
    """Write the pages of these numbers, one after the other, and give each. The folder is there after the last, or not
    at all; with `overwrite` one that holds pages and nothing else is replaced.

    A page without questions has a picture and no line in chat.jsonl. Raises InputError for a folder that holds
    something, RunError where it cannot be written.
    """
    try:
        with (
            new_folder(folder, _is_part, overwrite=overwrite) as beside,
            (beside / CHAT).open("w", encoding="utf-8") as chat,
            (beside / QUESTIONS).open("w", encoding="utf-8") as asked,
        ):
            (beside / RECIPE).write_text(json.dumps(recipe_of(recipe, fonts), indent=2) + "\n", encoding="utf-8")
            for number in numbers:
                page = print_page(recipe, fonts, number)
                name = f"page-{number:07d}.png"
                Image.fromarray(page.pixels).save(beside / name)
                if page.questions:
                    chat.write(_line(conversation(page, name)))
                asked.writelines(_line(_asked(page, question, name)) for question in page.questions)
                yield page
    except OSError as e:
        raise RunError(f"the pages cannot be written: {e.strerror}", source=folder.name) from e


def _is_part(name: str) -> bool:
    return name in (CHAT, QUESTIONS, RECIPE) or re.fullmatch(r"page-[0-9]{7,}\.png", name) is not None


def recipe_of(recipe: PageRecipe, fonts: Fonts) -> dict[str, Any]:
    """The recipe and the fonts as plain values: what makes the pages again."""
    families = sorted({face.family for face in fonts.faces})
    return {**asdict(recipe), "fonts": fonts.sha256, "families": families, "packages": list(fonts.packages)}


def conversation(page: Page, name: str) -> dict[str, Any]:
    """The page's questions as one conversation about the picture called `name`."""
    messages: list[dict[str, Any]] = []
    for i, question in enumerate(page.questions):
        text = {"type": "text", "text": question.text}
        messages.append({"role": "user", "content": [{"type": "image"}, text] if i == 0 else [text]})
        messages.append({"role": "assistant", "content": question.answer})
    return {"id": f"page-{page.number}", "images": [name], "messages": messages}


def _asked(page: Page, question: Question, name: str) -> dict[str, Any]:
    said = {key: getattr(question, key) for key in ("text", "answer", "kind", "form")}
    box = None if question.box is None else [round(side, 1) for side in question.box]
    return {"page": page.number, "image": name, "layout": page.layout, "em": page.em, **said, "box": box}


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
