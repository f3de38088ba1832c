"""Formats: bytes to values and back, and whether a signature or a proof holds. Pure, and shared with the SDK.

Nothing here reads a clock, draws randomness, opens a file or a socket: time, salts and keys are arguments.
One bounded memory holds facts that cannot change (`dpop`: keys parsed before); it makes nothing true that was
not.
"""
