"""Makes the pictures in docs/screenshots: `make screenshots`, where Chromium is installed.

They show the scene of ``tests/scene.py``: the same missions with the same figures each time; only the time of day and
the ids are others. A picture is stored with a palette of 256 colours, which takes a third of the room.
"""

from __future__ import annotations

import struct
import tempfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser

from tests.browser import DESKTOP, PHONE, chromium, looking
from tests.harness import Home
from tests.scene import CODER, RESEARCH, played
from tests.web_server import Server, serving

FOLDER: Final = Path(__file__).parent / "screenshots"
BYTES: Final = 150_000
# Name: address, height in pixels (the width is the window's), and how it is looked at.
PICTURES: Final = {
    "overview": ("/", 1_180, DESKTOP, "light"),
    "overview-dark": ("/", 1_180, DESKTOP, "dark"),
    "overview-phone": ("/", 1_100, PHONE, "light"),
    "missions": ("/missions", 1_000, DESKTOP, "light"),
    "dispatch": (f"/missions/new?vp={CODER}", 1_000, DESKTOP, "light"),
    "mission-running": ("/missions/{running}", 1_150, DESKTOP, "light"),
    "mission-failed": ("/missions/{failed}", 1_000, DESKTOP, "light"),
    "artifact": ("/missions/{patch}/artifacts/changes.patch", 560, DESKTOP, "light"),
    "vp": (f"/vps/{RESEARCH}", 900, DESKTOP, "light"),
    "actions": ("/actions", 640, DESKTOP, "light"),
}


def main() -> None:
    """Make them all."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "vp-demo"
        with played(home) as (folder, ids), serving(Home(folder, folder)) as server, chromium() as browser:
            for name in PICTURES:
                picture = with_palette(taken(browser, server, ids, name))
                if len(picture) >= BYTES:
                    raise SystemExit(f"{name} has {len(picture):,} bytes; at most {BYTES:,} are wanted: cut its height")
                (FOLDER / f"{name}.png").write_bytes(picture)
                print(f"docs/screenshots/{name}.png  {len(picture):,} bytes")


def taken(browser: Browser, server: Server, ids: dict[str, str], name: str) -> bytes:
    """A picture as Chromium makes it."""
    address, height, size, scheme = PICTURES[name]
    window = {"width": size["width"], "height": height}
    options = {"viewport": window, "color_scheme": scheme, "timezone_id": "UTC", "locale": "en-GB"}
    with looking(browser, server, **options) as watched:
        page = watched.open(address.format(**ids))
        if page.locator(".live-state").count():
            page.locator('.live-state[data-state="live"]').wait_for(state="attached")
        page.wait_for_load_state("networkidle")
        return page.screenshot()


def with_palette(png: bytes) -> bytes:
    """A PNG of 8-bit RGB with 256 of its colours; another becomes the nearest of those.

    Of colours nearly the same the most frequent stands for all, so that a small dot of its own colour keeps it.
    """
    width, height, pixels = _decoded(png)
    colours = Counter(pixels)
    shades: dict[tuple[int, ...], bytes] = {}
    for colour, _ in colours.most_common():
        shades.setdefault(tuple(part >> 4 for part in colour), colour)
    palette = list(dict.fromkeys([*shades.values(), *(colour for colour, _ in colours.most_common())]))[:256]
    index = {colour: number for number, colour in enumerate(palette)}
    for colour in colours:
        if colour not in index:
            index[colour] = min(range(len(palette)), key=lambda number: _distance(palette[number], colour))
    numbers = bytes(map(index.__getitem__, pixels))
    rows = b"".join(b"\0" + numbers[start : start + width] for start in range(0, len(numbers), width))
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", b"".join(palette)), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return png[:8] + b"".join(map(_chunk, chunks))


def _distance(one: bytes, other: bytes) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    kind, data = chunk
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _decoded(png: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and the colour of each pixel."""
    position, packed, width, height = 8, b"", 0, 0
    while position < len(png):
        (length,), kind = struct.unpack_from(">I", png, position), png[position + 4 : position + 8]
        data = png[position + 8 : position + 8 + length]
        if kind == b"IHDR":
            width, height, *form = struct.unpack(">IIBBBBB", data)
            if form != [8, 2, 0, 0, 0]:
                raise SystemExit(f"Chromium made another kind of PNG: {form}")
        elif kind == b"IDAT":
            packed += data
        position += length + 12
    raw, stride = zlib.decompress(packed), width * 3
    above = bytearray(stride)
    pixels: list[bytes] = []
    for start in range(0, len(raw), stride + 1):
        above = _unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + stride]), above)
        line = bytes(above)
        pixels += [line[at : at + 3] for at in range(0, stride, 3)]
    return width, height, pixels


def _unfiltered(kind: int, line: bytearray, above: bytearray) -> bytearray:
    """A line of bytes, of which PNG stores the difference to its neighbours (RFC 2083, section 6)."""
    if kind == 0:
        return line
    for at in range(len(line)):
        left, corner = (line[at - 3], above[at - 3]) if at >= 3 else (0, 0)
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = above[at]
        elif kind == 3:
            guess = (left + above[at]) // 2
        else:
            near = left + above[at] - corner
            guess = min((left, above[at], corner), key=lambda value, near=near: abs(near - value))
        line[at] = (line[at] + guess) & 255
    return line


if __name__ == "__main__":
    main()
