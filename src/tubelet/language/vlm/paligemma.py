"""transformers' PaliGemma, 1 and 2, as a layout: pictures, the question, an end of line, all of it seen both ways.

    256 rows + "<bos>What is it?\\n"      and behind it the answer, which sees what stands before

There is no chat template and one question. Of several pictures, and of the frames of a clip, the rows follow each other
without text between them. Gemma's table of embeddings scales text by itself, so rows go in as the projector gives them.
Source: huggingface/transformers:src/transformers/models/paligemma@v5.23.0.
"""

from tubelet.encoder.config import EncoderConfig
from tubelet.language.placing.rules import TokenIds
from tubelet.language.vlm.layout import Layout, ModelFiles, NamedProjector, fixed_side
from tubelet.language.vlm.scheme import Scheme


def scheme(files: ModelFiles, encoder: EncoderConfig) -> Scheme:
    """How PaliGemma's parts fit together. Raises ConfigError."""
    fixed_side(encoder.pixels)
    ids = TokenIds(image=files.token(256000, "image_token_index", "image_token_id"))
    return Scheme(ids, encoder.pixels, wording="prefix", bidirectional="prefix")


def projector(files: ModelFiles, encoder: EncoderConfig) -> NamedProjector:
    """One matrix."""
    return NamedProjector("linear", {"": "multi_modal_projector.linear"})


PALIGEMMA = Layout(scheme, projector=projector)
