"""Field numbers of typed services, kept as tags of a real registered model."""

import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient

from headrace.typed import FieldNumbers
from headrace_server.errors import LoadFailed, ModelNotFound
from headrace_server.librarian.registry import Registry


@pytest.fixture
def client(tmp_path: Path) -> MlflowClient:
    uri = f"sqlite:///{tmp_path}/registry.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("iris")
    return client


@pytest.fixture
def registry(client: MlflowClient, tmp_path: Path) -> Registry:
    return Registry(f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "cache"))


def columns(*names: str) -> FieldNumbers:
    return FieldNumbers(tuple(f"double {name}" for name in names), ("sfixed64 output-0",))


def test_numbers_outlive_another_order_and_another_registry_client(
    registry: Registry, client: MlflowClient, tmp_path: Path
) -> None:
    first = registry.number_fields("iris", columns("a", "b"), writes=True)
    assert (first.numbers, first.trouble) == (columns("a", "b"), "")
    another = Registry(f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "cache"))
    second = another.number_fields("iris", columns("c", "b"), writes=True)
    assert second.numbers == columns("a", "b", "c")
    tags = client.get_registered_model("iris").tags
    assert tags == {
        "headrace.fields": '{"inputs":["double a","double b","double c"],'
        '"outputs":["sfixed64 output-0"]}'
    }


def test_nothing_is_written_where_the_operator_does_not_want_it(
    registry: Registry, client: MlflowClient
) -> None:
    found = registry.number_fields("iris", columns("a"), writes=False)
    assert found.numbers == columns("a")
    assert client.get_registered_model("iris").tags == {}


def test_a_registry_that_takes_no_tags_is_told_and_nothing_fails(
    registry: Registry, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "registry.db") as database:
        database.execute(
            "CREATE TRIGGER no_tags BEFORE INSERT ON registered_model_tags "
            "BEGIN SELECT RAISE(ABORT, 'denied'); END"
        )
    database.close()
    found = registry.number_fields("iris", columns("a"), writes=True)
    assert found.numbers == columns("a")
    assert "registered model 'iris'" in found.trouble


def test_numbers_of_600_columns_take_several_tags(registry: Registry, client: MlflowClient) -> None:
    wide = columns(*(f"a column of number {index}" for index in range(600)))
    registry.number_fields("iris", wide, writes=True)
    tags = client.get_registered_model("iris").tags
    assert len(tags) > 1
    assert max(map(len, tags.values())) <= 4000
    again = registry.number_fields("iris", columns("new"), writes=True)
    assert again.numbers.inputs == (*wide.inputs, "double new")


def test_a_tag_that_is_no_list_of_numbers_is_told(registry: Registry, client: MlflowClient) -> None:
    client.set_registered_model_tag("iris", "headrace.fields", "by hand")
    with pytest.raises(LoadFailed, match=r"headrace\.fields of model 'iris'"):
        registry.number_fields("iris", columns("a"), writes=True)
    assert client.get_registered_model("iris").tags == {"headrace.fields": "by hand"}


def test_a_model_that_is_not_registered_is_not_found(registry: Registry) -> None:
    with pytest.raises(ModelNotFound):
        registry.number_fields("other", columns("a"), writes=True)
