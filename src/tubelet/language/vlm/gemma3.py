"""transformers' Gemma 3 as a layout: a square a picture, its rows averaged, rows of one picture seeing each other.

    "\\n\\n<start_of_image>" + 256 rows + "<end_of_image>\\n\\n"       where the template writes <start_of_image>

Source: huggingface/transformers:src/transformers/models/gemma3@v5.23.0. Pan and scan, off in what is published, is
refused.
"""

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError
from tubelet.families.processors import recipe_from
from tubelet.language.placing.rules import TokenIds
from tubelet.language.vlm.layout import Layout, ModelFiles, NamedProjector, fixed_side
from tubelet.language.vlm.scheme import Scheme, Written
from tubelet.pixels.recipe import PixelRecipe

_PAN_AND_SCAN = "do_pan_and_scan"
_START, _ROW, _END = "<start_of_image>", "<image_soft_token>", "<end_of_image>"


def pixels(files: ModelFiles, recipe: PixelRecipe) -> PixelRecipe:
    """The square of Gemma 3's processor. Raises ConfigError for another processor, and for pan and scan."""
    said = {name: value for name, value in files.processor.items() if not name.startswith("pan_and_scan_")}
    kind = said.get("image_processor_type", "Gemma3ImageProcessor")
    if not isinstance(kind, str) or not kind.startswith("Gemma3ImageProcessor"):
        raise ConfigError(f"a Gemma 3 has no {kind!r:.60}", expected="Gemma3ImageProcessor", got=kind)
    if said.pop(_PAN_AND_SCAN, None):
        raise ConfigError("pan and scan is not read here", expected=False, got=True)
    return recipe_from({"resample": 2, **said, "image_processor_type": "SiglipImageProcessor"}, recipe)


def scheme(files: ModelFiles, encoder: EncoderConfig) -> Scheme:
    """How Gemma 3's parts fit together. Raises ConfigError."""
    _merge(files, encoder)
    ids = TokenIds(
        image=files.token(262144, "image_token_index", "image_token_id"),
        start=files.token(255999, "boi_token_index", "boi_token_id"),
        end=files.token(256000, "eoi_token_index", "eoi_token_id"),
    )
    written = Written(_START, f"\n\n{_START}{_ROW}{_END}\n\n")
    return Scheme(ids, encoder.pixels, written=written, bidirectional="images")


def projector(files: ModelFiles, encoder: EncoderConfig) -> NamedProjector:
    """The average, the norm and the matrix."""
    names = {
        "norm.weight": "multi_modal_projector.mm_soft_emb_norm.weight",
        "weight": "multi_modal_projector.mm_input_projection_weight",
    }
    return NamedProjector("soft_tokens", names, merge=_merge(files, encoder), eps=encoder.eps)


def _merge(files: ModelFiles, encoder: EncoderConfig) -> int:
    """Patches along a side of what one row is the average of."""
    rows = files.config.get("mm_tokens_per_image", 256)
    side = fixed_side(encoder.pixels) // encoder.pixels.patch
    if not isinstance(rows, int) or isinstance(rows, bool) or not 0 < rows <= side**2:
        raise ConfigError("mm_tokens_per_image is a number of rows", limit=side**2, got=rows)
    return side // int(rows**0.5)


GEMMA_3 = Layout(scheme, pixels, projector)
