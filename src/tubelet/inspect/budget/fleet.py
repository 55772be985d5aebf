"""What encoding very many files costs: hours, storage, money; and what to store of it.

    hours     files x FLOP a file / (FLOP a second of a GPU x GPUs)
    storage   files x tokens x width x bytes of a value
    objects   files x patches / patches of a shard

Encoding again is cheaper than keeping every token: both are told, and the advice is what is smaller.
"""

from dataclasses import asdict, dataclass
from typing import Any

from tubelet.errors import ConfigError

# Worked out for an H200 with ViT-L/14 in bfloat16, not measured: 771 pictures/s of 1,024 tokens, 3,569 of 256, each
# with this much arithmetic.
GPU_FLOP_PER_S = 5.6e14
DOLLARS_PER_GB_MONTH = 0.023  # a list price of object storage, to be replaced by your own
SHARD_PATCHES = 262_144
LIST_NAMES, PUT_DOLLARS = 1_000, 5e-6  # names of one LIST; one PUT
PICTURE_BYTES = 400_000  # of a JPEG of 2 megapixels
CORE_PICTURES_PER_S = 80.0  # such pictures that one core decodes and resizes
REDUCED_TOKENS = 64  # of a picture, where tokens are chosen or merged
GB = 1e9


@dataclass(frozen=True)
class Stored:
    """One way to keep results."""

    what: str
    bytes_per_file: float
    bytes: float
    dollars_per_month: float


@dataclass(frozen=True)
class FleetCost:
    """A run on paper. Times are lower bounds: reading may be the wall."""

    files: int
    gpus: int
    gpu_hours: float
    hours: float  # by the clock
    files_per_s: float  # of one GPU
    dollars: float | None  # of GPU time, where a price is given
    stored: tuple[Stored, ...]  # all tokens, fewer tokens, pooled vectors
    shards: int
    store_requests: int  # PUT for shards and notes
    request_dollars: float
    list_calls: int
    read_bytes_per_s: float  # of all GPUs together, if files are pictures of 2 megapixels
    decode_cores: float
    advice: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def fleet_cost(
    *,
    files: int,
    patches: float,
    tokens: float,
    width: int,
    flop: float,
    gpus: int = 1,
    price: float | None = None,
    flop_per_s: float = GPU_FLOP_PER_S,
    value_bytes: int = 2,
    storage_price: float = DOLLARS_PER_GB_MONTH,
) -> FleetCost:
    """The cost of so many files, each with so many patches, tokens at the end, and FLOPs of the encoder.

    width: of a token. price: dollars a GPU hour. flop_per_s: of one GPU, as it is reached. storage_price: dollars a GB
    and month. Raises ConfigError for numbers that are none.

        >>> cost = fleet_cost(files=10**9, patches=1024, tokens=1024, width=1024, flop=7.26e11, gpus=64, price=3.5)
        >>> round(cost.gpu_hours), round(cost.hours, 1), cost.stored[0].bytes / 1e15
        (360, 5.6, 2.097152)
    """
    if min(files, gpus, width) < 1 or min(patches, tokens, flop, flop_per_s) <= 0 or (price or 0) < 0:
        raise ConfigError(
            "files, GPUs, width, tokens, FLOPs and rates are above zero", got=(files, gpus, width, tokens)
        )
    files_per_s = flop_per_s / flop
    gpu_hours = files / files_per_s / 3600
    ways = {
        "all tokens": tokens * width * value_bytes,
        f"{REDUCED_TOKENS} tokens a file": min(REDUCED_TOKENS, tokens) * width * value_bytes,
        "pooled vectors": width * value_bytes,
    }
    stored = tuple(Stored(what, n, n * files, n * files / GB * storage_price) for what, n in ways.items())
    shards = max(1, -(-round(files * patches) // SHARD_PATCHES))
    dollars = None if price is None else gpu_hours * price
    return FleetCost(
        files,
        gpus,
        gpu_hours,
        gpu_hours / gpus,
        files_per_s,
        dollars,
        stored,
        shards,
        2 * shards,
        2 * shards * PUT_DOLLARS,
        -(-shards // LIST_NAMES),
        files_per_s * gpus * PICTURE_BYTES,
        files_per_s * gpus / CORE_PICTURES_PER_S,
        _advice(stored, dollars),
    )


def _advice(stored: tuple[Stored, ...], dollars: float | None) -> str:
    whole, fewer, pooled = stored
    if dollars is None:
        return "store pooled vectors, or chosen and merged tokens; all tokens only where they are read soon and often"
    if whole.dollars_per_month <= dollars / 10:
        return "all tokens can be stored: a month of it costs little beside encoding them again"
    cheap = [one.what for one in (fewer, pooled) if one.dollars_per_month <= dollars]
    if cheap:
        times = whole.dollars_per_month / dollars
        return f"store {' or '.join(cheap)}; a month of all tokens costs {times:,.1f} x encoding"
    return "store nothing, or pooled vectors alone: encoding again is cheaper than a month of any of these"
