"""The plan: names in byte order, ids, shards of equal size, and what is refused before anything is done."""

import io
import json
import os
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli.cli_inputs import write_picture
from tests.scale.conftest import Begun
from tests.scale.runs import bad_of, options, words_of

from tubelet.encoder.model import Encoder
from tubelet.errors import InputError, PlanMismatch, StoreError, UnsafePath
from tubelet.scale.encode import encode_pack
from tubelet.scale.local import here
from tubelet.scale.options import EncodeOptions, Reduction
from tubelet.scale.plan import files_of, make_plan, read_plan
from tubelet.scale.retry import retry_bad
from tubelet.scale.sources import list_sources
from tubelet.scale.store import Store, open_store
from tubelet.scale.tokens import TokenFolder
from tubelet.scale.work import Worker


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Six pictures and a text."""
    (tmp_path / "few" / "z").mkdir(parents=True)
    for i, name in enumerate(("10.png", "9.png", "Z.png", "a.png", "z/b.png", "ä.png")):
        write_picture(tmp_path / "few" / name, 40 + 8 * i, 40, i)
    (tmp_path / "few" / "notes.md").write_text("no picture")
    (tmp_path / "few" / "picture-without-suffix").write_bytes((tmp_path / "few" / "a.png").read_bytes())
    return tmp_path / "few"


def archive(path: Path, names: dict[str, Path], **more: bytes) -> Path:
    with tarfile.open(path, "w") as file:
        for name, source in names.items():
            file.add(source, name)
        for name, content in more.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def test_ids_are_places_in_byte_order(few: Path, wanted: EncodeOptions, tmp_path: Path):
    store = open_store(tmp_path / "out")
    plan = make_plan([str(few)], wanted, store)
    lines = files_of(plan, plan.parts[0], store)
    names = [os.path.relpath(line.source, few) for line in lines]
    assert names == ["10.png", "9.png", "Z.png", "a.png", "picture-without-suffix", "z/b.png", "ä.png"]
    assert [line.id for line in lines] == list(range(7))
    assert plan.left_out == 1
    assert [line.bytes for line in lines] == [Path(line.source).stat().st_size for line in lines]
    assert lines[0].rows == 2 * 2  # 40 x 40 pixels in patches of 16, rounded down
    assert lines[0].kind == "picture"
    assert read_plan(store) == plan


def test_shards_hold_no_more_than_asked_and_sizes_of_one_kind(begun: Begun):
    plan, store = begun()
    lines = files_of(plan, plan.parts[0], store)
    for k in range(plan.shards):
        own = [line for line in lines if line.shard == k]
        assert (len(own), sum(line.rows for line in own)) == plan.size_of(k)
        assert len(own) == 1 or (sum(line.rows for line in own) <= 120 and len(own) <= 8)
    smallest = [min(line.rows for line in lines if line.shard == k).bit_length() for k in range(plan.shards)]
    assert smallest == sorted(smallest)
    assert sum(line.rows == 0 and line.kind == "unknown" for line in lines) >= 4


def test_the_same_command_takes_the_plan_that_is_there(few: Path, wanted: EncodeOptions, tmp_path: Path):
    store = open_store(tmp_path / "out")
    plan = make_plan([str(few)], wanted, store)
    write_picture(few / "new.png", 20, 20)
    assert make_plan([str(few)], wanted, store) == plan


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dtype": "float16"}, "dtype"),
        ({"reduction": Reduction(pool=True, merge=2)}, "reduction.merge"),
        ({"shard_tokens": 99}, "shard_tokens"),
        ({"weights": "0" * 64}, "weights"),
        ({"threads": 3}, "threads"),
    ],
)
def test_other_options_are_refused_and_named(
    change: dict[str, object], field: str, few: Path, wanted: EncodeOptions, tmp_path: Path
):
    store = open_store(tmp_path / "out")
    make_plan([str(few)], wanted, store)
    with pytest.raises(PlanMismatch, match=field.replace(".", r"\.")) as told:
        make_plan([str(few)], replace(wanted, **change), store)  # type: ignore[arg-type]
    assert list(told.value.fields) == [field]
    with pytest.raises(PlanMismatch, match="sources"):
        make_plan([str(few), str(few / "a.png")], wanted, store)


def test_lists_name_files_and_one_that_changed_is_another(few: Path, wanted: EncodeOptions, tmp_path: Path):
    lines = [str(few / "a.png"), json.dumps({"source": str(few / "9.png"), "label": 3}), "", str(few / "gone.png")]
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("\n".join(lines))
    store = open_store(tmp_path / "out")
    plan = make_plan([str(manifest)], wanted, store)
    assert [Path(line.source).name for line in files_of(plan, plan.parts[0], store)] == ["9.png", "a.png", "gone.png"]
    manifest.write_text("\n".join(lines[:1]))
    with pytest.raises(PlanMismatch, match="manifest"):
        make_plan([str(manifest)], wanted, store)
    manifest.write_text('{"label": 3}')
    with pytest.raises(InputError, match="names no file"):
        list_sources([str(manifest)])


def test_nothing_and_a_name_that_stands_twice_are_refused(few: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no picture, clip or archive"):
        list_sources([str(tmp_path / "empty")])
    with pytest.raises(InputError, match="stands twice"):
        list_sources([str(few), str(few / "a.png")])


def test_files_that_vanish_or_change_are_bad_and_the_rest_is_encoded(
    few: Path, wanted: EncodeOptions, encoder: Encoder, tmp_path: Path
):
    store = open_store(tmp_path / "out")
    plan = make_plan([str(few)], wanted, store)
    (few / "a.png").unlink()
    write_picture(few / "9.png", 64, 64, 9)
    list(here(Worker(store, encoder=encoder)))
    bad = {Path(name).name: kind for name, kind in bad_of(plan, store).items()}
    assert bad == {"a.png": "InputError", "9.png": "InputError"}
    said = {Path(b["source"]).name: b["message"] for k in range(plan.shards) for b in words_of(store, k).bad}
    assert "no such file" in said["a.png"]
    assert "another size than when it was planned" in said["9.png"]


def test_members_of_archives_are_files(few: Path, wanted: EncodeOptions, encoder: Encoder, tmp_path: Path):
    names = {"1.png": few / "10.png", "0.png": few / "9.png", "0.json": few / "notes.md"}
    tar = archive(few / "some.tar", names, **{"2.jpg": b"no picture"})
    store = open_store(tmp_path / "out")
    plan = make_plan([str(few)], wanted, store)
    inside = next(part for part in plan.parts if part.archive)
    lines = files_of(plan, inside, store)
    assert [line.source.partition(":")[2] for line in lines] == ["1.png", "0.png", "2.jpg"]  # the archive's own order
    list(here(Worker(store, encoder=encoder)))
    tokens = TokenFolder(store.place)
    assert tokens.by_file(f"{tar}:0.png").x.equal(tokens.by_file(str(few / "9.png")).x)
    assert bad_of(plan, store) == {f"{tar}:2.jpg": "UnsupportedFormat"}
    assert [tokens.file(n).source for n in range(len(tokens))] == sorted(
        (tokens.file(n).source for n in range(len(tokens))), key=lambda s: os.fsencode(s.partition(":")[0])
    )


@pytest.mark.parametrize("name", ["../outside.png", "/absolute.png"])
def test_members_that_lead_out_are_refused(name: str, few: Path, tmp_path: Path):
    tar = archive(tmp_path / "bad.tar", {"a.png": few / "a.png"}, **{name: b"x"})
    with pytest.raises(UnsafePath):
        make_plan([str(tar)], options_of(few), open_store(tmp_path / "out"))


def options_of(few: Path) -> EncodeOptions:
    from tubelet.pixels.recipe import PixelRecipe

    return EncodeOptions("llava_vit_packing_small", "untrained, seed 0", PixelRecipe(16))


def test_links_in_archives_are_not_followed(few: Path, tmp_path: Path):
    tar = tmp_path / "links.tar"
    with tarfile.open(tar, "w") as file:
        file.add(few / "a.png", "a.png")
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        file.addfile(link)
    store = open_store(tmp_path / "out")
    plan = make_plan([str(tar)], options_of(few), store)
    assert [line.source for line in files_of(plan, plan.parts[0], store)] == [f"{tar}:a.png"]


def test_a_plan_that_was_changed_is_found_out(begun: Begun):
    plan, store = begun()
    whole, text = store.read("plan.json"), store.read("plan/00000.jsonl")
    store.replace("plan/00000.jsonl", text.replace(b'"rows": 1', b'"rows": 2', 1))
    with pytest.raises(StoreError, match="not what plan"):
        files_of(plan, plan.parts[0], store)
    store.replace("plan.json", store.read("plan.json").replace(b'"float32"', b'"float16"'))
    with pytest.raises(StoreError, match="was changed"):
        read_plan(store)
    for damaged in (b"{}", b"{", b"[]", re.sub(rb'"manifests": {[^}]*}', b'"manifests": []', whole)):
        store.replace("plan.json", damaged)
        with pytest.raises(StoreError):
            read_plan(store)


def test_bad_files_are_tried_again_in_a_run_of_their_own(
    few: Path, wanted: EncodeOptions, encoder: Encoder, tmp_path: Path
):
    good = (few / "a.png").read_bytes()
    (few / "a.png").write_bytes(b"not yet")
    tar = archive(few / "some.tar", {"1.png": few / "10.png"}, **{"2.jpg": b"no picture"})
    store: Store = open_store(tmp_path / "out")
    plan = make_plan([str(few)], wanted, store)
    list(here(Worker(store, encoder=encoder)))
    (few / "a.png").write_bytes(good)
    again, beside = retry_bad(plan, store)
    assert beside.place == f"{store.place}/retry-1"
    assert again.files == 2
    list(here(Worker(beside, encoder=encoder)))
    tokens = TokenFolder(beside.place)
    assert bad_of(again, beside) == {f"{tar}:2.jpg": "UnsupportedFormat"}
    from tubelet import load_patches

    alone = encode_pack(load_patches(few / "a.png", encoder.pixels).packed, encoder, "cpu")
    assert tokens.by_file(str(few / "a.png")).x.equal(alone.tokens.x)
    with pytest.raises(InputError, match="no file of this run is bad"):
        done = open_store(tmp_path / "fine")
        other = make_plan([str(few / "9.png")], options(Path(wanted.model), encoder), done)
        list(here(Worker(done, encoder=encoder)))
        retry_bad(other, done)
