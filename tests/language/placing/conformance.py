"""What each implementation of M-RoPE gives for the same prompts: recorded, and tabled in docs/guides/positions.md.

    python tests/language/placing/conformance.py record     the transformers of this interpreter -> conformance.json
    python tests/language/placing/conformance.py table      the table of docs/guides/positions.md

Recording needs transformers and torch only, so that it runs with any version of transformers ahead on PYTHONPATH.
"""

import json
import sys
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
RECORDED = HERE / "conformance.json"
DOC = HERE.parents[2] / "docs" / "guides" / "positions.md"
BEGIN, END = "<!-- made by tests/language/placing/conformance.py -->", "<!-- end of table -->"
IMAGE, VIDEO, START, STOP = 151655, 151656, 151652, 151653

# model, prompt ("t3": 3 words, "i": an image, "v": a video, "p2": 2 of padding), grids of patches, seconds of a row
CASES: dict[str, tuple[str, str, list[list[int]], list[float] | None]] = {
    "text only": ("2.5", "t6", [], None),
    "one image": ("2.5", "t3 i t3", [[1, 4, 6]], None),
    "two images": ("2.5", "t2 i t1 i t2", [[1, 4, 6], [1, 6, 4]], None),
    "two images whose runs touch": ("2.5", "t2 I I t2", [[1, 4, 6], [1, 6, 4]], None),
    "left padding, an image": ("2.5", "p3 t2 i t2", [[1, 4, 6]], None),
    "image placeholder, grid of 2 rows of time": ("2.5", "t2 i t2", [[2, 4, 4]], None),
    "Qwen2-VL: short video, wide": ("2", "t2 v t3", [[3, 4, 8]], None),
    "Qwen2-VL: long video, small": ("2", "t2 v t3", [[8, 4, 4]], None),
    "video, 0.5 s a row": ("2.5", "t2 v t3", [[4, 8, 8]], [0.5]),
    "video, 1 s a row, text behind it": ("2.5", "t2 v t4", [[8, 4, 4]], [1.0]),
    "video, 1.3 s a row": ("2.5", "t2 v t3", [[6, 4, 4]], [1.3]),
    "video, 0.2 s a row": ("2.5", "t2 v t3", [[8, 4, 4]], [0.2]),
    "image and video": ("2.5", "t2 i t1 v t2", [[1, 4, 6], [4, 4, 4]], [1.0]),
    "Qwen3-VL: image": ("3", "t2 i t2", [[1, 4, 6]], None),
    "Qwen3-VL: video behind timestamps": ("3", "t2 f t2", [[3, 4, 6]], None),
}


def tokens(name: str) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """(ids (1, S), mask (1, S), grids and seconds by transformers' names) of a case. I: an image without end and start
    tokens, f: a video whose frames each stand behind two words."""
    _, prompt, grids, seconds = CASES[name]
    ids, mask, images, videos = [], [], [], []
    left = [list(g) for g in grids]
    for part in prompt.split():
        if part[0] in "tp":
            count = int(part[1:])
            ids += [100 + i if part[0] == "t" else 0 for i in range(count)]
            mask += [int(part[0] == "t")] * count
            continue
        t, h, w = grid = left.pop(0)
        (images if part in "iI" else videos).append(grid)
        kind = IMAGE if part in "iI" else VIDEO
        rows = h * w // 4
        if part == "f":
            run = [x for _ in range(t) for x in (7, 8, START, *[kind] * rows, STOP)]
        else:
            run = [kind] * (t * rows) if part == "I" else [START, *[kind] * (t * rows), STOP]
        ids += run
        mask += [1] * len(run)
    given: dict[str, Any] = {}
    if images:
        given["image_grid_thw"] = torch.tensor(images)
    if videos:
        given["video_grid_thw"] = torch.tensor(videos)
    if seconds is not None:
        given["second_per_grid_ts"] = torch.tensor(seconds)
    return torch.tensor([ids]), torch.tensor([mask]), given


# ---- transformers


def record() -> dict[str, Any]:
    """Positions by case of the transformers that is installed, or the error's kind where it gives none."""
    import transformers

    return {"version": transformers.__version__, "positions": {name: _theirs(name) for name in CASES}}


