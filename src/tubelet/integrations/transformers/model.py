"""tubelet in transformers: importing this file registers config, model, image processor and attention.

    import tubelet.integrations.transformers
    AutoModel.from_pretrained(folder)            pixel_values, image_grid_thw -> last_hidden_state, pooler_output
    AutoImageProcessor.from_pretrained(folder)   pictures, files, clips       -> pixel_values, image_grid_thw

Folders may be those these classes save or upstream's own (`transformers_upstream` lists the model types).

No remote code and no pickle: transformers finds these classes because they are registered, and weights are safetensors.
A config.json that names code (`auto_map`) is a ConfigError, with and without trust_remote_code: nothing of it runs.
There is no buffer in the model. Rotary angles are computed from the configuration in every call, so that building the
model without memory first (which is how transformers 5 loads) or casting it cannot spoil them; upstream's model keeps
them in buffers that this way of loading leaves uninitialised.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoImageProcessor, AutoModel, BatchFeature, PreTrainedModel
from transformers import initialization as init
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tubelet.encoder.layers import Layer
from tubelet.encoder.model import Encoder
from tubelet.encoder.pool import AttentionPool, QueryPool
from tubelet.encoder.table import PositionTable
from tubelet.errors import ConfigError, KeyMismatch, ShapeError, UnsafeFile
from tubelet.integrations.transformers.config import TubeletConfig, config_of
from tubelet.integrations.transformers.fields import PIXEL_FIELDS, backend_of, checked, pixel_fields, recipe_of
from tubelet.integrations.transformers.upstream import HUB, register_upstream, upstream_encoder
from tubelet.language.vlm.attention import register, tubelet_attention
from tubelet.packed import Item, Packed, all_positions
from tubelet.pixels.inputs import listed
from tubelet.pixels.load import load_patches
from tubelet.pixels.patchify import from_pixels, normalise
from tubelet.pixels.recipe import PixelRecipe

__all__ = ["TubeletConfig", "TubeletImageProcessor", "TubeletModel", "TubeletOutput", "tubelet_attention"]


@dataclass
class TubeletOutput(BaseModelOutputWithPooling):
    """What `TubeletModel` gives: transformers' fields, and what some families have besides.

    prefix_states: (S, P, D), the prefix tokens (class token, registers) of each attention segment after the final norm.
    deepstack_features: what the mergers of chosen layers gave, each as wide as last_hidden_state.

        >>> TubeletOutput(last_hidden_state=torch.zeros(6, 384)).prefix_states is None
        True
    """

    prefix_states: Tensor | None = None
    deepstack_features: tuple[Tensor, ...] | None = None


class TubeletModel(PreTrainedModel):
    """An `Encoder` of any family as a model of transformers, and as `model.encoder`; `from_encoder` is the way here.

    attn_implementation: "tubelet" (the default: what is best for device and type), "sdpa" or "flash_attention_2".

        >>> model = TubeletModel.from_encoder(tubelet.untrained("llava_vit_packing_small"))
        >>> rows = torch.zeros(6, 768, dtype=torch.uint8)
        >>> model(pixel_values=rows, image_grid_thw=[(1, 2, 3)]).pooler_output.shape
        torch.Size([1, 384])
    """

    config_class = TubeletConfig
    base_model_prefix = "tubelet"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Layer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: TubeletConfig) -> None:
        if config._attn_implementation is None:
            config._attn_implementation = "tubelet"
        super().__init__(config)
        self.encoder = Encoder(config.encoder_config())
        self.post_init()

    @classmethod
    def from_encoder(cls, encoder: Encoder) -> "TubeletModel":
        """A model around this very encoder: weights are shared, not copied."""
        with torch.device("meta"):
            model = cls(config_of(encoder))
        model.encoder = encoder
        return model.train(encoder.training)

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """transformers' own loading, strict and from safetensors; upstream's folders as `load_encoder` reads them.

        Raises KeyMismatch where tensors are missing, unexpected or, unless ignore_mismatched_sizes=True, of another
        shape; UnsafeFile when a pickle is asked for; ConfigError for a configuration that names code; what transformers
        raises for files that are not there.
        """
        if kwargs.setdefault("use_safetensors", True) is not True:
            raise UnsafeFile("weights are read from .safetensors files only", expected=".safetensors")
        source = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        config = kwargs.get("config")
        given = config if isinstance(config, TubeletConfig) else None
        hub = {name: kwargs[name] for name in HUB if name in kwargs}
        encoder = None if source is None else upstream_encoder(source, given, hub)
        if encoder is None:
            loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        else:
            rest = {k: v for k, v in kwargs.items() if k not in (*HUB, "config", "pretrained_model_name_or_path")}
            config = config_of(encoder) if given is None else given
            config.untrained = encoder.untrained
            state = {"encoder." + name: tensor for name, tensor in encoder.state_dict().items()}
            loaded = super().from_pretrained(None, config=config, state_dict=state, output_loading_info=True, **rest)
        model, info = loaded
        missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
        if missing or unexpected:
            shown = ", ".join([*missing, *unexpected][:3])
            raise KeyMismatch(
                f"{len(missing)} tensors missing and {len(unexpected)} unexpected ({shown} ...)",
                missing=missing,
                unexpected=unexpected,
                source=str(source)[:200],
            )
        model.encoder.untrained = model.config.untrained
        return (model, info) if output_loading_info else model

    def forward(
        self,
        pixel_values: Tensor,
        image_grid_thw: Tensor | Sequence[Sequence[int]] | None = None,
        patch_positions: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> "TubeletOutput | tuple[Any, ...]":
        """Features of packed rows, or of a batch of pictures or clips of one size.

        pixel_values: (T, W) rows of all items end to end, uint8 pixels or floats already normalised, in the order of
        the configuration (raster, or blocks of merge_size). image_grid_thw: (N, 3) patch counts; on an accelerator it
        is read once, which syncs: keep it on the host. Without image_grid_thw pixel_values is a batch (N, 3, H, W) or
        (N, 3, F, H, W), as upstream's models and CLIP's processor have it; pixels that fill no patch are left out.
        patch_positions: (T, 3) places for the rotary angles instead.
        Gives last_hidden_state (T, D), or (T / merge^2, out) after a merger; pooler_output (N, D), None where the
        encoder cannot pool; hidden_states, on request, L + 1 of (T, D), the last before the final norm; prefix_states
        and deepstack_features where the encoder has them. For a batch T is two axes, (N, T / N). Raises ShapeError.
        """
        backend = backend_of(self.config._attn_implementation)
        if backend != self.encoder.options.backend:
            self.encoder.set_run_options(replace(self.encoder.options, backend=backend))
        batch = None if image_grid_thw is not None else len(pixel_values)
        if image_grid_thw is not None:
            p = packed_rows(pixel_values, image_grid_thw, self.encoder.pixels)
        elif pixel_values.ndim in (4, 5):
            p = from_pixels(pixel_values, self.encoder.pixels)
        else:
            raise ShapeError("rows need their image_grid_thw (N, 3)", expected="image_grid_thw", got=pixel_values.ndim)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        only = tuple(range(len(self.encoder.layers) + 1)) if wanted else ()
        features = self.encoder.features(p, only=only, positions=patch_positions)

        def shaped(x: Tensor) -> Any:
            return x if batch is None else x.unflatten(0, (batch, -1))

        out = TubeletOutput(
            last_hidden_state=shaped(features.tokens.x),
            pooler_output=features.pooled,  # pyright: ignore[reportArgumentType]
            hidden_states=tuple(shaped(state.x) for state in features.hidden) if wanted else None,
            prefix_states=features.prefix,
            deepstack_features=tuple(shaped(deep.x) for deep in features.deepstack) or None,
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return out if as_dict else out.to_tuple()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AttentionPool | QueryPool):
            init.normal_(module.probe)
        std = self.config.initializer_range
        own = {Encoder: ("prefix", "prefix_first", "prefix_angles"), PositionTable: ("weight", "prefix")}.get(
            type(module), ()
        )
        for parameter in (getattr(module, name) for name in own):
            if parameter is not None:
                init.normal_(parameter, std=std)
        if isinstance(module, Layer):
            for scale in (module.scale1, module.scale2):
                if scale is not None:
                    init.ones_(scale)

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether layers run again in the backward pass; what transformers asks every module of a model."""
        return self.encoder.options.gradient_checkpointing

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = checkpoint, every_n_layers: int = 1
    ) -> None:
        """Recompute each layer in the backward pass. Raises ConfigError for a way of it that the encoder has not."""
        chosen = getattr(gradient_checkpointing_func, "keywords", {"use_reentrant": False})
        plain = getattr(gradient_checkpointing_func, "func", gradient_checkpointing_func) is checkpoint
        if enable and (every_n_layers != 1 or not plain or chosen != {"use_reentrant": False}):
            raise ConfigError(
                "every layer is checkpointed, with use_reentrant=False and on its device; other ways are not offered",
                expected={"use_reentrant": False},
                got=chosen,
            )
        self.encoder.set_run_options(replace(self.encoder.options, gradient_checkpointing=enable))


