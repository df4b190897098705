"""Two parties for measurements: one that sends back whatever comes, in a process of its own.

python benchmarks/network/parties.py grpc CERTIFICATES        (prints its port)
python benchmarks/network/parties.py distributed              (rendezvous from the environment)
python benchmarks/network/parties.py unary CERTIFICATES       (plain gRPC calls, to compare)
"""

from __future__ import annotations

import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from amaqctl.errors import TransportError
from amaqctl.transports.connection_state import OnStatus, unwatched
from amaqctl.transports.distributed import DistributedTransport
from amaqctl.transports.grpc_stream import GrpcTransport
from amaqctl.transports.party_settings import PartySettings, TrafficLimits
from amaqctl.transports.routed import RoutedTransport
from amaqctl.transports.transport import Address

HOLDERS = ("client", "server")
THERE, BACK = Address(0, "activation"), Address(0, "gradient")
UNARY = "/amaqctl.Benchmark/Echo"
_LIMITS = TrafficLimits(2**25, 32)


def over_grpc(
    name: str,
    certificates: Path,
    on_status: OnStatus = unwatched,
    lease_seconds: float = 60.0,
    **own: Any,
) -> GrpcTransport:
    """A party over gRPC."""
    config = GrpcTransport.Config(lease_seconds=lease_seconds)
    settings = PartySettings(name=name, holders=HOLDERS, certificates=certificates / name, **own)
    return GrpcTransport(config, settings, _LIMITS, on_status)


def over_gloo(name: str, on_status: OnStatus = unwatched) -> DistributedTransport:
    """A party over torch.distributed."""
    settings = PartySettings(name=name, holders=HOLDERS)
    return DistributedTransport(DistributedTransport.Config(), settings, _LIMITS, on_status)


def credentials(certificates: Path, name: str) -> list[bytes]:
    """Authority, key and certificate."""
    files = ("ca.crt", f"{name}.key", f"{name}.crt")
    return [(certificates / name / file).read_bytes() for file in files]


def unary_server(certificates: Path) -> tuple[grpc.Server, int]:
    """What the stream is compared with: one call a message."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(4), options=options)
    handler = grpc.unary_unary_rpc_method_handler(lambda data, context: data)
    service, method = UNARY[1:].split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    authority, key, certificate = credentials(certificates, "server")
    own = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", own)
    server.start()
    return server, port


def _echo(transport: RoutedTransport) -> None:
    try:
        while True:
            transport.send(BACK, transport.receive(THERE))
    except TransportError:
        transport.close()


def main() -> None:
    """Be the other side."""
    kind, *rest = sys.argv[1:]
    if kind == "unary":
        server, port = unary_server(Path(rest[0]))
        print(port, flush=True)
        server.wait_for_termination()
    elif kind == "grpc":
        transport = over_grpc("server", Path(rest[0]), listen="127.0.0.1:0")
        print(transport.port, flush=True)
        _echo(transport)
    else:
        _echo(over_gloo("server"))


if __name__ == "__main__":
    main()
