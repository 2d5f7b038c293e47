"""Statements whose SQL text is rendered once.

Peewee renders a query anew each time it runs: of 5 ms that a dispatch took, 3 were spent on that. A
:class:`Statement` holds a query with slots for its values, lets Peewee render it at first use, and from then
on only fills in the values, each converted by its field. What a query says stays in Peewee's words, so that
models and migrations remain the one description of the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from peewee import Context, Field, Model, Node, Query

from vp_queue.ledger import database

Row = TypeVar("Row", bound=Model)


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
    return Slot(name or field.name, field.db_value)


class Statement:
    """A query with slots, rendered once."""

    def __init__(self, build: Callable[[], Query]) -> None:
        """
        Args:
            build: makes the query, with a :class:`Slot` wherever a value differs between runs.
        """
        self._build = build
        self._rendered: tuple[str, list[Any]] | None = None

    def run(self, **values: Any) -> Any:
        """Execute it in this thread's open transaction; returns the driver's cursor.

        Raises:
            KeyError: a slot got no value.
        """
        db = database.current().db
        if self._rendered is None:
            # Two threads may both render it, to the same text.
            self._rendered = db.get_sql_context().sql(self._build()).query()
        sql, parameters = self._rendered
        filled = []
        for parameter in parameters:
            if type(parameter) is tuple:  # a slot's; the driver knows no tuples
                name, convert = parameter
                value = values[name]
                filled.append(value if convert is None or value is None else convert(value))
            else:
                filled.append(parameter)
        return db.execute_sql(sql, filled)


class Change(Statement):
    """An UPDATE that either lands or does not."""

    def landed(self, **values: Any) -> bool:
        """Run it; whether it changed a row."""
        return bool(database.current().db.rows_affected(self.run(**values)))


class Insertion(Statement):
    """An INSERT of whole rows of one model; what is not given takes the field's default."""

    def __init__(self, model: type[Model]) -> None:
        self._model = model
        super().__init__(lambda: model.insert({field: slot(field) for field in _given_fields(model)}))
        self._defaults: dict[str, Any] = {}

    def insert(self, **values: Any) -> int:
        """Insert a row; returns its row id."""
        if not self._defaults:
            defaults = self._model._meta.defaults  # constants, all of them
            self._defaults = {field.name: defaults.get(field) for field in _given_fields(self._model)}
        row_id: int = self.run(**{**self._defaults, **values}).lastrowid
        return row_id


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
        return self._model(__no_default__=True, **row)


def _given_fields(model: type[Model]) -> list[Field]:
    meta = model._meta
    return [field for field in meta.sorted_fields if not (meta.auto_increment and field is meta.primary_key)]
