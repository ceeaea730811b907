"""The command `tileseg`: its commands, its messages, its exit codes."""

import logging
import os
import sys
import warnings
from contextlib import ExitStack

import click

from tilesegment import TilesegmentError
from tilesegment.errors import StoppedError, one_line
from tilesegment_cli.bench import bench
from tilesegment_cli.completion import completion
from tilesegment_cli.defaults import name_variables, origin_of, read_defaults, remember, unused_variables
from tilesegment_cli.evaluate import evaluate
from tilesegment_cli.examples import EXAMPLES
from tilesegment_cli.exit_codes import STOPPED
from tilesegment_cli.export import export
from tilesegment_cli.group import Grouped, note, unknown_option
from tilesegment_cli.import_weights import import_weights
from tilesegment_cli.info import info, models, networks
from tilesegment_cli.log import Log
from tilesegment_cli.objects import objects
from tilesegment_cli.open_in import open_in
from tilesegment_cli.options import read_path, written_path
from tilesegment_cli.predict import predict
from tilesegment_cli.preview import preview
from tilesegment_cli.status import finish, status
from tilesegment_cli.suggest import suggest
from tilesegment_cli.summary import summary
from tilesegment_cli.tissue import tissue
from tilesegment_cli.train import train
from tilesegment_cli.verify import verify
from tilesegment_cli.view import view


@click.group(cls=Grouped, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="tilesegment", prog_name="tileseg")
@click.option(
    "--config",
    type=read_path,
    metavar="FILE",
    envvar="TILESEG_CONFIG",
    help="Defaults of options, as TOML.  [default: tilesegment.toml, if it is in this folder]",
)
@click.option(
    "--log-file",
    type=written_path,
    metavar="FILE",
    envvar="TILESEG_LOG_FILE",
    help="Append all that is printed to this file, too, each line with the time.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def tileseg(context: click.Context, config: str | None, log_file: str | None, debug: bool) -> None:
    """Segments images larger than memory, tile by tile, without seams.

    \b
    tileseg predict slide.tif --tile 572 --out mask.zarr
    tileseg train em_data/

    Each command has a help of its own, with examples: tileseg predict --help.

    An option that is not typed has the value of the variable TILESEG_COMMAND_OPTION, else of TILESEG_OPTION, else of
    the file of --config, else of ./tilesegment.toml, else the default.
    """  # noqa: D301 - click looks for the backspace itself
    if log_file is not None:
        context.ensure_object(ExitStack).enter_context(Log(log_file, sys.argv[1:]))
    found = read_defaults(config, tileseg.commands)
    remember(context, found)
    if found.files:
        note(context, f"defaults of {', '.join(found.files)}")
    if unused := unused_variables(tileseg):
        note(context, f"no option is named by {', '.join(unused)}")


_SECTIONS = {
    "Predict": (predict, objects, summary, tissue),
    "Look": (view, preview, open_in, info, suggest),
    "Train": (train, models, networks, import_weights, export),
    "Check": (verify, evaluate, bench),
    "Cluster": (status, finish),
    "Shell": (completion,),
}
for title, commands in _SECTIONS.items():
    tileseg.add_section(title, commands, EXAMPLES)
name_variables(tileseg)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 usage, 3 some failed, 75 asked to stop, 130 Ctrl-C."""
    debug = "--debug" in sys.argv
    # the flag may stand anywhere: it is often appended to a command that failed
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if not debug:
        # libraries log about damaged files too; our message is enough
        logging.disable()
        warnings.simplefilter("ignore")
    with ExitStack() as opened:  # the log, which has errors, too
        _run(arguments, debug, opened)


def _run(arguments: list[str], debug: bool, opened: ExitStack) -> None:
    """Run a command, and exit with its code."""
    try:
        tileseg.main(arguments, prog_name="tileseg", standalone_mode=False, obj=opened)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.NoSuchOption as error:
        command = error.ctx.command_path if error.ctx is not None else "tileseg"
        _fail(f"{unknown_option(error)} (see {command} --help)", error.exit_code)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "tileseg"
        _fail(f"{error.format_message().rstrip('.')}{origin_of(error)} (see {command} --help)", error.exit_code)
    except StoppedError:
        click.echo("Stopped.", err=True)
        sys.exit(STOPPED)
    except (TilesegmentError, OSError) as error:
        if debug:
            raise
        # an OSError comes from a path in a list, in a folder or behind a link that no part of the library expects
        name, said = getattr(error, "filename", None), getattr(error, "strerror", None)
        _fail(f"{os.fsdecode(name)}: {said}" if name is not None and said is not None else str(error), 1)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Stopped.", err=True)
        sys.exit(130)


def _fail(message: str, code: int) -> None:
    """Print one line, even where an option's value has several, and exit."""
    click.echo(f"Error: {one_line(message)}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
