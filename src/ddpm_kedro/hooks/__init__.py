"""What Kedro calls while it runs: checks of parameters, what a run says, and the record in W&B."""
