"""Tests of the package. Folders mirror it; files beside this one are shared helpers, imported by their bare names."""
