"""Every error: its place in the tree, its fields, and that it survives a process border."""

import copy
import inspect
import json
import pickle

import pytest

from tubelet import errors
from tubelet.errors import (
    ConfigError,
    InputError,
    KeyMismatch,
    LimitError,
    RunError,
    ShapeError,
    TubeletError,
    WeightsError,
    near_names,
)
from tubelet.families.catalogue import require_variant
from tubelet.reduce.methods import method_of

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TubeletError)]
TREE = {
    "InputError": {
        "UnsupportedFormat",
        "DecodeError",
        "LimitError",
        "NoVideo",
        "NotFinite",
        "ShapeError",
        "AlignmentError",
    },
    "WeightsError": {"KeyMismatch", "ConfigError", "UnsafeFile", "UnsafePath"},
    "RunError": {"CheckpointError", "DataError", "WorkerDied", "PlanMismatch", "StoreError"},
}


def test_the_tree_is_the_one_in_the_module_s_head():
    for root, children in TREE.items():
        assert {k.__name__ for k in KINDS if k.__base__.__name__ == root} == children
    assert {k.__name__ for k in KINDS} == {"TubeletError", *TREE, *set().union(*TREE.values())}
    for name in (*TREE, *set().union(*TREE.values())):
        assert name in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("kind", "builtin"), [(InputError, ValueError), (WeightsError, ValueError), (RunError, RuntimeError)]
)
def test_code_that_knows_only_python_s_own_errors_catches_ours(kind, builtin):
    assert issubclass(kind, builtin)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_has_a_sentence_about_itself(kind):
    assert kind.__doc__
    assert kind.__doc__.rstrip().endswith(".")


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not KeyMismatch])
def test_fields_are_for_programs_and_the_message_for_people(kind):
    error = kind("too wide", item=3, source="a.png", limit=10, expected=(1, 2), got=11)
    assert (error.item, error.source, error.limit, error.expected, error.got) == (3, "a.png", 10, (1, 2), 11)
    assert str(error) == "a.png: too wide"
    assert str(kind("too wide")) == "too wide"
    assert str(kind("too wide", item=0)) == "item 0: too wide"
    assert error.as_dict() == {
        "error": kind.__name__,
        "message": "too wide",
        "item": 3,
        "source": "a.png",
        "limit": 10,
        "expected": (1, 2),
        "got": 11,
    }
    assert kind("too wide").as_dict() == {"error": kind.__name__, "message": "too wide"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy], ids=["pickle", "copy"])
def test_an_error_crosses_a_process_border_whole(kind, again):
    error = kind("gone", source="b.mp4")
    error.item = 5
    twin = again(error)
    assert type(twin) is kind
    assert (str(twin), twin.as_dict(), twin.args) == ("b.mp4: gone", error.as_dict(), error.args)


def test_a_mismatch_of_keys_keeps_its_three_lists():
    error = KeyMismatch("3 keys", missing=["a"], unexpected=("b",), misshaped=[("c", (1, 2), (2, 1))], source="m")
    twin = pickle.loads(pickle.dumps(error))
    for e in (error, twin):
        assert (e.missing, e.unexpected, e.misshaped) == (("a",), ("b",), (("c", (1, 2), (2, 1)),))
    assert json.loads(json.dumps(error.as_dict()))["misshaped"] == [["c", [1, 2], [2, 1]]]


def test_placed_adds_what_is_missing_and_keeps_what_is_known():
    error = ShapeError("bad", got=7)
    assert error.placed(source="x.png") is error
    error.placed(item=4)
    assert (error.item, error.source, error.got) == (4, "x.png", 7)
    assert str(error.placed(item=0)) == "x.png: bad"


def test_the_text_of_a_foreign_error_stays_in_its_cause():
    try:
        try:
            raise OSError("cannot identify <_io.BytesIO object at 0x7f0011223344>")
        except OSError as foreign:
            raise LimitError("too large") from foreign
    except LimitError as error:
        assert "0x" not in str(error) + json.dumps(error.as_dict())
        assert isinstance(error.__cause__, OSError)


def test_names_that_may_have_been_meant_stand_in_the_message():
    with pytest.raises(ConfigError, match=r"\(did you mean llava_vit_packing_small"):
        require_variant("LLAVA_vit_packing_smal")
    with pytest.raises(InputError, match=r"no method divprun \(did you mean divprune\?\); there are "):
        method_of("divprun")
    with pytest.raises(InputError, match=r"no method zzz; there are "):
        method_of("zzz")
    assert near_names("a" * 10**6, ["a"]) == near_names(None, ["b"]) == ""
