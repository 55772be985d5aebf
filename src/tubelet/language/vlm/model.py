"""A vision-language model: encoder, reduction, projector and any causal language model of transformers.

    pictures -> rows of patches -> encoder -> (reduce) -> projector -> (join) -> place -> language model -> tokens
                                   kept by content              of views, newlines     exact positions, exact places

Generation is transformers' own `generate` around `language.vlm.causal_lm.PlacedCausalLM`. Published whole models
(`language.vlm.layouts`), LLaVA's own, and what `save_pretrained` writes are read by `VLM.from_pretrained`.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tubelet.doors import door
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, InputError
from tubelet.geometry.branch import SpatialBranch, several
from tubelet.geometry.fuse import fuse
from tubelet.language.placing.place import place
from tubelet.language.project.projector import Projector
from tubelet.language.vlm.batch import PromptBatch, blocks_of, empty_pack, scatter_deepstack
from tubelet.language.vlm.cache import FeatureCache, item_key
from tubelet.language.vlm.features import VisualRows, encode_cached, keep_same_rows
from tubelet.language.vlm.load_lm import replace_settings, require_transformers
from tubelet.language.vlm.read_folder import ModelParts, load_model_parts
from tubelet.language.vlm.scheme import Scheme
from tubelet.language.vlm.state_key import state_key
from tubelet.language.vlm.write_folder import save_model_parts
from tubelet.packed import Packed
from tubelet.reduce.join import join_views, pooled_views
from tubelet.shapes import Float, Int64
from tubelet.weights.locate import Source

Reduce = Callable[[Packed], Packed]


class VLM(nn.Module):
    """Encoder + reduction + projector + language model; `scheme` says how they fit (`tubelet.language.vlm.scheme`).

    lm: a causal language model of transformers, or a `PlacedCausalLM`. projector: None where the encoder's own merger
    gives rows in the language model's width. reduce: Packed -> Packed on the encoder's rows, such as a selection; it
    may ask for fewer rows of each item, and positions stay those of the rows that are left. newline: (D,), the learned
    row that ends rows of joined views, needed where scheme.views unpads. spatial: geometry whose rows are added to the
    encoder's (Spatial-MLLM). cache: features kept by content while no gradient is wanted; None keeps none. Raises
    ConfigError where widths or layers do not fit.

        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from tubelet.language.placing.rules import TokenIds
        >>> lm = LlamaForCausalLM(LlamaConfig(
        ...     hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=99,
        ...     eos_token_id=None))
        >>> encoder = tubelet.untrained("llava_vit_packing_small")
        >>> scheme = Scheme(TokenIds(image=-200), pixels=encoder.pixels)
        >>> vlm = VLM(encoder, lm, scheme, projector=tubelet.language.build_projector("linear", 384, 64))
        >>> p = tubelet.patchify(tubelet.read("photo.jpg"), encoder.pixels)
        >>> ids = torch.tensor([[1, *[-200] * p.lengths[0], 5]])
        >>> vlm.generate(vlm.ready(vlm.encode(p), ids), max_new_tokens=2).shape
        torch.Size([1, 2])
    """

    @door
    def __init__(
        self,
        encoder: Encoder,
        lm: Any,
        scheme: Scheme,
        *,
        projector: Projector | None = None,
        reduce: Reduce | None = None,
        newline: Tensor | None = None,
        spatial: SpatialBranch | None = None,
        tokenizer: Any = None,
        cache: FeatureCache | None = None,
    ) -> None:
        super().__init__()
        require_transformers("a vision-language model")
        from tubelet.language.vlm.causal_lm import PlacedCausalLM

        if not issubclass(type(lm), nn.Module):
            raise TypeError(f"lm is {type(lm).__name__}, expected a causal language model of transformers")
        self.encoder, self.projector, self.reduce = encoder, projector, reduce
        self.speaker: PlacedCausalLM = lm if isinstance(lm, PlacedCausalLM) else PlacedCausalLM(lm)
        self.scheme, self.tokenizer = scheme, tokenizer
        self.newline = None if newline is None else nn.Parameter(newline)
        self.spatial = spatial
        self.cache = FeatureCache() if cache is None else cache
        self._check()

    def _check(self) -> None:
        """Raises ConfigError naming the two widths that do not fit."""
        config, states = self.encoder.config, self.scheme.states
        beyond = [i for i in states if not 0 <= i <= config.layers]
        if beyond:
            raise ConfigError(f"hidden states count 0..{config.layers}", limit=config.layers, got=beyond[0])
        wide = config.hidden * len(states) if states else config.out
        if self.scheme.pointer is not None:
            self.scheme.pointer.check(self.speaker.lm.config)
        if self.projector is not None:
            if self.projector.config.in_dim != wide:
                raise ConfigError(
                    f"the projector reads {self.projector.config.in_dim} channels, the encoder gives {wide}",
                    expected=wide,
                    got=self.projector.config.in_dim,
                )
            wide = self.projector.config.out_dim
        width = self.width
        if wide != width:
            raise ConfigError(f"rows of {wide} for a language model of {width}", expected=width, got=wide)
        if self.projector is not None and self.deep:
            raise ConfigError("deepstack features have mergers of their own and go through no projector")
        if self.spatial is not None and (states or self.deep or self.spatial.connector.width != config.out):
            got = self.spatial.connector.width
            raise ConfigError(f"rows of {got} join an encoder's own {config.out} alone", expected=config.out, got=got)
        views = self.scheme.views
        ends = views is not None and views.join == "unpad"
        shape = None if self.newline is None else tuple(self.newline.shape)
        if shape != ((width,) if ends else None) or (views is not None and self.deep):
            raise ConfigError(
                "views that are unpadded need a newline as wide as the language model, others none; none has deepstack",
                expected=(width,) if ends else None,
                got=shape,
            )

    @property
    def width(self) -> int:
        """Channels of the language model."""
        table: Any = self.speaker.get_input_embeddings()
        return int(table.weight.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the language model's weights are; rows and ids are moved there."""
        return self.speaker.device

    @property
    def deep(self) -> int:
        """How many deepstack packs the encoder gives the language model."""
        return 0 if self.scheme.states else len(self.encoder.config.deepstack)

    @property
    def untrained(self) -> bool:
        """Whether weights that see are random: then the answers mean nothing."""
        return self.encoder.untrained or (self.spatial is not None and self.spatial.vggt.untrained)

    # ---- pixels to rows

    @door
    def encode(self, p: Packed, *, scenes: Sequence[int] | None = None) -> VisualRows:
        """Patches to rows in the language model's width: encoder, reduction, projector; views pooled and joined.

        Without gradients an item whose content was encoded before by these very weights is taken from `cache`, and one
        that stands in the pack twice is encoded once. The weights are read for that, once, and once more behind a run
        (`tubelet.language.vlm.state_key`). Nothing is kept of an encoder with adapters, hooks or parts of other
        libraries, nor of scenes of several items. scenes: see `features`. Raises what the stages raise.
        """
        scenes = several(p, scenes, self.spatial)
        kept = not torch.is_grad_enabled() and self.cache.limit_bytes and scenes is None
        options = self._options() if kept else None
        if options is None:
            return self.project(self.features(p, scenes=scenes))
        recipes = f"{self.scheme.pixels} {self.scheme.video_pixels}"
        keys = [item_key(p, i, recipes, options) for i in range(len(p))]
        still = partial(self._still, options)
        return self.project(encode_cached(p, keys, self.cache, self.features, self._merge, still))

    @door
    def features(self, p: Packed, *, scenes: Sequence[int] | None = None) -> tuple[Packed, ...]:
        """What the encoder gives of patches: the rows, then the deepstack rows. Nothing is taken from `cache`.

        scenes: for `spatial`, how many consecutive items are views of each place; None: an item each.
        """
        scenes = several(p, scenes, self.spatial)
        p = p.to(self.encoder.patch.weight.device)
        if self.scheme.states:
            states = self.encoder.hidden_states(p, only=self.scheme.states)
            joined = states[0] if len(states) == 1 else states[0].with_x(torch.cat([s.x for s in states], dim=1))
            return (joined,)
        if not self.deep:
            rows = self.encoder(p)
            return (rows if self.spatial is None else fuse(rows, self.spatial(p, scenes=scenes)),)
        features = self.encoder.features(p, pool=False)
        return (features.tokens, *features.deepstack)

    @door
    def project(self, features: tuple[Packed, ...], *, join: bool = True) -> VisualRows:
        """The encoder's `features` in the language model's width: reduction, projector, and views pooled and joined.

        join=False leaves views as they are, for rows that stand for nothing (`tubelet.language.placing.touch`).
        """
        tokens, deep = features[0], features[1:]
        if self.reduce is not None:
            kept = self.reduce(tokens)
            deep = tuple(keep_same_rows(kept, tokens, one) for one in deep)
            tokens = kept
        rows = tokens if self.projector is None else self.projector(tokens)
        if join and (views := self.scheme.views) is not None:
            rows = join_views(pooled_views(rows, views) if rows.whole else rows, views, self.newline)
        return VisualRows(rows, tuple(deep))

    def _options(self) -> str | None:
        """What decides features beside an item's content; None where it cannot be known, so that nothing is kept."""
        encoder = state_key(self.encoder)
        spatial = "" if self.spatial is None else state_key(self.spatial)
        kind = self.encoder.patch.weight.device.type
        mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return None if encoder is None or spatial is None else f"{self.scheme.states} {mixed} {encoder} {spatial}"

    def _still(self, options: str) -> bool:
        return self._options() == options

    @property
    def _merge(self) -> int:
        merger = self.encoder.config.merger
        return 1 if merger is None or self.scheme.states else merger.merge

    # ---- rows and ids to a batch

    @door
    def ready(
        self,
        rows: VisualRows | None,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        counts: Sequence[int] | None = None,
    ) -> PromptBatch:
        """Prompts (B, S) or (S,) with the rows in their placeholders and the positions of the model's own rule.

        rows: None for prompts of text alone. attention_mask, labels, counts: as in `tubelet.place`; generation wants
        padding on the left. Differentiable. Raises AlignmentError naming sample, item, rows and placeholders, and what
        `tubelet.place` raises.
        """
        device = self.device
        ids = torch.atleast_2d(input_ids).to(device)
        mask = None if attention_mask is None else torch.atleast_2d(attention_mask).to(device)
        wanted = None if labels is None else torch.atleast_2d(labels).to(device)
        tokens = empty_pack(self.width, device) if rows is None else rows.tokens.to(device)
        placed = place(
            tokens,
            ids,
            self.scheme.token_ids,
            rule=self.scheme.rule,
            embed=self.speaker.embed,
            attention_mask=mask,
            labels=wanted,
            counts=counts,
        )
        places = placed.position_ids[0] if self.scheme.rule.time == "none" else placed.position_ids.movedim(0, 1)
        outside = ids < 0
        return PromptBatch(
            ids.masked_fill(outside, 0),
            placed.inputs_embeds,
            placed.attention_mask,
            places,
            placed.positions.next_position[:, 0] - ids.shape[1],
            placed.visual,
            placed.labels,
            scatter_deepstack(rows.deepstack, placed.visual, placed.inputs_embeds) if rows is not None else None,
            blocks_of(placed, self.scheme.bidirectional),
        )

    def forward(self, ready: PromptBatch) -> Float[Tensor, "B S V"]:
        """Logits of every token of a batch."""
        given = {name: value for name, value in ready.arguments.items() if name != "input_ids"}
        return self.speaker(**given, use_cache=False).logits

    # ---- tokens

    @torch.no_grad()
    @door
    def generate(
        self,
        ready: PromptBatch,
        *,
        max_new_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        num_beams: int = 1,
        streamer: Any = None,
    ) -> Int64[Tensor, "B G"]:
        """Ids of what is said after each prompt, filled up with the pad id behind an end, by transformers' `generate`.

        temperature: None takes the likeliest token, else tokens are drawn by torch's generator from the 50 likeliest or
        those of them that make up `top_p`. Of the folder's generation_config.json the ids and repetition_penalty count.
        streamer: transformers' TextStreamer ... with skip_prompt=True. For everything else `generate` can do call
        `vlm.speaker.generate(**ready.arguments, ...)`, which gives prompt and answer. Raises InputError.
        """
        if max_new_tokens < 1 or num_beams < 1 or (temperature is not None and not temperature > 0):
            raise InputError(
                "max_new_tokens and num_beams start at 1, a temperature is above 0",
                limit=1,
                got=(max_new_tokens, num_beams, temperature),
            )
        if top_p is not None and (temperature is None or not 0 < top_p <= 1):
            raise InputError("top_p is above 0, at most 1, and of tokens that are drawn: give a temperature", got=top_p)
        settings = replace_settings(self.speaker.generation_config, max_new_tokens, temperature, top_p, num_beams)
        speaker: Any = self.speaker
        said: Tensor = speaker.generate(**ready.arguments, generation_config=settings, streamer=streamer)
        return said[:, ready.input_ids.shape[1] :]

    # ---- folders

    @door
    def save_pretrained(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write one folder, whole or not at all: config.json, safetensors, generation_config.json, a tokenizer if any.

        `tubelet.load_encoder` and `tubelet.load_projector` read their parts of it. The reduction is code, not written.
        Raises ConfigError for what cannot be written (adapters that are not merged), WeightsError for a folder in use.
        """
        mine = self.encoder, self.projector, self.speaker, self.scheme, self.tokenizer, self.newline, self.spatial
        return save_model_parts(ModelParts(*mine), Path(folder), overwrite=overwrite)

    @classmethod
    @door
    def from_pretrained(
        cls,
        source: Source,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        vision_tower: str | os.PathLike[str] | None = None,
        reduce: Reduce | None = None,
        cache: FeatureCache | None = None,
    ) -> "VLM":
        """The model of a folder or a hub id: of a kind in `language.vlm.layouts`, in LLaVA's own layout, or ours.

        vision_tower: where LLaVA's tower is, instead of what mm_vision_tower says. dtype: None keeps the stored type.
        Safetensors only, no remote code, no tensor read twice. Raises ConfigError, KeyMismatch and what else
        `tubelet.load_encoder` raises; RunError without transformers.
        """
        parts = load_model_parts(source, revision=revision, dtype=dtype, device=device, vision_tower=vision_tower)
        vlm = cls(
            parts.encoder,
            parts.speaker,
            parts.scheme,
            projector=parts.projector,
            reduce=reduce,
            newline=parts.newline,
            spatial=parts.spatial,
            tokenizer=parts.tokenizer,
            cache=cache,
        )
        return vlm.eval()
