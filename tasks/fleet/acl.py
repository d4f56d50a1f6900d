"""What each role of users may do in Redis: the commands, keys and channels that mistudio and its Celery use.

Redis checks the rights of a script's caller for every command inside the script, so a role has what its commands'
scripts call. The rules are those of Redis 6.2: a right to a key is one to read and to write it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tasks.queues import QUEUE_NAMES
from tasks.redis_client.redis_url import Address

#: What takes the place of a password until somebody puts a real one there.
PASSWORD = "PASSWORD"  # noqa: S105 - a placeholder

#: One byte that is no printable character, in a pattern: kombu's separator has two of them.
_NOT_PRINTABLE = "[^!-~]"

_CONNECT = ("auth", "hello", "select", "ping", "echo", "reset", "role", "time", "info", "client|setname",
            "client|setinfo", "client|id", "multi", "exec", "discard", "watch", "unwatch")  # fmt: skip

_READ = ("exists", "type", "ttl", "get", "mget", "strlen", "getrange", "hget", "hmget", "hgetall", "hkeys", "hlen",
         "hexists", "lrange", "llen", "lindex", "smembers", "sismember", "scard", "zrange", "zrevrange",
         "zrangebyscore", "zrevrangebyscore", "zrangebylex", "zrank", "zcard", "zcount", "zscore")  # fmt: skip

#: No command that writes a string, but for counters, and none that removes, renames, copies or replaces a key, whatever
#: its type: quotas are a string, and stay as they are.
_SUBMIT = ("evalsha", "script|load", "wait", "hset", "hsetnx", "hdel", "lpush", "rpush", "sadd", "srem", "zadd", "zrem",
           "zremrangebyscore", "incr", "incrby", "decr")  # fmt: skip


def _lists(*queues: str) -> tuple[str, ...]:
    """Patterns of the lists that hold queues' messages: one for each priority step, named as kombu does."""
    return tuple(name for queue in queues for name in (queue, f"{queue}{_NOT_PRINTABLE}{_NOT_PRINTABLE}[0-9]"))


_MESSAGES = _lists(*QUEUE_NAMES)
_CELERY = ("_kombu.binding*", "unacked", "unacked_index", "unacked_mutex", "celery-task-meta-*",
           *_lists("*.celery.pidbox"), "celeryev.*")  # fmt: skip
#: `{}` is the number of the database: a right to subscribe to a pattern is one to this very pattern.
_CHANNELS = ("/{}.celery.pidbox", "/{}.reply.celery.pidbox", "/{}.celeryev/*", "/{}.celeryev", "celery-task-meta-*")


@dataclass(frozen=True)
class Role:
    """A role: what it is for, and its rights as `ACL SETUSER` takes them."""

    name: str
    purpose: str
    commands: tuple[str, ...]
    celery_keys: tuple[str, ...]
    channels: tuple[str, ...] = ()

    @property
    def user(self) -> str:
        """The name of its user, unless another one is chosen."""
        return f"mistudio-{self.name}"

    def rules(self, address: Address, password: str = PASSWORD) -> list[str]:
        """The words after `ACL SETUSER NAME`, for the installation of that prefix in that database."""
        return [
            *("reset", "on", f">{password}", "resetchannels"),
            f"~{address.key_prefix}*",
            *(f"~{address.celery_prefix}{key}" for key in self.celery_keys),
            *(f"&{address.celery_prefix}{channel.format(address.db)}" for channel in self.channels),
            *self.commands,
        ]


def _only(*groups: tuple[str, ...]) -> tuple[str, ...]:
    return ("-@all", *(f"+{command}" for group in groups for command in group))


#: All but what concerns the whole server or every key of it.
_NEARLY_ALL = (
    "+@all",
    "-@admin",
    "-@dangerous",
    "-scan",
    "-randomkey",
    "+info",
    "+role",
    "+client|setname",
    "+client|setinfo",
)

ROLES: tuple[Role, ...] = (
    Role(
        "admin",
        "every command",
        (*_NEARLY_ALL, "+config|get"),
        (*_MESSAGES, *_CELERY),
        _CHANNELS,
    ),
    Role("worker", "hosts that run workers", _NEARLY_ALL, (*_MESSAGES, *_CELERY), _CHANNELS),
    Role("submitter", "submit, follow, cancel and reorder jobs", _only(_CONNECT, _READ, _SUBMIT), _MESSAGES),
    Role("reader", "read what there is", _only(_CONNECT, _READ), _MESSAGES),
)


def lines(address: Address, roles: tuple[Role, ...] = ROLES, user: str | None = None) -> Iterator[str]:
    """A command for redis-cli for each role, whose user has that name or the role's own."""
    for role in roles:
        yield " ".join(["ACL SETUSER", user or role.user, *role.rules(address)])
