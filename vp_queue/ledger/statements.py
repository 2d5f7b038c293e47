"""Statements whose SQL text is rendered once.

Peewee renders a query anew each time it runs: of 5 ms that a dispatch took, 3 were spent on that. A
:class:`Statement` holds a query with slots for its values, lets Peewee render it at first use, and from then
on only fills in the values, each converted by its field. What a query says stays in Peewee's words, so that
models and migrations remain the one description of the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from peewee import Context, Field, IntegerField, Model, Node, Query, TextField

from vp_queue.ledger import database

Row = TypeVar("Row", bound=Model)
# Peewee would put each value of these through str() or int(), which in 30 columns costs more than the INSERT.
AS_THEY_ARE: Final = (TextField, IntegerField)


class Slot(Node):
    """A value that is given when the statement runs.

    Attributes:
        name: the keyword it is given by.
        convert: from the value to the driver's, or None: it is passed as it is.
    """

    def __init__(self, name: str, convert: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.name, self.convert = name, convert

    def __sql__(self, ctx: Context) -> Context:
        context: Context = ctx.value((self.name, self.convert), converter=False)
        return context


def slot(field: Field, name: str | None = None) -> Slot:
    """A slot for a field's value, given by the field's name unless another is said."""
    return Slot(name or field.name, None if isinstance(field, AS_THEY_ARE) else field.db_value)


class Statement:
    """A query with slots, rendered once."""

    def __init__(self, build: Callable[[], Query]) -> None:
        """
        Args:
            build: makes the query, with a :class:`Slot` wherever a value differs between runs.
        """
        self._build = build
        self._rendered: _Rendered | None = None

    def run(self, **values: Any) -> Any:
        """Execute it in this thread's open transaction; returns the driver's cursor.

        Raises:
            KeyError: a slot got no value.
        """
        db = database.current().db
        if self._rendered is None:
            # Two threads may both render it, to the same text.
            self._rendered = _Rendered(*db.get_sql_context().sql(self._build()).query())
        # Not by Peewee, whose cursor and wrapping of errors cost as much as the statement.
        return db.connection().execute(self._rendered.sql, self._rendered.parameters(values))


class _Rendered:
    """The text of a statement, and which of its parameters are slots."""

    def __init__(self, sql: str, parameters: list[Any]) -> None:
        self.sql = sql
        self._constants = {at: value for at, value in enumerate(parameters) if type(value) is not tuple}
        slots = [("", None) if at in self._constants else value for at, value in enumerate(parameters)]
        self._converts = [(at, convert) for at, (_, convert) in enumerate(slots) if convert is not None]
        self._pick = [name for name, _ in slots]

    def parameters(self, values: dict[str, Any]) -> list[Any]:
        """The driver's parameters for these values of the slots."""
        if self._constants:
            values = {**values, "": None}
        filled = [values[name] for name in self._pick]
        for at, convert in self._converts:
            if filled[at] is not None:
                filled[at] = convert(filled[at])
        for at, value in self._constants.items():
            filled[at] = value
        return filled


class Change(Statement):
    """An UPDATE that either lands or does not."""

    def landed(self, **values: Any) -> bool:
        """Run it; whether it changed a row."""
        return bool(database.current().db.rows_affected(self.run(**values)))


class Insertion(Statement, Generic[Row]):
    """An INSERT of whole rows of one model; what is not given takes the field's default."""

    def __init__(self, model: type[Row]) -> None:
        self._model = model
        super().__init__(lambda: model.insert({field: slot(field) for field in _given_fields(model)}))
        self._defaults: dict[str, Any] = {}

    def insert(self, **values: Any) -> int:
        """Insert a row; returns its row id."""
        row_id: int = self.run(**self._whole(values)).lastrowid
        return row_id

    def row(self, **values: Any) -> Row:
        """Insert a row; returns it as its model."""
        whole = self._whole(values)
        self.run(**whole)
        return _made(self._model, whole)

    def _whole(self, values: dict[str, Any]) -> dict[str, Any]:
        if not self._defaults:
            defaults = self._model._meta.defaults  # constants, all of them
            self._defaults = {field.name: defaults.get(field) for field in _given_fields(self._model)}
        return {**self._defaults, **values}


class Reading(Statement, Generic[Row]):
    """A SELECT, or a write with RETURNING, of all columns of one model."""

    def __init__(self, model: type[Row], build: Callable[[], Query]) -> None:
        super().__init__(build)
        self._model = model

    def row(self, **values: Any) -> Row | None:
        """Run it; the one row there is, or None."""
        found = self.run(**values).fetchall()  # all: an unfinished statement would be in the way of the commit
        if not found:
            return None
        fields = self._model._meta.sorted_fields
        row = {field.name: field.python_value(value) for field, value in zip(fields, found[0], strict=True)}
        return _made(self._model, row)


def _made(model: type[Row], values: dict[str, Any]) -> Row:
    """A row that needs no defaults and no look at each name; values are those of its fields."""
    made = model(__no_default__=True)
    made.__data__.update(values)
    return made


def _given_fields(model: type[Model]) -> list[Field]:
    meta = model._meta
    return [field for field in meta.sorted_fields if not (meta.auto_increment and field is meta.primary_key)]
