"""All-in-one image restoration, as in the paper's experiments.

python -m benchmarks.restoration --help
python -m benchmarks.restoration COMMAND --help
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

from . import commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 2 for what cannot be used, 130 after SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restoration", description=__doc__.splitlines()[0])
    choices = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    arguments = sys.argv[1:] if arguments is None else arguments
    names = sorted(module.name for module in iter_modules(commands.__path__))
    for name in [name for name in names if name in arguments[:1]] or names:  # some import a lot
        command = import_module(f"{commands.__name__}.{name}")
        choice = choices.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(choice)
        choice.set_defaults(run=command.run)
    given = parser.parse_args(arguments)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # of batch systems
    try:
        status: int = given.run(given)
    except (FileExistsError, NotADirectoryError) as error:
        print(f"{given.command}: {error.filename} is a file or lies below one; give a folder", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"{given.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{given.command}: interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return status


if __name__ == "__main__":
    sys.exit(main())
