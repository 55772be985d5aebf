"""One module per upstream: configurations, key tables and pixel recipes, as data.

`find` says which family a checkpoint belongs to from its configuration and the names of its tensors, never its path.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from tubelet.errors import ConfigError
from tubelet.families import onevision
from tubelet.families.onevision_keys import FORMATS, Format

FAMILIES = {"onevision": onevision}


def find(config: Mapping[str, Any] | None, names: Iterable[str]) -> tuple[str, Format]:
    """(family, format) of a checkpoint from its config.json, where there is one, and its bare tensor names.

    Tensor names decide; the configuration decides only between formats whose names are the same.
    Raises ConfigError when no family knows the names.
    """
    formats = onevision.detect(names)
    if not formats:
        raise ConfigError("no family knows these tensor names", expected=FORMATS, got=tuple(sorted(names)[:8]))
    said = None if config is None else onevision.format_of(config)
    return "onevision", said if said in formats and said is not None else formats[0]
