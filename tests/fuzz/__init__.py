"""Fuzzing: seeds, mutators that know the formats, what must hold of every case, and the runners."""
