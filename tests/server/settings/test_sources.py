"""Sources of settings: which word counts, and what is said back to a wrong one."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.errors import UsageError
from headrace_server.settings import ModelSettings, ServerSettings, read_settings
from headrace_server.settings.values import toml_value
from saying import read, refusal

# The order.


def test_defaults_hold_where_nothing_is_said(tmp_path: Path) -> None:
    settings = read_settings(environ={"XDG_CACHE_HOME": "/c"})

    assert settings.server == ServerSettings(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", cache_dir="/c/headrace"
    )
    assert settings.for_model("iris") == ModelSettings()
    assert settings.served == ()


VALUES = {
    "rows_max": st.integers(1, 1000),
    "queue_delay_us_max": st.integers(0, 1000),
    "queue_rows_max": st.integers(1, 1000),
    "deterministic": st.booleans(),
    "method": st.sampled_from(["predict", "predict_proba", "transform"]),
    "instances": st.integers(1, 8),
}
LAYERS = ("tag", "file", "environment", "flag")


@st.composite
def words(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """For each setting, who says what."""
    return {
        key: draw(st.dictionaries(st.sampled_from(LAYERS), values))
        for key, values in VALUES.items()
    }


@given(words())
def test_the_strongest_word_counts(said: dict[str, dict[str, Any]]) -> None:
    def by(layer: str) -> dict[str, str]:
        return {
            key: str(value[layer]).lower() if key == "deterministic" else str(value[layer])
            for key, value in said.items()
            if layer in value
        }

    rows = [f"{k} = {toml_value(v['file'])}" for k, v in said.items() if "file" in v]
    settings = read(
        "\n".join(['[models."my-iris"]', *rows]),
        {f"HEADRACE_MODELS__MY_IRIS__{k.upper()}": v for k, v in by("environment").items()},
        tuple(f"my-iris.{k}={v}" for k, v in by("flag").items()),
    )
    tags = {f"headrace.{k}": v for k, v in by("tag").items()}

    effective = settings.for_model("my-iris", tags)

    for key, layers in said.items():
        strongest = max(layers, key=LAYERS.index, default="")
        default = ModelSettings.model_fields[key].default
        assert getattr(effective, key) == layers.get(strongest, default)
    assert settings.ignored_tags("iris", tags) == {}
    assert settings.for_model("other") == ModelSettings()


@given(
    st.dictionaries(st.sampled_from(["file", "environment", "set", "flag"]), st.integers(0, 65535))
)
def test_the_servers_settings_have_the_same_order(said: dict[str, int]) -> None:
    settings = read(
        f"[server]\nport = {said['file']}" if "file" in said else "[server]",
        {"HEADRACE_SERVER__PORT": str(said["environment"])} if "environment" in said else {},
        (f"server.port={said['set']}",) if "set" in said else (),
        port=str(said["flag"]) if "flag" in said else None,
    )

    order = ("set", "flag", "environment", "file")
    assert settings.server.port == next((said[who] for who in order if who in said), 8001)


def test_a_flag_that_was_not_given_leaves_the_files_word() -> None:
    assert read("[server]\nport = 9000", port=None).server.port == 9000


def test_the_last_of_two_equal_words_counts() -> None:
    settings = read(sets=("iris.rows_max=8", "iris.rows_max=16"))

    assert settings.for_model("iris").rows_max == 16


# Which file.


def test_the_file_asked_for_is_read(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text("[server]\nport = 1")
    (tmp_path / "other.toml").write_text("[server]\nport = 2")
    (tmp_path / "third.toml").write_text("[server]\nport = 3")
    environ = {"HEADRACE_CONFIG": "other.toml"}

    assert read_settings(environ={}).server.port == 1
    assert read_settings(environ=environ).server.port == 2
    assert read_settings(environ=environ, config="third.toml").server.port == 3


def test_a_file_that_was_asked_for_must_be_there() -> None:
    assert refusal(environ={"HEADRACE_CONFIG": "gone.toml"}) == (
        "gone.toml: No such file or directory"
    )


def test_paths_in_the_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "headrace.toml").write_text(
        '[server]\nmodels = ["./net", "a=nets/a", "b=models:/b/1"]\ncache_dir = "cache"\n'
        'tracking_uri = "sqlite:///mlflow.db"\n'
        '[tls]\ncert = "server.pem"\nkey = "/abs/key.pem"\n'
        '[auth]\ntokens = "../tokens.toml"\n'
        '[models.c]\nuri = "c"\n'
    )

    settings = read_settings(environ={}, config="etc/headrace.toml")

    etc = tmp_path / "etc"
    assert settings.served == (f"{etc}/net", f"a={etc}/nets/a", "b=models:/b/1", f"c={etc}/c")
    assert settings.server.cache_dir == f"{etc}/cache"
    assert settings.server.tracking_uri == f"sqlite:///{etc}/mlflow.db"
    assert settings.tls.cert == f"{etc}/server.pem"
    assert settings.tls.key == "/abs/key.pem"
    assert settings.tls.client_ca == ""
    assert settings.auth.tokens == f"{etc}/../tokens.toml"


def test_paths_said_elsewhere_are_relative_to_the_working_directory(tmp_path: Path) -> None:
    settings = read(
        environ={"HEADRACE_TLS__CERT": "cert.pem", "HOME": "/home/me"},
        sets=("server.cache_dir=cache",),
        tracking_uri="sqlite:///a/b.db",
    )

    assert settings.tls.cert == f"{tmp_path}/cert.pem"
    assert settings.server.cache_dir == f"{tmp_path}/cache"
    assert settings.server.tracking_uri == f"sqlite:///{tmp_path}/a/b.db"


# The registry.


def test_mlflows_own_variable_names_the_registry_unless_a_setting_does() -> None:
    environ = {"MLFLOW_TRACKING_URI": "http://mlflows"}

    assert read(environ=environ).server.tracking_uri == "http://mlflows"
    file = '[server]\ntracking_uri = "http://file"'
    assert read(file, environ).server.tracking_uri == "http://file"
    both = {**environ, "HEADRACE_SERVER__TRACKING_URI": "http://ours"}
    assert read(file, both).server.tracking_uri == "http://ours"
    assert read(file, both, tracking_uri="http://flag").server.tracking_uri == "http://flag"


def test_an_empty_registry_or_cache_is_as_if_nothing_was_said(tmp_path: Path) -> None:
    settings = read(
        environ={"HEADRACE_SERVER__CACHE_DIR": "", "XDG_CACHE_HOME": "/c"}, tracking_uri=""
    )

    assert settings.server.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert settings.server.cache_dir == "/c/headrace"


# What is served.


def test_models_are_served_that_the_list_or_a_uri_names() -> None:
    file = """
        [server]
        models = ["models:/net/1", "graph=models:/graph/2"]
        [models.iris]
        uri = "models:/iris@champion"
        rows_max = 8
        [models.graph]
        rows_max = 4
    """

    settings = read(file)

    assert settings.served == (
        "models:/net/1",
        "graph=models:/graph/2",
        "iris=models:/iris@champion",
    )
    assert settings.for_model("iris").rows_max == 8
    settings.check_names(["net", "graph", "iris"])


def test_models_of_the_command_line_replace_the_list() -> None:
    settings = read('[server]\nmodels = ["models:/net/1"]', models=["models:/iris/2"])

    assert settings.served == ("models:/iris/2",)


def test_where_list_and_uri_name_one_model_the_stronger_source_counts() -> None:
    file = '[models.iris]\nuri = "models:/iris/1"'

    assert read(file, models=["iris=models:/iris/2"]).served == ("iris=models:/iris/2",)

    listed = '[server]\nmodels = ["iris=models:/iris/1", "models:/net/1"]'
    settings = read(listed, {"HEADRACE_MODELS__IRIS__URI": "models:/iris/3"})
    assert settings.served == ("models:/net/1", "iris=models:/iris/3")
    assert settings.server.models == ("models:/net/1",)


def test_one_source_cannot_say_twice_what_a_name_serves() -> None:
    file = '[server]\nmodels = ["iris=models:/iris/1"]\n[models.iris]\nuri = "models:/iris/2"'

    assert refusal(file) == ("headrace.toml:4 and headrace.toml:2 both say what to serve as 'iris'")


def test_a_uri_of_the_environment_alone_is_served_in_lower_case() -> None:
    assert read(environ={"HEADRACE_MODELS__MY_NET__URI": "models:/n/1"}).served == (
        "my_net=models:/n/1",
    )


def test_a_uri_of_the_environment_keeps_the_name_that_the_file_gives() -> None:
    settings = read(
        '[models."My-Net"]\nrows_max = 8', {"HEADRACE_MODELS__MY_NET__URI": "models:/n/1"}
    )

    assert settings.served == ("My-Net=models:/n/1",)


@pytest.mark.parametrize("name", ["a/b", "a:b", "a=b"])
def test_a_name_that_could_not_be_told_from_a_uri_is_refused(name: str) -> None:
    assert f"a model cannot be served as {name!r}" in refusal(
        f'[models."{name}"]\nuri = "models:/a/1"'
    )


# What may be loaded.


def test_what_may_be_loaded_is_read_from_every_source(tmp_path: Path) -> None:
    settings = read(
        '[server]\nallow_pickle = false\nallow_sources = ["models", "s3://a/*", "/x"]\n',
        {"HEADRACE_SERVER__ALLOW_FLAVORS": "onnx pyfunc"},
    )

    assert not settings.server.allow_pickle
    assert settings.server.allow_flavors == ("onnx", "pyfunc")
    assert settings.server.allow_sources == (f"{tmp_path}/models", "s3://a/*", "/x")


def test_an_unknown_flavor_is_answered_with_the_known_ones() -> None:
    told = refusal(sets=("server.allow_flavors=onnx sklern",))

    assert told.startswith("--set server.allow_flavors=onnx sklern: expected a list of flavors ")
    assert "catboost, " in told
    assert ", pyfunc, " in told
    assert told.endswith(", xgboost")


@pytest.mark.parametrize(
    "pattern", ["s3://a/**", "models:/iris?", "/a/[b]", "s3://a/../b", "models:", "''", "/a\\\\b"]
)
def test_a_pattern_that_no_source_could_match_is_refused(pattern: str) -> None:
    told = refusal(sets=(f"server.allow_sources={pattern}",))
    assert told.endswith(
        "expected a list of beginnings of URIs or directories, * for a part of a segment"
    )


def test_a_models_own_environment_needs_pickle_to_be_allowed() -> None:
    settings = read(sets=("server.allow_pickle=false", "iris.environment=model"))

    with pytest.raises(UsageError, match="installs whatever the model asks for"):
        settings.check_names(["iris"])
