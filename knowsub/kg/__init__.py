"""Knowledge graphs: facts, where they come from, how they are stated and kept apart."""
