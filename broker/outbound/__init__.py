"""The one door for outgoing requests: what may be reached (`addresses`), and reaching it (`door`)."""

from broker.outbound.addresses import Resolve, is_public
from broker.outbound.answers import UpstreamResponse
from broker.outbound.door import Outbound

__all__ = ["Outbound", "Resolve", "UpstreamResponse", "is_public"]
