"""A worker: its slots and locks, heartbeat, watchdog, leases. Nothing is imported here: the command line reads its
locks.
"""

from typing import TYPE_CHECKING

if not TYPE_CHECKING:

    def __getattr__(name):
        from tasks.messaging.celery_refusal import refuse

        refuse(__name__, name)
