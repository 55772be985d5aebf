"""`tubelet train` on two gloo ranks: real models, with and without pictures, the weights of one process."""

import json
from pathlib import Path

import pytest
from tests.train.command_rank import command
from tests.train.data_sets import llava
from tests.train.runs import SERVER, finish, free_port, serve
from tests.train.tiny_models import write_all
from tests.train.train_toy import tensors

EXAMPLES = Path(__file__).parents[2] / "examples" / "train"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, and data of which every other sample has no picture."""
    folder = tmp_path_factory.mktemp("place")
    write_all(folder)
    file = folder / "data" / "blip_laion_cc_sbu_558k.json"
    records = json.loads(file.read_text())
    text = [llava(100 + i, None, f"What is {i}?", f"It is the number {i}.") for i in range(24)]
    (folder / "data" / "mixed.json").write_text(
        json.dumps([r for pair in zip(records, text, strict=True) for r in pair])
    )
    return folder


def run(place: Path, folder: Path, world: int, name: str, *words: str) -> str:
    """What rank 0 said of a run that ended well."""
    serve()
    port = free_port()
    told = ["train", str(EXAMPLES / f"{name}.yaml"), "--folder", str(folder), "--device", "cpu", *words]
    ranks = [SERVER.Process(target=command, args=(told, place, folder, rank, world, port)) for rank in range(world)]
    for process in ranks:
        process.start()
    codes = finish(ranks)
    said = [folder.with_name(f"{folder.name}.rank{rank}").read_text() for rank in range(world)]
    assert codes == [0] * world, "\n".join(said)
    assert all("learned" not in text for text in said[1:])
    return said[0]


def worst(one: Path, other: Path) -> float:
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max()) for n in a)


def test_a_projector_on_two_ranks_is_that_of_one(place: Path, tmp_path: Path):
    words = ("--data.paths", "data/mixed.json", "--data.style", "chat", "--steps", "6", "--optimizer.eps", "1e-4")
    run(place, tmp_path / "one", 1, "projector", *words, "--accumulation", "2")
    for strategy in ("ddp", "fsdp2"):
        many = (*words, "--strategy", strategy, "--accumulation", "1", "--timeout-s", "30")
        said = run(place, tmp_path / strategy, 2, "projector", *many)
        assert "learned projector: 4 tensors, 3,936 of 101,200" in said
        assert worst(tmp_path / "one", tmp_path / strategy) <= 1e-5
        assert (tmp_path / strategy / "final" / "mm_projector.safetensors").exists()
    said = run(place, tmp_path / "ddp", 2, "projector", *words, "--strategy", "ddp", "--accumulation", "1")
    assert said.startswith(f"goes on from step 6 of {tmp_path / 'ddp'}") and "counting" not in said


def test_pairs_of_two_ranks_are_those_of_one(place: Path, tmp_path: Path):
    """InfoNCE over 2 x 4 pairs is that over 8."""
    words = ("--steps", "6", "--optimizer.eps", "1e-4", "--alignment.lora.dropout", "0", "--optimizer.lr", "1e-2")
    run(place, tmp_path / "one", 1, "alignment", *words)
    run(place, tmp_path / "ddp", 2, "alignment", *words, "--strategy", "ddp", "--budget", "4", "--timeout-s", "30")
    assert worst(tmp_path / "one", tmp_path / "ddp") <= 1e-5


def test_two_ranks_are_refused_as_one(place: Path, tmp_path: Path):
    serve()
    told = ["train", str(EXAMPLES / "projector.yaml"), "--folder", str(tmp_path / "run")]
    process = SERVER.Process(target=command, args=(told, place, tmp_path / "run", 0, 2, 1))
    process.start()
    assert finish([process]) == [1]
    assert "asked for one process, got 2" in (tmp_path / "run.rank0").read_text()
