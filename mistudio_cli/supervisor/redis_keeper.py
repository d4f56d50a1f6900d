"""Keeps the home's own Redis alive: adopts one that lives, restarts one that died. It decides; `redis_server` does."""

from __future__ import annotations

import logging
import subprocess
from contextlib import suppress

import psutil

from mistudio_cli.log_files import last_lines
from mistudio_cli.redis import redis_aof, redis_folder, redis_server
from mistudio_cli.redis.redis_watch import RedisWatch
from mistudio_cli.supervisor.child import Clock, describe_exit
from mistudio_cli.supervisor.states import SOUND_AGE_S, pause_s
from tasks.errors import UserError
from tasks.paths import Places
from tasks.redis_client.redis_connection import Refused, Unreachable
from tasks.system import process_identity

log = logging.getLogger("mistudio.supervisor")

#: A server of its own that has not answered for so long is killed and started again.
SILENT_UNTIL_KILLED_S = 30.0

#: How Redis says so, and in how many of its last lines.
_CANNOT_READ, _LINES_OF_AN_END = "Bad file format reading the append only file", 5

#: After this many deaths in a row it reports that Redis does not stay up; it keeps trying.
_DEATHS_UNTIL_TROUBLE = 3


class RedisKeeper:
    """Looks after the server once it is `wanted`; `trouble` says what is wrong that is not about to change."""

    def __init__(self, places: Places, clock: Clock) -> None:
        self.wanted = False
        self.trouble: str | None = None
        self.restarts = 0
        self._places = places
        self._clock = clock
        self._server: psutil.Process | None = None
        self._started: subprocess.Popen[bytes] | None = None
        self._watch = RedisWatch(places.redis_socket)
        self._since = 0.0
        self._deaths = 0
        self._cannot_start = False
        self._due_at = float("-inf")

    def tick(self) -> None:
        """Look whether the server lives, and start it when it does not and its pause is over."""
        if not self.wanted:
            return
        if self._server is not None and not self._lives():
            self._died()
        elif self._server is not None:
            self._kill_if_silent(self._server)
            self._forget_deaths()
            self._keep_folder()
        if self._server is None and self._clock() >= self._due_at:
            self._adopt_or_start()

    def answers(self) -> bool:
        """Whether the server answers now."""
        return redis_server.answers(self._places)

    def status(self) -> dict[str, object]:
        """What JSON can carry of it."""
        return {"wanted": self.wanted, "restarts": self.restarts, "trouble": self.trouble}

    def let_go(self) -> psutil.Process | None:
        """Look after it no more; it lives on. Returns it."""
        self.wanted = False
        server, self._server = self._server, None
        self._watch.forget()
        return server

    def _lives(self) -> bool:
        assert self._server is not None
        if self._started is not None and self._started.pid == self._server.pid:
            return self._started.poll() is None
        return process_identity.is_alive(self._server)

    def _kill_if_silent(self, server: psutil.Process) -> None:
        """Kill a server that hangs or whose socket is gone: what it has answered is on the disk."""
        if self._watch.look(self._clock()) < SILENT_UNTIL_KILLED_S:
            return
        log.warning("Redis, pid %d, has not answered for %g s: killing it", server.pid, SILENT_UNTIL_KILLED_S)
        self._watch.forget()
        with suppress(psutil.Error):
            server.kill()

    def _forget_deaths(self) -> None:
        """A server that lives long enough proves that what made others die is over."""
        if self._deaths and self._clock() - self._since > SOUND_AGE_S:
            self._deaths, self.trouble = 0, None

    def _keep_folder(self) -> None:
        """Give a server whose folder was removed another one: it would continue, and lose everything when it ends."""
        if self._places.redis.exists() or not self._places.home.exists() or not self.answers():
            return
        try:
            redis_folder.replace(self._places)
        except (Unreachable, Refused, OSError) as error:
            trouble = f"{self._places.redis} was removed, and Redis cannot write elsewhere: {error}"
            if trouble != self.trouble:
                log.warning("%s", trouble)
            self.trouble = trouble
        else:
            log.warning("%s was removed: created again, and Redis writes there all it holds", self._places.redis)
            self.trouble = None

    def _died(self) -> None:
        code = self._started.returncode if self._started is not None else None
        how = "it was adopted, so nobody knows how" if code is None else describe_exit(code)
        log.warning("Redis died: %s", how)
        sound = self._clock() - self._since > SOUND_AGE_S
        self._deaths = 1 if sound else self._deaths + 1
        self._server, self._started = None, None
        self._watch.forget()
        self.restarts += 1
        if code not in (0, None):
            self._repair()
        # It restarts at once after the first death: everybody waits for Redis.
        self._due_at = self._clock() + (pause_s(self._deaths - 1) if self._deaths > 1 else 0.0)
        if self._deaths >= _DEATHS_UNTIL_TROUBLE:
            why = redis_folder.fault(self._places) or _last_words(self._places)
            self.trouble = f"Redis does not stay up ({how}): {why}"

    def _repair(self) -> None:
        """Have a server that could not read its file read it up to where it can be read; a copy is kept."""
        if not any(_CANNOT_READ in line for line in last_lines(self._places.logs / "redis.log", _LINES_OF_AN_END)):
            return
        try:
            damage = redis_aof.find_damage(self._places)
            if damage is None or not damage.good:  # with nothing to be read at all, it must not begin empty
                return
            copy = redis_aof.set_aside(self._places, damage)
        except (UserError, OSError, ValueError, subprocess.SubprocessError) as error:
            log.warning("the file of Redis could not be repaired: %s", error)
            return
        log.warning("%s: set aside as %s, Redis starts with what comes before", damage.sentence, copy)

    def _adopt_or_start(self) -> None:
        self._since = self._clock()
        try:
            self._server = redis_server.running(self._places)
            if self._server is not None:
                log.info("adopted Redis, pid %d", self._server.pid)
                redis_server.remember(self._places, self._server.pid)
                return
            self._started = redis_server.start(self._places)
            if self._started is not None:
                self._server = psutil.Process(self._started.pid)
                log.info("started Redis, pid %d", self._started.pid)
        except (UserError, OSError, psutil.Error) as error:
            log.warning("Redis could not be started: %s", error)
            self.trouble, self._cannot_start = f"Redis could not be started: {error}", True
            self._deaths += 1
            self._due_at = self._clock() + pause_s(self._deaths)
        else:
            if self._cannot_start or self._deaths < _DEATHS_UNTIL_TROUBLE:
                self.trouble, self._cannot_start = None, False


def _last_words(places: Places) -> str:
    return " ".join(last_lines(places.logs / "redis.log", 1)) or "no output"
