"""FLOPs, bytes and devices: figures computed from shapes and data sheets."""
