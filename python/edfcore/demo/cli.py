"""The commands of `edfcore`: what can be asked for, what is checked before work begins, and how it ends."""

from __future__ import annotations

import enum
import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import edfcore as edf
from edfcore.demo import data, files, plot, report, train, weights
from edfcore.demo.interrupt import Interrupt

INTERRUPTED = 130

app = typer.Typer(name="edfcore", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class Data(str, enum.Enum):
    digits = "digits"
    mnist = "mnist"
    fashion_mnist = "fashion-mnist"


class Output(str, enum.Enum):
    none = "none"
    sigmoid = "sigmoid"


class Decay(str, enum.Enum):
    linear = "linear"
    none = "none"


class Device(str, enum.Enum):
    cpu = "cpu"
    cuda = "cuda"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"edfcore {edf.__version__}")
        raise typer.Exit


@app.callback()
def edfcore(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """EDF programs on a C++ core."""


def _show_program(asked: bool) -> None:
    if asked:
        source = Path(train.__file__).with_name("program.py").read_text(encoding="utf-8")
        typer.echo(source, nl=False)
        raise typer.Exit


@app.command("train")
def train_command(
    name: Annotated[
        Data, typer.Option("--data", help="The images; digits come with scikit-learn.")
    ] = Data.digits,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Where the idx files are, .gz or plain; without it they are downloaded once."),
    ] = None,
    hidden: Annotated[int, typer.Option(min=1, help="Units in the hidden layer.")] = 256,
    output: Annotated[
        Output,
        typer.Option(help="What stands before Softmax; sigmoid is the slides' network. " + report.FLOOR_NOTE),
    ] = Output.none,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes over the training set.", show_default="30 for digits, otherwise 10"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Examples in a minibatch; the last may be smaller.")] = 64,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate at the start.",
            show_default="0.5 for digits, otherwise 0.2; with --output sigmoid 4 and 2",
        ),
    ] = None,
    decay: Annotated[Decay, typer.Option(help="How the learning rate falls to zero.")] = Decay.linear,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and of the shuffling.")] = 0,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cpu,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Draw curves and first-layer weights into this PNG.")
    ] = None,
    save_file: Annotated[
        Path | None, typer.Option("--save", help="Write the parameters into this safetensors file.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write settings, history and results into this file.")
    ] = None,
    show_program: Annotated[
        bool,
        typer.Option(
            "--show-program", callback=_show_program, is_eager=True, help="Print the EDF program and stop."
        ),
    ] = False,
) -> None:
    """Train a multilayer perceptron, written as an EDF program, on images.

    The epoch that is best on the dev set is kept; the test set is looked at once, at the end.

    Ctrl-C stops at the next step, writes what was asked for, and exits with status 130.
    """
    if lr is not None and not 0 <= lr < float("inf"):
        raise typer.BadParameter("must be a finite number of at least 0", param_hint="'--lr'")
    if data_dir is not None and name is Data.digits:
        raise typer.BadParameter(
            "digits come with scikit-learn: --data-dir is for idx files", param_hint="'--data-dir'"
        )
    settings = train.Settings(
        data=name.value,
        hidden=hidden,
        output=output.value,
        epochs=epochs or train.default_epochs(name.value),
        batch=batch,
        lr=train.default_rate(name.value, output.value) if lr is None else lr,
        decay=decay.value,
        seed=seed,
        device=device.value,
    )
    messages = Console(stderr=True)
    try:
        _check_packages(name, plot_file, save_file)
        for path in (plot_file, save_file, json_file):
            if path is not None:
                files.check_writable(path)
        edf.set_device(settings.device)
        dataset = _load(settings.data, data_dir, messages)
        result = _run(settings, dataset, messages)
        _write(result, dataset, save_file, json_file, plot_file)
    except (edf.Error, train.DivergedError, OSError) as error:
        messages.print(f"edfcore: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        messages.print("stopped")
        raise typer.Exit(INTERRUPTED) from None
    if result.interrupted:
        messages.print(f"stopped; {_kept(result, save_file)}", highlight=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED)
    report.summary(Console(), result, dataset)


def _check_packages(name: Data, plot_file: Path | None, save_file: Path | None) -> None:
    """Stop now, rather than after the training, where a package that will be needed is not installed."""
    wanted = {
        "sklearn": ("--data digits needs scikit-learn", name is Data.digits),
        "matplotlib": ("--plot needs matplotlib", plot_file is not None),
        "safetensors": ("--save needs safetensors", save_file is not None),
    }
    for package, (sentence, needed) in wanted.items():
        if needed and importlib.util.find_spec(package) is None:
            raise edf.DataError(f"{sentence}, which is not installed:  pip install 'edfcore[demo]'")


def _load(name: str, directory: Path | None, messages: Console) -> data.Dataset:
    """The dataset, with a bar while it is downloaded."""
    bar = report.DownloadBar(messages)
    try:
        return data.load(name, directory, bar)
    finally:
        bar.close()


def _run(settings: train.Settings, dataset: data.Dataset, messages: Console) -> train.Result:
    """Train under the live bar; Ctrl-C is noticed at the next step."""
    with report.TrainingBar(messages, settings.epochs) as bar, Interrupt() as interrupt:
        return train.fit(settings, dataset, bar.step, bar.epoch, lambda: interrupt.asked)


def _write(
    result: train.Result,
    dataset: data.Dataset,
    save_file: Path | None,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """The files that were asked for, the parameters first."""
    if save_file is not None:
        metadata = {key: str(value) for key, value in asdict(result.settings).items()}
        metadata.update(
            pixel_mean=repr(dataset.mean),
            pixel_deviation=repr(dataset.deviation),
            epoch=str(result.best_epoch),
        )
        weights.save(save_file, result.parameters, metadata)
    if json_file is not None:
        files.write(json_file, report.as_json(result, dataset))
    if plot_file is not None:
        plot.save(plot_file, result, dataset.image_shape)


def _kept(result: train.Result, save_file: Path | None) -> str:
    """What an interrupted run has left behind."""
    if save_file is None:
        return "the test set was not looked at"
    which = f"of epoch {result.best_epoch}, the best on dev so far," if result.best_epoch else "as they were"
    return f"the parameters {which} are in {save_file}"
