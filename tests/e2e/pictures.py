"""Pictures that the tests draw themselves: digits as pen strokes, and files that are not pictures."""

import functools
import io
import struct
import zlib

from PIL import Image, ImageDraw

# Strokes in a box of 100 x 140, as a hand would draw them.
STROKES = {
    0: [[(50, 5), (20, 25), (10, 70), (20, 115), (50, 135), (80, 115), (90, 70), (80, 25), (50, 5)]],
    1: [[(30, 30), (55, 5), (55, 135)]],
    2: [[(12, 35), (30, 10), (60, 6), (84, 28), (78, 62), (10, 134), (92, 132)]],
    3: [[(14, 18), (48, 5), (80, 20), (78, 50), (42, 66), (82, 82), (86, 112), (54, 134), (12, 122)]],
    4: [[(70, 135), (70, 5), (8, 92), (95, 92)]],
    7: [[(8, 10), (90, 10), (40, 135)]],
}


def digit(number, size=200, ink=10, paper=245):
    """A digit drawn with a pen, off the centre of a sheet of paper."""
    sheet = Image.new("L", (size * 4, size * 4), paper)
    draw = ImageDraw.Draw(sheet)
    unit = size / 200 * 4
    for stroke in STROKES[number]:
        points = [((x + 30) * unit, (y + 35) * unit) for x, y in stroke]
        draw.line(points, fill=ink, width=int(13 * unit), joint="curve")
        for x, y in points:
            radius = 6.5 * unit
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    return sheet.resize((size, size), Image.Resampling.LANCZOS)


def encode(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@functools.cache
def png_bomb(side=20_000):
    """A valid PNG of side x side pixels in a megabyte or two."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    # The same 100 rows over and over: compressed once, each copy ends with a full flush.
    rows = bytes((1 + side * 3) * 100)
    deflate = zlib.compressobj(9, wbits=-15)
    block = deflate.compress(rows) + deflate.flush(zlib.Z_FULL_FLUSH)
    checksum = 1
    for _ in range(side // 100):
        checksum = zlib.adler32(rows, checksum)
    pixels = b"\x78\xda" + block * (side // 100) + b"\x03\x00" + struct.pack(">I", checksum)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def truncated_jpeg():
    whole = encode(Image.effect_noise((400, 300), 60).convert("RGB"), "JPEG")
    return whole[: len(whole) // 2]
