from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOM = Path(__file__).parents[2] / "knowsub/kg"


def test_the_room_imports_no_torch() -> None:
    lines = [f"import knowsub.kg.{path.stem}" for path in sorted(ROOM.glob("[a-z]*.py"))]
    code = "; ".join([*lines, "import sys", "sys.exit('torch' in sys.modules)"])
    subprocess.run([sys.executable, "-c", code], check=True)
