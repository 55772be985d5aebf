"""Pictures and a question in the words a model was trained on: its own chat template, its own placeholders.

[picture, clip] + "What changed?"
  -> template      <|im_start|>user\\n<|vision_start|><|image_pad|><|vision_end|> ... What changed?<|im_end|> ...
  -> timestamps    where the model writes a time before each frame of a clip (Qwen3-VL)
  -> tokens        one placeholder an item or frame
  -> expanded      as many as it has rows
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tubelet.errors import AlignmentError, ConfigError, InputError, LimitError
from tubelet.geometry.branch import picture_scenes
from tubelet.language.placing.prompt import Prompt, expand_placeholders, pad
from tubelet.language.vlm.batch import PromptBatch
from tubelet.language.vlm.features import VisualRows, frames_apart
from tubelet.language.vlm.model import VLM
from tubelet.language.vlm.scheme import IMAGE_TAG, Scheme
from tubelet.language.vlm.template import render_template
from tubelet.language.vlm.written_out import marks_of, shown_of, write_out
from tubelet.packed import Packed, concat
from tubelet.pixels.budget import told
from tubelet.pixels.patchify import patchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits

Message = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Question:
    """A question on its way: what the model is given and what it was made of.

    clips: as they were cut (made square where the model wants that). patches: their rows; rows: what the model is given
    of them, items of the `picture` that is the clip's number: one, or its joined views. sides: pixels along a side of
    what one row of each of these items shows. text: as the chat template wrote it.
    """

    clips: tuple[Clip, ...]
    sides: tuple[int, ...]
    patches: Packed
    rows: VisualRows
    text: str
    ready: PromptBatch


def ask(vlm: VLM, clips: Sequence[Clip], question: str, *, history: Sequence[Message] = ()) -> Question:
    """One question about pictures and clips, ready for `vlm.generate(question.ready)`.

    history: earlier messages {"role", "content"}, whose items are the first of `clips`; the others belong to this
    question. Items that were encoded in an earlier turn come from the model's cache. Raises ConfigError without a
    tokenizer or a chat template, AlignmentError where messages and clips differ in number of items.

        >>> question = ask(vlm, tubelet.read(["receipt.png"]), "What was bought?")  # doctest: +SKIP
        >>> vlm.tokenizer.decode(vlm.generate(question.ready)[0])  # doctest: +SKIP
        '...'
    """
    clips = [as_cut(c, vlm.scheme) for c in clips]
    with torch.no_grad():
        cut = vlm.scheme.for_pictures(sum(not c.is_video for c in clips))
        seen = tuple(seen_by(c, cut) for c in clips)
        patches = patchify_clips(seen, cut)
        stills = [not clips[item.picture].is_video for item in patches.items]
        rows = vlm.encode(patches, scenes=None if vlm.spatial is None else picture_scenes(patches, stills))
        earlier = sum(len(_items(m)) for m in history)
        if earlier > len(clips):
            raise AlignmentError(
                f"{earlier} items in the history and {len(clips)} clips", expected=earlier, got=len(clips)
            )
        parts = [{"type": "video" if c.is_video else "image"} for c in clips[earlier:]]
        message = {"role": "user", "content": [*parts, {"type": "text", "text": question}]}
        text = apply_chat_template([*history, message], vlm.tokenizer, vlm.scheme)
        rows = in_prompt_order(text, seen, rows, vlm.tokenizer, vlm.scheme)
        prompt = tokens_of(text, seen, rows.tokens, vlm.tokenizer, vlm.scheme)
        batch = pad([prompt], 0, side="left")
        ready = vlm.ready(as_written(rows, vlm.scheme), batch.input_ids, attention_mask=batch.attention_mask)
        return Question(seen, sides_of(seen, patches, rows.tokens, vlm.scheme), patches, rows, text, ready)


# ---- pixels


def patchify_clips(clips: Sequence[Clip], scheme: Scheme) -> Packed:
    """Rows of pictures by the scheme's `pixels` and of clips by its `video_pixels`; `picture` is the index in clips.

    scheme: the model's `for_pictures`, where these are the pictures of one prompt.
    """
    packs = [patchify([clip], recipe_of(clip, scheme), views=scheme.views) for clip in clips]
    return concat(packs) if packs else patchify([], scheme.pixels)


def as_cut(clip: Clip, scheme: Scheme) -> Clip:
    """The clip; one of a single frame as the picture that it is, where pictures are cut into views."""
    return replace(clip, is_video=False) if scheme.views is not None and len(clip) == 1 else clip


def seen_by(clip: Clip, scheme: Scheme) -> Clip:
    """The clip as the scheme cuts it: pictures squared where it wants that, of clips the frames there is room for."""
    if scheme.square and not clip.is_video:
        clip = pad_to_square(clip, scheme.pixels)
    return clip if scheme.views is not None else told(clip, recipe_of(clip, scheme))


def recipe_of(clip: Clip, scheme: Scheme) -> PixelRecipe:
    """The recipe that cuts this clip."""
    return scheme.video_pixels if clip.is_video and scheme.video_pixels is not None else scheme.pixels


def sides_of(clips: Sequence[Clip], patches: Packed, rows: Packed, scheme: Scheme) -> tuple[int, ...]:
    """Pixels along a side of what one row of each item shows: of the frame as it was resized, or of the views' canvas,
    where all views of a clip have rows of one size."""
    first = {item.picture: item for item in reversed(patches.items)}
    rows_of = {item.picture: item for item in reversed(rows.items)}  # the first of each: of views, the whole picture's
    side = {n: recipe_of(clip, scheme).patch * first[n].grid.h // rows_of[n].grid.h for n, clip in enumerate(clips)}
    return tuple(side[item.picture] for item in rows.items)


def pad_to_square(clip: Clip, recipe: PixelRecipe) -> Clip:
    """The clip in the middle of a square of the recipe's mean colour, sides of its longer one. One copy.

    Raises LimitError for a square above four times `Limits.max_pixels`: that of a line is a thousand times its size.
    Source: haotian-liu/LLaVA:llava/mm_utils.py@c121f04 (expand2square).
    """
    if clip.height == clip.width:
        return clip
    side = max(clip.height, clip.width)
    most = 4 * Limits().max_pixels
    if side * side > most:
        text = f"{clip.width} x {clip.height} in a square: {side * side:,} pixels, above 4 x max_pixels = {most:,}"
        raise LimitError(text, limit=most, got=side * side, source=clip.source)
    frames = np.empty((len(clip), side, side, 3), np.uint8)
    frames[...] = np.array([int(m * 255) for m in recipe.mean], np.uint8)
    top, left = (side - clip.height) // 2, (side - clip.width) // 2
    frames[:, top : top + clip.height, left : left + clip.width] = clip.frames
    return Clip(frames, clip.times_s, clip.source, clip.is_video, clip.duration_s, clip.complete, None, clip.notes)


def timestamps(times_s: Sequence[float], temporal: int) -> list[float]:
    """The time of each row of time of a clip whose frames have these times: midway between its first and last frame.

    A row that is not full holds the last frame again. Source: huggingface/transformers:
    src/transformers/models/qwen3_vl/processing_qwen3_vl.py@v5.23.0 (_calculate_timestamps).

        >>> timestamps([0.0, 0.5, 1.0], 2)
        [0.25, 1.0]
    """
    last = len(times_s) - 1
    return [(times_s[i] + times_s[min(i + temporal - 1, last)]) / 2 for i in range(0, len(times_s), temporal)]


# ---- words


def _items(message: Message) -> list[str]:
    """The kind, image or video, of each item of a message, in order."""
    content = message["content"]
    return [] if isinstance(content, str) else [part["type"] for part in content if part["type"] in ("image", "video")]


def apply_chat_template(
    messages: Sequence[Message], tokenizer: Any, scheme: Scheme, *, add_generation_prompt: bool = True
) -> str:
    """The messages as the model's chat template writes them, up to where the answer begins, or without
    add_generation_prompt to where the last one ends. Raises ConfigError, also for a template that fails at these
    messages (one for text alone, say); what it said is the cause."""
    if tokenizer is None:
        raise ConfigError("the model's folder has no tokenizer: a question cannot be put into tokens")
    if scheme.wording == "prefix":
        return _prefix(messages, tokenizer)
    clips = any("video" in _items(m) for m in messages)
    template = scheme.written.clip_template if scheme.written is not None and clips else None
    if template is None and not getattr(tokenizer, "chat_template", None):
        raise ConfigError("the model's tokenizer has no chat template: how it is spoken to is not known")
    told = [_tagged(m) for m in messages] if scheme.wording == "image_tag" else list(messages)
    return render_template(tokenizer, told, add_generation_prompt=add_generation_prompt, template=template)[0]


def _prefix(messages: Sequence[Message], tokenizer: Any) -> str:
    """Items, the id that begins texts, the question and an end of line. Raises ConfigError for several messages."""
    if len(messages) != 1:
        raise ConfigError(f"this model answers one question, and knows no turns: {len(messages)} messages", limit=1)
    content = messages[0]["content"]
    said = content if isinstance(content, str) else "".join(p["text"] for p in content if p["type"] == "text")
    return f"{IMAGE_TAG * len(_items(messages[0]))}{tokenizer.bos_token or ''}{said}\n"


def _tagged(message: Message) -> dict[str, Any]:
    """A message with its items as "<image>" lines before its text, as LLaVA's are."""
    content = message["content"]
    if isinstance(content, str):
        return dict(message)
    text = "".join(part["text"] for part in content if part["type"] == "text")
    return {**message, "content": f"{IMAGE_TAG}\n" * len(_items(message)) + text}


