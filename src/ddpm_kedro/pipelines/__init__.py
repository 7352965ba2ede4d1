"""The stages, one package each: `nodes` are plain functions, `pipeline` wires them."""
