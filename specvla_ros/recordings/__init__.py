"""Recordings of a robot, whatever their format, as episodes: frames under one instruction."""
