"""`enseada serve` as a process: what it says, how it ends, and what survives when it is killed."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import random
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.enseada.server_process import (
    DEADLINE,
    MIB,
    SOON,
    command,
    environment,
    refused,
    send_part,
    serving,
    wait_for_offset,
    wait_for_received,
    wait_for_refusal,
)


def test_what_it_says_at_the_first_start_and_later(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data) as server:
        assert f"listening on http://127.0.0.1:{server.port}\n" in server.said
        assert str(data) in server.said
        assert f"docker login 127.0.0.1:{server.port}" in server.said
        password = server.said.partition("admin password: ")[2].split()[0]
        assert data.stat().st_mode & 0o777 == 0o700
        token = base64.b64encode(f"admin:{password}".encode()).decode()
        assert server.request("GET", "/v2/", Authorization=f"Basic {token}")[0] == 200
        assert server.end() == 0
    with serving(data) as server:
        assert "admin password" not in server.said
        assert server.request("GET", "/v2/", Authorization=f"Basic {token}")[0] == 200
        assert server.end(signal.SIGINT) == 0
    assert password not in (tmp_path / "log").read_text()


def test_the_password_from_the_environment_is_not_shown(tmp_path: Path) -> None:
    with serving(tmp_path / "data", ENSEADA_ADMIN_PASSWORD="a-secret-of-mine") as server:
        assert "admin password" not in server.said
        assert "a-secret-of-mine" not in server.said
        assert server.request("GET", "/v2/", Authorization="Basic YWRtaW46YS1zZWNyZXQtb2YtbWluZQ==")[0] == 200
    assert "a-secret-of-mine" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload_goes_on_after_kill_9(tmp_path: Path, chunked: bool) -> None:
    """Killed in the middle of a PATCH, at most one step of saving (64 MiB) is lost."""
    content = random.Random(1).randbytes(MIB) * 150
    data = tmp_path / "data"
    with serving(data, "--anonymous", "push") as server:
        location = server.begin()
        client = send_part(server, location, content[: 140 * MIB], None if chunked else len(content))
        wait_for_offset(server, location, 128 * MIB)
        server.kill()
        client.close()
    with serving(data, "--anonymous", "push") as server:
        offset = server.offset(location)
        assert 128 * MIB <= offset <= 140 * MIB
        rest = content[offset:]
        status, headers, _ = server.request(
            "PATCH", location, rest, Content_Range=f"{offset}-{len(content) - 1}", Content_Length=str(len(rest))
        )
        assert status == 202
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert server.request("PUT", f"{headers['Location']}?digest={digest}", b"")[0] == 201
        status, _, stored = server.request("GET", f"/v2/team/app/blobs/{digest}")
        assert (status, stored) == (200, content)
        assert server.end() == 0


def test_sigterm_suspends_what_does_not_finish(tmp_path: Path) -> None:
    """An upload that is under way when the grace is over is saved to its last byte; the exit code is 0."""
    content = random.Random(2).randbytes(3 * MIB + 17)
    data = tmp_path / "data"
    with serving(data, "--anonymous", "push", "--grace", "0.2") as server:
        location = server.begin()
        client = send_part(server, location, content[: 2 * MIB + 5], len(content))
        wait_for_received(tmp_path, 2 * MIB + 5)
        assert server.end() == 0
        client.close()
    with serving(data, "--anonymous", "push") as server:
        assert server.offset(location) == 2 * MIB + 5
        rest = content[2 * MIB + 5 :]
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert server.request("PUT", f"{location}?digest={digest}", rest)[0] == 201
        assert server.request("GET", f"/v2/team/app/blobs/{digest}")[2] == content


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_and_saves(tmp_path: Path, second: signal.Signals) -> None:
    """Long before the grace is over; the upload under way is saved to its last byte all the same."""
    content = random.Random(4).randbytes(2 * MIB + 5)
    data = tmp_path / "data"
    with serving(data, "--anonymous", "push", "--grace", "600") as server:
        location = server.begin()
        client = send_part(server, location, content, len(content) + 1)
        wait_for_received(tmp_path, len(content))
        server.process.send_signal(signal.SIGTERM)
        wait_for_refusal(server.port)
        assert server.process.poll() is None
        server.process.send_signal(second)
        assert server.process.wait(SOON) == 128 + second
        client.close()
    assert "ending at once" in (tmp_path / "log").read_text()
    with serving(data, "--anonymous", "push") as server:
        assert server.offset(location) == len(content)


def test_sigterm_lets_requests_under_way_finish(tmp_path: Path) -> None:
    content = random.Random(3).randbytes(MIB)
    with serving(tmp_path / "data", "--anonymous", "push") as server:
        location = server.begin()
        client = send_part(server, location, content[:1000], len(content))
        wait_for_received(tmp_path, 1000)
        server.process.send_signal(signal.SIGTERM)
        wait_for_refusal(server.port)
        client.sendall(content[1000:])
        answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 202 ")
        assert b"connection: close" in answer.lower()
        client.close()
        assert server.process.wait(DEADLINE) == 0


def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    """Requests are answered when the pipe is full, and SIGTERM ends the process."""
    reading, writing = os.pipe()
    with open(reading) as log, open(writing, "w") as sink, serving(tmp_path / "data", stderr=sink) as server:
        sink.close()
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SOON)
        for _ in range(400):
            client.request("GET", f"/v2/?last={'x' * 400}")
            with client.getresponse() as response:
                assert response.read()
        client.close()
        assert server.end() == 0
        assert len(log.read()) > 32768  # the pipe was full, but for a line or a page


FEW = 128
"""Open files, for a server that has to do with few."""


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(tmp_path: Path) -> None:
    with serving(tmp_path / "data", before=f"ulimit -Sn {FEW} && ulimit -Hn {2 * FEW}") as server:
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
        [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
        assert line.split()[3:5] == [str(2 * FEW)] * 2
        assert server.end() == 0


def test_more_clients_than_there_are_files_for(tmp_path: Path) -> None:
    """Those that are served can have their content; the others wait their turn, and nothing is said about it."""
    content = bytes(100_000)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    with serving(tmp_path / "data", "--anonymous", "push", before=f"ulimit -n {FEW}") as server:
        assert server.request("PUT", f"{server.begin()}?digest={digest}", content)[0] == 201
        clients = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=SOON) for _ in range(FEW)]
        for client in clients:
            client.request("GET", f"/v2/team/app/blobs/{digest}", headers={"Connection": "close"})
        for client in clients:
            with client.getresponse() as response:
                assert (response.status, response.read()) == (200, content)
            client.close()
        assert server.end() == 0
    log = (tmp_path / "log").read_text()
    assert "cannot accept" not in log
    assert f"{FEW} files may be open" in log


def test_two_servers_on_one_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data) as server:
        code, said = refused(data)
        assert code == 1
        assert f"process {server.process.pid}" in said
        assert str(data) in said
        assert server.end() == 0


def test_a_start_that_fails_does_not_keep_the_password_for_itself(tmp_path: Path) -> None:
    """It is made at the first start that can tell it."""
    data = tmp_path / "data"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert refused(data, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")[0] == 1
    with serving(data) as server:
        assert "admin password: " in server.said


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_the_password_is_told_also_where_standard_output_cannot_be_written(tmp_path: Path, redirection: str) -> None:
    line = " ".join(command(tmp_path / "data", "--grace", "1")) + f" {redirection}"
    process = subprocess.Popen(
        ["bash", "-c", f"exec {line}"], stderr=subprocess.PIPE, text=True, env=environment(), stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    with process.stderr:
        said = []
        for each in process.stderr:
            said.append(each)
            if "docker push" in each:
                break
        process.terminate()
        said += list(process.stderr)
    assert process.wait(DEADLINE) == 0
    assert "admin password: " in "".join(said)
    assert "Traceback" not in "".join(said)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp437"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_password_is_told_also_where_the_folder_cannot_be_spelled(
    workers: str, encoding: str, tmp_path: Path
) -> None:
    data = tmp_path / os.fsdecode("õ".encode() + b"\xff")
    with serving(data, "--workers", workers, PYTHONIOENCODING=f"{encoding}:strict") as server:
        assert "admin password: " in server.said
        spelled = "õ" if encoding == "utf-8" else "\\xf5"
        assert f"{spelled}\\udcff" in server.said
        assert server.end() == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, said = refused(tmp_path / "data", "--listen", address)
        assert code == 1
        assert address in said


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    code, said = refused(tmp_path / "data")
    assert code == 1
    assert "--data" in said


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_standard_error_that_is_closed(workers: str, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--workers", workers, before="exec 2>&-") as server:
        assert server.request("GET", "/v2/")[0] == 401
        assert server.end() == 0


NOT_FOR_THIS = (
    # Other stores, other event loops, other servers; what signs tokens, before there is one to be signed.
    *("asyncio", "httpx", "requests", "urllib3", "minio", "boto3", "botocore", "google", "aiohttp"),
    *("uvicorn", "hypercorn", "starlette", "fastapi", "jwt", "cryptography"),
    *("enseada.asgiapp", "enseada.embedding", "enseada.storage.blobs.memory", "enseada.storage.documents.memory"),
)


def test_what_is_not_used_is_not_imported(tmp_path: Path) -> None:
    """SQLite and the local disk want no client of any other store, and trio no asyncio."""
    log = tmp_path / "imports"
    env = environment(PYTHONPROFILEIMPORTTIME="1")  # has it write a line for every module
    with log.open("w") as sink:
        process = subprocess.Popen(
            command(tmp_path / "data", "--workers", "1"), stdout=subprocess.PIPE, stderr=sink, text=True, env=env
        )
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline().startswith("listening on ")
            process.terminate()
            assert process.wait(DEADLINE) == 0
    imported = {line.rpartition("|")[2].strip() for line in log.read_text().splitlines() if "import time:" in line}
    assert {"trio", "sqlite3", "enseada.serving", "enseada.storage.blobs.local"} <= imported
    assert {name for name in imported if name in NOT_FOR_THIS or name.split(".")[0] in NOT_FOR_THIS} == set()
