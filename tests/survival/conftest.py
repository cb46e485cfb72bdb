"""The kill tests strike the same kind of stack as the integration tests, one of their own."""

from tests.integration.conftest import cloud, stack

__all__ = ["cloud", "stack"]
