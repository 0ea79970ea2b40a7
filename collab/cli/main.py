"""The ``collab`` command."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path

import typer

from collab import __version__
from collab.errors import CollabError

app = typer.Typer(
    name="collab",
    help="One model, many small devices: split a .tflite, run its stages on peer nodes, "
    "get the whole model's answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"collab {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
    identity: Path | None = typer.Option(
        None, help="Directory with this device's key and certificate [env: COLLAB_IDENTITY]."
    ),
) -> None:
    from collab.cli.settings import choose_identity

    choose_identity(identity)


@functools.cache
def _register() -> None:
    from collab.cli import (
        check,
        cluster,
        compress,
        condition,
        controller,
        convert,
        dashboard,
        data,
        demo,
        deploying,
        doctor,
        emulate,
        ensemble,
        fed,
        fed_simulate,
        fed_swapping,
        health,
        importing,
        model,
        node,
        nodes,
        package,
        pipelines,
        planning,
        profile,
        release,
        release_fetch,
        release_policy,
        release_rollout,
        release_status,
        release_store,
        release_update,
        reports,
        running,
        serve,
        simulate,
        stream,
        top,
        trainable,
        training,
        validate,
        zoo,
    )

    for module in (zoo, training, importing, compress, convert, validate, check, package, trainable):
        module.register(model.app)
    data.register(app)
    app.add_typer(model.app, name="model")
    app.add_typer(cluster.app, name="cluster")
    release.app.add_typer(release_policy.app, name="policy")
    fed_simulate.register(fed.app)
    fed_swapping.register(fed.app)
    app.add_typer(fed.app, name="fed")
    release_fetch.register(release.app)
    release_status.register(release.app)
    release_store.register(release.app)
    release_rollout.register(release.app)
    release_update.register(release.app)
    for module in (
        node,
        nodes,
        top,
        profile,
        planning,
        ensemble,
        pipelines,
        deploying,
        running,
        reports,
        demo,
    ):
        module.register(app)
    for module in (controller, dashboard, doctor, health, release, condition, serve):
        module.register(app)
    for module in (simulate, emulate, stream):
        module.register(app)


def _register_health() -> None:
    from collab.cli import health

    health.register(app)


def main() -> None:
    """Run the command line; errors of this package become one line and an exit code."""
    # gRPC's core writes refused handshakes to standard error; ours are logged and said in one line.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # A watcher asks every few seconds; it does not wait for every command to be imported.
    (_register_health if sys.argv[1:2] == ["health"] else _register)()
    try:
        app()
    except CollabError as error:
        fail(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        _exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _exit(1)


def fail(error: CollabError) -> None:
    """Say an error in one line, as JSON too where that was asked for, and exit with its code."""
    text = " ".join(str(error).split())
    print(f"error: {text}", file=sys.stderr, flush=True)
    if "--json" in sys.argv[1:]:
        print(json.dumps({"error": {"code": error.code, "message": text}}), flush=True)
    _exit(error.exit_code)


def _exit(code: int) -> None:
    raise SystemExit(code)


if __name__ == "__main__":
    main()
