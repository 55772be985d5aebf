"""Questions of public benchmarks, read from the files that their authors publish.

    docvqa     val_v1.0.json                     {"data": [{"questionId", "question", "image", "answers"}]}
    textvqa    TextVQA_0.5.1_val.json            {"data": [{"question_id", "question", "image_id", "answers"}]}
    chartqa    test_human.json                   [{"imgname", "query", "label"}]; the file's name is the kind
    scanqa     ScanQA_v1.0_val.json              [{"question_id", "question", "scene_id", "answers"}]
    sqa3d      v1_balanced_questions_*.json      {"questions": [{"question_id", "situation", "question", "scene_id"}]}
               and v1_balanced_sqa_annotations_* {"annotations": [{"question_id", "answers": [{"answer"}]}]}
    vsibench   test.jsonl                        {"id", "dataset", "scene_name", "question_type", "question",
                                                  "options", "ground_truth"} a line
    pages      questions.jsonl                   what `tubelet pages` writes beside its pictures

Pictures and clips lie under a root, where the benchmark has them; a scene is a clip of its name. Nothing is fetched.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tubelet.errors import InputError
from tubelet.inspect.metrics.vsibench import NUMBERS
from tubelet.packed.header import open_regular
from tubelet.train.data.root import Root

CLIPS = (".mp4", ".mkv", ".webm", ".mov", ".avi")
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
FRAMES = "These are frames of a video."


@dataclass(frozen=True)
class BenchmarkQuestion:
    """One question with what is accepted as its answer."""

    id: str  # once in a benchmark
    prompt: str  # as the model is asked
    media: tuple[str, ...]  # paths where its picture or clip may be; the first that exists is it
    accepted: tuple[str, ...]  # answers; of TextVQA one of each of ten people
    kind: str  # what its benchmark tells apart, "" where it does not

    @property
    def file(self) -> str:
        """The picture or clip, which need not exist."""
        return next((path for path in self.media if os.path.exists(path)), self.media[0])  # noqa: PTH110  that of Path raises where a name is too long


class Place(NamedTuple):
    """Where a question stands."""

    stem: str  # of the file's name
    number: int  # in the file, from 0

    def __str__(self) -> str:
        return f"question {self.number} of {self.stem}"


Record = Mapping[str, Any]
Make = Callable[[Record, Root, Place], BenchmarkQuestion]


def read_questions(
    benchmark: str, paths: Sequence[str | os.PathLike[str]], root: str, *, follow_links: bool = False
) -> list[BenchmarkQuestion]:
    """The questions of a benchmark's files, in their order. `benchmark` is one of READERS.

    root: the folder of pictures or clips; follow_links: links may lead out of it. Raises InputError for a file that is
    not of the benchmark's form, naming file and question, for a question without an accepted answer (as in the splits
    whose answers are not published) and for an id that stands there twice; UnsafePath for a name that leads out of
    `root`.

        >>> line = '{"imgname": "1.png", "query": "How many?", "label": "14"}'
        >>> _ = Path("test_human.json").write_text(f"[{line}]")
        >>> [question] = read_questions("chartqa", ["test_human.json"], ".")
        >>> question.accepted, question.kind, question.file
        (('14',), 'test_human', 'png/1.png')
    """
    if benchmark not in READERS:
        raise InputError(f"no benchmark {benchmark}; there are {', '.join(READERS)}", expected=tuple(READERS))
    records, make = READERS[benchmark]
    folder = Root(root, follow_links)
    files = [(Path(path), _loaded(Path(path))) for path in paths]
    out: dict[str, BenchmarkQuestion] = {}
    for place, record in records(files):
        try:
            made = make(record, folder, place)
        except (KeyError, TypeError, AttributeError) as e:
            message = f"this is not a question of {benchmark}: {e.args[0] if e.args else e}"
            raise InputError(message, item=place.number, source=place.stem) from e
        if not made.accepted:
            message = "it has no accepted answer: is this a split without answers?"
            raise InputError(message, item=place.number, source=place.stem)
        if made.id in out:
            message = f"the id {made.id} stands there twice"
            raise InputError(message, item=place.number, source=place.stem, got=made.id)
        out[made.id] = made
    if not out:
        raise InputError("there is no question", source=", ".join(path.name for path, _ in files))
    return list(out.values())


def _loaded(path: Path) -> Any:
    """A file of JSON, or of lines of JSON where its name says so. Raises InputError."""
    try:
        file = open_regular(path, InputError)
    except OSError as e:
        raise InputError("the file of questions cannot be read", source=path.name) from e
    try:
        with file:
            text = file.read().decode("utf-8")
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except (OSError, ValueError, RecursionError) as e:
        raise InputError("the file of questions cannot be read as JSON", source=path.name) from e


# ---- records of one form


Files = Sequence[tuple[Path, Any]]


def _in_data(files: Files) -> Iterator[tuple[Place, Record]]:
    for path, tree in files:
        yield from ((Place(path.stem, n), record) for n, record in enumerate(_entries(path, tree, "data")))


def _listed(files: Files) -> Iterator[tuple[Place, Record]]:
    for path, tree in files:
        yield from ((Place(path.stem, n), record) for n, record in enumerate(_entries(path, tree, None)))


def _joined(files: Files) -> Iterator[tuple[Place, Record]]:
    """SQA3D's questions, each with its annotation. Raises InputError where one of the two files is missing."""
    parts = {
        name: {
            record.get("question_id"): (Place(path.stem, n), record)
            for path, tree in files
            if name in tree
            for n, record in enumerate(_entries(path, tree, name))
        }
        for name in ("questions", "annotations")
        if all(isinstance(tree, Mapping) for _, tree in files)
    }
    if not all(parts.get(name) for name in ("questions", "annotations")):
        raise InputError("sqa3d is two files: questions and annotations", source=", ".join(p.name for p, _ in files))
    for number, (place, question) in parts["questions"].items():
        if number not in parts["annotations"]:
            raise InputError("it has no annotation", item=place.number, source=place.stem, got=number)
        yield place, {**question, "annotation": parts["annotations"][number][1]}


