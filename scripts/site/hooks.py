"""Hooks of MkDocs: pages from outside of ``docs/``, the generated reference, links between them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from scripts.site.links import rewritten, targets  # noqa: E402
from scripts.site.pages import reference  # noqa: E402

_PLACES: dict[str, str] = {}
"""Where the site has each file of the repository, by its path there."""


def on_config(config: Any) -> Any:
    """Put the decisions, which become more, in their place of the navigation."""
    config.nav = [_with_decisions(entry) for entry in config.nav]
    return config


def _with_decisions(entry: dict[str, Any]) -> dict[str, Any]:
    records = sorted(file.name for file in (ROOT / "docs/adr").glob("0*.md"))
    return {
        title: [
            name
            for page in pages
            for name in ([f"adr/{record}" for record in records] if page == "*adr" else [page])
        ]
        for title, pages in entry.items()
    }


def on_files(files: Any, config: Any) -> Any:
    """Add what is not in ``docs/``: other pages, the reference, files that pages link to."""
    generated = importlib.import_module("mkdocs.structure.files").File.generated
    _PLACES.clear()
    _PLACES.update({f"docs/{file.src_uri}": file.src_uri for file in files})
    for source, place in _pages_elsewhere().items():
        _PLACES[source] = place
        files.append(generated(config, place, content=(ROOT / source).read_text("utf-8")))
    for place, text in reference(ROOT).items():
        _PLACES[f"docs/{place}"] = place
        files.append(generated(config, place, content=text))
    for source in sorted(_linked()):
        place = f"source/{source}.txt"
        _PLACES[source] = place
        files.append(generated(config, place, content=(ROOT / source).read_text("utf-8")))
    return files


def _pages_elsewhere() -> dict[str, str]:
    found = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md"}
    for file in sorted((ROOT / "deployments").glob("*/README.md")):
        found[str(file.relative_to(ROOT))] = f"deployments/{file.parent.name}/index.md"
    return found


def _linked() -> set[str]:
    """Files of the repository that pages link to and the site would not have otherwise."""
    found: set[str] = set()
    for source in list(_PLACES):
        if source.endswith(".md") and (ROOT / source).exists():
            found |= set(targets((ROOT / source).read_text("utf-8"), source))
    return {path for path in found - _PLACES.keys() if (ROOT / path).is_file()}


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links to where the site has what they name."""
    place = page.file.src_uri
    source = next((path for path, known in _PLACES.items() if known == place), f"docs/{place}")
    return rewritten(markdown, source, place, _PLACES, lambda path: (ROOT / path).is_dir())
