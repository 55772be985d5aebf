"""How near each row is to a text: cosine to its words in a space both were trained for, and the words that carry it."""

import math
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.encoder.model import Encoder
from tubelet.encoder.pool import AttentionPool, QueryPool
from tubelet.errors import ConfigError, InputError, NotFinite, ShapeError
from tubelet.packed import Item, Packed
from tubelet.reduce.groups import Per, groups_of
from tubelet.reduce.settings import TEMPERATURE, WORDS, Words
from tubelet.shapes import Float

# English words that name nothing one could find on a page.
_FUNCTION_WORDS = """
a about after all an and any are as at be been before being between both but by can could did do does doing for from had
has have he her here him his how i if in into is it its just me more most my no nor not of on once only or other our out
over please she should so some such than that the their them then there these they this those through to too under until
up very was we were what when where which while who whom whose why will with would you your
"""


def relevance(
    p: Packed,
    text: Float[Tensor, "S D"] | Sequence[Float[Tensor, "_ D"]],
    *,
    words: Words = "max",
    temperature: float = TEMPERATURE,
    per: Per = "picture",
) -> Float[Tensor, " T"]:
    """Cosine of each row to the words of a text: the largest, t log(mean(exp(cosine / t))), or the mean.

    text: word embeddings for all pictures, or one tensor for each picture in the order of their first items. They must
    come from a space the rows are in (`in_joint_space`, tubelet.reduce.siglip_text): between spaces a cosine says
    nothing. "logsumexp" lets several words count; its mean inside the logarithm keeps it between "mean" and "max".
    A row of zeros has cosine 0. Float32. Cost: 2 T S D FLOPs.

    Raises: InputError for a text without words, ShapeError for another width or number of texts, NotFinite for NaN in
    a text.

        >>> p = tubelet.pack([torch.tensor([[1.0, 0.0], [0.0, 2.0]])], [tubelet.Item.of(1, 1, 2)])
        >>> relevance(p, torch.tensor([[0.0, 1.0]])).tolist()
        [0.0, 1.0]
    """
    if words not in WORDS or not temperature > 0:
        raise InputError(f"words is one of {', '.join(WORDS)} and temperature above 0, got {words}, {temperature}")
    groups = groups_of(p, per)
    texts = [text] * len(groups) if isinstance(text, Tensor) else list(text)
    if len(texts) != len(groups):
        raise ShapeError(f"{len(texts)} texts for {len(groups)} pictures", expected=len(groups), got=len(texts))
    rows = F.normalize(p.x.float(), dim=1)
    same = isinstance(text, Tensor)
    out = rows.new_empty(len(rows))
    checked = [_words(t, p, groups.of_item.index(i)) for i, t in enumerate(texts[:1] if same else texts)]
    if same:
        return _over_words(rows @ checked[0].T, words, temperature) if checked else out
    parts = rows.split(p.lengths) if len(p) else ()
    found = [
        _over_words(part @ checked[g].T, words, temperature) for part, g in zip(parts, groups.of_item, strict=True)
    ]
    return torch.cat([out[:0], *found])


def content_words(text: str) -> list[str]:
    """The words of a question that name something, each once, in order; numbers count. English function words do not.

    Raises InputError when none is left.

        >>> content_words("What is the total of invoice 4711?")
        ['total', 'invoice', '4711']
    """
    found = dict.fromkeys(re.findall(r"\w+(?:[.,'\u2019-]\w+)*", text.casefold()))
    common = set(_FUNCTION_WORDS.split())
    kept = [word for word in found if word not in common]
    if not kept:
        raise InputError("the text has no word that names anything", got=text[:80])
    return kept


def in_joint_space(encoder: Encoder, tokens: Packed) -> Packed:
    """Each row as the pooling head would give it if the row were all it saw: features that text was trained against.

    tokens: what `encoder(p)` gives. Attention over one row is its value, so this is the head's value path, projection
    and MLP. Cost: about one layer without attention. Raises ConfigError for an encoder without such a head.

    Source: MaskCLIP, Zhou et al., "Extract free dense labels from CLIP", ECCV 2022, section 3.2, for CLIP's pooling;
    here for SigLIP's head, with its MLP.
    """
    if not isinstance(encoder.pool, AttentionPool | QueryPool):
        raise ConfigError("this encoder has no pooling head that reads tokens", expected="pool=True", got=False)
    alone = Packed(tokens.x, tokens.pos * 0, (Item.of(1, 1, 1),) * len(tokens.x), (1,) * len(tokens.x))
    return tokens.with_x(encoder.pool(alone))


def _words(text: Tensor, p: Packed, item: int) -> Float[Tensor, "S D"]:
    if text.ndim != 2 or text.shape[1] != p.x.shape[1]:
        raise ShapeError(
            f"words of a text must be (S, {p.x.shape[1]}) like the rows, got {tuple(text.shape)}",
            item=item,
            expected=p.x.shape[1],
            got=tuple(text.shape),
        )
    if not len(text):
        raise InputError("a text without words relates to nothing", item=item)
    if not bool(text.isfinite().all()):
        raise NotFinite("NaN or infinity in the words of its text", item=item)
    return F.normalize(text.to(p.device).float(), dim=1)


def _over_words(cosine: Float[Tensor, "T S"], words: Words, temperature: float) -> Float[Tensor, " T"]:
    if words == "max":
        return cosine.max(dim=1).values
    if words == "mean":
        return cosine.mean(dim=1)
    return temperature * ((cosine / temperature).logsumexp(dim=1) - math.log(cosine.shape[1]))
