"""Arrow tables: made without pandas, and with columns that many rows share."""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class _WithoutPandas:
    """Makes ``import pandas`` fail.

    The first `pa.array` of a process imports pandas if it can: 0.2 s and 40 MB in every worker. Once it could not, only
    what needs pandas, such as ``to_pandas``, tries again.
    """

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ImportError(name)


if "pandas" not in sys.modules:
    sys.meta_path.insert(0, _WithoutPandas)
    pa.array([])
    sys.meta_path.remove(_WithoutPandas)


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """The table with other values in one of its columns."""
    return table.set_column(table.schema.get_field_index(name), name, values)


def codes(table: pa.Table, name: str) -> tuple[list[str | None], NDArray[np.int32]]:
    """The values of a dictionary-encoded column, and for each row the number of its value ``(n,)``."""
    column = table[name].combine_chunks()
    values = [*column.dictionary.to_pylist(), None]
    return values, column.indices.fill_null(len(values) - 1).to_numpy()


def counts(table: pa.Table, *names: str) -> Counter[tuple[Any, ...]]:
    """How many rows there are of each combination of values of these columns."""
    found = table.group_by(list(names), use_threads=False).aggregate([([], "count_all")])
    keys = zip(*(found[name].to_pylist() for name in names), strict=True)
    return Counter(dict(zip(keys, found["count_all"].to_pylist(), strict=True)))


def plain(table: pa.Table) -> pa.Table:
    """The table with dictionary-encoded columns as values: a part of it is then pickled without the rest's values."""
    for number, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(number, field.name, table.column(number).cast(field.type.value_type))
    return table


def encoded(values: Sequence[str], numbers: NDArray[np.integer[Any]]) -> pa.DictionaryArray:
    """A dictionary-encoded column from values, and for each row the number of its value ``(n,)``."""
    return pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int32()), pa.array(values, pa.string()))
