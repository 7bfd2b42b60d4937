"""General helpers: checks of types, files, processes, pickled files, figures, error rates, random numbers."""
