"""``collab release``: sign models, hand them on, take them back; and fetch them as a device does."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collab.cli.data import AsJson
from collab.cli.output import emit, say
from collab.cli.release_keys import keyring, make_keys, role_specs
from collab.errors import UsageError
from collab.planner.wording import size

if TYPE_CHECKING:
    from collab.updates.release import ReleaseInfo
    from collab.updates.repository.metadata import Outcome
    from collab.updates.repository.publishing import Repository

app = typer.Typer(help="Sign models as releases, hand them on and take them back.", no_args_is_help=True)

Repo = Annotated[Path, typer.Argument(help="Folder of the repository.", show_default=False)]
Keys = Annotated[list[Path] | None, typer.Option(help="Folder with keys; give it for each.")]
Roles = Annotated[
    list[str] | None, typer.Option(help="Signatures and keys of a role or channel, such as stable=2/3.")
]
Days = Annotated[list[str] | None, typer.Option(help="How long a role's versions hold, such as timestamp=7.")]
Elsewhere = Annotated[
    list[str] | None,
    typer.Option(help="A key that is no file: ROLE=URI,PUBLIC.pem, or root=hsm:2?label=TOKEN."),
]
Family = Annotated[str, typer.Argument(help="Family of models.", show_default=False)]
Version = Annotated[int, typer.Argument(help="Version of the release.", show_default=False)]


def register(to: typer.Typer) -> None:
    """Add the commands."""
    to.add_typer(app, name="release")


@app.command(
    epilog="Example:\n\n    collab release init releases/ --keys keys/ --family digits --role stable=2/3"
)
def init(
    repository: Repo,
    keys: Annotated[Path, typer.Option(help="Folder to make keys in, a folder for each role.")],
    family: Annotated[list[str], typer.Option(help="Family of models; give it for each.")],
    channels: Annotated[str, typer.Option(help="Channels in order.")] = "staging,stable",
    role: Roles = None,
    days: Days = None,
    key: Elsewhere = None,
    json_: AsJson = False,
) -> None:
    """Make a repository with its keys and an empty channel for each family."""
    from collab.updates.repository.publishing import DEFAULTS
    from collab.updates.repository.publishing import init as make

    names = channels.split(",")
    specs = role_specs([*DEFAULTS, *names], role or (), days or ())
    own = {name: {channel: specs[channel] for channel in names} for name in family}
    ring = keyring([keys])
    _, outcome = make(
        repository, own, make_keys(keys, key or ()), ring, _now(), {name: specs[name] for name in DEFAULTS}
    )
    _tell(outcome, json_, f"{repository}: give devices {repository}/metadata/1.root.json, serve the folder")
    say(f"{keys}: keep {keys}/root off line, on several machines")


@app.command(
    "add-family",
    epilog="Example:\n\n    collab release add-family releases/ faces --keys keys/ --keys keys/targets",
)
def add_family(
    repository: Repo,
    family: Family,
    keys: Annotated[Path, typer.Option(help="Folder to make keys in and to sign with.")],
    channels: Annotated[str, typer.Option(help="Channels in order.")] = "staging,stable",
    role: Roles = None,
    days: Days = None,
    key: Elsewhere = None,
    json_: AsJson = False,
) -> None:
    """Add a family of models with keys of its own."""
    names = channels.split(",")
    specs = role_specs(names, role or (), days or ())
    repo = _open(repository)
    ring = keyring([keys])
    outcome = repo.add_family(family, specs, make_keys(keys, key or ()), ring, _now())
    _tell(outcome, json_, f"{family}: added")


@app.command(epilog="Example:\n\n    collab release publish releases/ m.collab --family digits --keys keys/")
def publish(
    repository: Repo,
    file: Annotated[Path, typer.Argument(help="What `collab model package` wrote.", show_default=False)],
    family: Annotated[str, typer.Option(help="Family of models.")],
    channel: Annotated[str, typer.Option(help="Channel.")] = "staging",
    version: Annotated[int, typer.Option(help="Version; one more than the last otherwise.")] = 0,
    devices: Annotated[str, typer.Option(help="Devices it is for; those of the bundle otherwise.")] = "",
    runtime: Annotated[str, typer.Option(help="What the runtime class has to start with.")] = "",
    plan: Annotated[Path | None, typer.Option(help="The plan it is for.")] = None,
    task: Annotated[str, typer.Option(help="Federated task it comes from.")] = "",
    round_: Annotated[int, typer.Option("--round", help="Round of that task.")] = 0,
    keys: Keys = None,
    json_: AsJson = False,
) -> None:
    """Sign a packaged model as a release."""
    import msgspec

    from collab.updates.release import Provenance, ReleaseInfo
    from collab.updates.repository.described import described

    repo = _open(repository)
    info = described(file, ReleaseInfo(family=family, version=version or repo.next_version(family)))
    provenance = msgspec.structs.replace(info.provenance, federated_task=task, federated_round=round_)
    assert isinstance(provenance, Provenance)
    info = msgspec.structs.replace(info, provenance=provenance, runtime=runtime)
    if devices:
        info = msgspec.structs.replace(info, devices=tuple(devices.split(",")))
    if plan is not None:
        info = _for_plan(info, plan)
    ring = keyring(keys)
    made, outcome = repo.publish(file, info.check(), channel, ring, _now())
    _tell(outcome, json_, _what(made, channel), made)


@app.command(
    epilog="Example:\n\n    collab release promote releases/ digits 7 --from staging --to stable --keys keys/"
)
def promote(
    repository: Repo,
    family: Family,
    version: Version,
    source: Annotated[str, typer.Option("--from", help="Channel that has it.")] = "staging",
    target: Annotated[str, typer.Option("--to", help="Channel that gets it.")] = "stable",
    keys: Keys = None,
    json_: AsJson = False,
) -> None:
    """Sign a release for another channel."""
    ring = keyring(keys)
    made, outcome = _open(repository).promote(family, version, source, target, ring, _now())
    _tell(outcome, json_, _what(made, target), made)


@app.command(
    epilog="Example:\n\n    collab release withdraw releases/ digits 7 --channel stable --keys keys/"
)
def withdraw(
    repository: Repo,
    family: Family,
    version: Version,
    channel: Annotated[str, typer.Option(help="Channel to take it from.")] = "stable",
    keys: Keys = None,
    json_: AsJson = False,
) -> None:
    """Take a release back; the content before it comes back under a new version."""
    ring = keyring(keys)
    made, outcome = _open(repository).withdraw(family, version, channel, ring, _now())
    text = f"{family} {version}: withdrawn from {channel}"
    if made is not None:
        text += f"; version {made.version} repeats {made.content_of}"
    _tell(outcome, json_, text, made)


@app.command(
    "rotate-keys",
    epilog="Example:\n\n    collab release rotate-keys releases/ root --add 1 --drop 3f2a --keys keys/",
)
def rotate_keys(
    repository: Repo,
    role: Annotated[str, typer.Argument(help="root, targets, … or FAMILY.CHANNEL.", show_default=False)],
    keys: Annotated[list[Path], typer.Option(help="Folders with keys; new ones go into the first.")],
    add: Annotated[int, typer.Option(help="Keys to make.")] = 0,
    drop: Annotated[list[str] | None, typer.Option(help="How the id of a key to drop begins.")] = None,
    key: Elsewhere = None,
    json_: AsJson = False,
) -> None:
    """Replace keys of a role: add some, drop others."""
    named = sum(text.startswith(f"{role}=") for text in key or ())
    if not add and not named and not drop:
        raise UsageError("give --add, --drop or --key")
    repo = _open(repository)
    ring = keyring(keys)
    fresh = make_keys(keys[0], key or ())(role, add + named)
    outcome = repo.rotate(role, fresh, drop or (), ring, _now())
    _tell(outcome, json_, f"{role}: keys changed")


@app.command(epilog="Example:\n\n    collab release sign releases/ --keys keys-of-bob/")
def sign(repository: Repo, keys: Keys = None, json_: AsJson = False) -> None:
    """Add the signatures of this machine's keys to what waits for them."""
    from collab.updates.repository.metadata import sign as sign_all

    repo = _open(repository)
    for role in repo.metadatas.waiting_roles():
        say(f"{role}: version {repo.metadatas.waiting(role).signed.version} waits for signatures")
    ring = keyring(keys)
    _tell(sign_all(repo.metadatas, ring, _now()), json_, f"{repository}: signed with the keys at hand")


