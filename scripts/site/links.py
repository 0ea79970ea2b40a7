"""Links of pages: written for a viewer of the repository, turned to where the site has the file."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping

_FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2[^\n]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def outside_of_fences(text: str, change: Callable[[str], str]) -> str:
    """The text with `change` made to all that is no block of code."""
    parts, at = [], 0
    for found in _FENCE.finditer(text):
        parts += [change(text[at : found.start()]), found[0]]
        at = found.end()
    return "".join([*parts, change(text[at:])])


def targets(text: str, page: str) -> Iterator[str]:
    """Files and folders of the repository that a page, itself one of its files, links to."""
    for found in _LINK.finditer(_FENCE.sub("", text)):
        if not _is_elsewhere(found[3]):
            yield _resolve(page, found[3].partition("#")[0])


def rewritten(
    text: str, page: str, place: str, places: Mapping[str, str], is_folder: Callable[[str], bool]
) -> str:
    """A page with its links for the site.

    Args:
        text: Markdown of the page.
        page: its path in the repository.
        place: its path below ``docs/`` as the site sees it.
        places: where the site has files of the repository; a link to another is left as it is.
        is_folder: whether a path of the repository is a folder, which the site has none of: links to
            these become plain text.
    """

    def link(found: re.Match[str]) -> str:
        if _is_elsewhere(found[3]):
            return found[0]
        path, mark, anchor = found[3].partition("#")
        target = places.get(_resolve(page, path))
        if target is None:
            return found[2] if is_folder(_resolve(page, path)) else found[0]
        near = posixpath.relpath(target, posixpath.dirname(place) or ".")
        return f"{found[1]}[{found[2]}]({near}{mark}{anchor})"

    return outside_of_fences(text, lambda part: _LINK.sub(link, part))


def _is_elsewhere(target: str) -> bool:
    return "://" in target or target.startswith(("#", "mailto:"))


def _resolve(page: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