def _theirs(name: str) -> list[list[int]] | str:
    from inspect import signature

    ids, mask, given = tokens(name)
    model = _model(CASES[name][0])
    if model is None:
        return "no such model"
    if "mm_token_type_ids" in signature(model.get_rope_index).parameters:
        given["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    try:
        return model.get_rope_index(ids, attention_mask=mask, **given)[0][:, 0].tolist()
    except (RuntimeError, ValueError, TypeError, IndexError, StopIteration) as e:
        return type(e).__name__


def _model(which: str) -> Any:
    """The class that counts, built without weights; its name and place changed between versions."""
    from importlib import import_module

    family = {"2": "qwen2_vl", "2.5": "qwen2_5_vl", "3": "qwen3_vl"}[which]
    stem = {"2": "Qwen2VL", "2.5": "Qwen2_5_VL", "3": "Qwen3VL"}[which]
    try:
        module = import_module(f"transformers.models.{family}.modeling_{family}")
        config = getattr(import_module(f"transformers.models.{family}.configuration_{family}"), f"{stem}Config")()
    except ImportError:
        return None
    config.vision_config.tokens_per_second = 2
    config.image_token_id, config.video_token_id = IMAGE, VIDEO
    config.vision_start_token_id, config.vision_end_token_id = START, STOP
    known = [getattr(module, stem + end, None) for end in ("Model", "ForConditionalGeneration")]
    kind: Any = next(k for k in known if hasattr(k, "get_rope_index"))
    model = kind.__new__(kind)  # positions need the configuration alone
    torch.nn.Module.__init__(model)
    model.config = config
    return model


# ---- ours, and the table


def ours(name: str, compat: bool = False) -> list[list[int]]:
    """tubelet's positions, counted as the reference does or as transformers 5 does."""
    from dataclasses import replace

    from tubelet.language.placing.mrope import rope_index
    from tubelet.language.placing.rules import QWEN, QWEN2_5_VL, QWEN2_VL, QWEN3_VL

    ids, mask, given = tokens(name)
    rule = {"2": QWEN2_VL, "2.5": replace(QWEN2_5_VL, arithmetic="float32"), "3": QWEN3_VL}[CASES[name][0]]
    rule = replace(rule, compat="transformers-5") if compat else rule
    return rope_index(ids, QWEN, rule, attention_mask=mask, **given).position_ids[:, 0].tolist()


def differs(name: str, got: list[list[int]] | str, want: list[list[int]]) -> str:
    """What is different, in words: which tokens, of those that are not padding."""
    if isinstance(got, str):
        return "not in it" if got == "no such model" else f"stops: {got}"
    ids, mask, _ = tokens(name)
    wrong = [i for i in range(ids.shape[1]) if mask[0, i] and [a[i] for a in got] != [a[i] for a in want]]
    if not wrong:
        return "same"
    rows = [i for i in wrong if int(ids[0, i]) in (IMAGE, VIDEO)]
    text = [i for i in wrong if i not in rows]
    words = []
    if rows:
        words.append("rows")
    if text:
        first = text[0]
        words.append(f"text {got[0][first]}, not {want[0][first]}")
    return "; ".join(words)


def table() -> str:
    """The table of docs/guides/positions.md."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    versions = sorted(recorded, key=lambda v: [int(n) for n in v.split(".")])
    head = "| prompt | tokens | ours | " + " | ".join(f"transformers {v}" for v in versions)
    lines = [head + " | ours with `compat` |", "|---" * (len(versions) + 4) + "|"]
    for name in CASES:
        want = ours(name)
        cells = [differs(name, recorded[v][name], want) for v in versions]
        cells.append(differs(name, ours(name, compat=True), want))
        lines.append(f"| {name} | `{CASES[name][1]}` | {_last(name, want)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _last(name: str, positions: list[list[int]]) -> str:
    """Times of the rows, each once, and the positions of the text behind them."""
    ids, mask, _ = tokens(name)
    parts = []
    groups = groupby(range(ids.shape[1]), key=lambda i: "p" if not mask[0, i] else int(ids[0, i]) in (IMAGE, VIDEO))
    for kind, group in groups:
        t = list(dict.fromkeys(positions[0][i] for i in group))
        if kind != "p":
            parts.append(f"**{_run(t)}**" if kind else _run(t))
    return " ".join(parts)


def _run(t: list[int]) -> str:
    even = len(t) > 2 and all(b - a == 1 for a, b in pairwise(t))
    return f"{t[0]}..{t[-1]}" if even else ",".join(map(str, t))


def main(arguments: list[str]) -> int:
    if arguments == ["record"]:
        found = record()
        recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
        recorded[found["version"]] = found["positions"]
        text = ",\n".join(
            f' "{version}": {{\n'
            + ",\n".join(f'  "{name}": {json.dumps(p)}' for name, p in recorded[version].items())
            + "\n }"
            for version in sorted(recorded)
        )
        RECORDED.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")
        return 0
    if arguments == ["table"]:
        before, _, rest = DOC.read_text(encoding="utf-8").partition(BEGIN)
        DOC.write_text(f"{before}{BEGIN}\n{table()}{END}{rest.partition(END)[2]}", encoding="utf-8")
        return 0
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
