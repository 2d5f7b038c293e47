"""The options of the built-in executors are judged when vp_queue.toml is read, each wrong one with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from vp_queue import config
from vp_queue.config_options import OPTIONS_BYTES, ModelOptions, PythonOptions
from vp_queue.errors import ConfigurationError

HEAD = '[vp."vp.mine"]\nexecutor = "{}"\n[vp."vp.mine".options]\n'
ENDPOINT = 'base_url = "https://models.example/v1"\nmodel = "m"\n'


def load(home: Path, executor: str, options: str) -> dict[str, object]:
    """The options of a profile that a file gives."""
    (home / "vp_queue.toml").write_text(HEAD.format(executor) + options, encoding="utf-8")
    return config.load({}, home=home).profile("vp.mine").options


@pytest.mark.parametrize(
    ("options", "line", "told"),
    [
        ("tempreature = 1", 4, 'unknown option of executor "model"; it knows base_url, model, api_key_env'),
        ("max_retries = 2\ntimeout_seconds = 0", 5, "greater than 0"),
        ('base_url = "https://models.example/v1"', 4, "name the endpoint's model"),
        ('model = "m"', 4, "goes with base_url"),
        ('api_key_env = "KEY"', 4, "goes with base_url"),
        (ENDPOINT + 'api_key_env = "sk-live-1234"', 6, "no name of an environment variable"),
        (ENDPOINT + 'model_path = "/m.gguf"', 6, "either base_url or model_path"),
        ('model = "m"\nbase_url = "ftp://models.example"', 5, "give the endpoint's URL"),
        ('model = "m"\nbase_url = "https://user:pass@models.example/v1"', 5, "the key comes by api_key_env"),
        ('model = "m"\nbase_url = "https://models.example/v1?key=1"', 5, "without user, password, query"),
        ('model = "m"\nbase_url = "https://models.example:99999/v1"', 5, "this is no URL"),
        ('model = "m"\nbase_url = "models.example/v1"', 5, "give the endpoint's URL"),
        ('model_path = "m.gguf"', 4, "absolute path"),
        ("temperature = 3", 4, "less than or equal to 2"),
        ('max_output_tokens = "many"', 4, "valid integer"),
        (f'system = "{"x" * OPTIONS_BYTES}"', 3, "longer than"),
    ],
)
def test_a_wrong_option_of_a_model_is_told_with_its_line(home_folder: Path, options: str, line: int, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told.replace("(", r"\(")) as raised:
        load(home_folder, "model", options)
    assert raised.value.details["line"] == line


@pytest.mark.parametrize(
    ("options", "line", "told"),
    [
        ("", 3, "needs this option"),
        ('callable = "module:"', 4, "module:function"),
        ('callable = "mod ule:function"', 4, "module:function"),
        ('callable = "os; rm"', 4, "entry point"),
        ('callable = "jobs:write"\npath = ["code"]', 5, "absolute path"),
        ('callable = "jobs:write"\npath = "/code"', 5, "list"),
        ('callable = "jobs:write"\nargv = ["a"]', 5, "it knows callable, path, arguments only"),
    ],
)
def test_a_wrong_option_of_a_callable_is_told_with_its_line(
    home_folder: Path, options: str, line: int, told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told) as raised:
        load(home_folder, "python", options)
    assert raised.value.details["line"] == line


@pytest.mark.parametrize(
    ("base_url", "accepted"),
    [
        ("https://models.example/v1", True),
        ("http://127.0.0.1:8080/v1", True),
        ("http://localhost:8080/v1", True),
        ("http://[::1]:8080/v1", True),
        ("http://192.168.0.7:8080/v1", False),
        ("http://models.example/v1", False),
        ("http://127.0.0.1.models.example/v1", False),
    ],
)
def test_a_key_goes_over_plain_http_only_where_nobody_else_hears_it(
    home_folder: Path, base_url: str, accepted: bool
) -> None:
    options = f'base_url = "{base_url}"\nmodel = "m"\n'
    load(home_folder, "model", options)  # without a key nothing is given away
    if accepted:
        load(home_folder, "model", options + 'api_key_env = "KEY"')
    else:
        with pytest.raises(ConfigurationError, match="unencrypted"):
            load(home_folder, "model", options + 'api_key_env = "KEY"')
        load(home_folder, "model", options + 'api_key_env = "KEY"\nallow_plain_http = true')


def test_what_fits_is_taken_with_its_defaults(home_folder: Path) -> None:
    model = ModelOptions.model_validate(load(home_folder, "model", ENDPOINT.replace("/v1", "/v1/")))
    assert (model.base_url, model.max_retries, model.token_limit_field) == (
        "https://models.example/v1",
        4,
        "max_tokens",
    )
    python = PythonOptions.model_validate(load(home_folder, "python", 'callable = "jobs.sub:Class.method"'))
    assert (python.path, python.arguments) == ([], {})
    assert load(home_folder, "model", "") == {}, "the local model needs none"


@pytest.fixture
def home_folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path
