"""``python -m ser_batch``: the same as ``ser-batch``."""

import sys


def main() -> int:
    """Run the command line. Workers import the module that was started, this one; they need no commands."""
    from ser_batch.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
