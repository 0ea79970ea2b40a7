"""Commands of pages that are only parsed, each with the reason why it is not run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Parsed:
    """Commands of one page that match a pattern from their beginning."""

    page: str
    pattern: str
    why: str

    def covers(self, page: str, command: str) -> bool:
        """Whether a command of a page is one of them."""
        return page == self.page and re.match(self.pattern, command) is not None


INSTALLS = "installs; tests/deployments does it in machines of its own"
KERAS = "needs TensorFlow; tests/toolchain runs it"

PARSED: Final = (
    Parsed("docs/tutorial.md", r"make core|export PATH", INSTALLS),
    Parsed("docs/how-to/learn.md", r"collab model export-trainable", KERAS),
)
