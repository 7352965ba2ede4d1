"""What Kedro calls while it runs: checks of parameters, and the record in Weights & Biases."""
