"""The crash model: runner, journal and coordinator in virtual time, where a runner process can die at any point."""