@app.command(epilog="Example:\n\n    collab release refresh releases/ --keys keys/online")
def refresh(
    repository: Repo,
    role: Annotated[
        list[str] | None, typer.Option(help="A role to sign anew too, before it ends: root, targets, …")
    ] = None,
    keys: Keys = None,
    json_: AsJson = False,
) -> None:
    """Sign snapshot and timestamp anew: run it often, devices refuse a repository that goes stale."""
    from collab.updates.repository.metadata import refresh as refresh_all

    outcome = refresh_all(_open(repository).metadatas, role or (), keyring(keys), _now())
    _tell(outcome, json_, f"{repository}: {'signed anew' if outcome.published else 'not signed anew yet'}")


@app.command("list", epilog="Example:\n\n    collab release list releases/ --json")
def list_(repository: Repo, json_: AsJson = False) -> None:
    """Show releases, roles with their keys, and what ends soon or waits for signatures."""
    from collab.cli.output import show, table
    from collab.updates.repository.overview import overview

    found = overview(_open(repository), _now())
    if json_:
        emit(found)
        return
    rows = [
        (
            r["family"],
            r["channel"],
            r["version"],
            size(r["size"]),
            len(r["deltas"]),
            r["sha256"][:12],
            r["state"],
        )
        for r in found["releases"]
    ]
    show(table("releases", ("family", "channel", "version", "size", "deltas", "sha256", "state"), rows))
    show(
        table(
            "roles",
            ("role", "version", "signatures", "keys", "ends in days"),
            [
                (r["role"], r["version"], r["threshold"], ", ".join(k[:8] for k in r["keys"]), r["days_left"])
                for r in found["roles"]
            ],
        )
    )
    for warning in found["warnings"]:
        say(f"warning: {warning}")


