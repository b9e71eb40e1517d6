"""``python -m ser_batch``: the same as ``ser-batch``."""

import sys

from ser_batch.runtime.signals import signals_handled


def main() -> int:
    """Run the command line. Workers import the module that was started, this one; they need no commands."""
    with signals_handled():
        from ser_batch.cli.app import main as run

        return run()


if __name__ == "__main__":
    sys.exit(main())
