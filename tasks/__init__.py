"""The product without its command line: queues, jobs, and the work they do."""

from typing import TYPE_CHECKING

if not TYPE_CHECKING:

    def __getattr__(name):
        from tasks.messaging.celery_refusal import refuse

        refuse(__name__, name)
