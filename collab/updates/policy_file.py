"""A policy from the user's file, which a few lines could blow up.  Blocks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

from collab.errors import ConfigError, InputError
from collab.updates.policies.base import RulePolicy
from collab.updates.policies.clauses import Policy
from collab.updates.policies.parse import MAX_POLICY_BYTES, policy_of

_MAX_DEPTH: Final = 64
"""Of a file: more than any policy that is not refused for its own depth."""


def rule_policy(path: Path) -> RulePolicy:
    """The policy that a file's rules make; raises as `read_policy`."""
    return RulePolicy(read_policy(path))


def read_policy(path: Path) -> Policy:
    """A policy from its file, TOML where its name says so; raises `ConfigError` or `InputError`."""
    import yaml

    text = read_text(path, MAX_POLICY_BYTES)
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        if path.suffix == ".toml":
            tree: Any = tomllib.loads(text)
        else:
            _check_tokens(text, path)
            tree = yaml.safe_load(text)
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return policy_of(tree)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _check_tokens(text: str, path: Path) -> None:
    """Refuse what a few lines can blow up: aliases, and nesting that costs its square."""
    import yaml

    depth = 0
    for token in yaml.scan(text):
        starts = (yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken)
        if isinstance(token, (*starts, yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken)):
            depth += 1
        elif isinstance(token, (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise ConfigError(f"{path}: nested deeper than {_MAX_DEPTH}")
        if isinstance(token, yaml.AliasToken):
            raise ConfigError(f"{path}: has an alias (*name); write the clause out")


def read_text(path: Path, most: int) -> str:
    """A text of a bounded size; raises `InputError`."""
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise InputError(f"{path}: over {most} bytes")
        return data.decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text in UTF-8") from error
