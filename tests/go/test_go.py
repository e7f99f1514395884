"""A client in Go, made from the .proto file that `headrace stub` writes, as the guide has it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import foreign
from serving import Daemon

HERE = Path(__file__).parent
TOOLS = ("bash", "go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
# Where Debian's packages put Go's sources.
GOCODE = Path("/usr/share/gocode")

pytestmark = [
    pytest.mark.slow,
    # The first build on a machine compiles gRPC itself.
    pytest.mark.timeout(2 * foreign.BUILD_S_MAX),
    pytest.mark.skipif(
        not all(map(shutil.which, TOOLS)) or not (GOCODE / "src/google.golang.org/grpc").is_dir(),
        reason="docs/guides/go.md says which packages of Debian this needs",
    ),
]


@pytest.fixture(scope="module", name="daemons")
def _daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Daemon]]:
    with foreign.daemons(tmp_path_factory.mktemp("go"), foreign.KINDS) as running:
        yield running


@pytest.fixture(params=foreign.TRANSPORTS)
def daemon(request: pytest.FixtureRequest, daemons: dict[str, Daemon]) -> Daemon:
    """A daemon, once of each transport."""
    return daemons[request.param]


def test_the_guide_leads_to_a_program_that_asks(daemon: Daemon, tmp_path: Path) -> None:
    foreign.check_guide("go.md", "go", HERE / "main.go", tmp_path, daemon)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory, daemons: dict[str, Daemon]) -> Path:
    """The program of kinds.go, made from the services of `native`."""
    folder = tmp_path_factory.mktemp("kinds")
    sources = folder / "gopath" / "src"
    sources.mkdir(parents=True)
    for model in foreign.KINDS.values():
        file = foreign.write_proto(daemons["native"], model, folder).name
        package = f"M{file}=example.org/shop/{model}"
        outputs = [f"--{out}_{kind}" for out in ("go", "go-grpc") for kind in ("out", "opt")]
        values = [str(sources), package] * 2
        options = [f"{name}={value}" for name, value in zip(outputs, values, strict=True)]
        foreign.run(["protoc", *options, file], folder)
    path = f"{folder / 'gopath'}:{GOCODE}"
    build = ["go", "build", "-o", str(folder / "kinds"), str(HERE / "kinds.go")]
    foreign.run(build, folder, GO111MODULE="off", GOPATH=path)
    return folder / "kinds"


def test_every_kind_of_field_is_sent_and_read(daemon: Daemon, kinds: Path) -> None:
    printed = foreign.run([str(kinds), daemon.address], kinds.parent)

    told = foreign.lines_of(printed)
    foreign.check_kinds(daemon, told)
    assert told["optional"] == '["size=1.5,path=[1.0, 2.5]" "size=2.0,path=None"]'
