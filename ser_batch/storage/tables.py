"""Arrow tables without pandas, and dictionary-encoded columns."""

import mmap
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class _WithoutPandas:
    """Import hook that makes ``import pandas`` fail.

    The first `pa.array` of a process imports pandas if possible: 0.2 s and 40 MB in every worker. After one failure,
    only functions that need pandas, such as ``to_pandas``, try again.
    """

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ImportError(name)


if "pandas" not in sys.modules:
    sys.meta_path.insert(0, _WithoutPandas)
    pa.array([])
    sys.meta_path.remove(_WithoutPandas)


def mapped(table: pa.Table) -> pa.Table:
    """A table whose columns are in a mapped temporary file, which has no name; the same table if that is impossible."""
    try:
        with tempfile.TemporaryFile() as file:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table.combine_chunks())
            file.flush()
            content = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except OSError:  # no temporary folder, or it is full
        return table
    return pa.ipc.open_file(pa.py_buffer(content)).read_all()


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Replace the values of a column."""
    return table.set_column(table.schema.get_field_index(name), name, values)


def codes(table: pa.Table, name: str) -> tuple[list[str | None], NDArray[np.int32]]:
    """The values of a dictionary-encoded column, and the index of the value of each row, int32 ``(n,)``."""
    column = table[name].combine_chunks()
    values = [*column.dictionary.to_pylist(), None]
    return values, column.indices.fill_null(len(values) - 1).to_numpy()


def counts(table: pa.Table, *names: str) -> Counter[tuple[Any, ...]]:
    """The number of rows for each combination of values of these columns."""
    found = table.group_by(list(names), use_threads=False).aggregate([([], "count_all")])
    keys = zip(*(found[name].to_pylist() for name in names), strict=True)
    return Counter(dict(zip(keys, found["count_all"].to_pylist(), strict=True)))


def plain(table: pa.Table) -> pa.Table:
    """Decode dictionary-encoded columns, so that a slice is pickled without the values of other rows."""
    for number, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(number, field.name, table.column(number).cast(field.type.value_type))
    return table


def encoded(values: Sequence[str], numbers: NDArray[np.integer[Any]]) -> pa.DictionaryArray:
    """A dictionary-encoded column from values and the index of the value of each row, integer ``(n,)``."""
    return pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int32()), pa.array(values, pa.string()))
