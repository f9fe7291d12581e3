"""Files written whole or not at all, locations, archives, memory, prefetching, untrusted files."""