def tokens_of(text: str, clips: Sequence[Clip], rows: Packed, tokenizer: Any, scheme: Scheme) -> Prompt:
    """The ids of a worded prompt with a placeholder for every row of every item.

    Raises AlignmentError where the text has other items than the pack, ConfigError for a placeholder the tokenizer does
    not know.
    """
    counted = dict.fromkeys((item.picture for item in rows.items), 0)
    for item, length in zip(rows.items, rows.lengths, strict=True):
        counted[item.picture] += length
    counts = [counted.get(n, 0) for n in dict.fromkeys((*counted, *range(len(clips))))]
    if scheme.rule.time == "blocks":
        text, counts = _with_times(text, clips, rows, tokenizer, scheme)
    elif scheme.written is not None:
        text, counts, _ = write_out(text, shown_of(clips, rows, scheme.written), scheme.written, scheme.views)
    return expand_placeholders(_all_ids(text, tokenizer, scheme), counts, scheme.token_ids)


def in_prompt_order(text: str, clips: Sequence[Clip], rows: VisualRows, tokenizer: Any, scheme: Scheme) -> VisualRows:
    """The rows in the order of their placeholders: a template may put pictures before clips, as LlavaOnevision's does.

    The rows themselves where pictures and clips have one placeholder, and where the numbers differ.
    """
    image, video, written = scheme.token_ids.image, scheme.token_ids.video, scheme.written
    if scheme.rule.time == "blocks" or len({c.is_video for c in clips}) < 2:
        return rows
    if written is not None and written.clip_mark is not None:
        shown = [mark == written.clip_mark for mark in marks_of(written).findall(text)]
    elif video in (None, image):
        return rows
    else:
        shown = [i == video for i in _all_ids(text, tokenizer, scheme) if i in (image, video)]
    if sorted(shown) != sorted(c.is_video for c in clips):
        return rows
    each = {kind: iter([n for n, c in enumerate(clips) if c.is_video is kind]) for kind in (False, True)}
    wanted = [next(each[kind]) for kind in shown]
    order = [i for n in wanted for i, item in enumerate(rows.tokens.items) if item.picture == n]
    return VisualRows(rows.tokens.reorder(order), tuple(deep.reorder(order) for deep in rows.deepstack))


