"""The live world (`world.live`): what is on screen moves from act to act, and what viewers do depends on it."""
