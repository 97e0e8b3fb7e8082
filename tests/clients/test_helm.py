"""helm: charts kept as artifacts."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.clients.harness import WRONG_PASSWORD, Served, Shell, assert_refused, need, sha256

if TYPE_CHECKING:
    from pathlib import Path

HTTP = "--plain-http"


def login(registry: Served) -> tuple[str, ...]:
    return ("helm", "registry", "login", HTTP, "-u", str(registry.user), "--password-stdin", registry.host)


@pytest.fixture
def helm(shell: Shell, registry: Served, password: str) -> Shell:
    """A shell in which helm is logged in."""
    need("helm")
    assert "Login Succeeded" in shell.run(*login(registry), input=password.encode()).said
    return shell


def package(shell: Shell, version: str) -> Path:
    """Write a chart and pack it as helm does."""
    chart = shell.home / "chart"
    (chart / "templates").mkdir(parents=True, exist_ok=True)
    (chart / "Chart.yaml").write_text(f"apiVersion: v2\nname: chart\nversion: {version}\ndescription: A chart\n")
    (chart / "values.yaml").write_text("replicas: 3\n")
    (chart / "templates" / "map.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: map\n")
    shell.run("helm", "package", chart, "-d", shell.home)
    return shell.home / f"chart-{version}.tgz"


def test_wrong_password(shell: Shell, registry: Served) -> None:
    need("helm")
    assert_refused(shell.fails(*login(registry), input=WRONG_PASSWORD.encode()))


def test_push_show_pull(helm: Shell, registry: Served, repo: str) -> None:
    where = f"oci://{registry.name(repo)}"
    chart = package(helm, "1.2.3")
    said = helm.run("helm", "push", HTTP, chart, where).said
    digest = registry.digest(f"{repo}/chart", "1.2.3")
    assert digest in said
    layers = registry.manifest(f"{repo}/chart", "1.2.3").json()["layers"]
    assert registry.blob(f"{repo}/chart", layers[0]["digest"]) == chart.read_bytes()

    assert "version: 1.2.3" in helm.run("helm", "show", "chart", HTTP, f"{where}/chart", "--version", "1.2.3").text
    assert "replicas: 3" in helm.run("helm", "show", "values", HTTP, f"{where}/chart", "--version", "1.2.3").text
    (helm.home / "back").mkdir()
    pulled = helm.run("helm", "pull", HTTP, f"{where}/chart", "--version", "1.2.3", "-d", "back").said
    assert digest in pulled
    assert sha256((helm.home / "back" / chart.name).read_bytes()) == sha256(chart.read_bytes())
    with tarfile.open(helm.home / "back" / chart.name) as archive:
        assert "chart/templates/map.yaml" in archive.getnames()


def test_newest_version_is_found_by_the_tags(helm: Shell, registry: Served, repo: str) -> None:
    where = f"oci://{registry.name(repo)}"
    for version in ("1.9.0", "1.10.0", "2.0.0"):
        helm.run("helm", "push", HTTP, package(helm, version), where)
    assert registry.tags(f"{repo}/chart") == ["1.10.0", "1.9.0", "2.0.0"]
    for wanted, found in (("^1", "1.10.0"), ("", "2.0.0")):
        chosen = ("--version", wanted) if wanted else ()
        assert f"version: {found}" in helm.run("helm", "show", "chart", HTTP, f"{where}/chart", *chosen).text


def test_template_from_the_registry(helm: Shell, registry: Served, repo: str) -> None:
    where = f"oci://{registry.name(repo)}"
    helm.run("helm", "push", HTTP, package(helm, "1.0.0"), where)
    assert "kind: ConfigMap" in helm.run("helm", "template", HTTP, f"{where}/chart").text


def test_logout(helm: Shell, registry: Served, repo: str) -> None:
    chart = package(helm, "1.0.0")
    helm.run("helm", "registry", "logout", registry.host)
    assert_refused(helm.fails("helm", "push", HTTP, chart, f"oci://{registry.name(repo)}"))
    assert registry.tags(f"{repo}/chart") == []
