"""How weights change: objective, optimizer, schedule, loop, checkpoints, validation, publishing."""
