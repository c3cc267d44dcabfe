"""FLOPs, bytes and times, computed from shapes and data sheets."""
