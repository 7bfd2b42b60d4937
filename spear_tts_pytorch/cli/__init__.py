"""The shell: `spear-tts new`, `run`, a command for each stage, `say`, `demo`, and tools for models, audio and pairs.

Arguments come in, an exit code goes out. Each command has its own file, which adds a parser and runs the command.
Commands import torch and the other rooms when they run, so that `--help` is instant.

Exit codes: 0 done; 1 done, but some items failed and were left out (stderr names them); 2 an error that the user can
mend (one line on stderr; with `SPEAR_TTS_DEBUG=1` a traceback instead); 130 interrupted by Ctrl-C; 141 the reader of
standard output, such as `head`, ended; 143 ended by SIGTERM.
"""

from spear_tts_pytorch.cli.program import main, parser

__all__ = ["main", "parser"]
