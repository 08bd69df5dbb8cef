"""
Speculative decoding: guess cheaply, verify many guesses in one pass, keep what may stay.

``decoder`` holds the one loop; ``tree``, ``target``, ``acceptance``, ``cache`` and ``trace`` are
its parts; ``drafters`` guess, ``rules`` say how far a guess may be off.
"""
