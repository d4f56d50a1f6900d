"""A Celery app as one writes it first: the same task names on the same queues, Celery's defaults for everything else.

Its tasks do nothing and import nothing, so its workers are as small as plain workers can be.
"""

import os

from celery import Celery

from tasks.job import kinds

app = Celery("plain", broker=os.environ["PLAIN_BROKER_URL"], backend=os.environ["PLAIN_BROKER_URL"])
app.conf.task_routes = {kind.wire_name: {"queue": kind.queue} for kind in kinds().values()}
for kind in kinds().values():
    app.task(name=kind.wire_name)(lambda job_id: None)
