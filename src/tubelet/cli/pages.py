"""`tubelet pages`: pages to train and test a reader with, their questions and answers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tubelet.cli.options import OutputOptions, Overwrite, option
from tubelet.cli.output import output_file
from tubelet.cli.progress import progress
from tubelet.cli.terminal import OK, Terminal, UsageError, file_name, visible
from tubelet.writing import save_png

if TYPE_CHECKING:
    from tubelet.train.pages.page import Page, PageRecipe

SHOWN = 24  # pages on a contact sheet


@dataclass(frozen=True)
class Pages:
    """Print receipts, forms, tables and the like in the fonts of this system, with questions and their answers.

    Page i depends on the seed, i and the fonts alone. Into the folder go page-0000000.png ..., chat.jsonl (one
    conversation a page), questions.jsonl (one question a line, with the box of its answer) and recipe.json.

    Example: tubelet pages --out pages --count 100 --show pages.png
    """

    out: Annotated[str | None, option("the folder to write", "FOLDER")] = None
    count: Annotated[int, option("how many (default: 24)", "N")] = 24
    seed: Annotated[int, option("of all that is drawn (default: 0)", "N")] = 0
    first: Annotated[int, option("number of the first page (default: 0)", "N")] = 0
    show: Annotated[str | None, option("a .png of at most 24 pages, with boxes around the answers", "PNG")] = None
    layouts: Annotated[
        str | None,
        option("layouts and their shares, such as receipt:2,table:1 (default: receipts, forms, tables)", "L"),
    ] = None
    sizes: Annotated[str | None, option("widths and heights, such as 256x192,320x320", "WxH,...")] = None
    em: Annotated[str | None, option("pixels to the em of values, such as 20 or 20-24", "PX")] = None
    held_out: Annotated[bool, option("in the fonts and words that are kept for tests")] = False
    clean: Annotated[bool, option("without tilt, blur, grain")] = False
    overwrite: Overwrite = False
    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        if self.out is None and self.show is None:
            raise UsageError("--out FOLDER or --show PNG says where the pages go")
        if self.count < 1 or self.first < 0:
            raise UsageError(f"--count starts at 1 and --first at 0, got {self.count} and {self.first}")
        sheet = None if self.show is None else output_file(self.show, (), overwrite=self.overwrite, option="--show")
        from tubelet.train.pages.evaluate import constants, frequent
        from tubelet.train.pages.fonts import find_fonts
        from tubelet.train.pages.page import print_page
        from tubelet.train.pages.show import contact_sheet
        from tubelet.train.pages.write import recipe_of, write_pages

        recipe, fonts = self._recipe(), find_fonts()
        numbers = range(self.first, self.first + self.count)
        if self.out is None:
            pages = [print_page(recipe, fonts, number) for number in numbers[:SHOWN]]
        else:
            pages = []
            with progress(terminal, self.count) as tick:
                for page in write_pages(Path(self.out), recipe, fonts, numbers, overwrite=self.overwrite):
                    tick("printing", len(pages) + 1)  # of all but those shown the pixels are only on disk
                    pages.append(page if len(pages) < SHOWN else replace(page, pixels=page.pixels[:0].copy()))
            terminal.line(f"{visible(file_name(self.out))}  ({len(pages):,} pages, {_questions(pages):,} questions)")
        if sheet is not None:
            with sheet.file() as path:
                save_png(contact_sheet(pages[:SHOWN]), path)
            terminal.line(visible(file_name(str(self.show))))
        constant = constants(q for page in pages for q in page.questions)
        terminal.document({
            "command": "pages",
            "out": None if self.out is None else file_name(self.out),
            "show": None if self.show is None else file_name(self.show),
            "pages": len(pages),
            "questions": _questions(pages),
            "frequent": frequent(pages),
            "constants": {kind: list(best) for kind, best in constant.items()},
            "recipe": recipe_of(recipe, fonts),
        })  # fmt: skip
        return OK

    def _recipe(self) -> "PageRecipe":
        from tubelet.train.pages.page import PageRecipe

        given: dict[str, Any] = {"seed": self.seed, "held_fonts": self.held_out, "held_words": self.held_out}
        if self.layouts is not None:
            given["mix"] = tuple(_layout(part) for part in self.layouts.split(","))
        if self.sizes is not None:
            given["sizes"] = tuple(_pair(part, "x", "--sizes")[::-1] for part in self.sizes.split(","))
        if self.em is not None:
            given["em"] = _pair(self.em if "-" in self.em else f"{self.em}-{self.em}", "-", "--em")
        return PageRecipe(**given, noise=0.0 if self.clean else 1.0)


def _questions(pages: "list[Page]") -> int:
    return sum(len(page.questions) for page in pages)


def _layout(text: str) -> tuple[str, float]:
    name, _, share = text.partition(":")
    try:
        return name, float(share or 1)
    except ValueError:
        raise UsageError(f"--layouts takes names with shares, such as receipt:2,table:1, got {text!r}") from None


def _pair(text: str, between: str, name: str) -> tuple[int, int]:
    try:
        first, second = (int(part) for part in text.split(between))
    except ValueError:
        raise UsageError(f"{name} takes two whole numbers with {between} between them, got {text!r}") from None
    return first, second
