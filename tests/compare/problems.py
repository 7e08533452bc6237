"""The problem of benchmarks/README.md, as a module that can be imported, and one that reads files."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def template() -> str:
    """The code of the problem in benchmarks/README.md."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "benchmarks/README.md").read_text(), re.DOTALL)
    return code


def reader(folder: Path) -> str:
    """The code of two problems, each of which reads a file of the folder."""
    classes = [
        f"class Of{name}(TwoCurves):\n"
        f"    file = Path({str(folder / name)!r})\n"
        f"    def data(self):\n        return [self.file]\n"
        f"    def errors(self, network, x):\n"
        f"        return super().errors(network, x) * float(self.file.read_text())\n"
        for name in "AB"
    ]
    return "\n".join(["from pathlib import Path", template(), *classes])
