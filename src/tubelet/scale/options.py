"""What decides the tokens of a run: everything two workers must agree on, and nothing else."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tubelet.errors import ConfigError, StoreError
from tubelet.families.catalogue import variants
from tubelet.inspect.budget.outline import outline_model
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.job import ReadJob
from tubelet.reading.read import Isolate
from tubelet.weights.locate import find_folder

SHARD_TOKENS = 262_144  # 0.5 GB at a width of 1,024 in 16 bits
SHARD_FILES = 4_096
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Reduction:
    """What is made of a file's tokens before they are written. Raises ConfigError for what means nothing together."""

    pool: bool = False  # also one vector for each file
    tokens: bool = True  # the tokens themselves; False: pooled vectors alone
    merge: int = 1  # so many by so many neighbours become one token, their values side by side
    method: str | None = None  # of tubelet.reduce.methods, that chooses `budget` tokens of each file
    budget: int | None = None  # tokens
    percent: float | None = None  # or of a hundred
    seed: int = 0  # of a random choice, together with the file's id

    def __post_init__(self) -> None:
        if not self.tokens and not self.pool:
            raise ConfigError("neither tokens nor pooled vectors are wanted: nothing would be written")
        if self.merge < 1:
            raise ConfigError(f"merge starts at 1, got {self.merge}", limit=1, got=self.merge)
        if (self.method is None) != (self.budget is None and self.percent is None):
            raise ConfigError("a method of choosing and a budget belong together", got=(self.method, self.budget))

    def budget_of(self, rows: int) -> int:
        """How many of so many rows are kept: at least one.

        >>> Reduction(method="norm", percent=10.0).budget_of(805)
        80
        """
        return self.budget if self.budget is not None else max(1, int(rows * (self.percent or 0) / 100))


@dataclass(frozen=True)
class EncodeOptions:
    """Model, pixels, reading and what is kept. The same options over the same files give the same tokens."""

    model: str  # a variant, folder, file or hub id, as a worker finds it
    weights: str  # `weights_digest` of it
    recipe: PixelRecipe
    config: str | None = None  # the variant that stored weights are
    dtype: str = "float32"  # of weights and tokens
    job: ReadJob = field(default_factory=ReadJob)  # which frames, limits
    isolate: Isolate = "auto"  # auto: not at the first try, always after a death
    reduction: Reduction = Reduction()
    shard_tokens: int = SHARD_TOKENS  # patches of a shard at most, where one file has not more
    shard_files: int = SHARD_FILES
    pack_tokens: int | None = None  # patches encoded at once; None: 65,536 on an accelerator, 8,192 on a CPU
    threads: int | None = None  # of torch on a CPU; None: torch's own choice

    def __post_init__(self) -> None:
        for name in ("shard_tokens", "shard_files", "pack_tokens", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} starts at 1, got {value}", limit=1, got=value)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> "EncodeOptions":
        """What `as_dict` described, after a way through JSON. Raises StoreError for what it did not describe."""
        values = dict(said)
        try:
            values["recipe"] = _recipe(values["recipe"])
            values["job"] = ReadJob.from_dict(dict(values["job"]))
            values["reduction"] = Reduction(**values["reduction"])
            return cls(**values)
        except (KeyError, TypeError, AttributeError) as e:
            known = ", ".join(f.name for f in fields(cls))
            raise StoreError(f"its options are not of this version, which has {known}", source="plan.json") from e


def _recipe(said: Mapping[str, Any]) -> PixelRecipe:
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    if plain.get("clips") is not None:
        plain["clips"] = _recipe(dict(said["clips"]))
    return PixelRecipe(**plain)


def flat(said: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested values by dotted names.

    >>> flat({"recipe": {"patch": 16}, "dtype": "float16"})
    {'recipe.patch': 16, 'dtype': 'float16'}
    """
    out: dict[str, Any] = {}
    for name, value in said.items():
        out |= flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return out


def weights_digest(model: str, seed: int = 0) -> str:
    """The sha256 of all weights files of a model, or "untrained" with the seed for a variant, whose values it decides.

    Cost: one read of the files. Raises what finding a checkpoint raises.

        >>> weights_digest("llava_vit_packing_small")
        'untrained, seed 0'
    """
    if model in variants():
        return f"untrained, seed {seed}"
    checkpoint = find_folder(model).checkpoint()
    digest = hashlib.sha256()
    for header in sorted(checkpoint.files, key=lambda one: one.path.name):
        with Path(header.path).open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def planned_recipe(model: str, config: str | None = None) -> PixelRecipe:
    """The pixels of a model, as loading it will say, without its weights. Raises what loading raises before them.

    >>> planned_recipe("llava_vit_packing_small").patch
    16
    """
    known = variants()
    if model in known:
        return known[model][1].pixels
    if config is not None:
        from tubelet.weights.load import load_encoder

        return load_encoder(model, config=config).pixels
    return outline_model(model).encoder.pixels
