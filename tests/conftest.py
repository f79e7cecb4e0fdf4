"""What holds for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A deadline measures the machine, not the code: on two busy cores the first example of a test can take a second.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")
