"""``photos``: Debian's unpacked packages of photographs in, a folder of clean PNG files and their credits out."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.restoration import images, photographs

HELP = "make a folder of photographs from Debian's unpacked packages of wallpapers (see 'make photos')"
CREDITS = """\
Photographs from Debian's packages lomiri-wallpapers-16.04 and lomiri-wallpapers-20.04. Changed: each was scaled to half
its width and height. The texts of the licences are in usr/share/doc/*/copyright of the packages.

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--unpacked", required=True, metavar="DIR", help="folder that dpkg-deb -x unpacked to")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")


def run(given: argparse.Namespace) -> int:
    """Write the photographs and CREDITS; return the exit status."""
    output = Path(given.output)
    output.mkdir(parents=True, exist_ok=True)
    credits = photographs.debian_credits(given.unpacked)
    lines, pixels = [], 0
    for photograph in photographs.from_debian(given.unpacked):
        author, licence = credits[photograph.name]
        images.write(output / f"{photograph.name}.png", photograph.image, images.Picture(photograph.image))
        height, width = photograph.image.shape[1:]
        lines.append(f"{photograph.name}.png: {author}; {licence}; {width} x {height}\n")
        pixels += height * width
    (output / "CREDITS").write_text(CREDITS + "".join(lines), encoding="utf-8")
    print(f"{len(lines)} photographs, {pixels / 1e6:.1f} megapixels, and CREDITS in {output}")
    return 0
