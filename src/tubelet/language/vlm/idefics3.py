"""transformers' Idefics3 and SmolVLM as layouts: tiles with tags between them, merged patches, one matrix.

    a picture       "<fake_token_around_image><row_1_col_1>" + 64 rows, and so on, "\\n" behind each row of tiles, then
                    "\\n<fake_token_around_image><global-img>" + 64 rows of the whole + "<fake_token_around_image>"
    a clip          what SmolVLM says of its length, then "\\nFrame from 00:01:" and the whole of each frame
    resized         longer side to 2048, then to the next multiples of 512, the tiles; that to 512 x 512, the whole

Source: huggingface/transformers:src/transformers/models/idefics3 and smolvlm@v5.23.0. Lanczos is torch's, as in
transformers, and Pillow's where the file names a processor of Pillow's. Idefics3 and the first SmolVLM know no clips.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError
from tubelet.families.processors import recipe_from
from tubelet.language.placing.rules import TokenIds
from tubelet.language.vlm.layout import Layout, ModelFiles, NamedProjector, fixed_side
from tubelet.language.vlm.scheme import Scheme, Written
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views_plan import ViewRule

MOST_SIDE = 4096  # of a resized picture; upstream makes larger ones smaller once more
_PROCESSORS = ("Idefics3ImageProcessor", "SmolVLMImageProcessor")
# What is read elsewhere, and what chooses frames or fills up batches
_BESIDE = {"do_image_splitting", "max_image_size", "size", "video_sampling", "do_pad", "return_row_col_info"}
_BESIDE |= {"video_processor_type", "do_sample_frames", "num_frames", "fps", "return_metadata", "image_seq_len"}
_FAKE = "<fake_token_around_image>"
_WHOLE = f"{_FAKE}<global-img><image>{_FAKE}"
_TILES = Written("<image>", _WHOLE, tile=f"{_FAKE}<row_{{row}}_col_{{col}}><image>", row_end="\n", tiles_end="\n")
_CLIPS = Written(
    "<image>",
    _WHOLE,
    "<video>",
    f"\nFrame from {{time}}:{_WHOLE}",
    tile=_TILES.tile,
    row_end="\n",
    tiles_end="\n",
    clip_begin="You are provided the following series of {frames} frames from a {duration} [H:MM:SS] video.\n",
    clip_end="\n\n",
    # DEFAULT_CHAT_TEMPLATE of smolvlm/processing_smolvlm.py, which its processor takes where there are clips
    clip_template="<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'] is string %}{{': ' + message['content']}}{% else %}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% elif line['type'] == 'video' %}{{ '<video>' }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
)


def pixels(files: ModelFiles, recipe: PixelRecipe) -> PixelRecipe:
    """The square of the processor, for tiles and frames. Raises ConfigError for another processor, tiles that are not
    the tower's size, and clips that have other pixels than pictures."""
    kind = files.processor.get("image_processor_type", _PROCESSORS[0])
    if not isinstance(kind, str) or not kind.startswith(_PROCESSORS):
        raise ConfigError(f"an Idefics3 has no {kind!r:.60}", expected=_PROCESSORS, got=kind)
    found = _square(files.processor, recipe, "pillow" if kind.endswith("Pil") else "torch")
    clips = _square(files.video, found, found.resampler) if files.video else found
    if found.rule != "square" or found.size != recipe.size or clips != found:
        raise ConfigError("tiles and frames are as large as the tower's pictures", expected=recipe.size, got=found.size)
    return found


def _square(said: Mapping[str, Any], recipe: PixelRecipe, resampler: Any) -> PixelRecipe:
    side = _longest("max_image_size", said.get("max_image_size"), 364)
    plain: dict[str, Any] = {name: value for name, value in said.items() if name not in _BESIDE}
    plain |= {"image_processor_type": "SiglipImageProcessor", "size": {"height": side, "width": side}}
    found = recipe_from({"resample": 1, **plain}, recipe)
    return replace(found, resampler=resampler)


def scheme(files: ModelFiles, encoder: EncoderConfig, *, clips: bool) -> Scheme:
    """How the parts fit together. Raises ConfigError."""
    side = fixed_side(encoder.pixels)
    splits = files.processor.get("do_image_splitting", True)
    if not isinstance(splits, bool):
        raise ConfigError("do_image_splitting is true or false", expected=(True, False), got=splits)
    video = files.video or files.processor
    sampling = video.get("video_sampling")
    frames = sampling.get("video_size") if isinstance(sampling, Mapping) else video.get("size")
    views = ViewRule(
        side,
        (),
        canvas="multiple" if splits else "inside",
        longest=_longest("size", files.processor.get("size"), 4 * 364),
        clip_longest=_longest("video_size", frames, 4 * 364),
    )
    ids = TokenIds(image=files.token(128257, "image_token_id"))
    return Scheme(ids, encoder.pixels, views=views, written=_CLIPS if clips else _TILES)


def _longest(name: str, said: Any, usual: int) -> int:
    """The longer side that a size names."""
    side = said.get("longest_edge") if isinstance(said, Mapping) else usual if said is None else said
    if not isinstance(side, int) or isinstance(side, bool) or not 0 < side <= MOST_SIDE:
        raise ConfigError(f"{name} is a longest_edge up to {MOST_SIDE}", limit=MOST_SIDE, got=said)
    return side


def projector(files: ModelFiles, encoder: EncoderConfig) -> NamedProjector:
    """The matrix behind the pixel shuffle."""
    merge, side = files.config.get("scale_factor", 2), fixed_side(encoder.pixels) // encoder.pixels.patch
    if not isinstance(merge, int) or isinstance(merge, bool) or merge < 1 or side % merge:
        raise ConfigError(f"scale_factor divides {side} patches", expected=side, got=merge)
    return NamedProjector("merge_linear", {"weight": "connector.modality_projection.proj.weight"}, merge=merge)


IDEFICS_3 = Layout(partial(scheme, clips=False), pixels, projector)
SMOL_VLM = Layout(partial(scheme, clips=True), pixels, projector)
