"""How near a training step comes to what the machine can do."""
