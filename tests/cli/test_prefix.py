"""`--prefix`, MISTUDIO_PREFIX and `prefix` in the settings: which installation of a shared Redis a command means."""

from __future__ import annotations

import pytest

from mistudio_cli.errors import Code
from tasks.errors import UserError
from tasks.redis_client.redis_url import parse_url, with_prefix
from tests.cli.conftest import Cli


def test_a_command_means_the_installation_of_its_prefix(cli: Cli) -> None:
    for prefix in ("lab2", "lab3"):
        assert cli("--prefix", prefix, "submit", "nap", "--name", prefix).code == Code.OK
    assert cli("jobs", "ls", "--json").json["jobs"] == []
    for prefix in ("lab2", "lab3"):
        (job,) = cli("jobs", "ls", "--json", MISTUDIO_PREFIX=prefix).json["jobs"]
        assert job["name"] == prefix
    assert cli("--prefix", "lab2", "jobs", "cancel", "lab3").code != Code.OK
    assert cli("config", "set", "prefix", "lab3").code == Code.OK
    assert [job["name"] for job in cli("jobs", "ls", "--json").json["jobs"]] == ["lab3"]
    assert cli("--prefix", "lab2", "workers", "list", "--json").code == Code.OK
    assert "(prefix lab3)" in cli("doctor").out


@pytest.mark.parametrize("prefix", ["", "-x", "a b", "a:b", "ä", "a" * 33, "*", "lab2\n", "{x}"])
def test_a_prefix_that_is_none_is_refused(cli: Cli, prefix: str) -> None:
    refused = cli("jobs", "ls", CELERY_BROKER_URL=f"{cli.broker_url}&prefix={prefix}")
    assert (refused.code, refused.out, "Traceback" in refused.err) == (Code.USAGE, "", False)
    if prefix:
        assert cli("--prefix", prefix, "jobs", "ls").code == Code.USAGE


def test_a_prefix_needs_a_redis_that_is_shared(cli: Cli) -> None:
    refused = cli("--prefix", "lab2", "jobs", "ls", CELERY_BROKER_URL="")
    assert refused.code == Code.USAGE
    assert "none is named" in refused.err


def test_a_url_has_one_prefix() -> None:
    url = with_prefix("redis://h/0", "lab2")
    assert url == "redis://h/0?prefix=lab2"
    assert with_prefix(url, "lab2") == url
    assert with_prefix("redis+socket:///r.sock?virtual_host=1", "a-b_1").endswith("virtual_host=1&prefix=a-b_1")
    with pytest.raises(UserError, match="has the prefix lab2, and the setting is lab3"):
        with_prefix(url, "lab3")
    with pytest.raises(UserError, match="has the prefix mistudio, and the setting is lab2"):
        with_prefix("redis://h/0?prefix=mistudio", "lab2")
    with pytest.raises(UserError):
        with_prefix("redis://h/0", "a b")
    assert parse_url("redis://h/0?prefix=mistudio") == parse_url("redis://h/0")
