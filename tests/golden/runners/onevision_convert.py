"""convert_*: tensors under other names, and the same outputs from them.

Goes the whole way of a user: the case's weights become files, `convert` writes the other format, and both are loaded.
An output is a state_dict entry (`sd_packing.KEY`, `packing.KEY`) or a model's result (`packing.last`, `packed.pooled`).
"""

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tubelet.encoder.config import EncoderConfig
from tubelet.families import onevision as ov
from tubelet.families.match import matches
from tubelet.weights.convert import UPSTREAM_EPS, convert
from tubelet.weights.load import load_encoder
from tubelet.weights.save import save_encoder
from tubelet.weights.tensors import read_state

from ..cases import Case, Mismatch
from .onevision_model import batch_call, outputs_of, packed_call

RESULTS = {
    "last": "last_hidden_state",
    "last_hidden_state": "last_hidden_state",
    "pooled": "pooler_output",
    "pooler_output": "pooler_output",
}
MODELS: dict[str, str] = {f: f for f in ov.FORMATS} | {"packed": "packing", "head": "standard"}


def source_config(config: dict[str, Any], fmt: str) -> EncoderConfig:
    """The configuration of the weights as they are, with the training model's own eps where the case says them."""
    fields = {k: v for k, v in config.items() if not k.startswith("source_")}
    if fmt != "source":
        model_type = {"packing": "llava_vit_packing", "ov2": "onevision_encoder"}.get(fmt, "llava_vit")
        return ov.config_from({"model_type": model_type, **fields}, fmt)
    fields.pop("layer_norm_eps", None)
    read = ov.config_from(fields, fmt)
    eps = config.get("source_layernorm_eps")
    head = config.get("source_head_rms_eps")
    return replace(read, eps=read.eps if eps is None else eps, head_eps=read.head_eps if head is None else head)


def run_convert(case: Case) -> None:
    fmt = matches((ov.FAMILY,), case.weights)[0].format
    config = source_config(case.config, fmt)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_file({k: v.contiguous() for k, v in case.weights.items()}, str(folder / "raw.safetensors"))
        origin = load_encoder(folder / "raw.safetensors", config=config)
        save_encoder(origin, folder / "origin", fmt)
        asked: dict[str, Path] = {fmt: folder / "origin"}
        for name in case.outputs:
            target = MODELS.get(name.partition(".")[0].removeprefix("sd_"))
            if target is None:
                raise Mismatch(f"output {name} names no format")
            if target not in asked:
                asked[target] = folder / target
                convert_like_upstream(asked, fmt, target, case.config)
        for name in case.outputs:
            prefix, _, rest = name.partition(".")
            path = asked[MODELS[prefix.removeprefix("sd_")]]
            if rest in RESULTS and not prefix.startswith("sd_"):
                case.check(name, result(path, case, RESULTS[rest]))
            else:
                case.check(name, entry(path, rest), exact=True)


def convert_like_upstream(paths: dict[str, Path], fmt: str, to: str, config: dict[str, Any]) -> None:
    """As upstream's converters do, which give a training checkpoint 1e-6 for its eps; and once keeping the eps, which
    must not change a single bit of the outputs."""
    upstream = fmt == "source" and config.get("layer_norm_eps", UPSTREAM_EPS) == UPSTREAM_EPS
    convert(paths[fmt], paths[to], to, variant="custom", eps="upstream" if upstream else "source")
    kept = convert(paths[fmt], paths[to].with_name(f"{to}-kept"), to, variant="custom")
    if not kept.bit_equal or kept.max_abs_diff or kept.max_abs_diff_pooled:
        raise Mismatch(f"{fmt} to {to} and back is not exact: {kept.max_abs_diff}")


def entry(folder: Path, key: str) -> Tensor:
    state = read_state(folder)
    if key not in state:
        raise Mismatch(f"the converted file has no {key}")
    return state[key]


@torch.inference_mode()
def result(folder: Path, case: Case, output: str) -> Tensor:
    """One output of the model in a folder, on the input of its kind that the case has."""
    encoder = load_encoder(folder)
    batched = re.search(r"packing|ov2", folder.name) is None and "pixel_values" in case.inputs
    if folder.name == "origin" and "pixel_values" in case.inputs:
        batched = matches((ov.FAMILY,), case.weights)[0].format in ("source", "standard")
    call = batch_call(case.inputs, encoder.config, False) if batched else packed_call(case.inputs, encoder.config)
    outputs = outputs_of(encoder, call)
    if output not in outputs:
        raise Mismatch(f"{output} from an encoder without a pooling head")
    return outputs[output]
