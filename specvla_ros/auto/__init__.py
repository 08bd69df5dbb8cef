"""Which of several decoders decodes the next action, by what they cost on this machine."""
