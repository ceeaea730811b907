"""The command `tileseg`: its commands, its exit codes."""

import sys

import click

from tilesegment import TilesegmentError
from tilesegment_cli.info import info, models
from tilesegment_cli.predict import predict
from tilesegment_cli.preview import preview
from tilesegment_cli.train import train
from tilesegment_cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="tilesegment", prog_name="tileseg")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def tileseg(debug: bool) -> None:
    """Segments images larger than memory, tile by tile, without seams.

    \b
    tileseg predict slide.tif --tile 572 --out mask.zarr
    tileseg train em_data/
    """


for command in (predict, train, verify, preview, info, models):
    tileseg.add_command(command)


def main() -> None:
    """Runs the command line. Exit codes: 0 done, 1 failed, 2 usage, 130 Ctrl-C."""
    debug = "--debug" in sys.argv
    # the flag may stand anywhere: it is often added at the end of a line that failed
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        tileseg.main(arguments, prog_name="tileseg", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except TilesegmentError as error:
        if debug:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Stopped. What was finished is kept; the same command goes on from there.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
