"""``collab model train``: train on prepared data, stop and go on at will."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from collab.cli.files import write_text
from collab.cli.model import AsJson
from collab.cli.output import emit, phases, say
from collab.cli.zoo import Choices, chosen
from collab.errors import InputError, UsageError

if TYPE_CHECKING:
    from collab.toolchain.data.prepared import Prepared
    from collab.toolchain.training.run import Run, State

_PLOTS: Final = ("accuracy", "loss")
PREPROCESSING: Final = "preprocessing.json"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Example:\n\n    collab model train cnn --data prepared/ --out run/ --epochs 10 "
        "--schedule cosine\n\n    collab model train --out run/ --resume"
    )(train)


def train(
    model: Annotated[
        str | None, typer.Argument(help="A .keras file, or a name of the zoo.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("run"),
    data: Annotated[Path | None, typer.Option(help="Folder that `collab data prepare` made.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data, at most.  [default: 10]")] = None,
    batch: Annotated[int | None, typer.Option(help="Examples of a step.  [default: 64]")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.  [default: 0.001]")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="constant, cosine, step or exponential.  [default: constant]")
    ] = None,
    warmup: Annotated[float | None, typer.Option(help="Epochs in which the rate rises first.")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adam, adamw, sgd, momentum or rmsprop.  [default: adam]")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Decoupled, as AdamW has it.")] = None,
    augment: Annotated[
        str | None, typer.Option(help="flip, shift=PX, rotate=DEG, zoom=, cutout=PX, noise=, scale=.")
    ] = None,
    early_stopping: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better one.")
    ] = None,
    monitor: Annotated[
        str | None, typer.Option(help="Best in val_accuracy or val_loss.  [default: val_accuracy]")
    ] = None,
    class_weights: Annotated[
        str | None, typer.Option(help="balanced: rare classes count more.  [default: none]")
    ] = None,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="Replace the classifier by one for the data's classes.")
    ] = False,
    freeze_to: Annotated[
        str | None, typer.Option(help="This layer and those before it stay as they are.")
    ] = None,
    option: Choices = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, augmentation, dropout.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write logs for it.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    json_: AsJson = False,
) -> None:
    """Train a model; interrupted, it goes on to the same weights."""
    given: dict[str, Any] = {
        "epochs": epochs,
        "batch": batch,
        "lr": lr,
        "schedule": schedule,
        "warmup": warmup,
        "optimizer": optimizer,
        "weight_decay": weight_decay,
        "augment": _augment(augment),
        "early_stopping": early_stopping,
        "monitor": monitor,
        "class_weights": class_weights,
        "freeze_to": freeze_to,
        "seed": seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    from collab.toolchain.training.run import Run

    if not resume and (model is None or data is None):
        raise UsageError("give a model and --data, or --resume to go on with the run in --out")
    if resume and not (out / "training.json").is_file():
        raise InputError(f"--out {out}: holds no training run; leave --resume out to begin one")
    with Run(out) as run:
        if resume:
            if model is not None or option or new_head:
                raise UsageError("--resume goes on with the run's own model: leave the model out")
            prepared = _gone_on(run, given, data)
        else:
            assert model is not None
            assert data is not None
            prepared = _begun(run, model, data, given, chosen(option), new_head)
        state = _trained(run, prepared, tensorboard)
    _told(out, state, json_)


def _augment(text: str | None) -> Any:
    import msgspec

    from collab.toolchain.training.augment import read_augment

    return None if text is None else msgspec.to_builtins(read_augment(text))


def _begun(
    run: Run, model: str, data: Path, given: Mapping[str, Any], options: Mapping[str, str], head: bool
) -> Prepared:
    """Begin a run in a folder that has none."""
    from collab.toolchain.data.prepared import Prepared
    from collab.toolchain.training.batches import steps_of
    from collab.toolchain.training.loop import begin
    from collab.toolchain.training.run import Source
    from collab.toolchain.training.settings import read_settings

    if run.begun:
        raise UsageError(
            f"--out {run.path}: holds a run already: --resume goes on with it, or choose another"
        )
    settings, prepared = read_settings(given), Prepared.load(data)
    made = _model(model, prepared, settings.seed, options, head)
    source = Source(
        model=model,
        data=str(data.absolute()),
        data_digest=prepared.digest,
        classes=prepared.classes,
        input_shape=prepared.input_shape,
    )
    begin(run, made, settings, source, steps_of(prepared.count("train"), settings.batch))
    # What packages a run needs no data folder.
    with suppress(OSError):
        (run.path / PREPROCESSING).write_bytes((prepared.folder / PREPROCESSING).read_bytes())
    return prepared


def _model(model: str, prepared: Prepared, seed: int, options: Mapping[str, str], head: bool) -> Any:
    from collab.toolchain.convert.source import load_keras
    from collab.toolchain.extras import needed
    from collab.toolchain.training.heads import new_head
    from collab.toolchain.zoo import build

    classes = len(prepared.classes)
    if not model.endswith(".keras"):
        if head:
            raise UsageError("--new-head goes with a .keras file; a model of the zoo has the right one")
        return build(model, input_shape=prepared.input_shape, classes=classes, seed=seed, **options)
    if options:
        raise UsageError("--option goes with a name of the zoo; a .keras file is built already")
    loaded = load_keras(Path(model)).model
    return new_head(needed("keras"), loaded, classes, seed) if head else loaded


def _gone_on(run: Run, given: Mapping[str, Any], data: Path | None) -> Prepared:
    """The data of a run that is gone on with, which must be what it began with; settings too."""
    from collab.toolchain.data.prepared import Prepared
    from collab.toolchain.training.settings import changed

    state = run.read()
    for name in changed(state.settings, given):
        option = name.replace("_", "-")
        raise UsageError(
            f"--{option}: the run began with {getattr(state.settings, name)}: leave it out, "
            "or begin another run"
        )
    prepared = Prepared.load(data or Path(state.source.data))
    if prepared.digest != state.source.data_digest:
        raise InputError(
            f"{prepared.folder}: is not the data that the run began with: give --data that, or begin anew"
        )
    return prepared


def _trained(run: Run, prepared: Prepared, tensorboard: bool) -> State:
    from collab.toolchain.training.loop import train as go_on
    from collab.toolchain.training.loop import write_tensorboard

    def epoch(number: int, metrics: Mapping[str, float]) -> None:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        say(f"epoch {number}: {shown}")
        _draw(run)
        if tensorboard:
            write_tensorboard(run.path / "tensorboard", number, metrics)

    try:
        with phases("steps") as tell:
            return go_on(
                run, prepared, lambda number, done, total: tell(f"epoch {number}", done, total), epoch
            )
    except KeyboardInterrupt:
        say(f"stopped after epoch {run.read().epoch}: collab model train --out {run.path} --resume goes on")
        raise


def _draw(run: Run) -> None:
    """The curves so far, ``accuracy.svg`` and ``loss.svg``."""
    from collab.cli.plots import Series, lines_svg

    history = run.read().history
    for name in _PLOTS:
        series = [
            Series(f"{split} {name}", tuple((n, epoch[key]) for n, epoch in enumerate(history, 1)))
            for split, key in (("training", name), ("validation", f"val_{name}"))
            if all(key in epoch for epoch in history)
        ]
        write_text(run.path / f"{name}.svg", lines_svg(series, "epoch", name, f"{run.path.name}: {name}"))


def _told(out: Path, state: State, as_json: bool) -> None:
    best = state.history[state.best - 1]
    if as_json:
        emit(
            {
                "run": str(out),
                "model": str(out / "model.keras"),
                "parameters": state.parameters,
                "epochs": state.epoch,
                "best": state.best,
                "metrics": best,
                "test_accuracy": state.test_accuracy,
                "test_examples": state.test_examples,
            }
        )
        return
    shown = ", ".join(f"{name} {value:.4f}" for name, value in best.items())
    tested = (
        ""
        if state.test_accuracy is None
        else f"; {state.test_accuracy:.2%} of {state.test_examples:,} for testing are right"
    )
    say(f"{out / 'model.keras'}: epoch {state.best} of {state.epoch}, {shown}{tested}")
