"""OpenTelemetry itself: the provider, and the spans of ``tracing``. Imported only where traces are wanted.

The host application's provider is used if it has one. Else one of our own, set up from the standard OTEL_* variables;
it is not made the process's global provider, so a host that sets up its own later is not in the way of it. Spans are
sent by a thread, over HTTP with protobuf; a queue that is full drops the newest, and an exit waits 2 seconds at most.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import Any, Final

from vp_queue import __version__, clock
from vp_queue.tracing import SWITCHES

logger = logging.getLogger("vp_queue.tracing")

FLUSH_SECONDS: Final = 2.0  # at exit; supervisord's patience is not much longer than what a consumer needs before
EXPORT_SECONDS: Final = 5.0  # one request, unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise
_TIMEOUTS: Final = ("OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

_lock = threading.Lock()
_own: list[Any] = []  # our tracer or None, once it was looked for


def tracer() -> Any | None:
    """The host application's tracer, or ours; None: OpenTelemetry is not installed, or switched off."""
    if _installed():
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider

        host = trace.get_tracer_provider()
        if isinstance(host, TracerProvider):
            return host.get_tracer("vp_queue", __version__)
    with _lock:
        if not _own:
            _own.append(None)
            try:
                _own[0] = _made_from_the_environment()
            except Exception as error:  # say, a queue of less than nothing
                logger.warning("no traces: the OTEL_* variables cannot be used: %s", error)
        return _own[0]


@cache
def _installed() -> bool:
    try:
        import opentelemetry.sdk.trace  # noqa: F401
    except Exception as error:  # a broken one must not fail a mission either
        logger.info("no traces: pip install 'vp-queue[otel]' (%s)", error)
        return False
    return True


def _made_from_the_environment() -> Any | None:
    problem = _switched_off()
    if problem is not None:
        logger.info("no traces: %s", problem)
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = {"service.version": __version__}
    if "OTEL_SERVICE_NAME" not in os.environ and "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        about["service.name"] = "vp-queue"
    timeout = None if any(name in os.environ for name in _TIMEOUTS) else EXPORT_SECONDS
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout)))
    _flush_at_exit(provider)
    return provider.get_tracer("vp_queue", __version__)


def _switched_off() -> str | None:
    """Why the environment asks for no traces that could be sent, if so."""
    if not _installed():
        return "OpenTelemetry is missing"
    if not any(os.environ.get(name) for name in SWITCHES):
        return "no endpoint"
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return "OTEL_SDK_DISABLED is true"
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if exporter != "otlp":
        return f"OTEL_TRACES_EXPORTER is {exporter}; vp-queue knows otlp"
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), "http/protobuf")
    return None if protocol == "http/protobuf" else f"the protocol is {protocol}; vp-queue speaks http/protobuf"


def _flush_at_exit(provider: Any) -> None:
    """Send what is left at exit, for ``FLUSH_SECONDS`` at most.

    The SDK's own way waits for a receiver that does not answer for up to half a minute. The thread is started now:
    at exit no thread can be.
    """
    asked, done, pid = threading.Event(), threading.Event(), os.getpid()

    def close() -> None:
        asked.wait()
        provider.shutdown()
        done.set()

    def at_exit() -> None:
        if os.getpid() == pid:  # a forked child has no such thread
            asked.set()
            done.wait(FLUSH_SECONDS)

    threading.Thread(target=close, name="traces", daemon=True).start()
    atexit.register(at_exit)


# --- spans --------------------------------------------------------------------------------------


@contextlib.contextmanager
def dispatch_span(made: Any, attributes: dict[str, Any], retry_of: str | None) -> Iterator[Any]:
    """The current span while a mission is dispatched, linked to the trace of the one it retries."""
    from opentelemetry import trace

    other = trace.get_current_span(_remote(retry_of)).get_span_context() if retry_of else None
    links = [trace.Link(other)] if other is not None and other.is_valid else []
    with _current(made, "vp.dispatch", trace.SpanKind.PRODUCER, attributes=attributes, links=links) as span:
        yield span


@contextlib.contextmanager
def attempt_span(made: Any, mission_id: str, trace_context: str | None, attributes: dict[str, Any]) -> Iterator[Any]:
    """The current span while an attempt is executed, child of the span that dispatched its mission."""
    from opentelemetry import trace

    context = _remote(trace_context or _invented(mission_id))
    with _current(made, "vp.attempt", trace.SpanKind.CONSUMER, attributes=attributes, context=context) as span:
        yield span


@contextlib.contextmanager
def phase_span(made: Any, name: str, usual: type[BaseException] | None) -> Iterator[None]:
    """The span of a phase, child of the current one."""
    from opentelemetry import trace

    with _current(made, name, trace.SpanKind.INTERNAL, usual):
        yield


def past_span(
    made: Any,
    name: str,
    mission: tuple[str, str | None],
    lasted: tuple[datetime, datetime],
    attributes: dict[str, Any],
    problem: dict[str, Any] | None,
) -> None:
    """Tell something that is over.

    Args:
        mission: its id and trace context.
        lasted: from when to when, as the ledger has it.
        problem: the failure, if it was one.
    """
    from opentelemetry import trace

    kind = trace.SpanKind.CONSUMER if name == "vp.attempt" else trace.SpanKind.INTERNAL
    context = _remote(mission[1] or _invented(mission[0]))
    began, ended = (clock.to_micros(instant) * 1_000 for instant in lasted)
    span = made.start_span(name, context=context, kind=kind, attributes=attributes, start_time=began)
    describe(span, {}, problem)
    span.end(max(began, ended))


def describe(span: Any, attributes: dict[str, Any], problem: dict[str, Any] | None) -> None:
    """Add what is known of the end to a span.

    Args:
        problem: the failure, if it was one; its code becomes ``error.type``.
    """
    from opentelemetry import trace

    span.set_attributes(attributes)
    if problem is not None:
        span.set_attribute("error.type", str(problem["code"]))
        span.set_status(trace.Status(trace.StatusCode.ERROR, str(problem["code"])))


def traceparent_of(span: Any) -> str | None:
    """A span's context as W3C writes it; None if it has none."""
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(span))
    return carrier.get("traceparent")


def _remote(traceparent: str) -> Any:
    """The context that a row of the ledger carries; an unreadable one is none."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())


def _invented(mission_id: str) -> str:
    """The context of a mission that was dispatched without one: the same for all who tell of it."""
    digest = hashlib.sha256(mission_id.encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01"


@contextlib.contextmanager
def _current(
    made: Any, name: str, kind: Any, usual: type[BaseException] | None = None, **options: Any
) -> Iterator[Any]:
    """A span that is current within the block.

    What is raised there is named, not quoted: its message may hold secrets.

    Args:
        usual: what may be raised without having gone wrong.
    """
    from opentelemetry import context, trace

    span: Any = trace.INVALID_SPAN
    with _harmless():
        span = made.start_span(name, kind=kind, **options)
    token = context.attach(trace.set_span_in_context(span))
    try:
        yield span
    except BaseException as error:
        if usual is None or not isinstance(error, usual):
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        context.detach(token)
        with _harmless():
            span.end()


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """What a span processor of the host application raises is logged: a mission does not fail for its trace."""
    try:
        yield
    except Exception:
        logger.exception("a span could not be told")
