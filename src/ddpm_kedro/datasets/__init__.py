"""Kedro I/O classes: the `type` of each entry in the catalog.

`report_files` holds kedro-datasets' own classes with whole saves (`file_entry`): they may be
versioned and lie on any file system. All others (`local_entry`) stay on the local disk.
"""
