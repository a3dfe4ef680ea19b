"""The program `genenet`: one verb per job.

Exit codes: 0, what was asked is written; 2, the input is wrong, and one line names the culprit and the cure; 1,
anything else; 130, stopped by Ctrl-C.
"""

import errno
import os
import signal
import sys

import typer

from genenet.cli import (
    components,
    correcting,
    data,
    demo,
    doctor,
    exporting,
    instances,
    networks,
    pruning,
    searching,
    segmenting,
    tree,
)
from genenet.cli.output import complain, log_to_stderr
from genenet.errors import InputError, TrainingError

# What Typer makes of Ctrl-C, as shells do.
STOPPED = 130

app = typer.Typer(
    name="genenet",
    help="Search, train, combine and apply segmentation networks for microscope volumes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
demo.register(app)
app.add_typer(data.app, name="data")
tree.register(app)
app.add_typer(searching.app, name="search")
networks.register(app)
segmenting.register(app)
components.register(app)
app.add_typer(instances.app, name="instances")
correcting.register(app)
pruning.register(app)
exporting.register(app)
doctor.register(app)


@app.callback()
def _start() -> None:
    log_to_stderr()


def main() -> None:
    """Run a verb, and turn what goes wrong into one line and an exit code."""
    try:
        app()
    except InputError as error:
        complain(str(error))
        from genenet.formats.hdf5 import STUCK

        if STUCK:  # on a full disk, say
            sys.stdout.flush()
            os._exit(2)
        sys.exit(2)
    except ValueError as error:
        if type(error).__name__ != "PruningError":
            raise
        complain(str(error))
        sys.exit(2)
    except SystemExit as ending:
        if ending.code == STOPPED:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is heard
            complain("stopped; the same command continues where it was")
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        complain(
            f"{error.strerror}: {error.filename or 'while writing'}; make room or choose another place, then again"
        )
        sys.exit(1)
    except TrainingError as error:
        complain(str(error))
        sys.exit(1)
