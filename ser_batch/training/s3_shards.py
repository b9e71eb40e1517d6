"""S3 stores for tf.data, through tensorflow-io: shards are read as they are needed, and not copied."""

from __future__ import annotations

import tensorflow as tf

from ser_batch.errors import RecordsError
from ser_batch.storage.stores import environment, s3_endpoint


def register_s3(url: str) -> None:
    """Let TensorFlow read ``s3://`` in this process.

    A process that has read ``s3://`` through tensorflow-io 0.37 aborts at its exit ("pure virtual method called").

    Args:
        url: of an object, to connect to the store.

    Raises:
        RecordsError: tensorflow-io is not installed, or the object cannot be read.
    """
    try:
        import tensorflow_io  # noqa: F401  # registers the file systems
    except ImportError as error:
        raise RecordsError(
            f"{url}: tensorflow-io is needed to read it without a copy, and has no version for this Python; give "
            "stream=False, or use Python 3.11 or 3.12"
        ) from error
    # It connects on first use, and has its own variable for the address of the store.
    try:
        with environment("S3_ENDPOINT", s3_endpoint()):
            tf.io.gfile.stat(url)
    except tf.errors.OpError as error:
        detail = " ".join(str(error.message).split())[:200]
        raise RecordsError(f"{url}: cannot be read ({detail}); check the URL and the credentials") from error