@app.command(epilog="Example:\n\n    collab release export releases/ digits --channel stable --out stick.zip")
def export(
    repository: Repo,
    family: Family,
    out: Annotated[Path, typer.Option(help="Archive to write.")],
    channel: Annotated[str, typer.Option(help="Channel.")] = "stable",
    json_: AsJson = False,
) -> None:
    """Write the newest release of a channel with its metadata, for devices without a network."""
    from collab.updates.repository.archive import export as write

    names = write(_open(repository), family, channel, out)
    if json_:
        emit({"file": str(out), "bytes": out.stat().st_size, "files": names})
    else:
        say(f"{out}: {size(out.stat().st_size)}, {len(names)} files")


def _open(folder: Path) -> Repository:
    from collab.updates.repository.publishing import Repository

    return Repository(folder)


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _for_plan(info: ReleaseInfo, path: Path) -> ReleaseInfo:
    import msgspec

    from collab.cli.files import read_plan

    plan = read_plan(path)
    cuts = sorted({stage.ops[0] for stage in plan.stages if stage.ops is not None and stage.ops[0]})
    return msgspec.structs.replace(info, plan_sha256=plan.digest, cuts=tuple(cuts))


def _what(info: ReleaseInfo, channel: str) -> str:
    deltas = ", ".join(f"{size(delta.size)} from {delta.base_sha256[:8]}" for delta in info.deltas)
    return f"{info.family} {info.version}: in {channel}" + (f"; deltas: {deltas}" if deltas else "")


def _tell(outcome: Outcome, json_: bool, text: str, info: ReleaseInfo | None = None) -> None:
    from collab.updates.release import to_custom

    if json_:
        emit(
            {
                "published": outcome.published,
                "missing": outcome.missing,
                "release": None if info is None else to_custom(info),
            }
        )
    say(text)
    for role, count in outcome.missing.items():
        say(f"{role}: waits for {count} more signature{'s' * (count > 1)}; `collab release sign` there")
