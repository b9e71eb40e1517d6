"""``python -m ser_batch``: the same as ``ser-batch``."""

import sys

from ser_batch.cli import main

if __name__ == "__main__":
    sys.exit(main())