def packed_rows(rows: Tensor, grid_thw: Tensor | Sequence[Sequence[int]], recipe: PixelRecipe) -> Packed:
    """`pixel_values` and `image_grid_thw` as a Packed. Raises ShapeError where they do not fit each other."""
    if rows.ndim != 2:
        raise ShapeError(
            f"pixel_values are rows (T, {recipe.width}), got {tuple(rows.shape)}; the image processor or "
            "tubelet.pixels.patchify.from_pixels makes them of pictures",
            expected=recipe.width,
            got=tuple(rows.shape),
        )
    grids = grid_thw.tolist() if isinstance(grid_thw, Tensor) else [list(g) for g in grid_thw]
    if any(not isinstance(g, list) or len(g) != 3 for g in grids):
        raise ShapeError("image_grid_thw is (N, 3): time, height, width", expected=(len(grids), 3), got=grids)
    items = tuple(Item.of(*g, picture=i) for i, g in enumerate(grids))
    pos = all_positions(items, merge=recipe.merge if recipe.order == "block" else 1).to(rows.device)
    total = sum(item.grid.rows for item in items)
    if total != rows.shape[0]:
        raise ShapeError(
            f"image_grid_thw counts {total} rows, pixel_values has {rows.shape[0]}", expected=total, got=rows.shape[0]
        )
    return Packed(rows, pos, items, tuple(item.grid.rows for item in items))


