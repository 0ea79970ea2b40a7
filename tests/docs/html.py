"""What a built page links to and loads.  No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

_LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}


@dataclass
class Links:
    """Of one page."""

    anchors: set[str] = field(default_factory=set)
    """Names that a link may end with."""
    leads: list[str] = field(default_factory=list)
    """Links that a reader follows."""
    loads: list[str] = field(default_factory=list)
    """What the browser fetches by itself."""
    navigation: list[str] = field(default_factory=list)
    """Links of the site's navigation."""


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found = Links()
        self._navs = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._navs += tag == "nav" and (self._navs > 0 or given.get("data-md-level") == "0")
        if name := given.get("id"):
            self.found.anchors.add(name)
        if tag == "a" and (href := given.get("href")) is not None:
            self.found.leads.append(href)
            if self._navs:
                self.found.navigation.append(href)
        target = given.get(_LOADS.get(tag, ""))
        # Some relations only name another page.
        if target and given.get("rel") not in ("canonical", "next", "prev", "alternate"):
            self.found.loads.append(target)

    def handle_endtag(self, tag: str) -> None:
        self._navs -= tag == "nav" and self._navs > 0


def read(text: str) -> Links:
    """Links of a page."""
    reader = _Reader()
    reader.feed(text)
    return reader.found


def is_elsewhere(target: str) -> bool:
    """Whether a target is not of the site itself."""
    parts = urlsplit(target)
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ftp", "mailto")


def split(target: str) -> tuple[str, str]:
    """The path of a target and its anchor."""
    parts = urlsplit(target)
    return unquote(parts.path), unquote(parts.fragment)
