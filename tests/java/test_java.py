"""A client in Java, made from the .proto file that `headrace stub` writes, as the guide has it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import foreign
from serving import Daemon

HERE = Path(__file__).parent
TOOLS = ("bash", "java", "javac", "protoc", "grpc_java_plugin")
# Where Debian's packages put their jars.
JARS = Path("/usr/share/java")
NEEDED = ("grpc-netty", "netty-transport", "perfmark-api", "guava", "protobuf")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * foreign.BUILD_S_MAX),
    pytest.mark.skipif(
        not all(map(shutil.which, TOOLS))
        or not all((JARS / f"{name}.jar").exists() for name in NEEDED),
        reason="docs/guides/java.md says which packages of Debian this needs",
    ),
]


@pytest.fixture(scope="module", name="daemons")
def _daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Daemon]]:
    with foreign.daemons(tmp_path_factory.mktemp("java"), foreign.KINDS) as running:
        yield running


@pytest.fixture(params=foreign.TRANSPORTS)
def daemon(request: pytest.FixtureRequest, daemons: dict[str, Daemon]) -> Daemon:
    """A daemon, once of each transport."""
    return daemons[request.param]


def test_the_guide_leads_to_a_program_that_asks(daemon: Daemon, tmp_path: Path) -> None:
    foreign.check_guide("java.md", "java", HERE / "Ask.java", tmp_path, daemon)


@pytest.fixture(scope="module")
def classpath(tmp_path_factory: pytest.TempPathFactory, daemons: dict[str, Daemon]) -> str:
    """Where the program of Kinds.java is, made from the services of `native`."""
    folder = tmp_path_factory.mktemp("kinds")
    generated, classes = folder / "generated", folder / "classes"
    generated.mkdir()
    classes.mkdir()
    plugin = f"--plugin=protoc-gen-grpc-java={shutil.which('grpc_java_plugin')}"
    outputs = (f"--java_out={generated}", f"--grpc-java_out={generated}")
    for model in foreign.KINDS.values():
        file = foreign.write_proto(daemons["native"], model, folder).name
        foreign.run(["protoc", plugin, *outputs, file], folder)
    jars = sorted(JARS.glob("*.jar"))
    wanted = ("grpc-", "netty-", "perfmark-", "guava", "protobuf", "geronimo-annotation")
    found = [str(classes), *(str(jar) for jar in jars if jar.name.startswith(wanted))]
    sources = [str(HERE / "Kinds.java"), *map(str, generated.rglob("*.java"))]
    compiler = ["javac", "-encoding", "UTF-8", "-cp", ":".join(found), "-d", str(classes)]
    foreign.run([*compiler, *sources], folder)
    return ":".join(found)


def test_every_kind_of_field_is_sent_and_read(
    daemon: Daemon, classpath: str, tmp_path: Path
) -> None:
    printed = foreign.run(["java", "-cp", classpath, "Kinds", daemon.address], tmp_path)

    told = foreign.lines_of(printed)
    foreign.check_kinds(daemon, told)
    assert told["optional"] == "[size=1.5,path=[1.0, 2.5], size=2.0,path=None]"