def as_written(rows: VisualRows, scheme: Scheme) -> VisualRows:
    """The rows as a prompt of this scheme has them: the frames of a clip apart where text stands between them."""
    return rows if scheme.written is None or scheme.written.clip_mark is None else frames_apart(rows)


def leading_ids(text: str, tokenizer: Any) -> list[int]:
    """What stands before a worded prompt: the id that begins texts, where the tokenizer puts it and the template did
    not. Source: huggingface/transformers:src/transformers/processing_utils.py@v5.23.0 (apply_chat_template)."""
    begin = tokenizer.bos_token_id
    if begin is None or text.startswith(tokenizer.bos_token) or begin not in tokenizer("a")["input_ids"][:1]:
        return []
    return [begin]


def _all_ids(text: str, tokenizer: Any, scheme: Scheme) -> list[int]:
    """Ids of a worded prompt, one placeholder an item or frame."""
    ids = [] if scheme.wording == "prefix" else leading_ids(text, tokenizer)
    for n, piece in enumerate([text] if scheme.wording == "parts" else text.split(IMAGE_TAG)):
        ids += ([scheme.token_ids.image] if n else []) + _ids(piece, tokenizer)
    return ids


def _ids(text: str, tokenizer: Any) -> list[int]:
    try:
        return list(tokenizer.encode(text, add_special_tokens=False)) if text else []
    except Exception as e:  # the Rust library raises nothing more particular
        raise ConfigError("the model's tokenizer cannot put this text into tokens") from e


def _with_times(
    text: str, clips: Sequence[Clip], rows: Packed, tokenizer: Any, scheme: Scheme
) -> tuple[str, list[int]]:
    """The text with a timestamp and a block for each frame of each clip that has rows, and the rows of each block."""
    ids = scheme.token_ids
    names = tokenizer.convert_ids_to_tokens([ids.start, ids.image, ids.video, ids.end])
    if None in names:
        raise ConfigError("the tokenizer lacks a placeholder of this model", expected=tuple(names))
    start, image, video, end = names
    pieces, counts = [], []
    left = text
    for i, (clip, pos) in enumerate(zip(clips, rows.pos.cpu().split(rows.lengths), strict=True)):
        wanted = f"{start}{video if clip.is_video else image}{end}"
        before, found, left = left.partition(wanted)
        if not found:
            raise AlignmentError("the prompt has no place for it", item=i, expected=wanted)
        pieces.append(before)
        if not clip.is_video:
            pieces.append(wanted)
            counts.append(len(pos))
            continue
        frames = torch.bincount(pos[:, 0].long(), minlength=rows.items[i].grid.t).tolist()
        times = timestamps(clip.times_s, recipe_of(clip, scheme).temporal)
        if len(times) != len(frames):
            raise InputError(f"{len(times)} times for {len(frames)} rows of time", item=i, got=len(times))
        for when, count in zip(times, frames, strict=True):
            if count:
                pieces.append(f"<{when:.1f} seconds>{wanted}")
                counts.append(count)
    return "".join([*pieces, left]), counts
