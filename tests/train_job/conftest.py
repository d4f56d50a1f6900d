"""SAEs, models and homes of the tests of this room."""

from tests.fixtures.bench import _one_thread, bench  # noqa: F401 - fixtures
