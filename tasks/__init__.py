"""The product without its command line: queues, jobs, and the work they do."""

from typing import TYPE_CHECKING

if not TYPE_CHECKING:

    def __getattr__(name):
        from tasks.messaging.not_celery import refuse

        refuse(__name__, name)
