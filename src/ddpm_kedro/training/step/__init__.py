"""What one optimizer step is: state, loss, averages, acceleration, data."""
