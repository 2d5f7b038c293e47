"""Real agent hosts, run for one turn without a person: opencode, Codex and Qwen Code.

Each gets folders of its own in place of the user's, a scripted model instead of a real one, our MCP server over
stdio, and no shell. Whatever would look for updates or send statistics is switched off: only loopback can be reached.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness import BIN as VENV_BIN
from tests.hosts import installed

PROMPT = "Have the generalist VP write a story, and show it to me."
VP_MCP = (str(VENV_BIN / "vp"), "mcp")
WITHIN_SECONDS = 200.0
OPENCODE = installed.MODULES / "opencode-linux-x64-baseline" / "bin" / "opencode"


@dataclass(frozen=True)
class Turn:
    """How one turn of a host went.

    Attributes:
        events: the JSON lines that it printed.
        answer: its last words to the user.
        tools: the tools that it called, by its own account and its own names.
        left_behind: the files in the session's folder that were not there before.
    """

    code: int
    events: list[dict[str, Any]]
    answer: str
    tools: list[str]
    left_behind: list[str]
    errors: str


Host = Callable[..., Turn]


def opencode(
    folder: Path, model_url: str, vp_home: Path, server: Sequence[str] = VP_MCP, *, shell: bool = False
) -> Turn:
    """Run opencode.

    Args:
        folder: where the host may keep what it likes; made by this call.
        model_url: the base URL of the model's API.
        vp_home: VP_HOME of the server.
        server: the command of the MCP server.
        shell: also offer a shell to the model, as hosts do when nobody says otherwise.
    """
    permission = {"*": "allow"} if shell else {"*": "deny", "vp_*": "allow"}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": model_url, "apiKey": "none"},
        "models": {"scripted": {"name": "Scripted", "tool_call": True}},
    }
    vp = {
        "type": "local",
        "command": list(server),
        "environment": {"VP_HOME": str(vp_home)},
        "enabled": True,
        "timeout": 60_000,
    }
    settings = {
        "model": "scripted/scripted",
        "small_model": "scripted/scripted",
        "autoupdate": False,
        "share": "disabled",
        "snapshot": False,
        "enabled_providers": ["scripted"],
        "provider": {"scripted": provider},
        "mcp": {"vp": vp},
        "permission": permission,
    }
    session = _folders(folder, "opencode.json", json.dumps(settings))
    environment = {
        "OPENCODE_CONFIG": str(folder / "home" / "opencode.json"),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
        "NPM_CONFIG_REGISTRY": "http://127.0.0.1:9/",  # it wants its plugin's types, and does without
    }
    code, events, errors = _run([str(OPENCODE), "run", "--format", "json", PROMPT], folder, environment)
    texts = [event["part"]["text"] for event in events if event["type"] == "text"]
    called = [event["part"]["tool"] for event in events if event["type"] == "tool_use"]
    return Turn(code, events, "".join(texts[-1:]), called, _new_in(session), errors)


CODEX_SETTINGS = """
model = "scripted"
model_provider = "scripted"
approval_policy = "never"
sandbox_mode = "{sandbox}"
check_for_update_on_startup = false
web_search = "disabled"
[analytics]
enabled = false
[feedback]
enabled = false
[history]
persistence = "none"
[features]
shell_tool = {shell}
unified_exec = {shell}
shell_snapshot = false
apps = false
plugins = false
[model_providers.scripted]
name = "Scripted"
base_url = "{model_url}"
wire_api = "responses"
requires_openai_auth = false
request_max_retries = 0
stream_max_retries = 0
[mcp_servers.vp]
command = "{command}"
args = {arguments}
required = {required}
startup_timeout_sec = 60
tool_timeout_sec = 60
env = {{ VP_HOME = "{vp_home}" }}
"""


def codex(folder: Path, model_url: str, vp_home: Path, server: Sequence[str] = VP_MCP, *, shell: bool = False) -> Turn:
    """Run Codex; the arguments are those of :func:`opencode`. Without its MCP server it refuses to begin."""
    settings = CODEX_SETTINGS.format(
        sandbox="danger-full-access" if shell else "read-only",
        shell=str(shell).lower(),
        required=str(not shell).lower(),
        model_url=model_url,
        command=server[0],
        arguments=json.dumps(list(server[1:])),
        vp_home=vp_home,
    )
    session = _folders(folder, "config.toml", settings)
    argv = [str(installed.BIN / "codex"), "exec", "--json", "--skip-git-repo-check", PROMPT]
    code, events, errors = _run(argv, folder, {"CODEX_HOME": str(folder / "home")})
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    texts = [item["text"] for item in items if item["type"] == "agent_message"]
    called = [
        item.get("tool", item["type"]) for item in items if item["type"] not in ("agent_message", "reasoning", "error")
    ]
    return Turn(code, events, "".join(texts[-1:]), called, _new_in(session), errors)


def qwen(folder: Path, model_url: str, vp_home: Path, server: Sequence[str] = VP_MCP, *, shell: bool = False) -> Turn:
    """Run Qwen Code; the arguments are those of :func:`opencode`."""
    denied = [] if shell else ["Bash", "Edit", "Write", "Read", "WebFetch", "Agent"]
    vp = {
        "command": server[0],
        "args": list(server[1:]),
        "env": {"VP_HOME": str(vp_home)},
        "trust": True,
        "timeout": 60_000,
    }
    settings = {
        "security": {"auth": {"selectedType": "openai"}},
        "model": {"name": "scripted"},
        "general": {"enableAutoUpdate": False, "checkForUpdates": False},
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
        "memory": {"enableManagedAutoMemory": False, "enableManagedAutoDream": False},
        "tools": {
            "approvalMode": "yolo" if shell else "default",
            "toolSearch": {"enabled": False},
            "useRipgrep": False,
        },
        "permissions": {"allow": ["mcp__vp"], "deny": denied},
        "mcpServers": {"vp": vp},
    }
    session = _folders(folder, ".qwen/settings.json", json.dumps(settings))
    environment = {
        "OPENAI_BASE_URL": model_url,
        "OPENAI_API_KEY": "none",
        "OPENAI_MODEL": "scripted",
        "NO_UPDATE_NOTIFIER": "1",
        "QWEN_SANDBOX": "false",
    }
    code, events, errors = _run([str(installed.BIN / "qwen"), "-p", PROMPT, "-o", "stream-json"], folder, environment)
    answer = "".join(event.get("result", "") for event in events if event["type"] == "result")
    parts = [part for event in events if event["type"] == "assistant" for part in event["message"]["content"]]
    called = [part["name"] for part in parts if part["type"] == "tool_use"]
    return Turn(code, events, answer, called, _new_in(session), errors)


def _folders(folder: Path, name: str, settings: str) -> Path:
    """Make the folders of a host's own, with its settings; the session's folder."""
    path = folder / "home" / name
    path.parent.mkdir(parents=True)
    path.write_text(settings)
    for other in ("session", "tmp"):
        (folder / other).mkdir()
    return folder / "session"


def _run(argv: Sequence[str], folder: Path, more: dict[str, str]) -> tuple[int, list[dict[str, Any]], str]:
    home = folder / "home"
    environment = {
        "PATH": installed.PATH,
        "HOME": str(home),
        "TMPDIR": str(folder / "tmp"),
        **{f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "CACHE", "STATE")},
        **more,
    }
    done = subprocess.run(
        argv,
        cwd=folder / "session",
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WITHIN_SECONDS,
    )
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return done.returncode, events, done.stderr


def _new_in(session: Path) -> list[str]:
    return sorted(str(path.relative_to(session)) for path in session.rglob("*"))
