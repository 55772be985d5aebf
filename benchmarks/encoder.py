"""Every family's encoder against where it came from, on pictures of mixed sizes; `accelerate_vision` in whole models.

    python benchmarks/encoder.py                  every case: results/encoder.json
    python benchmarks/encoder.py --only qwen2     cases whose name has this, nothing written
    python benchmarks/encoder.py --device cuda    ViT-L towers at 64 thousand tokens: results/encoder_cuda.json

`tubelet bench` runs any of these cases; inspect.speed.towers says what the peers are, inspect.speed.encoders how they
are timed. All towers of a case have one width, depth and number of heads; both sides carry the same random weights and
must agree before anything is timed (timm's NaFlexViT has the shape alone). "share of gemm" is useful FLOPs, padding
counting as none, over time, against bare products of the same layer shapes and type in the same run, by the faster of
the libraries there are.
"""

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from harness import measure, report, save
from tubelet.inspect.speed.encoders import Case, relative_error, run, threads
from tubelet.inspect.speed.towers import TOWERS, Shape, Tower, rows_of, seeded


def tower(peer: str) -> Tower:
    return next(t for t in TOWERS if t.peer.endswith(peer))


def shape(layers: int) -> Shape:
    return Shape(layers=layers)


CASES: list[Case] = [
    Case(tower("Qwen2-VL"), shape(4), "small16"),
    Case(tower("Qwen2-VL"), shape(2), "mix8"),
    Case(tower("Qwen2-VL"), shape(2), "small16", "bfloat16"),
    Case(tower("Qwen2-VL"), shape(2), "small16", threads=1),
    Case(tower("Qwen2.5-VL"), shape(4), "small16"),
    Case(tower("Qwen2.5-VL"), shape(4), "mix8"),
    Case(tower("Qwen2.5-VL"), shape(2), "small16", "bfloat16"),
    Case(tower("Qwen3-VL"), shape(2), "small16"),
    Case(tower("SigLIP2 NaFlex"), shape(2), "small16"),
    Case(tower("SigLIP2 NaFlex"), shape(1), "mix8"),
    Case(tower("SigLIP2 NaFlex"), shape(1), "small16", "bfloat16"),
    Case(tower("NaFlexViT"), shape(2), "small16"),
    Case(tower("NaFlexViT"), shape(1), "mix8"),
    Case(tower("Pixtral"), shape(1), "small16"),
    *(Case(tower(name), shape(2)) for name in ("SigLIP", "CLIP", "MLCD", "DINOv2", "DINOv3", "AIMv2")),
]
ON_CUDA: list[Case] = [
    Case(tower("SigLIP2 NaFlex"), Shape(1024, 16, 4096, 24, patch=16), "mix32", "bfloat16", device="cuda", rounds=9),
    Case(tower("Qwen2-VL"), Shape(1024, 16, 4096, 24, patch=14), "mix32", "bfloat16", device="cuda", rounds=9),
    Case(tower("Qwen2.5-VL"), Shape(1024, 16, 4096, 24, patch=14), "mix32", "bfloat16", device="cuda", rounds=9),
    Case(tower("Qwen3-VL"), Shape(1024, 16, 4096, 24, patch=16), "mix32", "bfloat16", device="cuda", rounds=9),
]


def accelerated(which: str, rounds: int) -> dict[str, Any]:
    """`get_image_features` of one model, its tower's own forward and ours taking turns on the same weights."""
    from tubelet.integrations.transformers.vision import accelerate_vision

    model, vision = MODELS[which]()
    grids = [(1, h, w) for h, w in ((16, 16), (24, 16), (28, 20), (32, 32), (12, 24), (24, 32), (20, 28), (16, 24))]
    with accelerate_vision(model) as handle:
        ours = vars(handle.towers[0])["forward"]
        config = ours.config
    p = rows_of(config, grids, torch.float32, "cpu")

    def plainly() -> torch.Tensor:
        return vision(p.x, grid_thw=p.grid_thw).pooler_output

    def faster() -> torch.Tensor:
        with accelerate_vision(model):
            return plainly()

    with torch.inference_mode():
        error = relative_error(faster(), plainly())
        if not error <= 3e-5:
            raise SystemExit(f"{which}: outputs differ by {error:.1e}, nothing is timed")
        timings = measure({"tubelet": faster, "the model's own tower": plainly}, rounds=rounds, control="tubelet")
    return {"tokens": len(p.x), "relative_error": error, **report(timings, ours="tubelet")}


def _qwen(name: str) -> Callable[[], tuple[Any, nn.Module]]:
    def build() -> tuple[Any, nn.Module]:
        import transformers

        text = {
            "hidden_size": 768,
            "intermediate_size": 1024,
            "num_hidden_layers": 1,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 1000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        }
        vision = tower(name).build(shape(4)).config.to_dict()  # pyright: ignore
        stem = name.replace("2.5-", "2_5_").replace("-", "")
        config = getattr(transformers, f"{stem}Config")(text_config=text, vision_config=vision)
        model = seeded(getattr(transformers, f"{stem}ForConditionalGeneration")(config))
        model.set_attn_implementation("sdpa")  # pyright: ignore
        return model, model.model.visual  # pyright: ignore

    return build


MODELS = {name: _qwen(name) for name in ("Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="cases whose name contains this; nothing is written")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    results: dict[str, dict[str, Any]] = {}
    for case in CASES if args.device == "cpu" else ON_CUDA:
        if args.only is None or args.only.lower() in case.name.lower():
            results[case.name] = told(case.name, run(case))
    if args.device == "cpu":
        for name in MODELS:
            title = f"accelerate_vision, {name}"
            if args.only is None or args.only.lower() in title.lower():
                with threads(None):
                    results[title] = told(title, accelerated(name, rounds=3))
    if args.only is None:
        path = save("encoder" if args.device == "cpu" else "encoder_cuda", results)
        print("written:", path.name)


def told(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """The result, after a line about it."""
    (peer, ratio), share = next(iter(result["ratios"].items())), result.get("share_of_gemm", {}).get("tubelet")
    noisy = " (noisy)" if result["noisy"] else ""
    print(f"{name}: {ratio['wall']:.2f}x wall, {ratio['cpu']:.2f}x cpu of {peer}, share {share}{noisy}", flush=True)
    return result


if __name__ == "__main__":
    main()
