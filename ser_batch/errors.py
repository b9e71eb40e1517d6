"""Exception classes. The command line prints a `SerBatchError` as one line; any other exception is a bug."""


class SerBatchError(Exception):
    """An error that the user can fix. The message has one line: what, where, received value, what to do."""


class UsageError(SerBatchError):
    """An option has an invalid value."""


class SourceError(SerBatchError):
    """SOURCE cannot be listed: it is missing, empty, or in an unknown format."""


class LabelError(SerBatchError):
    """Labels are missing or ambiguous."""


class AudioError(SerBatchError):
    """One recording cannot be used. A batch continues and stores the error in the row of the recording.

    Attributes:
        stage: failed stage: ``read``, ``decode`` or ``check``.
        reason: the message.
    """

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(stage, reason)
        self.stage = stage
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class FrontEndError(SerBatchError):
    """A front end is unknown or invalid, or differs from that of the model."""


class OutputError(SerBatchError):
    """An output cannot be written: it is in use, not writable, or has other inputs or settings."""


class WorkerError(SerBatchError):
    """Worker processes cannot be started, do not fit together, or one has ended."""


class RecordsError(SerBatchError):
    """A record folder is missing, unfinished or damaged."""


class TrainingError(SerBatchError):
    """A network cannot be trained on these records."""


class BundleError(SerBatchError):
    """A model bundle is missing, unfinished or damaged."""
