"""The command `tileseg`: its commands, its messages, its exit codes."""

import logging
import os
import sys
import warnings

import click

from tilesegment import TilesegmentError
from tilesegment.errors import StoppedError, one_line
from tilesegment_cli.bench import bench
from tilesegment_cli.evaluate import evaluate
from tilesegment_cli.examples import EXAMPLES
from tilesegment_cli.exit_codes import STOPPED
from tilesegment_cli.export import export
from tilesegment_cli.group import Grouped, unknown_option
from tilesegment_cli.import_weights import import_weights
from tilesegment_cli.info import info, models, networks
from tilesegment_cli.objects import objects
from tilesegment_cli.open_in import open_in
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
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def tileseg(debug: bool) -> None:
    """Segments images larger than memory, tile by tile, without seams.

    \b
    tileseg predict slide.tif --tile 572 --out mask.zarr
    tileseg train em_data/

    Each command has a help of its own, with examples: tileseg predict --help.
    """  # noqa: D301 - click looks for the backspace itself


_SECTIONS = {
    "Predict": (predict, objects, summary, tissue),
    "Look": (view, preview, open_in, info, suggest),
    "Train": (train, models, networks, import_weights, export),
    "Check": (verify, evaluate, bench),
    "Cluster": (status, finish),
}
for title, commands in _SECTIONS.items():
    tileseg.add_section(title, commands, EXAMPLES)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 usage, 3 some failed, 75 asked to stop, 130 Ctrl-C."""
    debug = "--debug" in sys.argv
    # the flag may stand anywhere: it is often appended to a command that failed
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if not debug:
        # libraries log about damaged files too; our message is enough
        logging.disable()
        warnings.simplefilter("ignore")
    try:
        tileseg.main(arguments, prog_name="tileseg", standalone_mode=False)
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
        _fail(f"{error.format_message().rstrip('.')} (see {command} --help)", error.exit_code)
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
