"""Kedro I/O classes: the ``type`` of each entry in the catalog, one module for each."""
