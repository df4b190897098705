"""What both ends of gRPC have alike: the method, the options, and what mutual TLS needs.

Needs grpcio: whoever imports this has asked `amaqctl.extras.networking` for it before.
"""

from __future__ import annotations

import grpc

from amaqctl.certs.folder import Credentials
from amaqctl.transports.frames import MAX_FRAME_BYTES

SERVICE = "amaqctl.Party"
METHOD = "Stream"

# Frames are short, whatever the session's longest message: that cap is kept by `Incoming`.
_FRAME_OPTIONS = (
    ("grpc.max_send_message_length", MAX_FRAME_BYTES),
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
    ("grpc.max_metadata_size", 8192),
)


def dial_options(peer: str) -> list[tuple[str, int | str]]:
    """Options of the end that dials ``peer``: its certificate is held against that name.

    Each connection is one of its own, or gRPC would wait longer after every failure.
    """
    return [
        *_FRAME_OPTIONS,
        ("grpc.ssl_target_name_override", peer),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]


def listen_options() -> list[tuple[str, int]]:
    """Options of the end that listens; two processes must not share its port.

    gRPC's own signs of life are for dead connections only, whose streams would be kept for long.
    """
    return [
        *_FRAME_OPTIONS,
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
    ]


def dial_credentials(own: Credentials) -> grpc.ChannelCredentials:
    """Who dials, and whom it trusts."""
    return grpc.ssl_channel_credentials(own.authority, own.key, own.certificate)


def listen_credentials(own: Credentials) -> grpc.ServerCredentials:
    """Who listens; no certificate, no stream."""
    pair = [(own.key, own.certificate)]
    return grpc.ssl_server_credentials(pair, own.authority, require_client_auth=True)
