"""From what the caller names (a folder, a file, a hub id) to checked files: which tensors stand where.

Nothing inside a file or folder can lead out of it: shard names are plain names, and what they resolve to must lie under
the folder. Pickle files are refused by their names and never opened; `tubelet convert --unsafe-pickle` is the one door.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any

from tubelet.errors import ConfigError, UnsafeFile, UnsafePath, WeightsError, near_names
from tubelet.families.fields import refuse_code
from tubelet.packed.header import (
    MAX_HEADER_VALUES,
    MAX_INDEX_BYTES,
    Entry,
    Header,
    read_header,
    read_small,
    strict_json,
)

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PROCESSOR, PROCESSORS = "preprocessor_config.json", "processor_config.json"
VIDEO_PROCESSOR = "video_preprocessor_config.json"
_SAID = (CONFIG, PROCESSOR, PROCESSORS, VIDEO_PROCESSOR)  # small files that are fetched with either kind of weights
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")  # peft's
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
SECTION = "tubelet"  # of the config.json of a whole model that tubelet wrote: how it reads pictures
MAX_SHARDS = 4096
BUILT_IN = {"reader": Path(__file__).parent / "built_in" / "reader"}  # trained weights that come with the package
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Checkpoint:
    """Checked files of one checkpoint. entries: every tensor of the read files by its key in them; home: the file it
    stands in; root: the folder that nothing may lead out of."""

    name: str
    files: tuple[Header, ...]
    entries: dict[str, Entry]
    home: dict[str, Path]
    folder: Path
    root: Path

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of all files together."""
        return {key: value for file in self.files for key, value in file.metadata.items()}

    def config(self) -> dict[str, Any] | None:
        """config.json beside the weights, parsed strictly. Raises ConfigError when it is not a JSON object."""
        return _config(self.folder, self.root)


@dataclass(frozen=True)
class CheckpointFolder:
    """Where a checkpoint is and which tensors it has. Found once; whatever loads a part of it takes this value.

    Each header is read once, and of a hub each file is asked for once, however many parts are read.
    """

    name: str  # what the caller named: a path, or a hub id
    folder: Path  # with config.json and the weights
    root: Path  # nothing may lead out of it
    home: Mapping[str, str]  # key -> the plain name of its file
    index: str | None = None  # the index they were read from, None for a single file
    fetch: Callable[[Sequence[str]], None] | None = None  # brings files by name into the folder, where a hub has them
    described: Mapping[str, Any] | None = None  # what config.json says, where it is known in another form already
    dtype: str | None = None  # the type that weights are kept in unless another is asked for; None: the stored one
    headers: dict[str, Header] = field(default_factory=dict, repr=False, compare=False)  # those read so far, by name

    @property
    def for_transformers(self) -> tuple[str, str | None]:
        """Name and revision under which transformers finds the same files: a hub id and its commit, or the folder."""
        return (str(self.folder), None) if self.fetch is None else (self.name, self.folder.name)

    def config(self) -> dict[str, Any] | None:
        """config.json beside the weights, parsed strictly. Raises ConfigError when it is not a JSON object."""
        return _config(self.folder, self.root) if self.described is None else dict(self.described)

    def processor(self) -> dict[str, Any] | None:
        """What the files beside the weights say of the image processor, None where they say nothing: the part
        image_processor of processor_config.json where there is one, else preprocessor_config.json.

        The order is transformers'. Raises ConfigError when either is not a JSON object.
        """
        whole = json_file(self.folder, self.root, PROCESSORS)
        if whole is None or "image_processor" not in whole:
            return json_file(self.folder, self.root, PROCESSOR)
        refuse_code(whole)
        part = whole["image_processor"]
        if not isinstance(part, dict):
            raise ConfigError("image_processor is an object", source=PROCESSORS, got=type(part).__name__)
        return part

    def video_processor(self) -> dict[str, Any]:
        """What the files beside the weights say of how clips become pixels, {} where they say nothing: the part
        video_processor of processor_config.json where there is one, else video_preprocessor_config.json.

        The order is transformers'. Raises ConfigError when either is not a JSON object.
        """
        part = (json_file(self.folder, self.root, PROCESSORS) or {}).get("video_processor")
        if part is None:
            return json_file(self.folder, self.root, VIDEO_PROCESSOR) or {}
        if not isinstance(part, dict):
            raise ConfigError("video_processor is an object", source=PROCESSORS, got=type(part).__name__)
        return part

    def checkpoint(self, keys: Collection[str] | None = None) -> Checkpoint:
        """The files that hold these tensors (None: all), headers checked; the others are neither fetched nor opened."""
        if self.index is None:
            wanted = list(self.headers)
        else:
            wanted = sorted({self.home[key] for key in (self.home if keys is None else keys)})
        new = [shard for shard in wanted if shard not in self.headers]
        if new and self.fetch is not None:
            self.fetch(new)
        for shard in new:
            self.headers[shard] = read_header(inside(self.folder / shard, self.root))
        headers = {shard: self.headers[shard] for shard in wanted}
        entries: dict[str, Entry] = {}
        home = {}
        for shard, header in headers.items():
            for key, entry in header.tensors.items():
                if self.home.get(key) != shard:
                    message = f"the index and the shard disagree about {key!r:.80}"
                    raise UnsafeFile(message, source=shard, got=key[:200])
                entries[key], home[key] = entry, header.path
        lost = [key for key, shard in self.home.items() if shard in headers and key not in entries]
        if lost:
            message = f"{lost[0]!r:.80} is not in the shard the index names"
            raise UnsafeFile(message, source=self.index, got=lost[:8])
        return Checkpoint(self.name, tuple(headers.values()), entries, home, self.folder, self.root)


