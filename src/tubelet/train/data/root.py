"""The folder that a data set's pictures and clips lie in: names become paths there, or are refused."""

import os
from dataclasses import dataclass
from pathlib import Path

from tubelet.errors import InputError, UnsafePath
from tubelet.reading.names import check_name


@dataclass(frozen=True)
class Root:
    """A folder and what may be named in it.

    Raises InputError where there is no such folder.
    """

    folder: str
    follow_links: bool = False  # whether a link may lead out of it, as those of a download cache do

    def __post_init__(self) -> None:
        if not os.path.isdir(self.folder):  # noqa: PTH112  that of Path raises where a name is too long
            raise InputError("there is no such folder for pictures and clips", source=self.folder)

    def path(self, name: object, where: str) -> str:
        """The path of the file called `name`, which need not exist. where: who says so, for messages.

        An absolute name is taken if it lies in the folder. Cost: a look at each folder on the way.
        Raises UnsafePath for a name or a link that leads out of the folder; InputError for what is no name.
        """
        text = check_name(name, where)
        path = Path(self.folder) / text
        root = Path(self.folder).resolve()
        try:
            # links are followed in the folder's own path alone where the rest may lead out
            reached = root / path.relative_to(self.folder) if self.follow_links else path.resolve()
            inside = reached.is_relative_to(root)
        except (OSError, RuntimeError, ValueError) as e:  # a loop of links, a name too long
            inside = False
            if not isinstance(e, ValueError):
                raise InputError(f"the name {text[:200]!r} cannot be looked up", source=where, got=text[:200]) from e
        if not inside:
            raise UnsafePath(f"{text[:200]!r} leads out of {self.folder}", source=where, got=text[:200])
        return str(path)