def _entries(path: Path, tree: Any, key: str | None) -> Sequence[Record]:
    found = tree.get(key) if key is not None and isinstance(tree, Mapping) else tree if key is None else None
    if not isinstance(found, list):
        raise InputError(f"there is no list{f' called {key}' if key else ''} of questions", source=path.name)
    for n, record in enumerate(found):
        if not isinstance(record, dict):
            raise InputError("a question is an object with names", item=n, source=path.stem, got=record)
    return found


# ---- a record to a question


def _docvqa(record: Record, root: Root, place: Place) -> BenchmarkQuestion:
    return BenchmarkQuestion(
        str(record["questionId"]),
        f"{record['question']}\n{SHORT}",
        (root.path(record["image"], str(place)),),
        _texts(record.get("answers") or ()),
        "/".join(record.get("question_types") or ()),
    )


def _textvqa(record: Record, root: Root, place: Place) -> BenchmarkQuestion:
    image = f"{record['image_id']}.jpg"
    return BenchmarkQuestion(
        str(record["question_id"]),
        f"{record['question']}\n{SHORT}",
        (root.path(f"train_images/{image}", str(place)), root.path(image, str(place))),
        _texts(record.get("answers") or ()),
        "",
    )


def _chartqa(record: Record, root: Root, place: Place) -> BenchmarkQuestion:
    image = record["imgname"]
    return BenchmarkQuestion(
        f"{place.stem}/{place.number}",  # the files have no ids
        f"{record['query']}\n{SHORT}",
        (root.path(f"png/{image}", str(place)), root.path(image, str(place))),
        _texts([record["label"]]),
        place.stem,
    )


def _scanqa(record: Record, root: Root, place: Place) -> BenchmarkQuestion:
    return BenchmarkQuestion(
        str(record["question_id"]),
        f"{FRAMES}\n{record['question']}\n{SHORT}",
        _scene(root, record["scene_id"], place),
        _texts(record.get("answers") or ()),
        "",
    )


def _sqa3d(record: Record, root: Root, place: Place) -> BenchmarkQuestion:
    first = record["question"].split(" ", 1)[0].casefold()
    return BenchmarkQuestion(
        str(record["question_id"]),
        f"{FRAMES}\n{record['situation']} {record['question']}\n{SHORT}",
        _scene(root, record["scene_id"], place),
        _texts([answer["answer"] for answer in record["annotation"]["answers"]]),
        first if first in ("what", "is", "how", "can", "which") else "others",
    )


def _vsibench(record: Record, root: Root, place: Place) -> BenchmarkQuestion:
    kind, options = record["question_type"], record.get("options")
    if (kind in NUMBERS) == bool(options):
        raise InputError(f"{kind} with {len(options or ())} options", item=place.number, source=place.stem, got=kind)
    asked = [FRAMES, record["question"]]
    asked += (
        ["Options:", *options, LETTER] if options else ["Please answer the question using a single word or phrase."]
    )
    scene, dataset = record["scene_name"], record["dataset"]
    return BenchmarkQuestion(
        str(record["id"]),
        "\n".join(asked),
        (*_scene(root, f"{dataset}/{scene}", place), *_scene(root, scene, place)),
        _texts([record["ground_truth"]]),
        kind,
    )


def _pages(record: Record, root: Root, place: Place) -> BenchmarkQuestion:
    """A reader is asked in the words it was trained on; what is not on the page has the answer ""."""
    return BenchmarkQuestion(
        f"{record['page']}/{place.number}",
        record["text"],
        (root.path(record["image"], str(place)),),
        _texts([record["answer"]]),
        record["kind"],
    )


def _scene(root: Root, name: str, place: Place) -> tuple[str, ...]:
    return tuple(root.path(f"{name}{ending}", str(place)) for ending in CLIPS)


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


READERS: dict[str, tuple[Callable[[Files], Iterator[tuple[Place, Record]]], Make]] = {
    "docvqa": (_in_data, _docvqa),
    "chartqa": (_listed, _chartqa),
    "textvqa": (_in_data, _textvqa),
    "scanqa": (_listed, _scanqa),
    "sqa3d": (_joined, _sqa3d),
    "vsibench": (_listed, _vsibench),
    "pages": (_listed, _pages),
}
