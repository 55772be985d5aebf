"""The peer of inspector.py: a page of Gradio that opens a file, and draws its kept tokens again for a slider.

The quickest that Gradio was found to be, so that the comparison is with a server round trip and not with a careless
page: drawing is a few array operations at the size that the screen has, the picture is decoded in this process, its
answer is a JPEG, and a move of the slider neither waits in Gradio's queue nor shows progress.
"""

from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from PIL import Image

from tubelet.encoder.model import Encoder
from tubelet.reduce.encoded import encode_file
from tubelet.reduce.methods import choose

KEPT, HAIR, VEIL = (255, 170, 0), (74, 76, 82), (22, 23, 26)  # as the inspector draws a photograph
VEIL_SHARE, HAIR_SHARE = 150 / 255, 165 / 255


def mixed(pixels: np.ndarray, colour: tuple[int, int, int], share: float) -> np.ndarray:
    return (pixels * (1 - share) + np.array(colour) * share).astype(np.uint8)


class Drawing:
    """A picture at the size of the screen, and its tokens in the order in which `variance` keeps them."""

    def __init__(self, file: str, encoder: Encoder, side: int) -> None:
        seen = encode_file(file, encoder, isolate="never")
        tokens = seen.inputs.tokens
        choice = choose("variance", seen.inputs, budget=len(tokens.x))
        assert choice.scores is not None
        self.order = torch.sort(choice.scores, descending=True, stable=True).indices.numpy()
        self.grid, self.tokens = tokens.items[0].grid, len(tokens.x)
        picture = Image.fromarray(seen.clip.frames[0])
        wide, high = (max(1, round(n * side / max(picture.size))) for n in picture.size)
        self.clear = np.asarray(picture.resize((wide, high), Image.Resampling.BOX))
        rows, columns = (np.arange(n) * cells // n for n, cells in ((high, self.grid.h), (wide, self.grid.w)))
        self.rows, self.columns = rows[:, None], columns[None]
        self.veiled = mixed(self.clear, VEIL, VEIL_SHARE)
        first = [np.r_[False, one[1:] != one[:-1]] for one in (rows, columns)]
        self.veiled = np.where(
            (first[0][:, None] | first[1][None])[..., None], mixed(self.veiled, HAIR, HAIR_SHARE), self.veiled
        )

    def kept(self, budget: int) -> np.ndarray:
        """Which cells are kept."""
        cells = np.zeros(self.grid.h * self.grid.w, bool)
        cells[self.order[:budget]] = True
        return cells.reshape(self.grid.h, self.grid.w)

    def __call__(self, budget: int) -> np.ndarray:
        """The picture, its other tokens under a veil, and a line around each region of those that are kept."""
        kept = self.kept(budget)[self.rows, self.columns]
        around = np.pad(kept, 1)
        inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
        out = np.where(kept[..., None], self.clear, self.veiled)
        out[kept & ~inside] = KEPT
        return out


def page(encoder: Encoder, side: int) -> Any:
    """The page, as Gradio's blocks. It holds the last file."""
    import gradio as gr

    held: list[Drawing] = []

    def opened(file: Any) -> tuple[np.ndarray, Any]:
        held[:] = [Drawing(file, encoder, side)]
        budget = held[0].tokens // 4
        return held[0](budget), gr.Slider(1, held[0].tokens, budget, step=1)

    def moved(budget: float) -> np.ndarray:
        return held[0](int(budget))

    with gr.Blocks(title="tokens kept") as blocks:
        file = gr.UploadButton("Open a file")
        slider = gr.Slider(1, 2, 1, step=1, label="budget", elem_id="budget")
        seen = gr.Image(label="kept", format="jpeg", elem_id="seen")
        file.upload(opened, file, [seen, slider], show_progress="hidden", queue=False)
        slider.input(moved, slider, seen, show_progress="hidden", queue=False, trigger_mode="multiple")
    return blocks


def serve(made: Callable[[], Encoder], side: int, wire: Connection) -> None:
    """Serves the page in a process of its own: sends its address and Gradio's version, and ends when it is told to."""
    import os

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    torch.set_num_threads(1)
    blocks = page(made(), side)
    _, address, _ = blocks.launch(prevent_thread_lock=True, server_name="127.0.0.1", quiet=True, footer_links=[])
    wire.send((address, gr.__version__))
    wire.recv()
    blocks.close(verbose=False)