Source = str | os.PathLike[str] | CheckpointFolder  # what a part of a checkpoint is loaded from


def is_here(name: str) -> bool:
    """Whether something stands at a name, or comes with the package under it: then no hub is asked."""
    return os.path.exists(name) or name in BUILT_IN  # noqa: PTH110  that of Path raises where a name is too long


def built_in(name: str) -> Path | None:
    """The folder of what comes with the package under a name; None for other names, and where something stands."""
    return None if os.path.exists(name) else BUILT_IN.get(name)  # noqa: PTH110  as above


def find_checkpoint(source: Source, revision: str | None = None) -> Checkpoint:
    """The whole checkpoint at a folder, a .safetensors or index file, or a hub id, or of a name in `BUILT_IN` where
    nothing stands; headers checked, no tensor yet.

    Raises WeightsError when nothing is there, UnsafeFile and UnsafePath for what must not be read.
    """
    return find_folder(source, revision).checkpoint()


def find_folder(source: Source, revision: str | None = None) -> CheckpointFolder:
    """The same before shards are opened: from a hub only its configuration and index, or its one file, are fetched.

    What was found already is given back as it is, at its own revision.
    """
    if isinstance(source, CheckpointFolder):
        return source
    path = Path(source)
    if not str(source) or not os.path.exists(path):  # noqa: PTH110  that of Path raises where a name is too long
        inside_package = built_in(str(source))
        if inside_package is not None:  # stored in half precision, which a CPU is slow in
            return replace(_from_folder(inside_package, str(source)), dtype="float32")
        if _HUB_ID.fullmatch(str(source)) and ".." not in str(source):
            return _from_hub(str(source), revision)
        raise _nothing(str(source))
    if path.is_dir():
        return _from_folder(path, str(source))
    if path.suffix.lower() in PICKLES:
        raise _pickle(path.name)
    root = root_of(path.parent)
    if path.name.endswith(".safetensors.index.json"):
        return _sharded(path, root, str(source))
    if path.suffix != ".safetensors":
        raise UnsafeFile("weights are read from .safetensors files only", source=path.name, expected=".safetensors")
    return _single(path, root, str(source))


def _nothing(name: str) -> WeightsError:
    from tubelet.families.catalogue import variants

    known = variants()
    hint = near_names(name, (*known, *BUILT_IN))
    if name in known:
        hint = "; the network of that name has no weights here: tubelet.untrained makes it with random ones"
    return WeightsError(f"no such file or folder, and not a hub id of the form owner/name{hint}", source=name[:200])


def _pickle(name: str) -> UnsafeFile:
    return UnsafeFile(
        "a pickle file can run code when it is read; make a safetensors file of it with "
        "`tubelet convert --unsafe-pickle FILE OUT`, which reads it in a confined process",
        source=name,
        expected=".safetensors",
    )


def _from_folder(folder: Path, name: str) -> CheckpointFolder:
    root = root_of(folder)
    _check_kinds(folder)
    if (folder / SINGLE).is_symlink() or (folder / SINGLE).exists():
        return _single(folder / SINGLE, root, name)
    if (folder / INDEX).is_symlink() or (folder / INDEX).exists():
        return _sharded(folder / INDEX, root, name)
    if any((folder / file).is_file() for file in ADAPTER):
        raise WeightsError(_adapter(folder, root), source=name, expected=(SINGLE, INDEX), got=ADAPTER[0])
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in PICKLES)
    if pickles:
        raise _pickle(pickles[0])
    raise WeightsError(f"the folder has neither {SINGLE} nor {INDEX}", source=name, expected=(SINGLE, INDEX))


