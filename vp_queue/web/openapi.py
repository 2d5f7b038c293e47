"""The API's description (OpenAPI 3.1), made from the models that judge requests and make answers."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def document() -> dict[str, Any]:
    """The whole document."""
    return {"openapi": "3.1.0"}
