"""A data set by its path: which reader it takes.

x.json x.jsonl        records (tubelet.train.data.lines)
x.tar                 an archive (tubelet.train.data.tar)
a folder              its archives if it has any, else its pictures and clips with their texts
sets.json:a%50,b      data sets of a registry (tubelet.train.data.mixture)
"""

import os
from collections.abc import Sequence
from pathlib import Path

from tubelet.errors import InputError
from tubelet.reading.limits import Limits
from tubelet.train.data.folder import open_folder
from tubelet.train.data.lines import open_records
from tubelet.train.data.mixture import Mixture, asked, part_of, read_registry
from tubelet.train.data.root import Root
from tubelet.train.data.sample import Dataset
from tubelet.train.data.tar import open_archive


def open_dataset(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    follow_links: bool = False,
    limits: Limits = Limits(),  # noqa: B008
) -> Dataset:
    """The samples of a file, folder or registry, or of several, one after the other.

    root: the folder that records name their pictures and clips from; by default the records' own. seed: of parts
    ("%50"). follow_links: links in `root` may lead out of it. limits: of archives' members.
    Cost: one pass over records, a header a member of archives, one listing of folders; no picture is opened.
    Raises InputError, UnsafePath, ConfigError, LimitError.

        >>> Path("two.jsonl").write_text('{"messages": [{"role": "user", "content": "Hi"}, '
        ...                              '{"role": "assistant", "content": "Hello"}]}\\n')
        93
        >>> open_dataset("two.jsonl")[0].turns[1].text
        'Hello'
    """
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    given = None if root is None else os.fspath(root)
    parts: list[Dataset] = []
    for one in paths:
        parts += _opened(os.fspath(one), given, seed, follow_links, limits)
    return parts[0] if len(parts) == 1 and len(parts[0]) else Mixture(tuple(parts))


def _opened(name: str, root: str | None, seed: int, follow: bool, limits: Limits) -> list[Dataset]:
    path = Path(name)
    if os.path.isdir(name):  # noqa: PTH112  that of Path raises where a name is too long
        archives = sorted(p for p in path.iterdir() if p.suffix == ".tar")
        if archives:
            return [open_archive(p, limits) for p in archives]
        return [open_folder(Root(name, follow))]
    if path.suffix == ".tar":
        return [open_archive(path, limits)]
    file, colon, names = name.partition(".json:")
    there = os.path.exists(name)  # noqa: PTH110  that of Path raises where a name is too long
    if colon and not there:
        registry = read_registry(f"{file}.json")
        made: list[Dataset] = []
        for key, percent in asked(names, list(registry)):
            entry = registry[key]
            whole = open_records(entry.annotation_path, Root(entry.data_path, follow))
            made.append(part_of(whole, percent, seed))
        return made
    if not there:
        raise InputError("there is no such file or folder", source=name)
    if path.suffix not in (".json", ".jsonl"):
        raise InputError("a data set is .json, .jsonl, .tar or a folder", source=name, got=path.suffix)
    return [open_records(path, Root(str(path.parent) if root is None else root, follow))]
