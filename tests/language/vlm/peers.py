"""A whole model of transformers, with its processor, beside ours of the same folder, and what must be equal of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, PreTrainedTokenizerFast

from tubelet import VLM, Clip
from tubelet.language.placing.prompt import pad
from tubelet.language.vlm.chat import Question, as_written, ask, tokens_of
from tubelet.language.vlm.features import VisualRows
from tubelet.packed import concat

QUESTION = "Wie heißt der Hund? 狗 0.2"
FIRST = 300  # id of the first special token; bytes stand before it


def bpe(special: Sequence[str], *, bos: str | None = None, more: Mapping[str, str] | None = None) -> Any:
    """A byte-level tokenizer, with `special` from id 300 on; bos: put before every text; more: names of some."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<unk>": 1, **{letter: n for n, letter in enumerate(alphabet, 2)}}
    vocabulary |= {f"<unused{n}>": n for n in range(len(vocabulary), FIRST)}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    around: dict[str, Any] = {"pad_token": "<pad>", "unk_token": "<unk>"}
    if bos is not None:
        made.add_special_tokens([bos])
        begin = made.token_to_id(bos)
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, begin)]
        )
        around["bos_token"] = bos
    made.add_special_tokens(list(special))
    around |= {"extra_special_tokens": dict(more)} if more else {"additional_special_tokens": list(special)}
    fast: Any = PreTrainedTokenizerFast(tokenizer_object=made, **around)
    assert fast.unk_token_id not in fast.convert_tokens_to_ids(list(special))
    return fast


@dataclass(frozen=True, eq=False)
class Peer:
    """folder: as `save_pretrained` of model and processor wrote it; vlm: ours, read from it."""

    folder: Path
    model: Any
    processor: Any
    vlm: VLM
    tolerance: float = 1e-3
    timed: bool = False  # its processor writes times of clips into the prompt

    def pictures(self, sizes: Sequence[tuple[int, int]]) -> list[Clip]:
        """Of noise, by (height, width)."""
        out = []
        for n, (height, width) in enumerate(sizes):
            pixels = np.random.default_rng(n).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
            out.append(Clip(pixels, (0.0,), f"{height}x{width}"))
        return out

    def clip(self, frames: int, height: int = 40, width: int = 60) -> Clip:
        """Of noise, two frames a second."""
        pixels = np.random.default_rng(99).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
        return Clip(pixels, tuple(n / 2 for n in range(frames)), "clip", is_video=True)

    def given(self, prompts: Sequence[Sequence[Clip]]) -> Any:
        """What transformers' processor makes of these prompts, padded on the left."""
        words = [self.words(clips) for clips in prompts]
        stills = [[Image.fromarray(c.frames[0]) for c in clips if not c.is_video] for clips in prompts]
        videos = [torch.from_numpy(c.frames).permute(0, 3, 1, 2) for clips in prompts for c in clips if c.is_video]
        more: dict[str, Any] = {"images": stills if any(stills) else None}
        more |= {"videos": videos} if videos else {}
        if videos and self.timed:
            told = [{"fps": 2.0, "total_num_frames": len(v), "frames_indices": list(range(len(v)))} for v in videos]
            more["video_metadata"] = told
        bos = self.processor.tokenizer.bos_token
        more |= {"add_special_tokens": False} if bos and words[0].startswith(bos) else {}  # as apply_chat_template
        self.processor.tokenizer.padding_side = "left"
        return self.processor(text=words, return_tensors="pt", padding=True, **more)

    def words(self, clips: Sequence[Clip]) -> str:
        """The prompt as the processor's template writes it."""
        parts = [{"type": "video" if c.is_video else "image"} for c in clips]
        message = {"role": "user", "content": [*parts, {"type": "text", "text": QUESTION}]}
        return self.processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)

    def saved(self, folder: Path) -> "Peer":
        """The same with ours written to a folder and read again."""
        self.vlm.save_pretrained(folder)
        again = VLM.from_pretrained(folder)
        assert again.scheme == self.vlm.scheme
        return replace(self, vlm=again)

    def check(self, clips: Sequence[Clip]) -> Question:
        """One prompt: the same words, ids, logits and answer."""
        question = ask(self.vlm, clips, QUESTION)
        given = self.given([clips])
        assert question.text == self.words(clips)
        assert question.ready.input_ids.tolist() == given["input_ids"].tolist()
        with torch.no_grad():
            logits = self.model(**given).logits
            torch.testing.assert_close(self.vlm(question.ready), logits, atol=self.tolerance, rtol=self.tolerance)
        said = self.model.generate(**given, max_new_tokens=4, do_sample=False)[:, given["input_ids"].shape[1] :]
        assert torch.equal(self.vlm.generate(question.ready, max_new_tokens=4), said)
        return question

    def check_batch(self, prompts: Sequence[Sequence[Clip]]) -> None:
        """Prompts of different length together: the same ids, and logits where no padding is."""
        asked = [ask(self.vlm, clips, QUESTION) for clips in prompts]
        given = self.given(prompts)
        made = [tokens_of(q.text, q.clips, q.rows.tokens, self.vlm.tokenizer, self.vlm.scheme) for q in asked]
        batch = pad(made, 0, side="left")
        assert batch.input_ids.tolist() == given["input_ids"].tolist()
        rows = as_written(VisualRows(concat([q.rows.tokens for q in asked], renumber=False)), self.vlm.scheme)
        with torch.no_grad():
            ready = self.vlm.ready(rows, batch.input_ids, attention_mask=batch.attention_mask)
            ours, theirs = self.vlm(ready), self.model(**given).logits
        real = batch.attention_mask.bool()
        torch.testing.assert_close(ours[real], theirs[real], atol=self.tolerance, rtol=self.tolerance)


def opened(model: Any, processor: Any, folder: Path, *, timed: bool = False) -> Peer:
    """Model and processor written to the folder, and read by both."""
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Peer(folder, model, AutoProcessor.from_pretrained(folder), VLM.from_pretrained(folder), timed=timed)
