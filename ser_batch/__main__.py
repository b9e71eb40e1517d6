"""``python -m ser_batch``: the same as ``ser-batch``."""

import os
import sys

from ser_batch.runtime.signals import cleanup_on_signal, signals_handled
from ser_batch.storage.writing import remove_partials


def main() -> int:
    """Run the command line. The commands are imported here, because workers import this module without using them."""
    # The plugin search would read the metadata of every installed package in every worker.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "true")
    with signals_handled(), cleanup_on_signal(remove_partials):
        from ser_batch.cli.app import main as run

        return run()


if __name__ == "__main__":
    sys.exit(main())
