"""Servers of the tests' own, on loopback, that end with them: PostgreSQL, and moto's S3."""

import logging
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

PASSWORD = "a:b@c/d"
NOT_TESTED = (
    "there is no PostgreSQL, so registries on a server are NOT tested (apt install postgresql)"
)


def find_postgres() -> Path | None:
    """Return the folder of PostgreSQL's programs; Debian keeps them off the path."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((each for each in folders if (each / "initdb").exists()), None)


@contextmanager
def private_postgres() -> Iterator[str]:
    """Start a server in a temporary folder; yield its URL, of a user who may create databases.

    It refuses to run as root, so root runs it as another user.
    """
    programs = find_postgres()
    assert programs is not None, NOT_TESTED
    user = _unprivileged()
    with tempfile.TemporaryDirectory(prefix="prefreg-postgres-") as folder:
        data, word = Path(folder, "data"), Path(folder, "word")
        word.write_text(PASSWORD)
        for path in (Path(folder), word):
            if user is not None:
                os.chown(path, user, -1)

        def run(program: str, *arguments: str) -> None:
            done = subprocess.run(
                [programs / program, "-D", data, *arguments],
                cwd=folder, user=user, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )  # fmt: skip
            assert done.returncode == 0, done.stdout

        run(
            "initdb", "--no-sync", "--username=prefreg", f"--pwfile={word}", "--encoding=UTF8",
            "--auth=scram-sha-256", "--locale=C.UTF-8",
        )  # fmt: skip
        port = free_port()
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        options += " -c fsync=off -c shared_buffers=32MB"
        run("pg_ctl", "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            word_in_url = PASSWORD.replace(":", "%3A").replace("@", "%40").replace("/", "%2F")
            yield f"postgresql+psycopg://prefreg:{word_in_url}@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")


@contextmanager
def new_database(server: str, template: str = "template1") -> Iterator[str]:
    """Create a database, a copy of another one, on a server; yield its URL, and drop it."""
    from sqlalchemy import create_engine, make_url, text

    name = f"prefreg_{secrets.token_hex(6)}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        admin.dispose()


@contextmanager
def moto_s3() -> Iterator[str]:
    """Serve buckets in memory; yield the endpoint."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


def aws_environment(endpoint: str) -> dict[str, str]:
    """Return what the AWS tools are told of a server on loopback."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }


def new_bucket(endpoint: str) -> str:
    """Create a bucket, and return the URL of a prefix in it."""
    name = f"team-{secrets.token_hex(6)}"
    urlopen(Request(f"{endpoint}/{name}", method="PUT")).close()
    return f"s3://{name}/vectors of us"


def free_port() -> int:
    """Return a port of loopback that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _unprivileged() -> int | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    return names.get("postgres", names["nobody"])


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL server: the one that the environment names, or one of our own."""
    if named := os.environ.get("PREFREG_TEST_SERVER"):
        yield named
    elif find_postgres() is None:
        pytest.skip(NOT_TESTED)
    else:
        with private_postgres() as url:
            yield url


@pytest.fixture
def url(server: str) -> Iterator[str]:
    """The URL of a new, empty database on the server."""
    with new_database(server) as database:
        yield database


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """The address of a server with buckets."""
    with moto_s3() as address:
        yield address


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty store, with the environment that leads there."""
    for name, value in aws_environment(endpoint).items():
        monkeypatch.setenv(name, value)
    return new_bucket(endpoint)
