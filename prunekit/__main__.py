"""``python -m prunekit``."""

from __future__ import annotations

import sys

from prunekit.cli import main

sys.exit(main())
