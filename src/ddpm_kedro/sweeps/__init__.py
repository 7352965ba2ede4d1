"""Many trials of one idea: composed and checked together, run in processes of their own, ranked."""
