"""`tubelet serve`: see in a browser what the model sees, on this machine."""

import os
import webbrowser
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from tubelet.cli.options import DEFAULT_MODEL, AnyModel, Config, Device, OutputOptions, StoredDtype, option
from tubelet.cli.terminal import OK, Terminal, UsageError, file_name
from tubelet.errors import InputError, RunError
from tubelet.weights.locate import built_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from tubelet.cli.model import Model
    from tubelet.encoder.model import Encoder
    from tubelet.pixels.views import Views
    from tubelet.web.bench import Bench, Sought

INSTALL = 'tubelet serve needs starlette and uvicorn: pip install "tubelet[serve]"'


@dataclass(frozen=True)
class Serve:
    """Look at pictures and clips in a browser: their patch grid, which tokens are kept under a budget, scores as heat,
    positions, cost; and at scenes, the folders of tubelet scene: points and cameras to be turned, frames and depth.

    Prints an address of this machine with a token in it; what is opened there is decoded in a process of its own and
    nothing leaves the machine. Files can be dragged into the page, and FILES and those below --root opened by name.
    Needs starlette and uvicorn: pip install "tubelet[serve]".

    Example: tubelet serve receipt.png walk.mp4 --open
    """

    files: Positional[
        Annotated[tuple[str, ...], option("pictures, videos and folders of scenes to have at hand", "FILE")]
    ] = ()
    model: AnyModel = DEFAULT_MODEL
    reader: Annotated[
        str | None,
        option(
            "a folder or hub id of a whole model that answers questions (default: the one that comes with tubelet, "
            "where it is the model)",
            "MODEL",
        ),
    ] = None
    config: Config = None
    root: Annotated[str | None, option("a folder below which files can be opened by their path", "FOLDER")] = None
    port: Annotated[int, option("of this machine (default: 0, a free one)", "N")] = 0
    open: Annotated[bool, option("open the page in the browser of this machine")] = False
    max_upload: Annotated[str, option("largest file that can be sent to the page (default: 50MB)", "SIZE")] = "50MB"
    public: Annotated[
        str | None, option("also answer other machines, which reach this one under the name HOST", "HOST")
    ] = None
    dtype: StoredDtype = "stored"
    device: Device = "auto"
    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        bench = self.bench(terminal)
        from tubelet.web.server import Serving

        serving = Serving(bench, port=self.port, public=self.public)

        def ready() -> None:
            if self.public is not None:
                terminal.say(
                    "others can reach this page, and with its address everything it can open; stop it when done"
                )
            terminal.document({"command": "serve", "address": serving.address, "model": bench.name})
            if not terminal.json:
                terminal.line(serving.address)
            if self.open:
                webbrowser.open(serving.address)

        serving.run(ready)
        return OK

    def bench(self, terminal: Terminal) -> "Bench":
        """The model and the files. Raises UsageError and what loading raises."""
        from tubelet.cli.values import parse_bytes

        most = parse_bytes(self.max_upload, "--max-upload")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port is 0 to 65535, got {self.port}")
        if self.public is not None and not (
            self.public and self.public.isascii() and not set(self.public) & set("/:@#? ")
        ):
            raise UsageError(
                f"--public takes the name of this machine alone, such as tokens.example, got {self.public!r}"
            )
        self._look()
        from tubelet.cli.model import load_model, load_vlm

        try:
            from tubelet.web.bench import Bench
        except ModuleNotFoundError as e:
            raise RunError(INSTALL) from e
        model = load_model(self.model, "float32", self.device, pool=False, config=self.config)
        reads = self._reader()
        reader = None if reads is None else load_vlm(reads, self.dtype, self.device)
        if reader is not None and reads == self.model and _alike(model.encoder, reader.encoder):
            model = replace(model, encoder=reader.encoder)  # the same weights, held once
        if model.untrained:
            terminal.say(f"{model.name} is UNTRAINED: random weights, its tokens mean nothing")
        return Bench(
            model.name,
            model.encoder,
            model.encoder.pixels,
            model.untrained,
            device=model.device,
            told=None if self.model == DEFAULT_MODEL else model.name,
            words=_words(self.model, self.config, model),
            reader=reader,
            reader_name=None if reads is None else file_name(reads),
            views_of=views_of,
            files=self.files,
            root=None if self.root is None else Path(self.root),
            most_upload=most,
        )

    def _reader(self) -> str | None:
        """What answers questions: as asked, or the model that comes with tubelet where transformers can run it."""
        if self.reader is not None or built_in(self.model) is None:
            return self.reader
        return self.model if find_spec("transformers") is not None else None

    def _look(self) -> None:
        """Raise InputError for FILES and a --root that are not there."""
        from tubelet.reading.limits import Limits
        from tubelet.reading.source import open_source

        for i, name in enumerate(self.files):
            try:
                if os.path.isdir(name):  # noqa: PTH112  that of Path raises where a name is too long
                    _look_at_scene(Path(name))
                else:
                    open_source(name, Limits()).close()
            except InputError as e:
                raise e.placed(item=i) from e.__cause__
        if self.root is not None and not os.path.isdir(self.root):  # noqa: PTH112  that of Path raises where a name is too long
            raise InputError("--root is no folder", source=file_name(self.root))


def _look_at_scene(folder: Path) -> None:
    """Raise InputError for a folder that is no scene's."""
    from tubelet.geometry.stored import MOST_TOLD_BYTES, read_stored
    from tubelet.packed.header import read_small

    try:
        read_stored(read_small(folder / "cameras.json", InputError, MOST_TOLD_BYTES))
    except InputError as e:
        raise InputError(f"a folder, and no scene of tubelet scene: {e.message}", source=file_name(folder.name)) from e


def _alike(one: "Encoder", other: "Encoder") -> bool:
    """Whether two encoders of the same files compute the same."""
    return one.config == other.config and one.patch.weight.dtype == other.patch.weight.dtype


def views_of(rule: str | None) -> "Views | None":
    """As `view_rule`, for rules that come from elsewhere than a command line. Raises InputError."""
    from tubelet.cli.values import view_rule

    try:
        return view_rule(rule, None, None)
    except UsageError as e:
        raise InputError(str(e).replace("--views takes", "views are")) from e


def _words(name: str, config: str | None, model: "Model") -> "Callable[[str], Sought] | None":
    """What makes vectors of words for this model's tokens, the last ones remembered; None where it has no text side."""
    from tubelet.cli.sought import require_text_side, words_of

    try:
        require_text_side("a word", name, config)
    except InputError:  # that is the answer: the page has no field for words then
        return None
    return lru_cache(maxsize=16)(lambda text: words_of(text, None, "auto", model, name))
