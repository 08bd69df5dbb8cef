"""`specvla adapt`: a drafter taught from recordings of the robot itself."""