def _adapter(folder: Path, root: Path) -> str:
    """What to say of a folder of peft's two files."""
    said = json_file(folder, root, ADAPTER[0]) or {}
    base = said.get("base_model_name_or_path")
    of = f" of {base[:100]}" if isinstance(base, str) and base else ""
    return (
        f"the folder holds a LoRA adapter{of}, not a model: load the model it was trained on, then "
        "tubelet.train.lora.load_lora(model, folder)"
    )


def _from_hub(repo: str, revision: str | None) -> CheckpointFolder:
    folder = _download(repo, revision, (*_SAID, INDEX))
    commit = folder.name if _COMMIT.fullmatch(folder.name) else revision  # later calls must not see a newer one
    asked = {*_SAID, INDEX}  # whether the hub had them or not

    def fetch(names: Sequence[str]) -> None:
        new = [name for name in dict.fromkeys(names) if name not in asked]
        if new:
            _download(repo, commit, new)
            asked.update(new)

    if not (folder / INDEX).exists():
        fetch((SINGLE,))
        return replace(_from_folder(folder, repo), fetch=fetch)
    return replace(_sharded(folder / INDEX, root_of(folder), repo), fetch=fetch)


def _check_kinds(folder: Path) -> None:
    """Raise UnsafeFile for a pipe, socket or device in the folder: other libraries read of it what they like.

    Pickles are never opened, whatever they are.
    """
    for path in folder.iterdir():
        if path.suffix.lower() not in PICKLES and path.exists() and not (path.is_file() or path.is_dir()):
            raise UnsafeFile("not a regular file", source=path.name)


def _single(path: Path, root: Path, name: str) -> CheckpointFolder:
    header = read_header(inside(path, root))
    return CheckpointFolder(
        name, path.parent, root, dict.fromkeys(header.tensors, path.name), headers={path.name: header}
    )


def _sharded(index: Path, root: Path, name: str) -> CheckpointFolder:
    text = read_small(inside(index, root), UnsafeFile, MAX_INDEX_BYTES)
    data = strict_json(text, UnsafeFile, index.name, most_values=MAX_HEADER_VALUES)
    weight_map = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise UnsafeFile("the index has no weight_map of names", source=index.name)
    shards = sorted(set(weight_map.values()))
    if len(shards) > MAX_SHARDS:
        raise UnsafeFile(f"{len(shards):,} shards", source=index.name, limit=MAX_SHARDS, got=len(shards))
    for shard in shards:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", shard) or ".." in shard:
            raise UnsafePath("a shard must be a plain file name", source=index.name, got=shard[:200])
        if not shard.endswith(".safetensors"):
            raise (
                _pickle(shard) if Path(shard).suffix in PICKLES else UnsafeFile("not a safetensors shard", source=shard)
            )
    return CheckpointFolder(name, index.parent, root, weight_map, index=index.name)


def root_of(folder: Path) -> Path:
    """What files of this folder may resolve into: the folder; in a hub cache, whose files are links, the repository."""
    folder = folder.resolve()
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent
    return folder


def inside(path: Path, root: Path) -> Path:
    """`path` resolved. Raises UnsafePath when it leads out of `root`, WeightsError when nothing is there."""
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError) as e:  # Python before 3.13 tells of a loop so
        raise UnsafePath("the link leads to itself", source=path.name) from e
    if not resolved.is_relative_to(root):
        raise UnsafePath("the file leads out of its folder", source=path.name)
    if not resolved.exists():
        raise WeightsError("the file is missing", source=path.name)
    return resolved


def _config(folder: Path, root: Path) -> dict[str, Any] | None:
    said = json_file(folder, root, CONFIG)
    for part in () if said is None else (said, *said.values()):
        kind = part.get("model_type") if isinstance(part, Mapping) else None
        if not isinstance(kind, (str, NoneType)):  # it is looked up in many tables
            raise ConfigError("model_type is a name", source=CONFIG, got=type(kind).__name__)
    return said


def json_file(folder: Path, root: Path, name: str) -> dict[str, Any] | None:
    """The JSON object in a file of this folder, None where there is none."""
    path = folder / name
    if not path.is_symlink() and not path.exists():
        return None
    data = strict_json(read_small(inside(path, root), ConfigError), ConfigError, name)
    if not isinstance(data, dict):
        raise ConfigError("a configuration is a JSON object", source=name, got=type(data).__name__)
    return data


def _download(repo: str, revision: str | None, files: Sequence[str]) -> Path:
    """The local snapshot of a hub repository, with these files in it where it has them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(files)))
    except (OSError, ValueError, HfHubHTTPError) as e:
        raise WeightsError("neither a local path nor a repository that could be fetched", source=repo) from e
