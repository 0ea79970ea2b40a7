"""The files of a snippet, by language."""

from __future__ import annotations

from typing import Final

from collab.errors import UsageError
from collab.toolchain.snippets.cpp import cpp_files, micro_files
from collab.toolchain.snippets.facts import Facts
from collab.toolchain.snippets.kotlin import kotlin_files
from collab.toolchain.snippets.swift import swift_files
from collab.updates.bundle.read import Bundle

LANGUAGES: Final = ("kotlin", "swift", "cpp", "micro")


def snippet(bundle: Bundle, language: str) -> dict[str, bytes]:
    """Source files and the model, by file name; the same for the same bundle.

    Raises:
        UsageError: the language is not known, or the bundle has no preprocessing.
        ModelError: the model cannot be run so.
    """
    if language not in LANGUAGES:
        raise UsageError(f"--language {language[:40]}: give {', '.join(LANGUAGES[:-1])} or {LANGUAGES[-1]}")
    facts, model = Facts.of(bundle), bundle.model()
    if language == "micro":
        return micro_files(facts, model, bundle.manifest.model.sha256)
    files = {"kotlin": kotlin_files, "swift": swift_files, "cpp": cpp_files}
    return files[language](facts, model)
