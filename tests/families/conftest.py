"""The towers that tests of families share."""

import pytest
from tests.families import parity
from tests.families.parity import Pair


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The case a test is parametrised with, `indirect`: written by its own class, loaded by both sides."""
    return parity.written(request.param, tmp_path_factory.mktemp("tower"))
