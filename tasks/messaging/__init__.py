"""All that touches Celery and kombu."""
