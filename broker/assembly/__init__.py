"""The one place that builds the parts and puts them together. Production and tests differ only in the arguments."""

from broker.assembly.broker import Broker
from broker.assembly.opening import open_keys, unlock
from broker.assembly.parts import assemble

__all__ = ["Broker", "assemble", "open_keys", "unlock"]
