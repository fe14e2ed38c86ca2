"""The provider's limits of tests that have none."""

import math

from fsm_runner.config.provider_limits import ProviderLimitPolicy
from fsm_runner.runtime.control.provider_limits import ProviderLimits


def no_provider_limits() -> ProviderLimits:
    return ProviderLimits(ProviderLimitPolicy(), lambda: math.inf, lambda: None, lambda _: None, lambda: None)
