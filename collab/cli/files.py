"""The files that people give and get: plans as YAML, profiles as JSON, arrays as ``.npz``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from collab.errors import ConfigError, InputError, PlanError

if TYPE_CHECKING:
    import yaml

    from collab.core.plan import Plan
    from collab.core.profile import Profile

_NPY: Final = b"\x93NUMPY"
_ZIP: Final = b"PK"
_MAX_PLAN_BYTES: Final = 16 << 20
_MAX_PLAN_NODES: Final = 1_000_000
"""Of a plan with its aliases written out; a few lines can stand for billions."""


def read_npz(path: Path, what: str) -> Mapping[str, Any]:
    """Arrays of an ``.npz`` file; never unpickles.  Raises `InputError`."""
    import numpy as np

    try:
        with open(path, "rb") as file:
            magic = file.read(len(_NPY))
    except OSError as error:
        raise InputError(f"{what} {path}: {error.strerror}") from error
    if magic == _NPY:
        raise InputError(f"{what} {path}: a single array; save it by name with numpy.savez")
    if magic[:2] != _ZIP:
        raise InputError(f"{what} {path}: is not an .npz file; write it with numpy.savez")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # numpy, zipfile and zlib each have errors of their own for broken files
        reason = "holds pickled objects" if "allow_pickle" in str(error) else "is broken or no .npz file"
        raise InputError(f"{what} {path}: {reason}; write plain arrays with numpy.savez") from error


def _read(what: str, path: Path, most: int) -> bytes:
    """A file of a bounded size; raises `PlanError` or `InputError`."""
    try:
        size = path.stat().st_size
        if size > most:
            raise PlanError(f"{what} {path}: {size} bytes are over {most}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{what} {path}: {error.strerror}") from error


def read_plan(path: Path) -> Plan:
    """A valid plan from its YAML file.  Raises `PlanError` or `InputError`."""
    from collab.core.validate import convert_plan

    data = _read("plan", path, _MAX_PLAN_BYTES)
    try:
        return convert_plan(_parse(data))
    except PlanError as error:
        raise PlanError(f"plan {path}: {error}") from error


def read_yaml(what: str, path: Path, most_bytes: int) -> Any:
    """What a YAML file of a bounded size holds.  Raises `ConfigError` or `InputError`."""
    try:
        return _parse(_read(what, path, most_bytes))
    except PlanError as error:
        raise ConfigError(f"{what} {path}: {error}") from error


def _parse(data: bytes) -> Any:
    import yaml

    try:
        loader = yaml.SafeLoader(data.decode())
        try:
            root = loader.get_single_node()
            if root is None:
                return None
            _check_tree(root, {})
            return loader.construct_document(root)
        finally:
            loader.dispose()
    except PlanError:
        raise
    except Exception as error:  # PyYAML's constructors raise whatever the text makes them raise
        raise PlanError(f"not YAML: {' '.join(str(error).split())[:160]}") from error


def _check_tree(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Nodes below a node, aliases written out; refuses too many, cycles, and keys that stand twice."""
    import yaml

    key = id(node)
    if key in sizes:
        if not sizes[key]:
            raise PlanError(f"{_line(node)}: cycle, an alias stands inside of what it names")
        return sizes[key]
    sizes[key] = 0
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_check_tree(item, sizes) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        names = Counter(name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode))
        if names and (most := names.most_common(1)[0])[1] > 1:
            raise PlanError(f"{_line(node)}: {most[0]!r} stands there twice")
        total += sum(_check_tree(name, sizes) + _check_tree(value, sizes) for name, value in node.value)
    if total > _MAX_PLAN_NODES:
        raise PlanError(f"{_line(node)}: aliases stand for over {_MAX_PLAN_NODES} values; write less")
    sizes[key] = total
    return total


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def read_profile(path: Path) -> Profile:
    """A checked profile from its JSON file.  Raises `PlanError` or `InputError`."""
    from collab.core.profiles import MAX_PROFILE_BYTES, decode_profile

    data = _read("profile", path, MAX_PROFILE_BYTES)
    try:
        return decode_profile(data)
    except PlanError as error:
        raise PlanError(f"profile {path}: {error}") from error


def write_profile(path: Path, profile: Profile) -> None:
    """Write a profile as JSON; raises `InputError`."""
    import msgspec

    from collab.core.profile import to_json

    write_text(path, msgspec.json.format(to_json(profile), indent=1).decode() + "\n")


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan as YAML; raises `InputError`."""
    import msgspec
    import yaml

    write_text(path, yaml.safe_dump(msgspec.to_builtins(plan), sort_keys=False, width=110))


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; raises `InputError`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; raises `InputError`."""
    with _whole(path) as part:
        part.write_bytes(data)


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name, any name, whole or not at all; raises `InputError`."""
    import zipfile

    import numpy as np

    with _whole(path) as part, zipfile.ZipFile(part, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A path to write to, moved to its place if all went well."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
