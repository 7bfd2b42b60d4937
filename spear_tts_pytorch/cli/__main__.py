"""`python -m spear_tts_pytorch.cli`: the same as `spear-tts`."""

import sys

from spear_tts_pytorch.cli.program import main

sys.exit(main())
