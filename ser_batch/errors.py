"""The exception tree. The command line catches its root and prints one line; anything else is a bug."""


class SerBatchError(Exception):
    """Something the user can mend. The message says what, where, what was received and what to do."""


class UsageError(SerBatchError):
    """An option has a value that it cannot have."""


class SourceError(SerBatchError):
    """SOURCE cannot be listed: it is missing, empty, or not in a form that is understood."""


class LabelError(SerBatchError):
    """Labels are missing, or cannot be told from what was given."""


class AudioError(SerBatchError):
    """One recording cannot be used. In a batch it becomes a row, never the end of the batch.

    Attributes:
        stage: where it failed: ``read``, ``decode`` or ``check``.
    """

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(stage, reason)
        self.stage = stage
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class FrontEndError(SerBatchError):
    """A front end is unknown, malformed, or not the one that a model was trained with."""


class OutputError(SerBatchError):
    """An output cannot be written: in use, unwritable, or made from something else."""


class RecordsError(SerBatchError):
    """A record folder is missing, unfinished or damaged."""


class TrainingError(SerBatchError):
    """A network cannot be trained on these records."""


class BundleError(SerBatchError):
    """A model bundle is missing, unfinished or damaged."""
