"""Text of SVG figures: shapes, words that fit their room, light and dark colours."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 900
"""Of every figure, in px."""
MARGIN: Final = 24

_NARROW, _THIN, _BROAD = frozenset("ijlI.,:;'|!"), frozenset('frt()[]/ "-'), frozenset("mwMW@%…→—")
"""Letters of about 0.3, 0.4 and 0.95 em; capitals have about 0.7, the others 0.62 or less in any font."""

_FONT = "Inter,system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',Helvetica,Arial,sans-serif"

_SHAPES = """
text{font-family:%(font)s;font-size:12px}
.title{font-size:18px;font-weight:600}.head{font-size:14px;font-weight:600}
.strong{font-size:14px;font-weight:600}.small{font-size:11px}
.bold{font-weight:600}.num{font-variant-numeric:tabular-nums}
.in{font-size:11px;fill:#fff}.beside{font-size:12px;font-weight:400}
.flow{fill:none;stroke-width:1.5}.axis,.gridline{stroke-width:1;fill:none}
.panel{stroke-width:1}.front{fill:none;stroke-width:1.5;stroke-dasharray:4 4}
.curve{fill:none;stroke-width:2;stroke-linejoin:round}.delay{opacity:.35}
.leader{fill:none;stroke-dasharray:1 4;stroke-linecap:round}
.compute{fill:#1f7f5c}.codec{fill:#b3701a}.move{fill:#2f6bc4}
"""

_LIGHT = {
    "ink": "#1c2430",
    "muted": "#5a6573",
    "ground": "#ffffff",
    "panel": "#f6f8fa",
    "edge": "#d3dae2",
    "grid": "#e6eaef",
}
_DARK = {
    "ink": "#e8ecf1",
    "muted": "#9aa6b4",
    "ground": "#11161d",
    "panel": "#1a212b",
    "edge": "#34404e",
    "grid": "#232c37",
}
_COLOURS = """
text,.ink{fill:%(ink)s}.muted,.beside{fill:%(muted)s}.ground{fill:%(ground)s}
.panel{fill:%(panel)s;stroke:%(edge)s}.track{fill:%(edge)s}
.flow,.axis,.front{stroke:%(muted)s}.tip{fill:%(muted)s}.gridline{stroke:%(grid)s}
.halo{stroke:%(ground)s;stroke-width:1.5}
"""

_HUES = ("#2f6bc4", "#c2571a", "#1f7f5c", "#a0458c", "#7a6a12", "#c23b4b")
_HUES_IN_THE_DARK = ("#6aa2f0", "#ef8f55", "#4fbf95", "#d483c4", "#c4b14a", "#f07f8b")
HUES: Final = len(_HUES)
"""Classes ``hue0`` … fill, ``line0`` … draw lines and ``bar0`` … fill behind white words."""


def _style() -> str:
    bars = "".join(f".bar{n}{{fill:{hue}}}" for n, hue in enumerate(_HUES))
    light = _COLOURS % _LIGHT + _hues(_HUES) + _SHAPES % {"font": _FONT} + bars
    # White words on a bar stay white in either.
    dark = _COLOURS % _DARK + _hues(_HUES_IN_THE_DARK) + ".in{fill:#fff}"
    return f"{light}@media (prefers-color-scheme:dark){{{dark}}}".replace("\n", "")


def _hues(hues: tuple[str, ...]) -> str:
    return "".join(f".hue{n}{{fill:{hue}}}.line{n}{{stroke:{hue}}}" for n, hue in enumerate(hues))


BOLD: Final = 1.12
"""How much wider letters are in bold."""


def text_width(text: str, px: float = 12) -> float:
    """About how wide a text of letters of ``px`` is in one of the wider fonts, in px."""
    return px * sum(map(_ems, text))


def _ems(letter: str) -> float:
    if letter in _NARROW:
        return 0.3
    if letter in _THIN:
        return 0.4
    if letter in _BROAD or unicodedata.east_asian_width(letter) in "WF":
        return 0.95
    return 0.7 if letter.isupper() else 0.62


def fitted(text: str, room: float, px: float = 12) -> str:
    """The text, or as much of it as fits into ``room`` px with an ellipsis."""
    if text_width(text, px) <= room:
        return text
    while text and text_width(text, px) > room - px:
        text = text[:-1]
    return f"{text.rstrip()}…"


class Canvas:
    """Shapes of one figure, each drawn above those before it.

    Every text is escaped and loses what XML does not allow.  A ``hint`` is what a
    pointer over the shape and screen readers are told.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []

    def text(
        self, x: float, y: float, text: str, kind: str = "", anchor: str = "start", beside: str = ""
    ) -> None:
        """Words with their baseline at ``y``, and quieter ones that follow them."""
        at = "" if anchor == "start" else f' text-anchor="{anchor}"'
        more = f'<tspan dx="12" class="beside">{clean(beside)}</tspan>' if beside else ""
        self._parts.append(f'<text x="{_n(x)}" y="{_n(y)}"{_class(kind)}{at}>{clean(text)}{more}</text>')

    def upright(self, x: float, y: float, text: str, kind: str = "") -> None:
        """Words turned by a quarter, read from below, centred at ``y``."""
        turn = f'transform="translate({_n(x)} {_n(y)}) rotate(-90)" text-anchor="middle"'
        self._parts.append(f"<text {turn}{_class(kind)}>{clean(text)}</text>")

    def box(
        self, x: float, y: float, width: float, height: float, kind: str, round_: float = 0, hint: str = ""
    ) -> None:
        """A rectangle."""
        corner = f' rx="{_n(round_)}"' if round_ else ""
        place = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
        self._add(f"rect {place}{corner}{_class(kind)}", "rect", hint)

    def path(self, data: str, kind: str, hint: str = "") -> None:
        """Lines along SVG path data."""
        self._add(f'path d="{data}"{_class(kind)}', "path", hint)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self.path(f"M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}", kind)

    def dot(self, x: float, y: float, radius: float, kind: str, hint: str = "") -> None:
        """A circle."""
        self._add(f'circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"{_class(kind)}', "circle", hint)

    def _add(self, start: str, tag: str, hint: str) -> None:
        inner = f"<title>{clean(hint)}</title>" if hint else ""
        self._parts.append(f"<{start}>{inner}</{tag}>" if inner else f"<{start}/>")

    def render(self, height: float, title: str, description: str) -> str:
        """The whole figure as a document of its own."""
        key = hashlib.sha256(f"{title}\n{description}".encode()).hexdigest()[:8]
        size = f'width="{WIDTH}" height="{_n(height)}" viewBox="0 0 {WIDTH} {_n(height)}"'
        return "\n".join(
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="t{key} d{key}">',
                f'<title id="t{key}">{clean(title)}</title>',
                f'<desc id="d{key}">{clean(description)}</desc>',
                f"<style>{_style()}</style>",
                f'<rect width="{WIDTH}" height="{_n(height)}" rx="8" class="ground"/>',
                *self._parts,
                "</svg>\n",
            )
        )


def path_through(points: list[tuple[float, float]]) -> str:
    """SVG path data of straight lines through points."""
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points)


def clean(text: str) -> str:
    """Text for XML: escaped, and without characters that XML 1.0 (2.2) forbids."""
    allowed = (each if each.isprintable() else " " if each.isspace() else "\ufffd" for each in text)
    return escape("".join(allowed), {'"': "&quot;"})


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _n(value: float) -> str:
    """A coordinate to a tenth of a px."""
    return f"{value:.1f}".removesuffix(".0")
