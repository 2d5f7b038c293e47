"""Gives a mission to a chat model: one prompt, one answer, saved as the mission's artifact.

The model is an OpenAI-compatible endpoint if the profile names one, else a GGUF file run on this machine, by
default a small demonstration model. The conversation itself runs in the attempt's own process
(``model_chat``), so that a cancel ends it wherever it waits, and a crash of the engine hurts nobody else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from vp_queue.config_options import ModelOptions
from vp_queue.contracts import FailureCode
from vp_queue.contracts.paths import check_output
from vp_queue.executors import child, model_local
from vp_queue.executors.base import Availability, Brief, Control, ExecutorFailure, UnfitMission

DEFAULT_OUTPUT: Final = "response.md"
CONVERSATION: Final = "vp_queue.executors.model_chat:answer"


class ModelExecutor:
    """``executor = "model"``; see ``config_options.ModelOptions``."""

    def availability(self, options: Mapping[str, Any]) -> Availability:
        """Whether it can run here: an endpoint is believed to answer, a local model is looked for.

        The key's variable is not looked at: whoever dispatches need not hold it, only the worker.
        """
        wanted = ModelOptions.model_validate(dict(options))
        if wanted.base_url is not None:
            return Availability(True)
        missing = model_local.problem(wanted.model_path)
        if missing is not None:
            return Availability(
                False,
                f"{missing}, and its profile names no endpoint. Run: vp model fetch   or set base_url, model and "
                'api_key_env under [vp."<vp_id>".options] in vp_queue.toml',
            )
        return Availability(True, None if wanted.model_path else f"runs the {model_local.LABEL}")

    def check(self, metadata: Mapping[str, str], constraints: Mapping[str, Any]) -> None:
        """Whether the answer's file can be made and will be found; before anybody pays for the answer.

        Raises:
            UnfitMission: no.
        """
        _output(metadata, constraints)

    def run(self, brief: Brief, control: Control) -> str | None:
        options = ModelOptions.model_validate(dict(brief.options))
        try:
            output = _output(brief.metadata, brief.constraints)
        except UnfitMission as unfit:  # it was dispatched when this VP had another executor, or by another version
            message = f"{unfit.field}: {unfit.message}"
            raise ExecutorFailure(FailureCode.EXECUTOR_UNAVAILABLE, message) from None
        arguments = {**options.model_dump(exclude={"api_key_env", "allow_plain_http"}), "output": output}
        argv, stdin = child.command(CONVERSATION, [], arguments)
        control.run_program(argv, _key(options), stdin).check("The model's process")
        return None


def _output(metadata: Mapping[str, str], constraints: Mapping[str, Any]) -> str:
    """Where the answer goes, relative to ``work_products/``: the mission's ``metadata.output``."""
    try:
        return check_output(metadata.get("output", DEFAULT_OUTPUT), constraints.get("files", ()))
    except ValueError as error:
        message = f"this is no name for an artifact: {error}. Give one such as poem.md."
        raise UnfitMission("metadata.output", message) from None


def _key(options: ModelOptions) -> dict[str, str]:
    """The endpoint's key for the child's environment, under a name by which it is redacted everywhere."""
    if options.api_key_env is None:
        return {}
    key = os.environ.get(options.api_key_env, "").strip()
    if not key:
        raise ExecutorFailure(
            FailureCode.EXECUTOR_UNAVAILABLE,
            f"The environment variable {options.api_key_env} (api_key_env of the profile) is not set in the worker. "
            "Set it where `vp up` is run, then: vp down, vp up --detach",
        )
    if not key.isascii() or not key.isprintable():
        # Told here, because an HTTP library's complaint would quote it.
        message = f"The key in {options.api_key_env} holds characters that no HTTP header can. Set it anew."
        raise ExecutorFailure(FailureCode.AUTH, message)
    return {child.MODEL_KEY_VARIABLE: key}
