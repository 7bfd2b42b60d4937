"""The only place that knows the library's version; `setup.py` reads this file without importing torch."""

__version__ = "0.5.0"
