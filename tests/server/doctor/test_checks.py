"""What each check of `headrace doctor` finds, on this machine and on ones that are made up."""

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from certificates import Authority
from headrace_server.doctor.accelerators import check_accelerators
from headrace_server.doctor.finding import Finding, Setup, Status
from headrace_server.doctor.memory import check_memory
from headrace_server.doctor.network import check_network
from headrace_server.doctor.sandbox import check_sandbox
from headrace_server.doctor.security import check_security
from headrace_server.doctor.software import check_software
from headrace_server.doctor.storage import check_storage
from headrace_server.transport.tokens import Scope, append_entry, entry_of, make_token
from headrace_server.wall import lacks


def named(findings: Iterable[Finding], name: str) -> Finding:
    (found,) = (finding for finding in findings if finding.name == name)
    return found


def distribution(folder: Path, name: str, version: str) -> None:
    """Make *folder*, once on the path, say that a distribution is installed."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def executable(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


# Software.


def test_this_environment_has_no_problem() -> None:
    findings = list(check_software(Setup()))

    assert [finding for finding in findings if finding.status is not Status.OK] == []
    assert {"python", "platform", "headrace", "grpcio", "pygrpc-native", "sklearn"} <= {
        finding.name for finding in findings
    }
    assert ">=1.81.1,<2" in named(findings, "grpcio").text


def test_versions_are_told_without_importing_a_framework() -> None:
    script = (
        "import sys\n"
        "from headrace_server.doctor.finding import Setup\n"
        "from headrace_server.doctor.software import check_software\n"
        "print([f.text for f in check_software(Setup()) if f.name == 'torch'])\n"
        "heavy = {'torch', 'sklearn', 'onnxruntime', 'mlflow', 'pandas', 'grpc'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "within >=2.6" in ran.stdout


def test_a_package_out_of_its_range_is_a_problem_with_the_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(tmp_path, "grpcio", "1.2.3")
    monkeypatch.syspath_prepend(tmp_path)

    found = named(check_software(Setup()), "grpcio")

    assert found.status is Status.PROBLEM
    assert found.text == "1.2.3 is outside of >=1.81.1,<2"
    assert found.remedy == 'pip install "grpcio>=1.81.1,<2"'


def test_a_version_that_is_none_takes_no_other_finding_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(tmp_path, "numpy", "unknown")
    monkeypatch.syspath_prepend(tmp_path)

    findings = list(check_software(Setup()))

    assert named(findings, "numpy").status is Status.WARNING
    assert named(findings, "protobuf").status is Status.OK


def test_a_framework_that_is_installed_tells_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not installed" in named(check_software(Setup()), "tensorflow").text
    distribution(tmp_path, "tensorflow", "1.2.8")
    monkeypatch.syspath_prepend(tmp_path)

    assert named(check_software(Setup()), "tensorflow").text == "1.2.8"


def test_two_packages_that_overwrite_each_other_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(tmp_path, "onnxruntime", "1.22.0")
    monkeypatch.syspath_prepend(tmp_path)

    found = named(check_software(Setup()), "onnxruntime")

    assert found.status is Status.PROBLEM
    assert found.remedy.startswith("pip uninstall onnxruntime-gpu onnxruntime")


# Accelerators.


def test_no_gpu_is_fine_unless_one_was_asked_for(tmp_path: Path) -> None:
    (found,) = check_accelerators(Setup(), tmp_path)
    (asked,) = check_accelerators(Setup(device="cuda:0"), tmp_path)

    assert (found.status, found.text) == (Status.OK, "none found: models run on the CPU")
    assert asked.status is Status.PROBLEM
    assert "--device cpu" in asked.remedy


def test_a_driver_without_a_gpu_in_sight_is_a_container_without_gpus(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14\n")

    (found,) = check_accelerators(Setup(), tmp_path)

    assert found.status is Status.WARNING
    assert "--gpus all" in found.remedy


def test_gpus_are_named_by_the_drivers_own_files(tmp_path: Path) -> None:
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
    )
    card = tmp_path / "gpus" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 1\n")

    findings = list(check_accelerators(Setup(device="cuda:1"), tmp_path))

    assert named(findings, "gpu 0").text == "NVIDIA H100 80GB HBM3"
    assert named(findings, "device").remedy == "--device cuda:0"
    # Whether or not this machine has libcuda, the driver's version is told.
    assert "570.86.15" in named(findings, "driver").text


def test_gpus_are_named_by_nvidia_smi_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(
        tmp_path / "bin" / "nvidia-smi",
        'echo "0, NVIDIA L4, GPU-5f, 23034 MiB, 5 MiB"',
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    found = named(check_accelerators(Setup(), tmp_path), "gpu 0")

    assert found.text == "NVIDIA L4, 23034 MiB of memory, 5 MiB in use"


def test_gpus_that_cuda_does_not_show_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(
        tmp_path / "bin" / "nvidia-smi",
        'echo "0, NVIDIA L4, GPU-5f, 23034 MiB, 5 MiB"\n'
        'echo "1, NVIDIA T4, GPU-77, 15360 MiB, 5 MiB"',
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    findings = list(check_accelerators(Setup(device="cuda:1"), tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hidden = named(check_accelerators(Setup(device="cuda"), tmp_path), "device")

    assert named(findings, "gpu 0").text.endswith("hidden by CUDA_VISIBLE_DEVICES=1")
    assert named(findings, "gpu 1").text.endswith(": cuda:0")
    assert named(findings, "device").remedy == "--device cuda:0"
    assert hidden.text == "device is 'cuda', but CUDA_VISIBLE_DEVICES hides every GPU"


def test_an_nvidia_smi_that_fails_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "bin" / "nvidia-smi", "echo no driver; exit 9")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    (found,) = check_accelerators(Setup(), tmp_path)

    assert found.text == "none found: models run on the CPU"


def test_a_torch_without_cuda_beside_a_gpu_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "bin" / "nvidia-smi", 'echo "0, NVIDIA L4, GPU-5f, 23034 MiB, 5 MiB"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise AssertionError('imported')")
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = None\n")
    distribution(tmp_path, "torch", "2.7.0+cpu")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    found = named(check_accelerators(Setup(), tmp_path), "torch cuda")
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = '12.8'\n")
    built = named(check_accelerators(Setup(), tmp_path), "torch cuda")

    assert found.status is Status.WARNING
    assert "--index-url" in found.remedy
    assert "2.7.0+cpu is built for CUDA 12.8" in built.text


# Memory.


def test_memory_of_this_machine_is_told() -> None:
    findings = list(check_memory(Setup()))

    assert "available" in named(findings, "memory").text
    assert named(findings, "processors").text.startswith(str(len(os.sched_getaffinity(0))))


def test_an_arena_beyond_the_memory_is_told_with_a_smaller_one() -> None:
    found = named(check_memory(Setup(arena_bytes_max=1 << 50)), "arena")

    assert found.status is not Status.OK
    assert found.remedy.startswith("--set server.arena_bytes_max=")


@pytest.mark.parametrize("version", [1, 2])
def test_what_control_groups_grant_is_told(tmp_path: Path, version: int) -> None:
    files = {
        1: {
            "memory/memory.limit_in_bytes": str(256 << 20),
            "memory/memory.usage_in_bytes": str(64 << 20),
            "cpu/cpu.cfs_quota_us": "50000",
            "cpu/cpu.cfs_period_us": "100000",
        },
        2: {
            "memory.max": str(256 << 20),
            "memory.current": str(64 << 20),
            "cpu.max": "50000 100000",
        },
    }[version]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, _ = line.split(":", 2)
        for name, content in files.items():
            controller, slash, file = name.rpartition("/")
            if not slash:
                path = tmp_path / file
            elif controller in controllers.split(","):
                path = tmp_path / controllers / file
            else:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    findings = list(check_memory(Setup(), tmp_path))

    if not any(tmp_path.iterdir()):
        pytest.skip("this machine has no control groups of that version")
    assert "grants 0.2 GiB, of which 0.2 GiB are left" in named(findings, "memory").text
    assert named(findings, "arena").status is Status.WARNING
    assert "grants the time of 0.5" in named(findings, "processors").text


def limited(which: int, limit: int) -> list[dict[str, str]]:
    """What a process finds that has the limit."""
    script = (
        "import json, resource\n"
        "from headrace_server.doctor.finding import Setup\n"
        "from headrace_server.doctor.memory import check_memory\n"
        f"resource.setrlimit({which}, ({limit}, {limit}))\n"
        "print(json.dumps([[f.name, f.status.value, f.remedy] for f in check_memory(Setup())]))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    return [dict(zip(("name", "status", "remedy"), f, strict=True)) for f in json.loads(ran.stdout)]


def test_a_limit_on_the_address_space_that_no_worker_fits_is_a_problem() -> None:
    found = {each["name"]: each for each in limited(resource.RLIMIT_AS, 2 << 30)}["address space"]

    assert found["status"] == "problem"
    assert "ulimit -v unlimited" in found["remedy"]


@pytest.mark.parametrize(("limit", "status"), [(100, "problem"), (512, "warning"), (1024, "ok")])
def test_a_low_limit_on_open_files_is_told(limit: int, status: str) -> None:
    found = {each["name"]: each for each in limited(resource.RLIMIT_NOFILE, limit)}["open files"]

    assert found["status"] == status


# Network.


def test_the_choice_of_the_transport_is_told() -> None:
    assert "pygrpc-native" in named(check_network(Setup()), "transport").text
    assert "open to a network" in named(check_network(Setup(host="0.0.0.0")), "transport").text
    assert "with TLS" in named(check_network(Setup(tls_cert="c.pem")), "transport").text
    asked = named(check_network(Setup(transport="grpcio")), "transport")
    assert "as it was asked for" in asked.text
    odd = named(check_network(Setup(transport="native", tls_cert="c.pem")), "transport")
    assert odd.status is Status.PROBLEM


def test_a_port_that_is_taken_is_a_problem_with_another_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        findings = list(check_network(Setup(port=port, metrics_port=0)))

    found = named(findings, "port")
    assert (found.status, found.text) == (Status.PROBLEM, f"{port} on 127.0.0.1 is taken")
    assert found.remedy.startswith("--port ")
    assert named(findings, "metrics port").status is Status.OK


def test_a_port_that_was_used_a_moment_ago_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()

    assert named(check_network(Setup(port=port, metrics_port=0)), "port").status is Status.OK


@pytest.mark.parametrize(
    ("setup", "name", "text"),
    [
        (Setup(port=9, metrics_port=9), "ports", "both 9"),
        (Setup(host="256.1.1.1"), "port", "no address"),
        (Setup(host="192.0.2.1", transport="grpcio"), "port", "no address of this machine"),
    ],
)
def test_ports_that_cannot_be_had_are_problems(setup: Setup, name: str, text: str) -> None:
    found = named(check_network(setup), name)

    assert found.status is Status.PROBLEM
    assert text in found.text
    assert found.remedy


def test_a_unix_socket_is_looked_at_instead_of_the_port(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    setup = Setup(host=f"unix:{path}", port=9, metrics_port=9)

    findings = {each.name: each for each in check_network(setup)}
    assert set(findings) == {"transport", "socket", "metrics port"}
    assert "pygrpc-native" in findings["transport"].text
    assert findings["socket"].status is Status.OK
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        left = named(check_network(setup), "socket")
        server.listen()
        taken = named(check_network(setup), "socket")
    long = named(check_network(Setup(host=f"unix:{tmp_path}/{'x' * 107}")), "socket")

    assert (left.status, left.text.rpartition(":")[2]) == (Status.OK, " it is made anew")
    assert (taken.status, long.status) == (Status.PROBLEM, Status.PROBLEM)
    assert taken.text.endswith("another server listens on it")
    assert "107 at most" in long.text
    assert path.exists(), "the doctor changes nothing"


# Security.


def test_security_that_is_not_set_is_not_looked_at() -> None:
    assert list(check_security(Setup())) == []


@pytest.mark.parametrize(
    ("days", "status", "text"),
    [(90, Status.OK, "is valid until"), (3, Status.WARNING, "is valid until"),
     (-3, Status.PROBLEM, "was valid until")],
)  # fmt: skip
def test_a_certificate_is_told_with_its_end(
    tmp_path: Path, days: int, status: Status, text: str
) -> None:
    cert, key = Authority().issue("localhost", days=days).write(tmp_path, "server")

    with capture_logs():
        (found,) = check_security(Setup(tls_cert=cert, tls_key=key))

    assert found.status is status
    assert text in found.text


def test_files_that_the_server_would_refuse_are_problems(tmp_path: Path) -> None:
    (tmp_path / "tokens.toml").write_text("[[tokens]]\n")

    tls, tokens = check_security(
        Setup(tls_cert="nowhere.pem", tokens=str(tmp_path / "tokens.toml"))
    )

    assert (tls.status, tokens.status) == (Status.PROBLEM, Status.PROBLEM)
    assert "no key" in tls.text
    assert "headrace token" in tokens.remedy


def test_tokens_without_tls_are_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    append_entry(str(path), entry_of(make_token(), "shop", [Scope.INFERENCE]))

    (found,) = check_security(Setup(tokens=str(path)))

    assert (found.status, found.name) == (Status.WARNING, "tokens")
    assert "holds 1 token, but without TLS" in found.text


# Storage.


def test_a_cache_that_is_not_there_yet_is_fine_and_is_not_made(tmp_path: Path) -> None:
    (found,) = check_storage(Setup(cache_dir=str(tmp_path / "a" / "b")))

    assert found.status is not Status.PROBLEM
    assert "can be written" in found.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["file/cache", "/proc/nowhere/cache"])
def test_a_cache_that_cannot_be_written_is_a_problem(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")

    (found,) = check_storage(Setup(cache_dir=str(tmp_path / where)))

    assert found.status is Status.PROBLEM
    assert "server.cache_dir" in found.remedy


# Sandbox.


def test_the_sandbox_is_as_good_as_the_host() -> None:
    (unused,) = check_sandbox(Setup())
    (wanted,) = check_sandbox(Setup(is_confining=True))
    (needed,) = check_sandbox(Setup(is_confining=True, must_confine=True))

    assert unused.status is Status.OK
    if lacks():
        assert (wanted.status, needed.status) == (Status.WARNING, Status.PROBLEM)
        assert lacks()[0] in needed.text
    else:
        assert (wanted.status, needed.status) == (Status.OK, Status.OK)
        assert "workers can be confined, by Landlock" in unused.text
        assert "workers are confined" in wanted.text
