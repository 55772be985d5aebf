"""`tubelet plan` for one network of each family: tokens after the merger, FLOPs, memory."""

import json

import pytest
from tests.cli.conftest import Run

from tubelet.families.catalogue import families
from tubelet.families.family import Family


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_every_family_is_planned(family: Family, tubelet: Run):
    name, config = next(iter(family.variants.items()))
    found = json.loads(tubelet("plan", "--size", "640x480", "--model", name, "--memory", "--json").stdout)
    merge = 1 if config.merger is None else config.merger.merge
    assert found["tokens"] * merge**2 == found["patches"] > 0
    assert found["flop"] > 2 * found["patches"] * config.layers * 4 * config.hidden**2
    for memory in found["memory_bytes"].values():
        assert 0 < memory["weights"] < memory["inference"] < min(memory["checkpointed"], memory["training"])
