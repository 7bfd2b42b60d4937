"""Helpers without any speech in them: checks, files, processes, pickles, figures, noise."""
