"""The online store: what users do now and which lives are on air, seconds old, behind one interface."""
