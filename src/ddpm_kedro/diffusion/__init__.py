"""What the model is: schedules, objectives, denoisers, samplers, backbones."""