_OF_LOADERS = (  # keywords that AutoImageProcessor and pipeline hand on to every processor, which has no use for them
    *("_from_auto", "_from_pipeline", "_commit_hash", "trust_remote_code", "code_revision", "use_fast", "backend"),
    *("dtype", "torch_dtype", "device", "device_map"),
)


class TubeletImageProcessor(BaseImageProcessor):
    """Pictures, files and clips to `pixel_values` (T, W) and `image_grid_thw` (N, 3), packed and never padded.

    do_normalize=True gives float32 values as other processors do; False keeps uint8 rows, a quarter of the memory,
    which `TubeletModel` normalises inside its first matrix product. Raises ConfigError for unknown fields.

        >>> processor = TubeletImageProcessor(patch_size=14, do_normalize=False)
        >>> out = processor(images=["receipt.png", np.zeros((30, 50, 3), np.uint8)])
        >>> out["pixel_values"].dtype, out["image_grid_thw"].tolist()[1]
        (torch.uint8, [1, 2, 3])
    """

    model_input_names = ["pixel_values", "image_grid_thw"]  # noqa: RUF012

    def __init__(self, do_normalize: bool = True, **kwargs: Any) -> None:
        for name in ("image_processor_type", "processor_class"):
            kwargs.pop(name, None)
        values = checked(PIXEL_FIELDS, kwargs)
        _no_more(kwargs)
        super().__init__()
        self.do_normalize = do_normalize
        for name, value in values.items():
            setattr(self, name, value)
        recipe_of(self)

    @classmethod
    def of(cls, recipe: PixelRecipe, *, do_normalize: bool = True) -> "TubeletImageProcessor":
        """The processor that cuts rows as `recipe` says: `encoder.pixels` for the encoder that will read them."""
        return cls(do_normalize=do_normalize, **pixel_fields(recipe))

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """From preprocessor_config.json; keyword arguments replace its fields, and unknown ones are a ConfigError.

        What transformers' own loaders and pipelines send along (how to fetch, a model's type and device) is for them.
        """
        unused = kwargs.pop("return_unused_kwargs", False)
        for name in _OF_LOADERS:
            kwargs.pop(name, None)
        processor = cls(**{**image_processor_dict, **kwargs})
        return (processor, {}) if unused else processor

    @property
    def recipe(self) -> PixelRecipe:
        """The fields as they are now, as the library's own recipe."""
        return recipe_of(self)

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        images: Any,
        *,
        return_tensors: str = "pt",
        do_normalize: bool | None = None,
        fps: float | None = None,
        num_frames: int | None = None,
        **fields_of_this_call: Any,
    ) -> BatchFeature:
        """One input or a list of any mix: paths, bytes, Pillow pictures, uint8 arrays and tensors, clips.

        A 4-D array is one clip. fps, num_frames: which frames of a video file. Other keywords replace fields of the
        processor for this call. return_tensors: "pt" or "np". Raises what reading and resizing raise, naming the item.
        """
        if return_tensors not in ("pt", "np"):
            raise ConfigError("return_tensors is pt or np", expected=("pt", "np"), got=return_tensors)
        recipe = self.recipe
        if fields_of_this_call:
            now = {name: fields_of_this_call.pop(name, getattr(self, name)) for name in PIXEL_FIELDS}
            _no_more(fields_of_this_call)
            recipe = TubeletImageProcessor(**now).recipe
        p = load_patches(listed(images), recipe, fps=fps, num_frames=num_frames).packed
        if self.do_normalize if do_normalize is None else do_normalize:
            p = normalise(p, recipe)
        return BatchFeature({"pixel_values": p.x, "image_grid_thw": p.grid_thw}, tensor_type=return_tensors)


def _no_more(kwargs: dict[str, Any]) -> None:
    if kwargs:
        raise ConfigError(f"unknown field {', '.join(sorted(kwargs)[:8])}", got=tuple(sorted(kwargs)))


AutoConfig.register(TubeletConfig.model_type, TubeletConfig, exist_ok=True)
AutoModel.register(TubeletConfig, TubeletModel, exist_ok=True)
AutoImageProcessor.register(
    TubeletConfig,
    image_processor_classes={"torchvision": TubeletImageProcessor, "pil": TubeletImageProcessor},
    exist_ok=True,
)
register()
register_upstream()
