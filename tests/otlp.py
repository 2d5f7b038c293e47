"""Somebody who is told spans: an OTLP/HTTP receiver on loopback that decodes them by OpenTelemetry's own protocol."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.harness import until

KINDS = {1: "internal", 4: "producer", 5: "consumer"}
ERROR = 2


@dataclass(frozen=True)
class Span:
    """One span as it arrived."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    failed: bool
    links: tuple[str, ...]  # trace ids
    service: str

    @property
    def mission(self) -> str:
        return str(self.attributes.get("messaging.message.id", ""))


@dataclass
class Collector:
    """What has arrived so far, and where it listens."""

    endpoint: str
    spans: list[Span] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """What points a process at it, without the usual five seconds until spans are sent."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def trace_of(self, mission_id: str, *names: str) -> list[Span]:
        """All spans of the traces that speak of a mission, once it has these."""

        def complete() -> list[Span]:
            traces = {span.trace_id for span in self.spans if span.mission == mission_id}
            found = [span for span in self.spans if span.trace_id in traces]
            return found if sorted(names) == sorted(span.name for span in found) else []

        try:
            return until(complete, f"{names} of {mission_id}", 60)
        except AssertionError as error:
            raise AssertionError(f"{error}; but: {[(s.name, s.mission) for s in self.spans]}") from None


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """A receiver that runs within the block."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.collector  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/traces"
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            service = _plain(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.server.collector.spans += [_read(span, service) for span in scope.spans]  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


def _read(span: Any, service: str) -> Span:
    return Span(
        name=span.name,
        kind=KINDS[span.kind],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_plain(span.attributes),
        failed=span.status.code == ERROR,
        links=tuple(link.trace_id.hex() for link in span.links),
        service=service,
    )


def _plain(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
