#!/usr/bin/env python3
"""Makes the pictures beside this file: one scene in every coding that the decoders are tested with.

    pip install Pillow==11.3.0 && python3 worker/tests/data/make.py

Pillow writes what it can. JPEG with other samplings of its channels, or with other scans, is written by
the small encoder below, which no decoder in this repository shares any code with.
"""

import json
import math
import random
import struct
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

HERE = Path(__file__).parent
QUALITY = 92


def scene(width, height):
    """A sky that brightens, a meadow, a sun and a house, with soft edges."""
    picture = Image.new("RGB", (200, 160))
    for y in range(160):
        for x in range(200):
            sky = (40 + y, 90 + y // 2, 200 - x // 4)
            meadow = (60 + x // 5, 150 - y // 3, 40 + (x + y) // 12)
            picture.putpixel((x, y), sky if y < 100 else meadow)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((140, 15, 180, 55), fill=(250, 220, 60))
    draw.rectangle((30, 70, 90, 130), fill=(200, 60, 50))
    draw.polygon([(20, 70), (60, 35), (100, 70)], fill=(90, 40, 120))
    draw.rectangle((52, 95, 70, 130), fill=(240, 240, 235))
    picture = picture.filter(ImageFilter.GaussianBlur(2.2))
    return picture.resize((width, height), Image.Resampling.LANCZOS)


# --- JPEG

ZIGZAG = sorted(range(64), key=lambda at: (s := at // 8 + at % 8, at // 8 if s % 2 else at % 8))
# The tables of ITU-T T.81, annex K, for luminance.
STEPS = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29,
    51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121,
    120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
]  # fmt: skip
DC = ([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], list(range(12)))
AC_COUNTS = [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125]
AC_SYMBOLS = bytes.fromhex(
    "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a"
    "3435363738393a434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a929394"
    "95969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8"
    "e9eaf1f2f3f4f5f6f7f8f9fa"
)
AC = (AC_COUNTS, list(AC_SYMBOLS))


def codes(table):
    counts, symbols = table
    code, at, found = 0, 0, {}
    for length, count in enumerate(counts, 1):
        for _ in range(count):
            found[symbols[at]] = (code, length)
            code, at = code + 1, at + 1
        code <<= 1
    return found


DC_CODES, AC_CODES = codes(DC), codes(AC)
COSINES = [[math.cos((2 * x + 1) * u * math.pi / 16) * (0.5 if u else 0.5 / math.sqrt(2)) for x in range(8)] for u in range(8)]


class Bits:
    def __init__(self):
        self.value, self.count, self.bytes = 0, 0, bytearray()

    def put(self, value, count):
        self.value, self.count = self.value << count | value, self.count + count
        while self.count >= 8:
            self.count -= 8
            byte = self.value >> self.count & 255
            self.bytes += bytes([byte, 0] if byte == 255 else [byte])
        self.value &= (1 << self.count) - 1

    def number(self, value, prefix, table):
        size = abs(value).bit_length()
        self.put(*table[prefix << 4 | size])
        self.put(value if value >= 0 else value + (1 << size) - 1, size)

    def finish(self):
        self.put((1 << -self.count % 8) - 1, -self.count % 8)
        return bytes(self.bytes)


def transform(block, steps):
    rows = [[sum(c * v for c, v in zip(COSINES[u], row)) for u in range(8)] for row in block]
    whole = [sum(COSINES[v][y] * rows[y][u] for y in range(8)) for v in range(8) for u in range(8)]
    return [round(whole[at] / steps[at]) for at in ZIGZAG]


class Channel:
    """The quantised blocks of one channel, `across` by `down` of them in a unit."""

    def __init__(self, plane, sampling, most, steps):
        self.across, self.down = sampling
        width, height = plane.size
        self.size = (-(-width * self.across // most[0]), -(-height * self.down // most[1]))
        units = (-(-width // (8 * most[0])), -(-height // (8 * most[1])))
        self.stride, rows = units[0] * self.across, units[1] * self.down
        small = plane.resize(self.size, Image.Resampling.BOX)
        pixel = small.load()
        last = (self.size[0] - 1, self.size[1] - 1)
        self.blocks = []
        for row in range(rows):
            for column in range(self.stride):
                block = [[pixel[min(8 * column + x, last[0]), min(8 * row + y, last[1])] - 128 for x in range(8)] for y in range(8)]
                self.blocks.append(transform(block, steps))

    def unit(self, column, row):
        """Places of the blocks of a unit of several channels."""
        corner = row * self.down * self.stride + column * self.across
        return [corner + y * self.stride + x for y in range(self.down) for x in range(self.across)]


def scan(channels, band, units):
    """Entropy-coded blocks of some channels, coefficients `band` of them."""
    if len(channels) == 1:
        only = channels[0]
        wide, high = -(-only.size[0] // 8), -(-only.size[1] // 8)
        order = [(only, row * only.stride + column) for row in range(high) for column in range(wide)]
    else:
        order = [(one, at) for row in range(units[1]) for column in range(units[0]) for one in channels for at in one.unit(column, row)]
    bits, before = Bits(), {}
    for channel, at in order:
        block = channel.blocks[at]
        if band[0] == 0:
            bits.number(block[0] - before.get(channel, 0), 0, DC_CODES)
            before[channel] = block[0]
        if band[1] == 0:
            continue
        run = 0
        for place in range(max(band[0], 1), band[1] + 1):
            if block[place] == 0:
                run += 1
                continue
            while run > 15:
                bits.put(*AC_CODES[0xF0])
                run -= 16
            bits.number(block[place], run, AC_CODES)
            run = 0
        if run:
            bits.put(*AC_CODES[0])
    return bits.finish()


def segment(marker, content):
    return struct.pack(">BBH", 255, marker, len(content) + 2) + content


JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
ADOBE_RGB = segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")


def write_jpeg(name, samplings, scans=None, head=b"", mode="YCbCr"):
    """`scans` are lists of channels with a band of coefficients; a band that is not whole is progressive."""
    scale = 200 - 2 * QUALITY
    steps = [max(1, min(255, (step * scale + 50) // 100)) for step in STEPS]
    picture = scene(200, 160).convert(mode)
    most = tuple(max(sampling[side] for sampling in samplings) for side in (0, 1))
    channels = [Channel(plane, sampling, most, steps) for plane, sampling in zip(picture.split(), samplings)]
    scans = scans or [(range(len(channels)), (0, 63))]
    is_progressive = any(band != (0, 63) for _, band in scans)
    width, height = picture.size
    units = (-(-width // (8 * most[0])), -(-height // (8 * most[1])))
    parts = [b"\xff\xd8", head, segment(0xDB, bytes([0] + [steps[at] for at in ZIGZAG]))]
    described = b"".join(bytes([at + 1, one.across << 4 | one.down, 0]) for at, one in enumerate(channels))
    frame = struct.pack(">BHHB", 8, height, width, len(channels)) + described
    parts.append(segment(0xC2 if is_progressive else 0xC0, frame))
    for kind, (counts, symbols) in enumerate([DC, AC]):
        parts.append(segment(0xC4, bytes([kind << 4]) + bytes(counts) + bytes(symbols)))
    for selected, band in scans:
        chosen = b"".join(bytes([at + 1, 0]) for at in selected)
        parts.append(segment(0xDA, bytes([len(selected)]) + chosen + bytes([*band, 0])))
        parts.append(scan([channels[at] for at in selected], band, units))
    (HERE / "jpeg" / name).write_bytes(b"".join(parts) + b"\xff\xd9")


def each(bands):
    return [([at], band) for band in bands for at in range(3)]


def jpegs():
    picture = scene(200, 160)
    for name, options in {
        "420.jpg": {"subsampling": "4:2:0"},
        "422.jpg": {"subsampling": "4:2:2"},
        "444.jpg": {"subsampling": "4:4:4"},
        "restarts.jpg": {"subsampling": "4:2:0", "restart_marker_blocks": 7},
        "progressive.jpg": {"subsampling": "4:2:0", "progressive": True},
    }.items():
        picture.save(HERE / "jpeg" / name, quality=QUALITY, **options)
    picture.convert("L").save(HERE / "jpeg" / "grey.jpg", quality=QUALITY)
    picture.convert("CMYK").save(HERE / "jpeg" / "cmyk.jpg", quality=QUALITY)

    fine, twice = (1, 1), (2, 2)
    write_jpeg("410.jpg", [(4, 2), fine, fine])
    write_jpeg("411.jpg", [(4, 1), fine, fine])
    write_jpeg("440.jpg", [(1, 2), fine, fine])
    write_jpeg("coarse_luma.jpg", [fine, twice, twice])
    write_jpeg("mixed.jpg", [twice, (2, 1), (1, 2)])
    write_jpeg("rgb.jpg", [fine, fine, fine], head=ADOBE_RGB, mode="RGB")
    write_jpeg("420_scans.jpg", [twice, fine, fine], each([(0, 63)]), JFIF)
    write_jpeg("422_scans.jpg", [(2, 1), fine, fine], each([(0, 63)]), JFIF)
    bands = [(0, 0), (1, 1), (2, 9), (10, 40), (41, 63)]
    write_jpeg("420_spectral.jpg", [twice, fine, fine], each(bands), JFIF)
    # Pillow's own progressive scans, with one set of tables as the others have.


# --- What libjpeg makes of damaged JPEG


def levels(content):
    """The picture in 4 by 4 levels of grey, in hex; nothing where Pillow refuses the file."""
    try:
        picture = Image.open(BytesIO(content)).convert("L")
    except (OSError, SyntaxError):
        return None
    return picture.resize((4, 4), Image.Resampling.BILINEAR).tobytes().hex()


def damaged():
    chance, found = random.Random(1), []
    for name in ("420.jpg", "444.jpg", "grey.jpg", "restarts.jpg", "420_scans.jpg", "progressive.jpg"):
        content = (HERE / "jpeg" / name).read_bytes()
        data = content.index(b"\xff\xda")
        for _ in range(12):
            cut = chance.randrange(data, len(content))
            found.append({"file": name, "cut": cut, "levels": levels(content[:cut])})
            ended = content[:cut] + b"\xff\xd9"
            found.append({"file": name, "cut": cut, "end": True, "levels": levels(ended)})
            for _ in range(2):
                at, byte = chance.randrange(data, len(content)), chance.randrange(256)
                hit = content[:at] + bytes([byte]) + content[at + 1 :]
                found.append({"file": name, "at": at, "byte": byte, "levels": levels(hit)})
    lines = ",\n".join(json.dumps(one) for one in found)
    (HERE / "damaged.json").write_text(f"[\n{lines}\n]\n")


# --- Other formats


def rle_bitmap(picture):
    """A bitmap of a palette, in runs."""
    picture = picture.quantize(64)
    width, height = picture.size
    palette = picture.getpalette()
    colours = b"".join(bytes([palette[3 * at + 2], palette[3 * at + 1], palette[3 * at], 0]) for at in range(64))
    data, pixel = bytearray(), picture.load()
    for y in reversed(range(height)):
        x = 0
        while x < width:
            run = 1
            while x + run < width and run < 255 and pixel[x + run, y] == pixel[x, y]:
                run += 1
            data += bytes([run, pixel[x, y]])
            x += run
        data += b"\0\0"
    data += b"\0\1"
    at = 14 + 40 + len(colours)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 2835, 2835, 64, 0)
    return b"BM" + struct.pack("<IHHI", at + len(data), 0, 0, at) + header + colours + bytes(data)


def tiled_tiff(picture):
    """Tiles of 32 by 32, packed."""
    import zlib

    width, height = picture.size
    tiles = []
    for y in range(0, height, 32):
        for x in range(0, width, 32):
            tiles.append(zlib.compress(picture.crop((x, y, x + 32, y + 32)).tobytes()))
    at = 8 + sum(map(len, tiles))
    starts = [8 + sum(map(len, tiles[:number])) for number in range(len(tiles))]
    count = len(tiles)
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, at), (259, 3, 1, 8), (262, 3, 1, 2), (277, 3, 1, 3),
        (322, 3, 1, 32), (323, 3, 1, 32), (324, 4, count, at + 6), (325, 4, count, at + 6 + 4 * count),
    ]  # fmt: skip
    numbers = struct.pack("<3H", 8, 8, 8) + struct.pack(f"<{2 * count}I", *starts, *map(len, tiles))
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", at + len(numbers)) + b"".join(tiles) + numbers + directory


def others():
    folder = HERE / "pictures"
    folder.mkdir(exist_ok=True)
    picture = scene(117, 91)
    glass = picture.copy()
    glass.putalpha(Image.linear_gradient("L").resize(picture.size))
    turned = [picture.rotate(angle) for angle in (10, 20)]
    picture.save(folder / "lossy.webp", quality=80)
    glass.save(folder / "lossy_alpha.webp", quality=80)
    picture.save(folder / "animated.webp", quality=80, save_all=True, append_images=turned)
    picture.save(folder / "interlaced.gif", interlace=1)
    picture.save(folder / "animated.gif", save_all=True, append_images=turned)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        picture.save(folder / f"{compression.removeprefix('tiff_')}.tif", compression=compression)
    picture.convert("1").save(folder / "bilevel.tif", compression="group4")
    (folder / "tiled.tif").write_bytes(tiled_tiff(picture))
    (folder / "rle.bmp").write_bytes(rle_bitmap(picture))
    picture.quantize(64).save(folder / "palette.bmp")
    picture.quantize(64).save(folder / "palette.png")
    glass.save(folder / "alpha.png")
    picture.convert("L").point(lambda level: level * 257, "I").convert("I;16").save(folder / "deep.png")


if __name__ == "__main__":
    jpegs()
    damaged()
    others()
