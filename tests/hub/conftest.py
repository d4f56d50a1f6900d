"""A home in which kinds run without Redis."""

from tests.fixtures.job_home import home, one_thread  # noqa: F401 - fixtures
