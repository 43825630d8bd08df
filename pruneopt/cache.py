"""Where things are kept between runs that can be made again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER = "PRUNEOPT_CACHE"  # environment variable that names another folder


def cache_folder() -> Path:
    """Where the platform keeps what can be made again: `PRUNEOPT_CACHE`, or the user's cache folder."""
    home = Path.home()
    if own := os.environ.get(FOLDER):
        return Path(own)
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "pruneopt"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "pruneopt"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "pruneopt"
